//! File sets: their backup, verification and restore.
//!
//! *Data path*: what changed since the last backup is grouped into tar objects of some 64 MiB, each read, digested, compressed and
//! uploaded by one worker; everything else is named where it lies. The list of all of it stands beside the manifest. *Memory*: the list,
//! some 300 bytes a file, beside what the workers hold.

mod backup;
mod plan;
mod restore;
mod restore_md;
mod rotate;
mod verify;

pub(crate) use backup::{Set, Tree, run};
pub(crate) use plan::size_of;
pub(crate) use restore::restore;
pub use rotate::{RotateAction, RotateLine, RotatePlan, rotate_apply, rotate_plan};
pub(crate) use verify::{Use, decode, uses};

use std::fmt::Display;
use std::io::BufReader;

use bytes::Bytes;
use dozo_catalog::Repository;
use dozo_files::{Item, ItemKind, Rules, read_list};
use dozo_model::{Content, FileEntry, FilesContent, Manifest, Sha256Digest};
use dozo_store::ObjectData;

use crate::intact::Digests;
use crate::stored::reader;
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Returns the list of a backup of a file set.
///
/// # Errors
/// [`EngineError::OtherKind`]; when the list cannot be read.
pub async fn list_files(repository: &Repository, manifest: &Manifest) -> Result<Vec<FileEntry>> {
    match &manifest.content {
        Content::Files(content) => list_of(repository, manifest, content).await,
        _ => Err(EngineError::other_kind(manifest, "files")),
    }
}

/// Names that a message quotes.
const QUOTED: usize = 10;

/// Returns the first names, and how many more there are.
fn some_of<T: Display>(names: &[T]) -> Vec<String> {
    let more = names.len().checked_sub(QUOTED).filter(|n| *n > 0).map(|n| format!("and {n} more"));
    names.iter().take(QUOTED).map(ToString::to_string).chain(more).collect()
}

/// Tells whether a pattern matches something.
///
/// # Errors
/// [`EngineError::Files`] when it is not valid.
pub(crate) fn matches_any(pattern: &str, items: &[Item]) -> Result<bool> {
    let rules = Rules::new(&[pattern.to_owned()], &[])?;
    Ok(items.iter().any(|i| rules.takes(i.path.path(), i.kind == ItemKind::Folder)))
}

/// Reads the list of a backup.
///
/// # Errors
/// [`EngineError::Damaged`], [`EngineError::Files`]; what the store says.
pub(crate) async fn list_of(repository: &Repository, manifest: &Manifest, content: &FilesContent) -> Result<Vec<FileEntry>> {
    let key = content.list.clone();
    let bytes: Bytes = repository.store().get(&key).await?;
    Digests::of(manifest).check(&key, bytes.len() as u64, Sha256Digest::of(&bytes))?;
    let content = content.clone();
    blocking(move || {
        let input = reader(&key, ObjectData::Memory(bytes), content.compression)?;
        read_list(BufReader::new(input), &content).map_err(EngineError::from)
    })
    .await
}
