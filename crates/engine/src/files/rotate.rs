//! `rotate`: old files of a set are compressed, and older ones deleted, once a verified backup holds them.
//!
//! *Invariants*: a file that somebody has open for writing, that has another name, or whose content no verified good backup holds, is left
//! alone and told of; what was decided is looked at again right before it is done. *Crash behaviour*: the compressed file is whole, read
//! back and on the disk before the original goes; both stand in between, and the next run finishes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dozo_catalog::Repository;
use dozo_encode::{BlockWriter, decompress};
use dozo_files::{FilesError, Item, ItemKind, Owners, Target, Writers, bare_meta};
use dozo_model::{Compression, Content, FileKind, FilePath, Sha256Digest, Sha256Hasher, Timestamp, VerifyLevel};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::backup::Tree;
use super::list_of;
use crate::context::{Context, FilesSettings, RotateSettings, SourceSettings};
use crate::error::chain;
use crate::stored::{FileSink, level_of};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// What the name of a file that was compressed ends in.
const SUFFIX: &[u8] = b".gz";
/// What the names of files end in that cannot be compressed any further.
const COMPRESSED: [&[u8]; 6] = [SUFFIX, b".zst", b".bz2", b".xz", b".zip", b".tgz"];

/// What is to become of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotateAction {
    /// It becomes a `.gz`.
    Compress,
    /// It goes.
    Delete,
}

/// A file that is old enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RotateLine {
    /// Path below the root.
    pub path: FilePath,
    /// What is to become of it.
    pub action: RotateAction,
    /// Its size.
    pub bytes: u64,
    /// For how long it was not written.
    pub age_seconds: u64,
    /// Verified backup that holds its content.
    pub backup: Option<String>,
    /// Why nothing is done to it.
    pub held_back: Option<String>,
    /// As it was found.
    #[serde(skip)]
    seen: Seen,
}

/// What must be as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Seen {
    fn of(found: &std::fs::Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.len(),
            mtime: (found.mtime(), found.mtime_nsec()),
            ctime: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// What a rotation of a source does, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RotatePlan {
    /// Source.
    pub source: String,
    /// Folder that paths count from.
    pub root: PathBuf,
    /// Whether it was carried out.
    pub applied: bool,
    /// Files that are old enough.
    pub lines: Vec<RotateLine>,
    /// Processes of other users that may not be looked into: whether they write to a file is not known.
    pub unseen: usize,
    /// Bytes that it frees, or freed; of files that are still to be compressed it is not known.
    pub freed: u64,
}

/// Finds what is to be compressed and deleted.
///
/// # Errors
/// [`EngineError::Options`] when the source has no such rule; [`EngineError::Files`]; what the store says.
pub async fn rotate_plan(
    ctx: &Context,
    repository: &Repository,
    source: &SourceSettings,
    settings: &FilesSettings,
) -> Result<RotatePlan> {
    let rule = settings.rotate.ok_or_else(|| {
        EngineError::Options(format!(
            "source {} has no rotate = {{ compress-after = \"1d\", delete-after = \"30d\" }}",
            source.name
        ))
    })?;
    let tree = Tree::look(source, settings)?;
    let everything = Tree::look(&SourceSettings { include: vec![], ..source.clone() }, settings)?;
    let walked = everything.walk(Some(repository.store()), &ctx.cancel).await?;
    let now = ctx.clock.now();
    let mut lines: Vec<RotateLine> = walked.items.iter().filter_map(|item| line_of(&tree, &rule, item, now)).collect();
    let writers = blocking(|| Writers::look().map_err(EngineError::folder(Path::new("/proc")))).await?;
    for line in &mut lines {
        let found = std::fs::symlink_metadata(tree.root.join(line.path.path()));
        match found {
            Ok(found) => {
                line.seen = Seen::of(&found);
                line.held_back = if found.nlink() > 1 { Some("it has another name".into()) } else { writers.of(&found) };
            }
            Err(e) => line.held_back = Some(e.to_string()),
        }
    }
    if rule.after_backup {
        proven(ctx, repository, source, &tree.root, &mut lines).await?;
    }
    let going = lines.iter().filter(|l| l.action == RotateAction::Delete && l.held_back.is_none());
    let freed = going.map(|l| l.bytes).sum();
    Ok(RotatePlan { source: source.name.to_string(), root: tree.root, applied: false, lines, unseen: writers.unseen(), freed })
}

