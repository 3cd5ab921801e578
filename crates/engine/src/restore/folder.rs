//! `restore` into a folder, for sources whose backups are files.

use std::path::Path;

use dozo_catalog::Repository;
use dozo_model::{Content, Manifest};
use serde::Serialize;

use crate::context::Context;
use crate::{EngineError, Result, duckdb};

/// How files are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderOptions {
    /// Replace files that are there.
    pub replace: bool,
    /// Compare what was restored with the manifest.
    pub verify: bool,
    /// Threads.
    pub threads: usize,
    /// Memory, in bytes.
    pub memory: u64,
}

/// What a restore into a folder did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FolderReport {
    /// Source and id.
    pub backup: String,
    /// Folder.
    pub target: String,
    /// `done`, or `partial` when the backup is.
    pub outcome: &'static str,
    /// Files, in the manifest's order.
    pub files: Vec<RestoredFile>,
    /// Seconds.
    pub seconds: f64,
}

/// A file that was restored.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoredFile {
    /// Path below the folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Tables in it.
    pub tables: usize,
    /// Rows in them.
    pub rows: u64,
    /// `equal`, or `not run`. One that differs is an error.
    pub verdict: &'static str,
}

/// Restores a backup into a folder.
///
/// # Errors
/// See [`EngineError`].
pub async fn restore_folder(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    folder: &Path,
    options: &FolderOptions,
) -> Result<FolderReport> {
    match &manifest.content {
        Content::Duckdb(content) => duckdb::restore(ctx, repository, manifest, content, folder, options).await,
        Content::Postgres(_) => Err(EngineError::other_kind(manifest, "duckdb")),
    }
}
