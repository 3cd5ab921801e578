//! `restore` into a folder, for sources whose backups are files.

use std::path::Path;

use dozo_catalog::Repository;
use dozo_model::{Content, Manifest};
use serde::Serialize;

use crate::context::Context;
use crate::{EngineError, Result, command, duckdb, files};

/// How files are restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderOptions {
    /// Replace files that are there.
    pub replace: bool,
    /// Compare what was restored with the manifest.
    pub verify: bool,
    /// Of a file set: patterns of what is wanted, as in `.gitignore`; empty = everything.
    pub paths: Vec<String>,
    /// Everything belongs to whoever restores.
    pub no_owner: bool,
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
    /// DuckDB files and outputs of commands, in the manifest's order.
    pub files: Vec<RestoredFile>,
    /// A file set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<RestoredSet>,
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

/// A file set that was restored.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestoredSet {
    /// Regular files.
    pub files: u64,
    /// Folders, links and pipes.
    pub others: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// `equal`: every file has the digest of the list. One that differs is an error.
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
        Content::Files(content) => files::restore(ctx, repository, manifest, content, folder, options).await,
        Content::Command(content) => command::restore(ctx, repository, manifest, content, folder, options).await,
        Content::Postgres(_) => Err(EngineError::other_kind(manifest, "files")),
    }
}
