//! Queries over stored tables: views over Parquet files that were fetched, and nothing else.
//!
//! *Invariants*: once the views exist, external access is off but for the files of the backup, no extension is loaded, and the configuration is
//! locked: a query reads the backup and nothing else. It changes nothing: the views lie in memory.

use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use dozo_model::quote_ident;
use duckdb::Connection;

use crate::file::instance;
use crate::sql::{literal, qualified};
use crate::{DuckdbError, Result};

/// A table that can be asked.
#[derive(Debug, Clone)]
pub struct QueryTable {
    /// Schema; it is made where it is not there.
    pub schema: String,
    /// Name.
    pub name: String,
    /// What stands after SELECT … FROM for its rows: see [`crate::TableInfo::rows_sql`], or plain columns.
    pub rows: String,
}

/// Stored tables, ready to be asked.
pub struct Queries {
    connection: Connection,
}

impl Queries {
    /// Makes the views, then closes the door: of all files only those in `folder` and those in `files` can be read.
    ///
    /// # Errors
    /// [`DuckdbError::Query`] when a view is not valid.
    pub fn open(tables: &[QueryTable], folder: &Path, files: &[String], threads: usize, memory: u64) -> Result<Self> {
        let connection = instance(threads, memory, Some(folder))?;
        let run = |what: &str, sql: &str| connection.execute_batch(sql).map_err(|e| DuckdbError::query(what, &e));
        for table in tables {
            let name = qualified(&[&table.schema, &table.name]);
            let sql = format!("CREATE SCHEMA IF NOT EXISTS {}; CREATE VIEW {name} AS {}", quote_ident(&table.schema), table.rows);
            run(&name, &sql)?;
        }
        // A name without a schema is looked for where most tables are: Postgres calls it public, DuckDB main.
        let mut schemas: Vec<&str> = tables.iter().map(|t| t.schema.as_str()).collect();
        schemas.sort_unstable();
        schemas.dedup();
        schemas.sort_by_key(|s| !["main", "public"].contains(s));
        if !schemas.is_empty() {
            run("search_path", &format!("SET search_path = {}", literal(&schemas.join(","))))?;
        }
        let paths: Vec<String> = files.iter().map(|f| literal(f)).collect();
        run("allowed_paths", &format!("SET allowed_paths = [{}]", paths.join(", ")))?;
        run("allowed_directories", &format!("SET allowed_directories = [{}]", literal(&folder.display().to_string())))?;
        run("settings", "SET enable_external_access = false; SET lock_configuration = true")?;
        Ok(Self { connection })
    }

    /// Runs a query; `each` is given the schema, then the rows as they come.
    ///
    /// # Errors
    /// [`DuckdbError::Query`], and what `begin` and `each` say.
    pub fn run<E: From<DuckdbError>>(
        &self,
        sql: &str,
        mut begin: impl FnMut(SchemaRef) -> std::result::Result<(), E>,
        mut each: impl FnMut(RecordBatch) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let failed = |e: duckdb::Error| E::from(DuckdbError::query("the query", &e));
        let mut statement = self.connection.prepare(sql).map_err(failed)?;
        let stream = statement.stream_arrow([]).map_err(failed)?;
        begin(stream.get_schema())?;
        for batch in stream {
            each(batch.map_err(failed)?)?;
        }
        Ok(())
    }
}