fn line_of(tree: &Tree, rule: &RotateSettings, item: &Item, now: Timestamp) -> Option<RotateLine> {
    let ItemKind::File(bytes) = item.kind else { return None };
    let original = item.path.bytes().strip_suffix(SUFFIX).map(FilePath::new);
    let ours = |path: &FilePath| tree.takes(path);
    if !ours(&item.path) && !original.as_ref().is_some_and(ours) {
        return None;
    }
    let age = now.as_second().saturating_sub(item.meta.mtime.seconds);
    let age_seconds = u64::try_from(age).unwrap_or(0);
    let reached = |after: Option<Duration>| after.is_some_and(|after| age_seconds >= after.as_secs());
    let action = if reached(rule.delete_after) {
        RotateAction::Delete
    } else if reached(rule.compress_after) && !COMPRESSED.iter().any(|s| item.path.bytes().ends_with(s)) {
        RotateAction::Compress
    } else {
        return None;
    };
    let seen = Seen::default();
    Some(RotateLine { path: item.path.clone(), action, bytes, age_seconds, backup: None, held_back: None, seen })
}

/// Holds back what no verified good backup holds.
async fn proven(
    ctx: &Context,
    repository: &Repository,
    source: &SourceSettings,
    root: &Path,
    lines: &mut [RotateLine],
) -> Result<()> {
    let mut open: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].held_back.is_none()).collect();
    if open.is_empty() {
        return Ok(());
    }
    let history = repository.history(&source.name).await?;
    let mut digests: HashMap<usize, [Option<(FilePath, Sha256Digest)>; 2]> = HashMap::new();
    for i in &open {
        let (path, root, cancel) = (lines[*i].path.clone(), root.to_owned(), ctx.cancel.clone());
        let found = blocking(move || contents(&root, &path, &cancel)).await;
        match found {
            Ok(found) => drop(digests.insert(*i, found)),
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            Err(e) => lines[*i].held_back = Some(chain(&e)),
        }
    }
    open.retain(|i| digests.contains_key(i));
    for record in history.records.iter().rev().filter(|r| r.good()) {
        let Content::Files(content) = &record.manifest.content else { continue };
        let check = Repository::verified(&record.checks, VerifyLevel::Content);
        if open.is_empty() || check.is_none_or(|c| c.verdict != dozo_model::Verdict::Passed) {
            continue;
        }
        let stored: HashMap<FilePath, Sha256Digest> = list_of(repository, &record.manifest, content)
            .await?
            .into_iter()
            .filter_map(|e| match e.kind {
                FileKind::File(data) if !data.changed => Some((e.path, data.sha256)),
                _ => None,
            })
            .collect();
        open.retain(|i| {
            let held = digests[i].iter().flatten().any(|(path, sha256)| stored.get(path) == Some(sha256));
            if held {
                lines[*i].backup = Some(format!("{}@{}", record.manifest.source, record.manifest.id));
            }
            !held
        });
    }
    for i in open {
        lines[i].held_back = Some("no verified backup holds it as it is".into());
    }
    Ok(())
}

/// Returns the digest of a file, and, where it was compressed, of what it was: each with the path that a backup has it under.
fn contents(root: &Path, path: &FilePath, cancel: &CancellationToken) -> Result<[Option<(FilePath, Sha256Digest)>; 2]> {
    let full = root.join(path.path());
    let open = || File::open(&full).map_err(FilesError::file(&full));
    let whole = digest(open()?, &full, cancel)?;
    let before = match path.bytes().strip_suffix(SUFFIX) {
        // What cannot be decompressed is not something that was compressed here.
        Some(original) => match decompress(Compression::Gzip, open()?).map(|input| digest(input, &full, cancel)) {
            Ok(Ok(sha256)) => Some((FilePath::new(original), sha256)),
            Ok(Err(EngineError::Cancelled)) => return Err(EngineError::Cancelled),
            _ => None,
        },
        None => None,
    };
    Ok([Some((path.clone(), whole)), before])
}

