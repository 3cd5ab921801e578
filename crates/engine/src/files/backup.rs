//! `backup` of a file set.
//!
//! *Ordering*: walk → what is unchanged by the file system's word → what is unchanged by its digest → the rest into tar objects → list,
//! manifest. *Invariant*: a file that an earlier backup stored is named again only when size, mtime, ctime and inode are what they were,
//! none of them so young that a change could hide in it, or when its bytes were read and have the same digest.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dozo_encode::{BlockWriter, EncodeError};
use dozo_files::{Added, FilesError, Item, ItemKind, PackWriter, Problem, Root, Rules, Walked, same_content, walk, write_entry};
use dozo_model::{
    BackupId, Compression, Content, FileEntry, FileKind, FilePath, FilesContent, LeftOut, Loss, LossUnit, Manifest, ObjectRef,
    Pack, Progress, QualifiedName, Sha256Digest, SourceName, Stage, random_suffix,
};
use dozo_store::Layout;
use tokio_util::sync::CancellationToken;

use super::plan::{Before, Sorted, Unit, item_of, size_of, units};
use super::{list_of, restore_md};
use crate::backup::{BackupReport, Draft, FilesReport, Frame, Gate, Upload, UploadSink, Uploads, Work};
use crate::budget::Budget;
use crate::context::{FilesSettings, RepositorySettings, SourceSettings};
use crate::stored::level_of;
use crate::workers::{Workers, blocking};
use crate::{EngineError, Result};

/// What the name of a file that was rotated ends in.
pub(super) const ROTATED: &str = ".gz";
/// Names of files that hold secrets.
const SECRETS: [&str; 16] = [
    ".env",
    ".env.*",
    "*.env",
    "profiles.yml",
    ".pgpass",
    ".netrc",
    ".htpasswd",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_rsa",
    "id_ed25519",
    "credentials",
    "secrets.*",
    ".aws/credentials",
];
/// Names that a message quotes.
const QUOTED: usize = 5;

/// A file set that can be walked.
pub(crate) struct Set<'a> {
    settings: &'a FilesSettings,
    tree: Tree,
}

/// Where a file set is, and what belongs to it.
#[derive(Clone)]
pub(crate) struct Tree {
    pub(crate) path: PathBuf,
    pub(crate) root: Arc<Root>,
    rules: Rules,
}

impl<'a> Set<'a> {
    /// Looks whether it is there.
    ///
    /// # Errors
    /// [`EngineError::Files`].
    pub(crate) fn look(source: &SourceSettings, settings: &'a FilesSettings) -> Result<Self> {
        Ok(Self { settings, tree: Tree::look(source, settings)? })
    }
}

impl Tree {
    /// Looks whether it is there.
    ///
    /// # Errors
    /// [`EngineError::Files`].
    pub(crate) fn look(source: &SourceSettings, settings: &FilesSettings) -> Result<Self> {
        let rules = Rules::new(&source.include, &source.exclude)?;
        // What a rotation makes of a file belongs to the set as the file did.
        let rules = if settings.rotate.is_some() { rules.and_with(ROTATED) } else { rules };
        let root = Arc::new(Root::open(&settings.root)?);
        Ok(Self { path: settings.root.clone(), root, rules })
    }

    /// Looks at everything. Repositories that lie within are none of its files.
    ///
    /// # Errors
    /// [`EngineError::Files`].
    pub(crate) async fn walk(&self, repositories: &RepositorySettings, cancel: &CancellationToken) -> Result<Walked> {
        let replicas = repositories.replicas.iter().map(|r| &r.repository);
        let stores = std::iter::once(repositories).chain(replicas).filter_map(|r| r.store().ok());
        let skip: Vec<PathBuf> = stores.filter_map(|s| s.folder().map(Path::to_owned)).collect();
        let (tree, cancel) = (self.clone(), cancel.clone());
        blocking(move || Ok(walk(&tree.root, &tree.rules, &skip, || cancel.is_cancelled())?)).await
    }
}

