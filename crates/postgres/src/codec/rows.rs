//! Rows: a block of COPY tuples to a record batch, and a record batch to COPY tuples.
//!
//! The readable columns come first, in the root table's order, those that are not loaded last; then `_dozo_exact`, a JSON object
//! from column to Postgres text for the values that the readable columns cannot hold, NULL for ordinary rows. A table
//! without columns gets `_dozo_row`, so that its row count survives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, StringBuilder};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use dozo_model::{Column, Fingerprint, PgType, RowDigester};

use super::{ColumnBuilder, Family, Result, Values, WireError, clear_idle_null_flag, downcast, family};
use crate::copy::RowBlock;

/// Name of the exact column, unless a column of the table has it.
pub const EXACT_COLUMN: &str = "_dozo_exact";
/// Name of the column of a table without columns.
const ROW_COLUMN: &str = "_dozo_row";

fn exact_name(columns: &[Column]) -> String {
    let mut name = EXACT_COLUMN.to_owned();
    while columns.iter().any(|c| c.parquet_name.eq_ignore_ascii_case(&name)) {
        name.push('_');
    }
    name
}

/// Returns the Arrow schema of the files of a table. `attnum` becomes the Parquet field id.
#[must_use]
pub fn arrow_schema(columns: &[Column]) -> SchemaRef {
    let mut fields: Vec<Field> = columns
        .iter()
        .map(|c| {
            let field = family(&c.wire, c.profile).field(&c.parquet_name);
            let mut metadata: HashMap<String, String> = field.metadata().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            metadata.insert("PARQUET:field_id".into(), c.attnum.to_string());
            field.with_metadata(metadata)
        })
        .collect();
    if fields.is_empty() {
        fields.push(Field::new(ROW_COLUMN, DataType::Boolean, true));
    }
    fields.push(Field::new(exact_name(columns), DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

struct DecodedColumn {
    name: String,
    parquet_name: String,
    family: Box<dyn Family>,
    builder: Box<dyn ColumnBuilder>,
    clear_flag: bool,
    escaped: u64,
}

/// Turns blocks of COPY tuples into record batches.
pub struct RowDecoder {
    schema: SchemaRef,
    columns: Vec<DecodedColumn>,
    digested: usize,
    exact: StringBuilder,
}

impl RowDecoder {
    /// Makes a decoder for a table's columns.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        let digested = columns.iter().filter(|c| c.loaded()).count();
        let decoded = columns.iter().map(|c| {
            let family = family(&c.wire, c.profile);
            DecodedColumn {
                name: c.name.clone(),
                parquet_name: c.parquet_name.clone(),
                builder: family.builder(),
                family,
                clear_flag: matches!(c.wire, PgType::Array(_)) && !c.wire.travels_as_text(),
                escaped: 0,
            }
        });
        Self { schema: arrow_schema(columns), columns: decoded.collect(), digested, exact: StringBuilder::new() }
    }

    /// Returns the schema of the batches.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Takes a block's tuples apart, digests every row, and returns them as a batch.
    ///
    /// # Errors
    /// When a tuple is not what the server sends for these columns: never a silent cast.
    pub fn decode(&mut self, block: &mut RowBlock, digester: &mut RowDigester) -> Result<RecordBatch> {
        block.expect(self.columns.len())?;
        for (i, column) in self.columns.iter().enumerate().filter(|(_, c)| c.clear_flag) {
            for row in 0..block.rows() {
                if let Some(wire) = block.field_mut(row, i) {
                    clear_idle_null_flag(wire).map_err(|e| located(&column.name, &e))?;
                }
            }
        }
        let rows: Vec<&[u8]> = (0..block.rows()).map(|row| block.tuple_prefix(row, self.digested)).collect();
        digester.add(&rows);
        let mut escapes: BTreeMap<usize, BTreeMap<String, String>> = BTreeMap::new();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len() + 1);
        let mut misfits = Vec::new();
        for (i, column) in self.columns.iter_mut().enumerate() {
            misfits.clear();
            column.builder.push_column(block, i, &mut misfits).map_err(|e| located(&column.name, &e))?;
            for row in &misfits {
                let wire = block.field(*row, i).unwrap_or_default();
                let text = column.family.to_text(wire).map_err(|e| located(&column.name, &e))?;
                let mut again = Vec::with_capacity(wire.len());
                column.family.parse_text(&text, &mut again).map_err(|e| located(&column.name, &e))?;
                if again != wire {
                    return Err(WireError(format!("column `{}` has a value that cannot be kept exactly: {text}", column.name)));
                }
                column.escaped += 1;
                escapes.entry(*row).or_default().insert(column.parquet_name.clone(), text);
            }
            arrays.push(column.builder.finish().map_err(|e| located(&column.name, &e))?);
        }
        if self.columns.is_empty() {
            let mut nulls = BooleanBuilder::new();
            nulls.append_nulls(block.rows());
            arrays.push(Arc::new(nulls.finish()));
        }
        if escapes.is_empty() {
            self.exact.append_nulls(block.rows());
        } else {
            for row in 0..block.rows() {
                match escapes.get(&row) {
                    None => self.exact.append_null(),
                    Some(values) => self.exact.append_value(serde_json::to_string(values).map_err(|e| WireError(e.to_string()))?),
                }
            }
        }
        arrays.push(Arc::new(self.exact.finish()));
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(|e| WireError(e.to_string()))
    }

    /// Returns how many values of each column escaped since the last call.
    pub fn take_escaped(&mut self) -> BTreeMap<String, u64> {
        let counted = self.columns.iter_mut().filter(|c| c.escaped > 0);
        counted.map(|c| (c.name.clone(), std::mem::take(&mut c.escaped))).collect()
    }
}

fn located(column: &str, error: &WireError) -> WireError {
    WireError(format!("column `{column}`: {error}"))
}

struct EncodedColumn {
    name: String,
    parquet_name: String,
    index: usize,
    family: Box<dyn Family>,
}

/// Turns record batches back into COPY tuples. Columns that are not loaded are left out.
pub struct RowEncoder {
    columns: Vec<EncodedColumn>,
    exact_index: usize,
    counted: bool,
    row: Vec<u8>,
    value: Vec<u8>,
    /// Rows of a batch, back to back, while they are digested.
    digested: Vec<u8>,
}

impl RowEncoder {
    /// Makes an encoder that computes the fingerprint of what a file holds.
    #[must_use]
    pub fn for_digest(columns: &[Column]) -> Self {
        Self::new(columns, false)
    }

    /// Makes an encoder for the digest of some columns, in another order than the file's.
    ///
    /// # Errors
    /// When the file has no such column.
    pub fn for_digest_of(columns: &[Column], names: &[String]) -> Result<Self> {
        let mut encoder = Self::for_digest(columns);
        let mut all = std::mem::take(&mut encoder.columns);
        for name in names {
            let at = all.iter().position(|c| &c.name == name);
            let at = at.ok_or_else(|| WireError(format!("the file has no column `{name}`")))?;
            encoder.columns.push(all.remove(at));
        }
        Ok(encoder)
    }

    /// Makes an encoder for COPY BINARY.
    #[must_use]
    pub fn for_load(columns: &[Column]) -> Self {
        Self::new(columns, true)
    }

    fn new(columns: &[Column], counted: bool) -> Self {
        let encoded = columns.iter().enumerate().filter(|(_, c)| c.loaded()).map(|(index, c)| EncodedColumn {
            name: c.name.clone(),
            parquet_name: c.parquet_name.clone(),
            index,
            family: family(&c.wire, c.profile),
        });
        Self {
            columns: encoded.collect(),
            exact_index: columns.len().max(1),
            counted,
            row: Vec::new(),
            value: Vec::new(),
            digested: Vec::new(),
        }
    }

    /// Calls `each` with every row's tuple: with its field count for COPY, without for the digest.
    ///
    /// # Errors
    /// When the batch holds something that is no value of its column, or what `each` returns.
    pub fn encode<E: From<WireError>>(
        &mut self,
        batch: &RecordBatch,
        mut each: impl FnMut(&[u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut readers: Vec<Box<dyn Values>> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            readers.push(column.family.values(batch.column(column.index)).map_err(|e| located(&column.name, &e))?);
        }
        let exact: StringArray = downcast(batch.column(self.exact_index)).map_err(|e| located(EXACT_COLUMN, &e))?;
        let count = i16::try_from(self.columns.len()).map_err(|_| WireError("more than 32,767 columns".into()))?;
        for row in 0..batch.num_rows() {
            let escaped: HashMap<String, String> = if Array::is_null(&exact, row) {
                HashMap::new()
            } else {
                serde_json::from_str(exact.value(row)).map_err(|e| WireError(format!("`{EXACT_COLUMN}`: {e}")))?
            };
            self.row.clear();
            if self.counted {
                self.row.extend_from_slice(&count.to_be_bytes());
            }
            for (column, reader) in self.columns.iter().zip(&readers) {
                self.value.clear();
                if !reader.is_null(row) {
                    reader.write(row, &mut self.value).map_err(|e| located(&column.name, &e))?;
                } else if let Some(text) = escaped.get(&column.parquet_name) {
                    column.family.parse_text(text, &mut self.value).map_err(|e| located(&column.name, &e))?;
                } else {
                    self.row.extend_from_slice(&(-1i32).to_be_bytes());
                    continue;
                }
                let length = i32::try_from(self.value.len()).map_err(|_| WireError("a value above 2 GB".into()))?;
                self.row.extend_from_slice(&length.to_be_bytes());
                self.row.extend_from_slice(&self.value);
            }
            each(&self.row)?;
        }
        Ok(())
    }

    /// Returns the fingerprint of the rows of some batches.
    ///
    /// # Errors
    /// As [`RowEncoder::encode`].
    pub fn fingerprint(&mut self, batch: &RecordBatch, digester: &mut RowDigester) -> Result<Fingerprint> {
        let (mut bytes, mut ends) = (std::mem::take(&mut self.digested), Vec::with_capacity(batch.num_rows()));
        bytes.clear();
        self.encode(batch, |row| {
            bytes.extend_from_slice(row);
            ends.push(bytes.len());
            Ok::<_, WireError>(())
        })?;
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let rows: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &bytes[start..*end]).collect();
        digester.add(&rows);
        self.digested = bytes;
        Ok(digester.take())
    }
}

/// Takes a tuple without its field count apart and returns its values as text.
///
/// # Errors
/// When the bytes are no tuple of these columns.
pub fn tuple_texts(columns: &[Column], tuple: &[u8]) -> Result<Vec<Option<String>>> {
    let short = || WireError("a tuple that ends too early".into());
    let mut rest = tuple;
    let mut texts = Vec::with_capacity(columns.len());
    for column in columns {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        rest = tail;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            texts.push(None);
            continue;
        };
        let value = rest.get(..length).ok_or_else(short)?;
        rest = &rest[length..];
        texts.push(Some(family(&column.wire, column.profile).to_text(value).map_err(|e| located(&column.name, &e))?));
    }
    Ok(texts)
}
