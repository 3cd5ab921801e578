//! `rotate`: old files of a set are compressed, and older ones deleted, once a verified backup holds them.
//!
//! *Invariants*: a file that somebody has open for writing, that has another name, or whose content no verified good backup holds, is left
//! alone and told of; what was decided is looked at again right before it is done. *Crash behaviour*: the compressed file is whole, read
//! back and on the disk before the original goes; both stand in between, and the next run finishes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::Repository;
use dozo_encode::{BlockWriter, decompress};
use dozo_files::{FilesError, Item, ItemKind, Occupied, Owners, Target, UnseenWriters, Writers, meta_of};
use dozo_model::{Compression, Content, FileKind, FilePath, Sha256Digest, Timestamp, Verdict, VerifyLevel};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::backup::{ROTATED, Tree};
use super::list_of;
use crate::context::{Context, FilesSettings, RepositorySettings, RotateSettings, SourceSettings};
use crate::error::chain;
use crate::stored::{FileSink, digest, level_of};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// What the names of files end in that cannot be compressed any further.
const COMPRESSED: [&str; 6] = [ROTATED, ".zst", ".bz2", ".xz", ".zip", ".tgz"];
const CHANGED: &str = "it changed meanwhile";
const SEVERAL: &str = "it has another name";

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
    /// Files that could not be written or deleted.
    pub failed: usize,
    /// Whether it was interrupted.
    pub stopped: bool,
    /// Bytes that it frees, or freed; of files that are still to be compressed it is not known.
    pub freed: u64,
    /// Rule.
    #[serde(skip)]
    rule: RotateSettings,
}

/// Finds what is to be compressed and deleted.
///
/// # Errors
/// [`EngineError::Options`] when the source has no such rule; [`EngineError::Files`]; what the store says.
pub async fn rotate_plan(
    ctx: &Context,
    repository: &Repository,
    repositories: &RepositorySettings,
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
    let walked = tree.walk(repositories, &ctx.cancel).await?;
    let now = ctx.clock.now();
    let mut lines: Vec<RotateLine> = walked.items.iter().filter_map(|item| line_of(&rule, item, now)).collect();
    let writers = blocking(|| Writers::look().map_err(EngineError::folder(Path::new("/proc")))).await?;
    let target = Arc::new(open(&settings.root)?);
    for line in &mut lines {
        match target.existing(&line.path).map_err(EngineError::from).and_then(|f| f.map(|f| metadata(&f, &line.path)).transpose())
        {
            Ok(Some(found)) => {
                line.seen = Seen::of(&found);
                line.held_back = if found.nlink() > 1 { Some(SEVERAL.into()) } else { writers.of(&found, rule.unseen_writers) };
            }
            Ok(None) => line.held_back = Some(CHANGED.into()),
            Err(e) => line.held_back = Some(chain(&e)),
        }
    }
    if rule.after_backup {
        proven(ctx, repository, source, &target, &mut lines).await?;
    }
    let going = lines.iter().filter(|l| l.action == RotateAction::Delete && l.held_back.is_none());
    let freed = going.map(|l| l.bytes).sum();
    let (source, root) = (source.name.to_string(), settings.root.clone());
    Ok(RotatePlan { source, root, applied: false, lines, failed: 0, stopped: false, freed, rule })
}

/// Opens the folder that is rotated; nobody else restores into it or rotates it meanwhile.
fn open(root: &Path) -> Result<Target> {
    Ok(Target::open(root, Owners::Kept, false)?)
}

fn metadata(file: &File, path: &FilePath) -> Result<std::fs::Metadata> {
    Ok(file.metadata().map_err(FilesError::file(path.path()))?)
}

