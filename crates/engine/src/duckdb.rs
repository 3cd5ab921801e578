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

use std::fs::File;
use std::io::Write;
use std::path::Path;

use dozo_model::StoredFile;
use dozo_store::{ObjectData, Parts};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::stored::unpack;
use crate::{EngineError, Result};

/// What DuckDB itself needs at least: a row group of a wide table, decompressed.
const DUCKDB_LEAST: u64 = 64 << 20;

/// Divides the memory of a source: DuckDB's, and what the workers have.
fn divide(memory: u64, workers: usize, parts: Parts) -> (u64, Budget) {
    let duckdb = (memory / 4).max(DUCKDB_LEAST);
    (duckdb, Budget::new(memory.saturating_sub(duckdb), workers, parts))
}

/// Makes a file of what was fetched: DuckDB opens nothing else.
fn file_of(data: ObjectData) -> Result<File> {
    match data {
        ObjectData::File(file) => Ok(file),
        ObjectData::Memory(bytes) => {
            let written = tempfile::tempfile().and_then(|mut file| file.write_all(&bytes).map(|()| file));
            written.map_err(EngineError::folder(&std::env::temp_dir()))
        }
    }
}

/// Decompresses a stored file to `path`. Returns what is wrong with its bytes.
///
/// # Errors
/// As [`crate::stored::unpack`]; [`EngineError::Folder`].
fn unpack_to(data: ObjectData, stored: &StoredFile, path: &Path, cancel: &CancellationToken) -> Result<Option<String>> {
    let io = EngineError::folder(path);
    let mut out = File::create(path).map_err(io)?;
    let wrong = unpack(data, stored, cancel, |bytes| out.write_all(bytes).map_err(io))?;
    out.sync_all().map_err(io)?;
    Ok(wrong)
}
