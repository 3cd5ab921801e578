//! Makes a DuckDB file from a schema and stored rows.
//!
//! *Crash behaviour*: the file has the name that the caller gives it (a temporary one); it is whole once `finish` has returned.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use dozo_model::{Algorithm, DuckdbTable, Fingerprint, quote_ident};
use duckdb::Connection;

use crate::file::{TableInfo, instance};
use crate::read::{Query, unless};
use crate::schema::SchemaScript;
use crate::sql::literal;
use crate::{DuckdbError, Result};

/// Rows of one table in fetched objects.
#[derive(Debug)]
pub struct StoredTable {
    table: TableInfo,
    files: Vec<File>,
}

impl StoredTable {
    /// Takes a table as a manifest describes it, without rows yet.
    #[must_use]
    pub fn new(table: &DuckdbTable) -> Self {
        Self { table: TableInfo::described(table), files: Vec::new() }
    }

    /// Adds a Parquet object.
    pub fn add(&mut self, file: File) {
        self.files.push(file);
    }

    /// Returns SQL for its rows, as the table had them.
    fn rows(&self) -> String {
        let paths: Vec<String> = self.files.iter().map(|f| literal(&path_of(f))).collect();
        self.table.rows_sql(&format!("read_parquet([{}])", paths.join(", ")))
    }

    /// Computes the fingerprint of the rows, decoded as a restore would.
    ///
    /// # Errors
    /// [`DuckdbError::Query`] when a file is not what was written; [`DuckdbError::Cancelled`] once `stopped` says so.
    pub fn fingerprint(&self, memory: u64, stopped: impl Fn() -> bool) -> Result<Fingerprint> {
        if self.files.is_empty() {
            return Ok(Fingerprint::none(Algorithm::T1));
        }
        let connection = instance(1, memory, None)?;
        Query::digest(&self.table, &format!("({})", self.rows()), None).run(&connection, &self.table.full_name(), unless(stopped))
    }
}

