//! Reads rows: the stored form as Arrow batches, and their fingerprint, in one query per range.
//!
//! A range of row ids is pruned to its row groups by DuckDB. Each worker has a connection of its own; the instance runs one thread per
//! query, the worker's. *Memory*: a batch of DuckDB's and what its scan holds.

use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{Schema, SchemaRef};
use dozo_model::{DuckdbTable, Fingerprint, quote_ident};
use duckdb::Connection;

use crate::codec::{EXACT, exact};
use crate::file::{DuckFile, Held, TableInfo};
use crate::text::{TextDigester, Texts};
use crate::types::{DuckType, Plain};
use crate::{DuckdbError, Result};

/// Row ids from one to below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowRange {
    /// First.
    pub from: u64,
    /// After the last.
    pub to: u64,
}

/// Reads tables of an open file on one thread.
pub struct TableReader {
    connection: Connection,
    catalog: String,
    _held: Arc<Held>,
}

/// A run of rows in their stored form.
#[derive(Debug)]
pub struct StoredRows {
    /// Columns as they are stored, the exact column last.
    pub batch: RecordBatch,
    /// Bytes that were digested.
    pub bytes: u64,
}

impl DuckFile {
    /// Makes a reader for another thread.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn reader(&self) -> Result<TableReader> {
        let (connection, held) = self.share()?;
        Ok(TableReader { connection, catalog: self.catalog().to_owned(), _held: held })
    }
}

impl TableReader {
    /// Returns the schema of what [`TableReader::rows`] yields.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn stored_schema(&self, table: &TableInfo) -> Result<SchemaRef> {
        let query = Query::stored(table, &table.from(&self.catalog), Some(RowRange { from: 0, to: 0 }));
        let failed = |e| DuckdbError::query(table.full_name(), &e);
        let mut statement = self.connection.prepare(&query.sql).map_err(failed)?;
        let schema = statement.stream_arrow([]).map_err(failed)?.get_schema();
        Ok(Arc::new(Schema::new(schema.fields()[..query.stored].to_vec())))
    }

    /// Reads a range; `each` is given the rows as they come.
    ///
    /// # Errors
    /// [`DuckdbError::Query`], and what `each` says.
    pub fn rows<E: From<DuckdbError>>(
        &self,
        table: &TableInfo,
        range: RowRange,
        each: impl FnMut(StoredRows) -> std::result::Result<(), E>,
    ) -> std::result::Result<Fingerprint, E> {
        Query::stored(table, &table.from(&self.catalog), Some(range)).run(&self.connection, &table.full_name(), each)
    }

    /// As [`TableReader::rows`], without what is stored: the batches are empty but for their number of rows.
    ///
    /// # Errors
    /// As [`TableReader::rows`].
    pub fn digests<E: From<DuckdbError>>(
        &self,
        table: &TableInfo,
        range: RowRange,
        each: impl FnMut(StoredRows) -> std::result::Result<(), E>,
    ) -> std::result::Result<Fingerprint, E> {
        Query::digest(table, &table.from(&self.catalog), Some(range)).run(&self.connection, &table.full_name(), each)
    }

    /// Computes the fingerprint of a range.
    ///
    /// # Errors
    /// [`DuckdbError::Query`]; [`DuckdbError::Cancelled`] once `stopped` says so.
    pub fn fingerprint(&self, table: &TableInfo, range: RowRange, stopped: impl Fn() -> bool) -> Result<Fingerprint> {
        self.digests(table, range, unless(stopped))
    }
}

/// Goes on until somebody says stop.
pub(crate) fn unless(stopped: impl Fn() -> bool) -> impl FnMut(StoredRows) -> Result<()> {
    move |_| if stopped() { Err(DuckdbError::Cancelled) } else { Ok(()) }
}

/// A query whose first columns are stored, and whose last are texts for the fingerprint.
pub(crate) struct Query {
    sql: String,
    /// Columns that are stored.
    stored: usize,
    /// For each column of the table, which of the query its text is made from.
    texts: Vec<usize>,
}

impl Query {
    fn stored(table: &TableInfo, from: &str, range: Option<RowRange>) -> Self {
        let mut columns: Vec<String> = Vec::new();
        for ((column, t), infinite) in table.columns.iter().zip(&table.types).zip(&table.infinite) {
            columns.push(format!("{} AS {}", t.stored(&quote_ident(&column.name), *infinite), quote_ident(&column.parquet_name)));
        }
        let infinite = table.columns.iter().zip(&table.infinite).filter(|(_, i)| **i);
        let infinite: Vec<(&str, String)> = infinite.map(|(c, _)| (c.name.as_str(), quote_ident(&c.name))).collect();
        columns.push(format!("{} AS {}", exact(&infinite), quote_ident(EXACT)));
        let stored = columns.len();
        let mut texts = Vec::new();
        for (i, ((column, t), infinite)) in table.columns.iter().zip(&table.types).zip(&table.infinite).enumerate() {
            if t.stored_tells_text() && !infinite {
                texts.push(i);
            } else {
                texts.push(columns.len());
                columns.push(format!("{} AS {}", t.text(&quote_ident(&column.name)), quote_ident(&format!("t{i}"))));
            }
        }
        Self { sql: select(&columns, from, range.filter(|_| !table.whole)), stored, texts }
    }