/// What became of a unit.
struct Done {
    chunk: usize,
    entries: Vec<FileEntry>,
    problems: Vec<Problem>,
    /// Bytes that were read.
    bytes: u64,
    pack: Pack,
    object: ObjectRef,
    upload: Upload,
}

/// What all units share.
struct Shared {
    root: Arc<Root>,
    source: SourceName,
    id: BackupId,
    compression: Compression,
    level: i32,
    budget: Budget,
    uploads: Arc<Uploads>,
    progress: Arc<dyn Progress>,
    gate: Arc<Gate>,
    cancel: CancellationToken,
}

impl Shared {
    /// Counts bytes that were read, waits as `rate` says, and stops when somebody says stop.
    fn advance(&self, item: &Item, bytes: u64) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        self.progress.advance(&item.path.text(), 0, bytes);
        self.gate.pass(bytes, &self.cancel)
    }
}

/// Backs up a file set.
pub(crate) async fn run(frame: &Frame<'_>, set: Set<'_>) -> Result<BackupReport> {
    let (ctx, source, settings) = (frame.ctx, frame.source, set.settings);
    let started = ctx.clock.now();
    let before = Before::find(frame, settings.compression, started).await?;
    let parent = before.as_ref().ok().map(|b| &b.id);
    frame.begin(parent).await?;
    if frame.options.prove.is_some() {
        frame.warnings.add("--prove is for Postgres: nothing but dozo computed the digests of files".into());
    }
    let since = Instant::now();
    let tree = set.tree;
    let walked = tree.walk(frame.settings, &ctx.cancel).await?;
    if walked.items.is_empty() {
        let why = match walked.problems.first() {
            Some(problem) => format!("{}: {}", tree.path.join(problem.path.path()).display(), problem.reason),
            None => format!("no file below {} matches", tree.path.display()),
        };
        return Err(EngineError::NothingToBackUp { source_name: source.name.to_string(), why });
    }
    let walk_seconds = since.elapsed().as_secs_f64();
    let since = Instant::now();
    warn_of_secrets(frame, &walked.items)?;
    let Sorted { mut entries, maybe, mut store } = Sorted::new(walked.items, before.as_ref().ok());
    let budget = Budget::new(source.memory.0, source.workers, frame.repository.store().parts());
    let stop = ctx.cancel.child_token();
    let unless_stored = stop.clone().drop_guard();
    let shared = Arc::new(Shared {
        root: Arc::clone(&tree.root),
        source: source.name.clone(),
        id: frame.id.clone(),
        compression: settings.compression,
        level: level_of(settings.compression, source.zstd_level),
        budget,
        uploads: Arc::new(Uploads::new(ctx, frame.repository.store(), budget.workers, stop)),
        progress: Arc::clone(&ctx.progress),
        gate: Arc::new(Gate::new(source.rate.map(|r| r.0))),
        cancel: ctx.cancel.clone(),
    });
    let mut read: u64 = maybe.iter().map(|(item, _)| size_of(item)).sum();
    ctx.progress.stage(Stage::Data, 0, read + store.iter().map(size_of).sum::<u64>());
    compare(&shared, maybe, &mut entries, &mut store).await?;
    // What a tar object that is hardly needed any more still holds is stored again.
    if let Ok(before) = &before {
        let again = before.unneeded(&entries);
        let (out, kept): (Vec<FileEntry>, Vec<FileEntry>) = entries.into_iter().partition(|e| again.contains(&e.pack));
        entries = kept;
        store.extend(out.into_iter().map(item_of));
    }
    let first = units(store, budget.workers, 0);
    let chunks = first.len();
    let mut done = run_units(&shared, first).await?;
    let mut problems = walked.problems;
    let (mut packs, mut objects) = match &before {
        Ok(before) => before.named_again(&mut entries)?,
        Err(_) => (Vec::new(), Vec::new()),
    };
    let old = packs.len();
    // A file whose first name is gone is read by its second.
    let orphans = orphans(entries.iter().chain(done.iter().flat_map(|d| &d.entries)));
    if !orphans.is_empty() {
        let gone: HashSet<&FilePath> = orphans.iter().map(|i| &i.path).collect();
        entries.retain(|e| !gone.contains(&e.path));
        done.iter_mut().for_each(|d| d.entries.retain(|e| !gone.contains(&e.path)));
        done.extend(run_units(&shared, units(orphans, budget.workers, chunks)).await?);
    }
    for mut unit in done {
        problems.extend(unit.problems);
        read += unit.bytes;
        shared.uploads.stored(&mut unit.upload, &unit.object).await?;
        let number =
            u32::try_from(packs.len()).map_err(|_| EngineError::Internal("more tar objects than can be counted".into()))?;
        entries.extend(unit.entries.into_iter().map(|e| FileEntry { pack: number, ..e }));
        packs.push(unit.pack);
        objects.push(unit.object);
    }
    unless_stored.disarm();
    let written = objects[old..].iter().map(|o: &ObjectRef| o.bytes).sum();
    problems.extend(nameless(&mut entries));
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let data_seconds = since.elapsed().as_secs_f64();

    ctx.progress.stage(Stage::Commit, 0, 0);
    let since = Instant::now();
    let report = report(&entries, old);
    warn_of_changes(frame, &report.changed);
    let suffix = settings.compression.suffix();
    let content = FilesContent {
        root: settings.root.display().to_string(),
        root_meta: tree.root.meta()?,
        compression: settings.compression,
        restore_md: Layout::file(&source.name, &frame.id, "RESTORE.md"),
        list: Layout::file(&source.name, &frame.id, &format!("files.jsonl.{suffix}")),
        entries: entries.len() as u64,
        files: report.files,
        bytes: report.bytes,
        packs,
    };
    let list = compressed_list(&entries, settings.compression, shared.level)?;
    let list_sha256 = Sha256Digest::of(&list);
    let left_out: Vec<LeftOut> = problems
        .iter()
        .map(|p| LeftOut {
            name: QualifiedName::new("file", p.path.text()),
            reason: p.reason.clone(),
            error: p.error,
            needed_by: vec![],
        })
        .collect();
    let mut losses = Vec::new();
    if let Some(good) = frame.history.newest_good().map(|r| r.manifest.as_ref())
        && let Content::Files(was) = &good.content
    {
        let before = expected(frame, settings, good, was).await;
        if source.shrank(before, Some(content.files)) {
            let name = QualifiedName::new("files", source.name.as_str());
            losses.push(Loss { name, unit: LossUnit::Files, before, now: Some(content.files) });
        }
    }
    let draft = Draft {
        parent: parent.filter(|_| old > 0).cloned(),
        started,
        finished: ctx.clock.now(),
        format: if settings.compression == Compression::Zstd { "tar.zst" } else { "tar.gz" },
        workers: budget.workers,
        fingerprint: "sha256".into(),
        left_out,
        losses,
        objects,
        put: vec![(content.list.clone(), list.into())],
        seconds: BTreeMap::from([("walk".to_owned(), walk_seconds), ("data".to_owned(), data_seconds)]),
        content: Content::Files(content),
    };
    let url = frame.repository.store().url();
    let committed = frame.commit(draft, since, |m: &Manifest| restore_md::write(m, list_sha256, url), async || Ok(())).await?;
    let work = Work {
        full_because: before.err(),
        bytes_read: read,
        written,
        memory_budget: budget.peak_bytes() as u64,
        bottleneck: None,
        tables: vec![],
        files: Some(report),
    };
    Ok(frame.report(committed, work))
}