fn line_of(rule: &RotateSettings, item: &Item, now: Timestamp) -> Option<RotateLine> {
    let ItemKind::File(bytes) = item.kind else { return None };
    let age = now.as_second().saturating_sub(item.meta.mtime.seconds);
    let age_seconds = u64::try_from(age).unwrap_or(0);
    let reached = |after: Option<Duration>| after.is_some_and(|after| age_seconds >= after.as_secs());
    let action = if reached(rule.delete_after) {
        RotateAction::Delete
    } else if reached(rule.compress_after) && !COMPRESSED.iter().any(|s| item.path.bytes().ends_with(s.as_bytes())) {
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
    target: &Arc<Target>,
    lines: &mut [RotateLine],
) -> Result<()> {
    let mut open: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].held_back.is_none()).collect();
    if open.is_empty() {
        return Ok(());
    }
    let history = repository.history(&source.name).await?;
    let mut digests: HashMap<usize, [Option<(FilePath, Sha256Digest)>; 2]> = HashMap::new();
    for i in &open {
        let (path, target, cancel) = (lines[*i].path.clone(), Arc::clone(target), ctx.cancel.clone());
        let found = blocking(move || contents(&target, &path, &cancel)).await;
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
        if open.is_empty() || check.is_none_or(|c| c.verdict != Verdict::Passed) {
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

/// Opens a regular file, and nothing else.
fn regular(target: &Target, path: &FilePath) -> Result<File> {
    let none = || FilesError::file(path.path())(std::io::Error::other("it is no regular file"));
    Ok(target.existing(path)?.ok_or_else(none)?)
}

/// Returns the digest of a file, and, where it was compressed, of what it was: each with the path that a backup has it under.
fn contents(target: &Target, path: &FilePath, cancel: &CancellationToken) -> Result<[Option<(FilePath, Sha256Digest)>; 2]> {
    let whole = digest(regular(target, path)?, path.path(), cancel)?;
    let before = match path.bytes().strip_suffix(ROTATED.as_bytes()) {
        // What cannot be decompressed is not something that was compressed here.
        Some(original) => match unpacked(regular(target, path)?, path, cancel) {
            Ok(sha256) => Some((FilePath::new(original), sha256)),
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            Err(_) => None,
        },
        None => None,
    };
    Ok([Some((path.clone(), whole)), before])
}

fn unpacked(file: File, path: &FilePath, cancel: &CancellationToken) -> Result<Sha256Digest> {
    digest(decompress(Compression::Gzip, file).map_err(FilesError::file(path.path()))?, path.path(), cancel)
}

/// Carries a plan out. What changed since, or cannot be written or deleted, is held back; the others are not.
///
/// # Errors
/// [`EngineError::Files`] when the folder itself cannot be used.
pub async fn rotate_apply(ctx: &Context, mut plan: RotatePlan) -> Result<RotatePlan> {
    let cancel = ctx.cancel.clone();
    blocking(move || {
        let target = open(&plan.root)?;
        (plan.freed, plan.applied) = (0, true);
        for line in plan.lines.iter_mut().filter(|l| l.held_back.is_none()) {
            if plan.stopped {
                line.held_back = Some("the run was stopped before it".into());
                continue;
            }
            match one(&target, line, plan.rule.unseen_writers, &cancel) {
                Ok(Ok(freed)) => plan.freed += freed,
                Ok(Err(why)) => line.held_back = Some(why),
                Err(EngineError::Cancelled) => {
                    line.held_back = Some("the run was stopped at it".into());
                    plan.stopped = true;
                }
                Err(e) => {
                    line.held_back = Some(chain(&e));
                    plan.failed += 1;
                }
            }
        }
        target.sync()?;
        Ok(plan)
    })
    .await
}

/// Tells why nothing may be done to a file any more.
fn changed(target: &Target, line: &RotateLine, unseen: UnseenWriters) -> Result<Option<String>> {
    let Some(file) = target.existing(&line.path)? else { return Ok(Some(CHANGED.into())) };
    let found = metadata(&file, &line.path)?;
    if Seen::of(&found) != line.seen {
        return Ok(Some(CHANGED.into()));
    }
    Ok(Writers::look().map_err(EngineError::folder(Path::new("/proc")))?.of(&found, unseen))
}

/// Does what a line says. Returns the bytes that it freed, or why it did not.
fn one(
    target: &Target,
    line: &RotateLine,
    unseen: UnseenWriters,
    cancel: &CancellationToken,
) -> Result<std::result::Result<u64, String>> {
    if let Some(why) = changed(target, line, unseen)? {
        return Ok(Err(why));
    }
    if line.action == RotateAction::Delete {
        target.remove(&line.path)?;
        return Ok(Ok(line.bytes));
    }
    let gz = FilePath::new([line.path.bytes(), ROTATED.as_bytes()].concat());
    let small = match compress(target, &line.path, &gz, cancel)? {
        Ok(bytes) => bytes,
        Err(why) => return Ok(Err(why)),
    };
    let gone = match changed(target, line, unseen) {
        Ok(None) => target.remove(&line.path).map_err(EngineError::from).map(|()| None),
        other => other,
    };
    if !matches!(gone, Ok(None)) {
        // The original stays: there are not to be two of it.
        target.remove(&gz)?;
    }
    Ok(match gone? {
        None => Ok(line.bytes.saturating_sub(small)),
        Some(why) => Err(why),
    })
}

/// Writes the compressed file beside the original. Returns its size, or why there is none.
fn compress(
    target: &Target,
    path: &FilePath,
    gz: &FilePath,
    cancel: &CancellationToken,
) -> Result<std::result::Result<u64, String>> {
    let (io, of_gz) = (FilesError::file(path.path()), FilesError::file(gz.path()));
    let mut input = regular(target, path)?;
    let meta = meta_of(&input).map_err(io)?;
    let original = digest(&mut input, path.path(), cancel)?;
    if target.occupied(gz, false)? != Occupied::No {
        let other = || Ok(Err(format!("{gz} stands beside it, and is something else")));
        // A run that was stopped in between, or somebody else's file.
        let Some(there) = target.existing(gz)? else { return other() };
        let found = meta_of(&there).map_err(of_gz)?;
        let ours = (found.uid, found.gid, found.mode, found.mtime) == (meta.uid, meta.gid, meta.mode, meta.mtime);
        there.sync_all().map_err(of_gz)?;
        let size = there.metadata().map_err(of_gz)?.len();
        return match unpacked(there, gz, cancel) {
            Ok(there) if there == original && ours => Ok(Ok(size)),
            Err(EngineError::Cancelled) => Err(EngineError::Cancelled),
            _ => other(),
        };
    }
    let new = target.begin(gz)?;
    let (sink, error) = FileSink::new(new.file.try_clone().map_err(of_gz)?);
    let mut out = BlockWriter::new(Compression::Gzip, level_of(Compression::Gzip, 0), 1, 1 << 20, sink);
    input.rewind().map_err(io)?;
    let mut buffer = vec![0; 1 << 17];
    let written = loop {
        if cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let n = input.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break out.finish().map(|(_, written)| written.raw_sha256).ok();
        }
        if out.write_all(&buffer[..n]).is_err() {
            break None;
        }
    };
    if let Some(e) = error.take() {
        return Err(of_gz(e).into());
    }
    new.file.sync_all().map_err(of_gz)?;
    if written != Some(original) || unpacked(target.read_back(&new)?, gz, cancel)? != original {
        return Ok(Err(CHANGED.into()));
    }
    let size = new.file.metadata().map_err(of_gz)?.len();
    target.finish(new, gz, &meta)?;
    target.sync()?;
    Ok(Ok(size))
}