/// Returns a path by which an open file can be opened, whether it has a name or not.
#[must_use]
pub fn path_of(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Columns of a table, and those that they refer to.
type References = (Vec<String>, Vec<String>);

/// A file that is being made.
pub struct NewFile {
    connection: Connection,
    catalog: String,
    path: PathBuf,
}

impl NewFile {
    /// Makes an empty file at `path` for `schema`, as the database called like the file `named` would be. `version` is the storage version of
    /// the file that it is a copy of: older releases read it again.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn create(
        path: &Path,
        named: &Path,
        schema: &SchemaScript,
        version: Option<&str>,
        threads: usize,
        memory: u64,
        temp: &Path,
    ) -> Result<Self> {
        let connection = instance(threads, memory, Some(temp))?;
        let catalog = schema.catalog(named);
        let name = quote_ident(&catalog);
        // Rows come in the order of the backup, one range after the other.
        let plain = |v: &&str| v.starts_with('v') && v.bytes().skip(1).all(|b| b.is_ascii_digit() || b == b'.');
        let version = version.map(|v| v.trim_end_matches('+')).filter(plain);
        let options = version.map(|v| format!(" (STORAGE_VERSION {})", literal(v))).unwrap_or_default();
        let sql = format!("ATTACH {} AS {name}{options}; USE {name}", literal(&path.display().to_string()));
        connection.execute_batch(&sql).map_err(|e| DuckdbError::query(path.display().to_string(), &e))?;
        Ok(Self { connection, catalog, path: path.to_owned() })
    }

    /// Runs what comes before the rows.
    ///
    /// # Errors
    /// [`DuckdbError::Query`] names the statement.
    pub fn before_rows(&self, schema: &SchemaScript) -> Result<()> {
        schema.before.iter().try_for_each(|s| self.run(s))
    }

    /// Runs what comes after the rows. Returns views, macros and comments that do not run here, each with its reason.
    ///
    /// # Errors
    /// [`DuckdbError::Query`] names an index or a trigger that cannot be made.
    pub fn after_rows(&self, schema: &SchemaScript) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for statement in &schema.after {
            match self.run(statement) {
                Ok(()) => {}
                Err(e) if ["CREATE VIEW ", "CREATE MACRO ", "COMMENT "].iter().any(|s| statement.starts_with(s)) => {
                    left.push(e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(left)
    }

    fn run(&self, statement: &str) -> Result<()> {
        let shown: String = statement.chars().take(120).collect();
        self.connection.execute_batch(statement).map_err(|e| DuckdbError::query(shown, &e))
    }

    /// Loads the rows of a table.
    ///
    /// # Errors
    /// [`DuckdbError::Query`]; [`DuckdbError::Circle`].
    pub fn load(&self, stored: &StoredTable) -> Result<()> {
        if stored.files.is_empty() {
            return Ok(());
        }
        let table = &stored.table;
        let what = table.full_name();
        let failed = |e: duckdb::Error| DuckdbError::query(&what, &e);
        let into = table.from(&self.catalog);
        let columns: Vec<String> = table.columns.iter().map(|c| quote_ident(&c.name)).collect();
        let columns = columns.join(", ");
        let keys = self.self_references(table).map_err(failed)?;
        if keys.is_empty() {
            let sql = format!("INSERT INTO {into} ({columns}) {}", stored.rows());
            return self.connection.execute(&sql, []).map(drop).map_err(failed);
        }
        // DuckDB checks a foreign key row by row against what was there before the statement: those that are referred to come first.
        let (waiting, number) = (quote_ident("dozo waiting"), quote_ident("dozo number"));
        let made = format!("CREATE TEMP TABLE {waiting} AS SELECT row_number() OVER () AS {number}, * FROM ({})", stored.rows());
        self.connection.execute_batch(&made).map_err(failed)?;
        loop {
            let ready: Vec<String> = keys
                .iter()
                .map(|(from, to)| {
                    let null: Vec<String> = from.iter().map(|c| format!("w.{} IS NULL", quote_ident(c))).collect();
                    let same: Vec<String> =
                        from.iter().zip(to).map(|(f, t)| format!("p.{} = w.{}", quote_ident(t), quote_ident(f))).collect();
                    format!("({} OR EXISTS (SELECT 1 FROM {into} p WHERE {}))", null.join(" OR "), same.join(" AND "))
                })
                .collect();
            let script = format!(
                "CREATE OR REPLACE TEMP TABLE \"dozo ready\" AS SELECT w.{number} AS id FROM {waiting} w WHERE {}",
                ready.join(" AND ")
            );
            self.connection.execute_batch(&script).map_err(failed)?;
            let insert = format!(
                "INSERT INTO {into} ({columns}) SELECT {columns} FROM {waiting} WHERE {number} IN (SELECT id FROM \"dozo ready\")"
            );
            let inserted = self.connection.execute(&insert, []).map_err(failed)?;
            if inserted == 0 {
                break;
            }
            let gone = format!("DELETE FROM {waiting} WHERE {number} IN (SELECT id FROM \"dozo ready\")");
            self.connection.execute_batch(&gone).map_err(failed)?;
        }
        let count = format!("SELECT count(*) FROM {waiting}");
        let rows: u64 = self.connection.query_row(&count, [], |r| r.get(0)).map_err(failed)?;
        self.connection.execute_batch(&format!("DROP TABLE {waiting}; DROP TABLE \"dozo ready\"")).map_err(failed)?;
        if rows > 0 {
            return Err(DuckdbError::Circle { table: what, rows });
        }
        Ok(())
    }

    /// Foreign keys of a table to itself: columns, and those that they refer to.
    fn self_references(&self, table: &TableInfo) -> std::result::Result<Vec<References>, duckdb::Error> {
        let sql = format!(
            "SELECT array_to_string(constraint_column_names, chr(0)), array_to_string(referenced_column_names, chr(0)) FROM duckdb_constraints() \
             WHERE database_name = {} AND schema_name = {} AND table_name = {} AND constraint_type = 'FOREIGN KEY' \
             AND referenced_table = table_name",
            literal(&self.catalog),
            literal(&table.schema),
            literal(&table.name)
        );
        let mut statement = self.connection.prepare(&sql)?;
        let rows = statement.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        let cut = |text: String| text.split('\0').map(str::to_owned).collect();
        rows.map(|row| row.map(|(from, to)| (cut(from), cut(to)))).collect()
    }

    /// Returns its tables, as schema and name, in the order in which they were made.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn order(&self) -> Result<Vec<(String, String)>> {
        let failed = |e: duckdb::Error| DuckdbError::query(self.path.display().to_string(), &e);
        let sql = format!(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = {} ORDER BY table_oid",
            literal(&self.catalog)
        );
        let mut statement = self.connection.prepare(&sql).map_err(failed)?;
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).map_err(failed)?;
        rows.collect::<std::result::Result<_, _>>().map_err(failed)
    }

    /// Writes everything into the file and closes it.
    ///
    /// # Errors
    /// [`DuckdbError::Query`].
    pub fn finish(self) -> Result<()> {
        let failed = |e: duckdb::Error| DuckdbError::query(self.path.display().to_string(), &e);
        let script = format!("CHECKPOINT {name}; USE memory; DETACH {name}", name = quote_ident(&self.catalog));
        self.connection.execute_batch(&script).map_err(failed)
    }
}

/// Brings a copy of a file and its WAL to one file without a WAL.
///
/// # Errors
/// [`DuckdbError::Query`].
pub fn checkpoint(path: &Path, named: &Path, memory: u64, temp: &Path) -> Result<()> {
    NewFile::create(path, named, &SchemaScript::default(), None, 1, memory, temp)?.finish()
}