/// Reads files that may be what they were, and divides them.
async fn compare(
    shared: &Arc<Shared>,
    maybe: Vec<(Item, FileEntry)>,
    entries: &mut Vec<FileEntry>,
    store: &mut Vec<Item>,
) -> Result<()> {
    let of_workers = Arc::clone(shared);
    let work = move |(): &mut (), (item, entry): (Item, FileEntry)| {
        let FileKind::File(data) = &entry.kind else { return Ok((item, None)) };
        let same = same_content(&of_workers.root, &item, data, |n| of_workers.advance(&item, n))?;
        let entry = same.map(|meta| FileEntry { meta, ..entry });
        Ok((item, entry))
    };
    for (item, entry) in Workers::start(shared.budget.workers, maybe, &shared.cancel, |_| Ok(()), work).collect(|_| {}).await? {
        match entry {
            Some(entry) => entries.push(entry),
            None => store.push(item),
        }
    }
    Ok(())
}

/// Stores a tar object.
fn run_unit(unit: &Unit, shared: &Shared) -> Result<Done> {
    let random = random_suffix(&mut rand::rng(), 8);
    let suffix = format!("tar.{}", shared.compression.suffix());
    let key = Layout::pack(&shared.source, unit.chunk, &shared.id, &random, &suffix);
    let encode = |source| EngineError::Encode { object: key.clone(), source };
    // The store's own error explains a sink that closed.
    let explained = |e| match e {
        EngineError::Files(FilesError::Write(e)) => encode(EncodeError::stream(&e)),
        e => e,
    };
    let (mut entries, mut problems, mut bytes) = (Vec::new(), Vec::new(), 0);
    let ((members, raw, written), upload) = shared.uploads.store(&key, |sink: UploadSink| {
        let out = BlockWriter::new(shared.compression, shared.level, unit.threads, shared.budget.parts.bytes, sink);
        let mut pack = PackWriter::new(out);
        for item in &unit.items {
            let advance = |n| {
                bytes += n;
                shared.advance(item, n)
            };
            match pack.add(&shared.root, item, advance).map_err(explained)? {
                Added::Stored(entry) => entries.push(*entry),
                Added::Vanished => {}
                Added::Unreadable(e) => {
                    problems.push(Problem { path: item.path.clone(), reason: e.to_string(), error: true });
                }
            }
        }
        let (out, members, raw) = pack.finish().map_err(|e| explained(e.into()))?;
        let (sink, written) = out.finish().map_err(encode)?;
        sink.end().map_err(|_| encode(EncodeError::Closed))?;
        Ok((members, raw, written))
    })?;
    let object = ObjectRef { key: key.clone(), bytes: written.bytes, sha256: written.sha256 };
    Ok(Done { chunk: unit.chunk, entries, problems, bytes, pack: Pack { object: key, members, bytes: raw }, object, upload })
}

