//! `verify` of file sets: every member that the list names is read, and its digest compared.

use std::collections::HashMap;
use std::sync::Arc;

use dozo_catalog::Repository;
use dozo_files::{ContentSink, copy_content, members};
use dozo_model::{Compression, FileEntry, FileKind, FilePath, FilesContent, Finding, FindingKind, Manifest, Pack};
use dozo_store::Fetched;
use tokio_util::sync::CancellationToken;

use super::{list_of, some_of};
use crate::error::chain;
use crate::stored::reader;
use crate::{EngineError, Result};

/// A tar object, and what the list names of it.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pack: Pack,
    compression: Compression,
    /// By member.
    entries: Arc<Vec<FileEntry>>,
}

impl Use {
    /// Returns the paths of the files in it.
    pub(crate) fn names(&self) -> Vec<String> {
        let paths: Vec<&FilePath> = self.entries.iter().map(|e| &e.path).collect();
        some_of(&paths)
    }
}

/// Returns what the tar objects of a backup hold.
///
/// # Errors
/// When its list cannot be read.
pub(crate) async fn uses<'a>(
    repository: &Repository,
    manifest: &Manifest,
    content: &'a FilesContent,
) -> Result<HashMap<&'a str, Use>> {
    let mut by_pack: Vec<Vec<FileEntry>> = vec![Vec::new(); content.packs.len()];
    for entry in list_of(repository, manifest, content).await? {
        by_pack[entry.pack as usize].push(entry);
    }
    let uses = content.packs.iter().zip(by_pack).map(|(pack, mut entries)| {
        entries.sort_by_key(|e| e.member);
        let used = Use { pack: pack.clone(), compression: content.compression, entries: Arc::new(entries) };
        (pack.object.as_str(), used)
    });
    Ok(uses.collect())
}

/// Takes content to no place.
struct Nowhere<'a>(&'a CancellationToken);

impl ContentSink<EngineError> for Nowhere<'_> {
    fn data(&mut self, _: &[u8]) -> Result<()> {
        if self.0.is_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) }
    }

    fn hole(&mut self, _: u64) -> Result<()> {
        Ok(())
    }
}

/// Reads a tar object. Returns what is wrong with it.
///
/// # Errors
/// [`EngineError::Cancelled`].
pub(crate) fn decode(fetched: Fetched, used: &Use, cancel: &CancellationToken) -> Result<Vec<Finding>> {
    let key = &used.pack.object;
    let finding = |kind, name: String, detail| Finding { kind, object: key.clone(), tables: vec![name], detail };
    let mut findings = Vec::new();
    let mut left = used.entries.iter().peekable();
    let read = reader(key, fetched.data, used.compression).and_then(|input| {
        members(input, used.pack.bytes, |member| {
            let Some(entry) = left.next_if(|e| e.member == member.number) else { return Ok(()) };
            let FileKind::File(data) = &entry.kind else { return Ok(()) };
            match copy_content(member, data, &mut Nowhere(cancel)) {
                Ok(found) if found == data.sha256 => {}
                Ok(found) => {
                    let detail = format!("sha256 {found} instead of {}", data.sha256);
                    findings.push(finding(FindingKind::Content, entry.path.to_string(), detail));
                }
                Err(EngineError::Files(e)) => {
                    findings.push(finding(FindingKind::Decode, entry.path.to_string(), chain(&e)));
                }
                Err(e) => return Err(e),
            }
            Ok(())
        })
    });
    match read {
        Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
        Err(e) => findings.push(finding(FindingKind::Decode, "(archive)".into(), chain(&e))),
        Ok(count) if count != used.pack.members => {
            let detail = format!("{count} members instead of {}", used.pack.members);
            findings.push(finding(FindingKind::Content, "(archive)".into(), detail));
        }
        Ok(_) => {}
    }
    if let (Some(entry), true) = (left.next(), findings.is_empty()) {
        findings.push(finding(FindingKind::Content, entry.path.to_string(), "it is not in the archive".into()));
    }
    Ok(findings)
}
