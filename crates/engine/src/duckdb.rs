//! DuckDB files: their backup, verification and restore. Present where the feature `duckdb` is.
//!
//! *Data path*: one file after the other, each held by DuckDB's own lock only while it is read; workers with a connection each take
//! ranges of row ids, and digest, encode and upload them. *Memory*: a quarter of the source's for DuckDB, the rest as for Postgres.

mod backup;
mod restore;
mod restore_md;
mod sql;
mod verify;

pub(crate) use backup::{Found, look_at, run};
pub(crate) use restore::restore;
pub(crate) use sql::sql;
pub(crate) use verify::{Use, decode, uses};

use dozo_store::Parts;

use crate::EngineError;
use crate::budget::Budget;

/// What DuckDB itself needs at least: a row group of a wide table, decompressed.
const DUCKDB_LEAST: u64 = 64 << 20;

/// Divides the memory of a source: DuckDB's, and what the workers have.
fn divide(memory: u64, workers: usize, parts: Parts) -> (u64, Budget) {
    let duckdb = (memory / 4).max(DUCKDB_LEAST);
    (duckdb, Budget::new(memory.saturating_sub(duckdb), workers, parts))
}

/// Says which folder or file the system refused.
fn folder(path: &std::path::Path) -> impl Fn(std::io::Error) -> EngineError + Copy + use<'_> {
    move |e| EngineError::Folder { folder: path.to_owned(), reason: e.to_string() }
}
