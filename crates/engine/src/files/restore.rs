//! `restore` of a file set, whole or in part, into a folder.
//!
//! *Ordering*: folders → files, tar object by tar object → second names → links and pipes → modes and times of folders, inner ones first.
//! *Invariants*: the list says what is made, [`Target`] that it is made inside the folder; a file appears under its name only when its
//! digest is that of the list. *Crash behaviour*: what stands already with the right digest is left alone, so the same command goes on
//! where it stopped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dozo_catalog::Repository;
use dozo_files::{ContentSink, FilesError, Occupied, Owners, Rules, Target, copy_content, members};
use dozo_model::{
    Compression, FileData, FileEntry, FileKind, FilePath, FilesContent, Manifest, Pack, Progress, Sha256Digest, Stage,
};
use dozo_store::ObjectData;
use futures::{StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;

use super::{list_of, some_of};
use crate::context::Context;
use crate::intact::Digests;
use crate::restore::{FolderOptions, FolderReport, RestoredSet};
use crate::stored::{digest, reader};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Restores a file set.
///
/// # Errors
/// See [`EngineError`]; files that were finished before it stay.
pub(crate) async fn restore(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    content: &FilesContent,
    folder: &Path,
    options: &FolderOptions,
) -> Result<FolderReport> {
    let began = Instant::now();
    let backup = format!("{}@{}", manifest.source, manifest.id);
    let selected = select(list_of(repository, manifest, content).await?, &options.paths, &backup)?;
    let root = rustix::process::geteuid().is_root();
    let owners = if root && !options.no_owner { Owners::Restore } else { Owners::Ours };
    let us = rustix::process::geteuid().as_raw();
    if !root && !options.no_owner && selected.iter().any(|e| e.meta.uid != us) {
        ctx.progress.warn("owners are not restored: only root can do that (--no-owner says that they need not be)");
    }
    let target = Arc::new(Target::open(folder, owners, options.replace)?);
    let (looked, replace, cancel) = (Arc::clone(&target), options.replace, ctx.cancel.clone());
    let (selected, there) = blocking(move || {
        looked.sweep(&FilePath::new(""))?;
        for entry in selected.iter().filter(|e| e.kind == FileKind::Folder) {
            looked.sweep(&entry.path)?;
        }
        let there = stands(&looked, &selected, replace, &cancel)?;
        Ok((selected, there))
    })
    .await?;
    if !there.in_the_way.is_empty() {
        return Err(EngineError::FolderOccupied { folder: folder.to_owned(), files: some_of(&there.in_the_way) });
    }
    let file_bytes = |e: &FileEntry| if let FileKind::File(data) = &e.kind { data.size } else { 0 };
    ctx.progress.stage(Stage::Data, 0, selected.iter().map(file_bytes).sum());
    let selected = Arc::new(selected);
    let (made, entries) = (Arc::clone(&target), Arc::clone(&selected));
    blocking(move || {
        for entry in entries.iter().filter(|e| e.kind == FileKind::Folder) {
            made.folder(&entry.path)?;
        }
        Ok(())
    })
    .await?;
    let mut by_pack: BTreeMap<u32, Vec<FileEntry>> = BTreeMap::new();
    for entry in selected.iter().filter(|e| matches!(e.kind, FileKind::File(_)) && !there.done.contains(&e.path)) {
        by_pack.entry(entry.pack).or_default().push(entry.clone());
    }
    let digests = Digests::of(manifest);
    let (digests, target_of_packs) = (&digests, &target);
    let fetched = futures::stream::iter(by_pack)
        .map(|(number, entries)| async move {
            let pack = content.packs.get(number as usize).cloned();
            let pack = pack.ok_or_else(|| EngineError::Internal(format!("there is no tar object {number}")))?;
            let data = digests.fetch(ctx, repository, &pack.object).await?;
            let job = Unpack {
                pack,
                compression: content.compression,
                entries,
                target: Arc::clone(target_of_packs),
                progress: Arc::clone(&ctx.progress),
                cancel: ctx.cancel.clone(),
            };
            blocking(move || job.run(data)).await
        })
        .buffer_unordered(options.threads.max(1));
    fetched.try_collect::<Vec<()>>().await?;
    let (made, entries, done) = (Arc::clone(&target), Arc::clone(&selected), there.done);
    let root_meta = content.root_meta.clone();
    blocking(move || {
        finish(&made, &entries, &done)?;
        if made.made() {
            made.describe_root(&root_meta)?;
        }
        Ok(())
    })
    .await?;
    let files = selected.iter().filter(|e| matches!(e.kind, FileKind::File(_))).count() as u64;
    Ok(FolderReport {
        backup,
        target: folder.display().to_string(),
        outcome: if manifest.complete { "done" } else { "partial" },
        files: Vec::new(),
        set: Some(RestoredSet {
            files,
            others: selected.len() as u64 - files,
            bytes: selected.iter().map(file_bytes).sum(),
            verdict: "equal",
        }),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Takes what is asked for out of a list, and the folders above it.
fn select(entries: Vec<FileEntry>, patterns: &[String], backup: &str) -> Result<Vec<FileEntry>> {
    if patterns.is_empty() {
        return Ok(entries);
    }
    // The very name of a file is no pattern.
    let paths: HashSet<&[u8]> = entries.iter().map(|e| e.path.bytes()).collect();
    let bare = |p: &String| p.trim_start_matches("./").as_bytes().to_vec();
    let (named, patterns): (Vec<String>, Vec<String>) =
        patterns.iter().cloned().partition(|p| paths.contains(bare(p).as_slice()));
    let named: Vec<Vec<u8>> = named.iter().map(bare).collect();
    let is_named = |path: &FilePath| {
        let path = path.bytes();
        named.iter().any(|n| path.strip_prefix(n.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/'))
    };
    let rules = if patterns.is_empty() { None } else { Some(Rules::new(&patterns, &[])?) };
    let matches = |e: &FileEntry| rules.as_ref().is_some_and(|r| r.takes(e.path.path(), e.kind == FileKind::Folder));
    let takes = |e: &FileEntry| is_named(&e.path) || matches(e);
    let mut above: HashSet<FilePath> = HashSet::new();
    let mut first: HashMap<FilePath, FilePath> = HashMap::new();
    let wanted: HashSet<FilePath> = entries.iter().filter(|e| takes(e)).map(|e| e.path.clone()).collect();
    if wanted.is_empty() {
        return Err(EngineError::NoFile { pattern: patterns.join(" "), backup: backup.to_owned() });
    }
    for path in &wanted {
        above.extend(path.above());
    }
    let files: HashMap<FilePath, FileEntry> =
        entries.iter().filter(|e| matches!(e.kind, FileKind::File(_))).map(|e| (e.path.clone(), e.clone())).collect();
    let mut selected = Vec::new();
    for entry in entries {
        let is_above = entry.kind == FileKind::Folder && above.contains(&entry.path);
        if !is_above && !wanted.contains(&entry.path) {
            continue;
        }
        match &entry.kind {
            // The file that it is a name of is not asked for: the first name gets its content, others are names of that.
            FileKind::Hardlink { target } if !wanted.contains(target) => match (first.get(target), files.get(target)) {
                (Some(first), _) => {
                    let kind = FileKind::Hardlink { target: first.clone() };
                    selected.push(FileEntry { kind, ..entry });
                }
                (None, Some(file)) => {
                    first.insert(target.clone(), entry.path.clone());
                    selected.push(FileEntry { path: entry.path, ..file.clone() });
                }
                (None, None) => {}
            },
            _ => selected.push(entry),
        }
    }
    Ok(selected)
}

/// What stands in the target already.
#[derive(Default)]
struct Stands {
    /// As it is to be.
    done: HashSet<FilePath>,
    in_the_way: Vec<String>,
}

fn stands(target: &Target, entries: &[FileEntry], replace: bool, cancel: &CancellationToken) -> Result<Stands> {
    let mut found = Stands::default();
    for entry in entries {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match target.occupied(&entry.path, entry.kind == FileKind::Folder)? {
            Occupied::No => continue,
            Occupied::ByAnotherKind => {
                found.in_the_way.push(entry.path.to_string());
                continue;
            }
            Occupied::Yes => {}
        }
        let same = match &entry.kind {
            FileKind::File(data) => match target.unlocked(&entry.path)? {
                Some(file) => holds(file, &entry.path, data, cancel)?,
                None => false,
            },
            // Of a file that is made anew it would be another name.
            FileKind::Hardlink { target: file } if !found.done.contains(file) => false,
            kind => target.is(&entry.path, kind)?,
        };
        if same {
            found.done.insert(entry.path.clone());
        } else if !replace {
            found.in_the_way.push(entry.path.to_string());
        }
    }
    Ok(found)
}

/// Tells whether a file has this content.
fn holds(file: File, path: &FilePath, data: &FileData, cancel: &CancellationToken) -> Result<bool> {
    let same_size = file.metadata().map_err(FilesError::file(path.path()))?.len() == data.size;
    Ok(same_size && digest(file, path.path(), cancel)? == data.sha256)
}

/// Files of one tar object on their way into the target.
struct Unpack {
    pack: Pack,
    compression: Compression,
    entries: Vec<FileEntry>,
    target: Arc<Target>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
}

impl Unpack {
    fn run(mut self, data: ObjectData) -> Result<()> {
        self.entries.sort_by_key(|e| e.member);
        let input = reader(&self.pack.object, data, self.compression)?;
        let mut left = self.entries.iter().peekable();
        let damaged = |reason: String| EngineError::Damaged { object: self.pack.object.clone(), reason };
        members(input, self.pack.bytes, |member| {
            let Some(entry) = left.next_if(|e| e.member == member.number) else { return Ok(()) };
            let FileKind::File(data) = &entry.kind else { return Ok(()) };
            let mut new = self.target.begin(&entry.path)?;
            let mut sink = ToFile { file: &mut new.file, entry, cancel: &self.cancel };
            let found: Sha256Digest = copy_content(member, data, &mut sink)?;
            if found != data.sha256 {
                return Err(damaged(format!("`{}` has sha256 {found} instead of {}", entry.path, data.sha256)));
            }
            new.file.set_len(data.size).map_err(FilesError::file(entry.path.path()))?;
            self.target.finish(new, &entry.path, &entry.meta)?;
            self.progress.advance(&entry.path.text(), 0, data.size);
            Ok::<(), EngineError>(())
        })?;
        match left.next() {
            None => Ok(()),
            Some(entry) => Err(damaged(format!("`{}` is not in it", entry.path))),
        }
    }
}

/// Writes a file; holes stay holes.
struct ToFile<'a> {
    file: &'a mut File,
    entry: &'a FileEntry,
    cancel: &'a CancellationToken,
}

impl ContentSink<EngineError> for ToFile<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        Ok(self.file.write_all(bytes).map_err(FilesError::file(self.entry.path.path()))?)
    }

    fn hole(&mut self, bytes: u64) -> Result<()> {
        let too_far = |_| EngineError::Internal("a hole is larger than any file".into());
        let seek = SeekFrom::Current(i64::try_from(bytes).map_err(too_far)?);
        self.file.seek(seek).map(drop).map_err(|e| FilesError::file(self.entry.path.path())(e).into())
    }
}

/// Makes what has no content, then gives folders their modes and times.
fn finish(target: &Target, entries: &[FileEntry], done: &HashSet<FilePath>) -> Result<()> {
    let open = |e: &&FileEntry| !done.contains(&e.path);
    for entry in entries.iter().filter(open) {
        if let FileKind::Hardlink { target: file } = &entry.kind {
            target.hardlink(&entry.path, file)?;
        }
    }
    for entry in entries.iter().filter(open) {
        match &entry.kind {
            FileKind::Symlink { target: says } => target.symlink(&entry.path, says, &entry.meta)?,
            FileKind::Fifo => target.fifo(&entry.path, &entry.meta)?,
            _ => {}
        }
    }
    for entry in entries.iter().filter(|e| !matches!(e.kind, FileKind::Hardlink { .. }) && done.contains(&e.path)) {
        target.describe(&entry.path, &entry.meta)?;
    }
    for entry in entries.iter().rev().filter(|e| e.kind == FileKind::Folder) {
        target.describe(&entry.path, &entry.meta)?;
    }
    Ok(target.sync()?)
}