/// Returns second names whose first one is not there: the first of them as the file, the others as names of that.
fn orphans<'a>(entries: impl Iterator<Item = &'a FileEntry> + Clone) -> Vec<Item> {
    let files: HashSet<&FilePath> = entries.clone().filter(|e| matches!(e.kind, FileKind::File(_))).map(|e| &e.path).collect();
    let mut by_target: BTreeMap<&FilePath, Vec<&FileEntry>> = BTreeMap::new();
    for entry in entries {
        if let FileKind::Hardlink { target } = &entry.kind
            && !files.contains(target)
        {
            by_target.entry(target).or_default().push(entry);
        }
    }
    let mut items = Vec::new();
    for mut names in by_target.into_values() {
        names.sort_by(|a, b| a.path.cmp(&b.path));
        let first = names[0].path.clone();
        items.extend(names.into_iter().map(|entry| {
            let kind = if entry.path == first { ItemKind::File(0) } else { ItemKind::Hardlink(first.clone()) };
            Item { path: entry.path.clone(), kind, meta: entry.meta.clone() }
        }));
    }
    items
}

/// Stores tar objects.
async fn run_units(shared: &Arc<Shared>, units: Vec<Unit>) -> Result<Vec<Done>> {
    let of_workers = Arc::clone(shared);
    let work = move |(): &mut (), unit: Unit| run_unit(&unit, &of_workers);
    let mut done = Workers::start(shared.budget.workers, units, &shared.cancel, |_| Ok(()), work).collect(|_| {}).await?;
    done.sort_by_key(|d| d.chunk);
    Ok(done)
}

