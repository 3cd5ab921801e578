//! `sql`: what is asked of a backup, and what comes back.

use std::path::PathBuf;

use dozo_catalog::Repository;
use dozo_model::Manifest;
use serde::Serialize;

use crate::context::Context;
use crate::{Result, duckdb};

/// How a query is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlOptions {
    /// Form of the answer.
    pub form: SqlForm,
    /// Threads.
    pub threads: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// Bytes of objects that may be fetched: those of a remote store lie in a temporary folder meanwhile.
    pub cache_max: u64,
}

/// Form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlForm {
    /// Rows of texts, as DuckDB casts them.
    Text,
    /// One JSON object per row.
    Json,
    /// A Parquet file.
    Parquet(PathBuf),
}

/// Rows as they come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlRows<'a> {
    /// Names of the columns.
    pub columns: &'a [String],
    /// Values, by row; none = NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// What a query took.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SqlReport {
    /// Rows of the answer.
    pub rows: u64,
    /// Objects that were read.
    pub objects: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Tables with values that their readable columns cannot hold: these are NULL, and stand in `_dozo_exact`.
    pub escaped: Vec<String>,
    /// Seconds.
    pub seconds: f64,
}

/// Asks a backup, by SQL; `each` is given the rows as they come.
///
/// # Errors
/// See [`crate::EngineError`].
pub async fn sql(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    query: &str,
    options: &SqlOptions,
    each: impl FnMut(SqlRows<'_>) -> std::io::Result<()> + Send + 'static,
) -> Result<SqlReport> {
    duckdb::sql(ctx, repository, manifest, query, options, each).await
}