fn digest(mut input: impl Read, path: &Path, cancel: &CancellationToken) -> Result<Sha256Digest> {
    let mut hasher = Sha256Hasher::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match input.read(&mut buffer).map_err(FilesError::file(path))? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Carries a plan out. What changed since is held back.
///
/// # Errors
/// [`EngineError::Files`] for the first file that cannot be written or deleted; what was done before it stays done.
pub async fn rotate_apply(ctx: &Context, mut plan: RotatePlan) -> Result<RotatePlan> {
    let cancel = ctx.cancel.clone();
    blocking(move || {
        let owners = if rustix::process::geteuid().is_root() { Owners::Restore } else { Owners::Ours };
        let target = Target::open(&plan.root, owners, false)?;
        plan.freed = 0;
        for line in plan.lines.iter_mut().filter(|l| l.held_back.is_none()) {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            match one(&plan.root, &target, line, &cancel)? {
                Ok(freed) => plan.freed += freed,
                Err(why) => line.held_back = Some(why),
            }
        }
        plan.applied = true;
        Ok(plan)
    })
    .await
}

/// Tells why nothing may be done to a file any more.
fn changed(full: &Path, line: &RotateLine) -> Result<Option<String>> {
    let found = match std::fs::symlink_metadata(full) {
        Ok(found) => found,
        Err(e) => return Ok(Some(e.to_string())),
    };
    if Seen::of(&found) != line.seen {
        return Ok(Some("it changed meanwhile".into()));
    }
    Ok(Writers::look().map_err(EngineError::folder(Path::new("/proc")))?.of(&found))
}

/// Does what a line says. Returns the bytes that it freed, or why it did not.
fn one(root: &Path, target: &Target, line: &RotateLine, cancel: &CancellationToken) -> Result<std::result::Result<u64, String>> {
    let full = root.join(line.path.path());
    if let Some(why) = changed(&full, line)? {
        return Ok(Err(why));
    }
    if line.action == RotateAction::Delete {
        target.remove(&line.path)?;
        return Ok(Ok(line.bytes));
    }
    let gz = FilePath::new([line.path.bytes(), SUFFIX].concat());
    let small = match compress(root, target, &line.path, &gz, cancel)? {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(why)),
    };
    if let Some(why) = changed(&full, line)? {
        // What was compressed is not what it is any more.
        target.remove(&gz)?;
        return Ok(Err(why));
    }
    target.remove(&line.path)?;
    Ok(Ok(line.bytes.saturating_sub(small)))
}

/// Writes the compressed file beside the original. Returns its size, or why there is none.
fn compress(
    root: &Path,
    target: &Target,
    path: &FilePath,
    gz: &FilePath,
    cancel: &CancellationToken,
) -> Result<std::result::Result<u64, String>> {
    let (full, full_gz) = (root.join(path.path()), root.join(gz.path()));
    let io = FilesError::file(&full_gz);
    let original = digest(File::open(&full).map_err(FilesError::file(&full))?, &full, cancel)?;
    if target.occupied(gz, false)? {
        // A run that was stopped in between, or somebody else's file.
        let there = decompress(Compression::Gzip, File::open(&full_gz).map_err(io)?).map_err(io)?;
        return match digest(there, &full_gz, cancel) {
            Ok(there) if there == original => Ok(Ok(full_gz.metadata().map_err(io)?.len())),
            Err(EngineError::Cancelled) => Err(EngineError::Cancelled),
            _ => Ok(Err(format!("{gz} stands beside it, and is something else"))),
        };
    }
    let new = target.begin(gz)?;
    let (sink, error) = FileSink::new(new.file.try_clone().map_err(io)?);
    let mut out = BlockWriter::new(Compression::Gzip, level_of(Compression::Gzip, 0), 1, 1 << 20, sink);
    let mut input = File::open(&full).map_err(FilesError::file(&full))?;
    let meta = std::fs::symlink_metadata(&full).map_err(FilesError::file(&full))?;
    let mut buffer = vec![0; 1 << 17];
    let written = loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let n = input.read(&mut buffer).map_err(FilesError::file(&full))?;
        if n == 0 {
            break out.finish().map(|(_, written)| written.raw_sha256).ok();
        }
        if out.write_all(&buffer[..n]).is_err() {
            break None;
        }
    };
    if let Some(e) = error.take() {
        return Err(io(e).into());
    }
    new.file.sync_all().map_err(io)?;
    let hidden = target.read_back(&new)?;
    if written != Some(original) || digest(decompress(Compression::Gzip, hidden).map_err(io)?, &full_gz, cancel)? != original {
        return Ok(Err("it changed meanwhile".into()));
    }
    let size = new.file.metadata().map_err(io)?.len();
    target.finish(new, gz, &bare_meta(&meta))?;
    target.sync()?;
    Ok(Ok(size))
}