/// Takes out names of files that are not in the list: what they are names of could not be read.
fn nameless(entries: &mut Vec<FileEntry>) -> Vec<Problem> {
    let files: HashSet<FilePath> =
        entries.iter().filter(|e| matches!(e.kind, FileKind::File(_))).map(|e| e.path.clone()).collect();
    let lost = |e: &FileEntry| matches!(&e.kind, FileKind::Hardlink { target } if !files.contains(target));
    let gone = entries.extract_if(.., |e| lost(e));
    gone.map(|e| Problem { path: e.path, reason: "the file that it is a name of could not be read".into(), error: true })
        .collect()
}

/// Counts the files of a good backup that should still be there: what a rotation has deleted since is not lost.
async fn expected(frame: &Frame<'_>, settings: &FilesSettings, good: &Manifest, was: &FilesContent) -> u64 {
    let Some(after) = settings.rotate.and_then(|r| r.delete_after) else { return was.files };
    let Ok(entries) = list_of(frame.repository, good, was).await else { return was.files };
    let oldest = frame.ctx.clock.now().as_second().saturating_sub(i64::try_from(after.as_secs()).unwrap_or(i64::MAX));
    let young = |e: &&FileEntry| matches!(e.kind, FileKind::File(_)) && e.meta.mtime.seconds > oldest;
    entries.iter().filter(young).count() as u64
}

/// Counts. The first `old` tar objects were there before.
fn report(entries: &[FileEntry], old: usize) -> FilesReport {
    let mut report = FilesReport::default();
    for entry in entries {
        let FileKind::File(data) = &entry.kind else {
            report.others += 1;
            continue;
        };
        report.files += 1;
        report.bytes += data.size;
        if (entry.pack as usize) < old {
            report.unchanged += 1;
        } else {
            report.stored += 1;
        }
        if data.changed {
            report.changed.push(entry.path.to_string());
        }
    }
    report
}

fn compressed_list(entries: &[FileEntry], compression: Compression, level: i32) -> Result<Vec<u8>> {
    let encode = |source| EngineError::Encode { object: "the list of files".into(), source };
    let mut out = BlockWriter::new(compression, level, 1, usize::MAX >> 1, Vec::new());
    entries.iter().try_for_each(|entry| write_entry(&mut out, entry))?;
    Ok(out.finish().map_err(encode)?.0)
}

fn quoted(names: &[String]) -> String {
    let more = if names.len() > QUOTED { format!(" and {} more", names.len() - QUOTED) } else { String::new() };
    format!("{}{more}", names.iter().take(QUOTED).cloned().collect::<Vec<_>>().join(", "))
}

fn warn_of_changes(frame: &Frame<'_>, changed: &[String]) {
    if !changed.is_empty() {
        let text = "changed each time that it was read: what is stored of it was never all there at one moment";
        frame.warnings.add(format!("{}: {text}", quoted(changed)));
    }
}

/// Says that others can read secrets out of the repository.
fn warn_of_secrets(frame: &Frame<'_>, items: &[Item]) -> Result<()> {
    let Some(folder) = frame.repository.store().folder() else { return Ok(()) };
    if !open_to_others(folder) {
        return Ok(());
    }
    let secret = Rules::new(&SECRETS.map(str::to_owned), &[])?;
    let is_secret = |i: &&Item| matches!(i.kind, ItemKind::File(_)) && secret.takes(i.path.path(), false);
    let names: Vec<String> = items.iter().filter(is_secret).map(|i| i.path.to_string()).collect();
    if !names.is_empty() {
        let text = "hold secrets, and everybody on this host can read the repository";
        frame.warnings.add(format!("{}: such files {text}: chmod o-rwx {}", quoted(&names), folder.display()));
    }
    Ok(())
}

/// Tells whether users of this host who own nothing of it can read a repository.
fn open_to_others(folder: &Path) -> bool {
    let allows = |path: &Path, bits: u32| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & bits == bits);
    let Ok(real) = folder.canonicalize() else { return false };
    real.ancestors().all(|path| allows(path, 0o001)) && allows(&real.join(Layout::MARKER), 0o004)
}