    /// Only what the fingerprint is made of.
    pub(crate) fn digest(table: &TableInfo, from: &str, range: Option<RowRange>) -> Self {
        let columns: Vec<String> = (table.columns.iter().zip(&table.types).zip(&table.infinite).enumerate())
            .map(|(i, ((column, t), infinite))| {
                let x = quote_ident(&column.name);
                let made = if t.stored_tells_text() && !infinite { t.stored(&x, false) } else { t.text(&x) };
                format!("{made} AS {}", quote_ident(&format!("t{i}")))
            })
            .collect();
        Self { sql: select(&columns, from, range.filter(|_| !table.whole)), stored: 0, texts: (0..columns.len()).collect() }
    }

    pub(crate) fn run<E: From<DuckdbError>>(
        &self,
        connection: &Connection,
        what: &str,
        mut each: impl FnMut(StoredRows) -> std::result::Result<(), E>,
    ) -> std::result::Result<Fingerprint, E> {
        let failed = |e: duckdb::Error| E::from(DuckdbError::query(what, &e));
        let mut statement = connection.prepare(&self.sql).map_err(failed)?;
        let mut digester = TextDigester::default();
        let stream = statement.stream_arrow([]).map_err(failed)?;
        let schema = stream.get_schema();
        let stored = Arc::new(Schema::new(schema.fields()[..self.stored].to_vec()));
        for batch in stream {
            let batch = batch.map_err(failed)?;
            if batch.num_rows() == 0 {
                continue;
            }
            let texts: Option<Vec<Texts<'_>>> = self.texts.iter().map(|i| Texts::of(batch.column(*i))).collect();
            let texts = texts.ok_or_else(|| {
                let types: Vec<String> = schema.fields().iter().map(|f| f.data_type().to_string()).collect();
                E::from(DuckdbError::Query {
                    what: what.to_owned(),
                    reason: format!("a column has no text among {}", types.join(", ")),
                })
            })?;
            let bytes = digester.add(&texts, batch.num_rows());
            let columns: Vec<ArrayRef> = batch.columns()[..self.stored].to_vec();
            let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&stored), columns, &options)
                .map_err(|e| E::from(DuckdbError::Query { what: what.to_owned(), reason: e.to_string() }))?;
            each(StoredRows { batch, bytes })?;
        }
        Ok(digester.take())
    }
}

fn select(columns: &[String], from: &str, range: Option<RowRange>) -> String {
    let rows = range.map(|r| format!(" WHERE rowid >= {} AND rowid < {}", r.from, r.to)).unwrap_or_default();
    format!("SELECT {} FROM {from}{rows}", columns.join(", "))
}

impl DuckType {
    /// Tells whether the text of a value can be made from its stored form.
    fn stored_tells_text(&self) -> bool {
        match self {
            Self::Plain(plain) => {
                !matches!(plain, Plain::Float | Plain::Double | Plain::Blob | Plain::Interval | Plain::Geometry)
            }
            Self::Decimal(..) | Self::Enum(_) => true,
            _ => false,
        }
    }
}

impl TableInfo {
    /// Returns `schema.table`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Takes a table as a manifest describes it. Any of its values may be infinite.
    #[must_use]
    pub fn described(table: &DuckdbTable) -> Self {
        let types: Vec<DuckType> = table.columns.iter().map(|c| DuckType::parse(&c.type_name)).collect();
        Self {
            schema: table.schema.clone(),
            name: table.name.clone(),
            columns: table.columns.clone(),
            end: 0,
            rows: table.fingerprint.rows,
            whole: false,
            infinite: types.iter().map(DuckType::may_be_infinite).collect(),
            types,
        }
    }

    /// Returns SQL that computes the fingerprint of the table `from`, for people.
    #[must_use]
    pub fn fingerprint_sql(&self, from: &str) -> String {
        let texts: Vec<String> = self.columns.iter().zip(&self.types).map(|(c, t)| t.text(&quote_ident(&c.name))).collect();
        crate::codec::fingerprint(from, &texts)
    }

    /// Returns SQL for the rows of a Parquet file (or several: what `source` reads), as the table has them.
    #[must_use]
    pub fn rows_sql(&self, source: &str) -> String {
        let columns: Vec<String> = (self.columns.iter().zip(&self.types))
            .map(|(c, t)| format!("{} AS {}", t.restored(&c.name, &c.parquet_name), quote_ident(&c.name)))
            .collect();
        format!("SELECT {} FROM {source}", columns.join(", "))
    }
}
