//! What a command prints: its backup and restore.
//!
//! *Invariant*: nothing is committed unless the command ended well within its time, printed enough, and its check found it good; until
//! then its upload is not finished. *Cancellation*: the command dies with the run, and everything that it has started.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use dozo_catalog::Repository;
use dozo_encode::{BlockWriter, Compressed, EncodeError};
use dozo_files::{FilesError, Occupied, Owners, Target};
use dozo_model::{
    CommandContent, Compression, Content, FileMeta, FilePath, FileTime, Loss, LossUnit, Manifest, ObjectRef, QualifiedName,
    Stage, StoredFile, human_bytes, human_duration, random_suffix,
};
use dozo_store::Layout;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::backup::{BackupReport, Draft, Frame, Gate, Upload, UploadSink, Uploads, Work};
use crate::budget::Budget;
use crate::context::{CommandSettings, Context};
use crate::intact::Digests;
use crate::process::{Listener, Running};
use crate::restore::{FolderOptions, FolderReport, RestoredFile};
use crate::restore_md::{plain, shell};
use crate::stored::{level_of, unpack};
use crate::workers::blocking;
use crate::{EngineError, Result};

/// Bytes that are read at a time.
const READ: usize = 1 << 18;
/// How often it is looked whether a command has read what it was given.
const POLL: Duration = Duration::from_millis(5);
/// Pieces between reader and compression.
const QUEUE: usize = 4;

/// On its way to the store.
enum Piece {
    Data(Bytes),
    /// The command is good: the object is whole.
    End,
}

/// Runs a command and backs up what it prints.
pub(crate) async fn run(frame: &Frame<'_>, settings: &CommandSettings) -> Result<BackupReport> {
    frame.begin(None).await?;
    let (ctx, source) = (frame.ctx, frame.source);
    let started = ctx.clock.now();
    let since = Instant::now();
    if frame.options.prove.is_some() {
        frame.warnings.add("--prove is for Postgres: of a command's output there is nothing to compare with".into());
    }
    ctx.progress.stage(Stage::Data, 0, 0);
    let key =
        Layout::file_data(&source.name, "output", &frame.id, &random_suffix(&mut rand::rng(), 8), settings.compression.suffix());
    let budget = Budget::new(source.memory.0, source.workers, frame.repository.store().parts());
    let stop = ctx.cancel.child_token();
    let unless_stored = stop.clone().drop_guard();
    let uploads = Arc::new(Uploads::new(ctx, frame.repository.store(), 1, stop));
    let (sender, pieces) = mpsc::channel(QUEUE);
    let (compression, level) = (settings.compression, level_of(settings.compression, source.zstd_level));
    let (to, of_key) = (Arc::clone(&uploads), key.clone());
    let stored =
        tokio::spawn(blocking(move || to.store(&of_key, |sink| store(&of_key, compression, level, budget, sink, pieces))));
    // A store that fails is known before the command says anything more.
    let printed = tokio::select! {
        printed = print(frame, settings, &sender) => printed,
        () = sender.closed() => Err(EngineError::Cancelled),
    };
    if printed.is_ok() {
        // Whoever does not listen any more says why.
        let _ = sender.send(Piece::End).await;
    }
    drop(sender);
    let stored = stored.await.map_err(|e| EngineError::Internal(e.to_string()))?;
    let (written, mut upload): (Compressed, Upload) = match (printed, stored) {
        (Ok(()), stored) => stored?,
        // The command was stopped because nobody took what it printed.
        (Err(EngineError::Cancelled), Err(e)) if !ctx.cancel.is_cancelled() => return Err(e),
        (Err(e), _) => return Err(e),
    };
    let object = ObjectRef { key: key.clone(), bytes: written.bytes, sha256: written.sha256 };
    uploads.stored(&mut upload, &object).await?;
    unless_stored.disarm();
    let data = since.elapsed().as_secs_f64();

    ctx.progress.stage(Stage::Commit, 0, 0);
    let since = Instant::now();
    let stored = StoredFile { object: key, compression, bytes: written.raw_bytes, sha256: written.raw_sha256 };
    let losses = match frame.history.newest_good().map(|r| &r.manifest.content) {
        Some(Content::Command(was)) if source.shrank(was.stored.bytes, Some(stored.bytes)) => {
            let name = QualifiedName::new("command", source.name.as_str());
            vec![Loss { name, unit: LossUnit::Bytes, before: was.stored.bytes, now: Some(stored.bytes) }]
        }
        _ => Vec::new(),
    };
    let read = stored.bytes;
    let content = CommandContent {
        command: settings.command.clone(),
        check: settings.check.clone(),
        name: settings.file.clone(),
        stored,
        restore_md: Layout::file(&source.name, &frame.id, "RESTORE.md"),
    };
    let draft = Draft {
        parent: None,
        started,
        finished: ctx.clock.now(),
        format: compression.suffix(),
        workers: budget.workers,
        fingerprint: "sha256".into(),
        left_out: vec![],
        losses,
        objects: vec![object],
        put: vec![],
        seconds: BTreeMap::from([("data".to_owned(), data)]),
        content: Content::Command(content),
    };
    let url = frame.repository.store().url();
    let committed = frame.commit(draft, since, |m: &Manifest| restore_md(m, url), async || Ok(())).await?;
    let work = Work {
        full_because: None,
        bytes_read: read,
        written: written.bytes,
        memory_budget: budget.peak_bytes() as u64,
        bottleneck: None,
        tables: vec![],
        files: None,
    };
    Ok(frame.report(committed, work))
}

/// Compresses pieces into an object, which is whole only when somebody says so.
fn store(
    key: &str,
    compression: Compression,
    level: i32,
    budget: Budget,
    sink: UploadSink,
    mut pieces: mpsc::Receiver<Piece>,
) -> Result<Compressed> {
    let encode = |source| EngineError::Encode { object: key.to_owned(), source };
    let mut out = BlockWriter::new(compression, level, budget.workers, budget.parts.bytes, sink);
    loop {
        match pieces.blocking_recv() {
            Some(Piece::Data(bytes)) => out.write_all(&bytes).map_err(|e| encode(EncodeError::stream(&e)))?,
            Some(Piece::End) => break,
            None => return Err(EngineError::Cancelled),
        }
    }
    let (sink, written) = out.finish().map_err(encode)?;
    sink.end().map_err(|_| encode(EncodeError::Closed))?;
    Ok(written)
}

fn failed(command: &[String], reason: String) -> EngineError {
    EngineError::Command { program: command.first().cloned().unwrap_or_default(), reason }
}

fn start(frame: &Frame<'_>, settings: &CommandSettings, command: &[String], stdout: Stdio) -> Result<Running> {
    let Some((program, arguments)) = command.split_first() else { return Err(failed(command, "it is empty".into())) };
    let mut command_line = Command::new(program);
    command_line
        .args(arguments)
        .current_dir(&settings.base)
        .env("DOZO_SOURCE", frame.source.name.as_str())
        .env("DOZO_BACKUP", frame.id.as_str())
        .stdout(stdout)
        .stderr(Stdio::piped());
    Running::start(&mut command_line, Stdio::null()).map_err(|e| failed(command, e.to_string()))
}

/// Runs the command and its check, and passes on what it prints.
async fn print(frame: &Frame<'_>, settings: &CommandSettings, to: &mpsc::Sender<Piece>) -> Result<()> {
    let command = &settings.command;
    let gate = Gate::new(frame.source.rate.map(|r| r.0));
    let mut running = start(frame, settings, command, Stdio::piped())?;
    let stdout = running.child.stdout.take();
    let (bytes, said) = ended(settings, command, running, pass(frame, &gate, stdout, to)).await?;
    if bytes == 0 {
        return Err(failed(command, "it printed nothing".into()));
    }
    if bytes < settings.min_size.0 {
        let (printed, least) = (human_bytes(bytes), human_bytes(settings.min_size.0));
        return Err(failed(command, format!("it printed {printed}, less than min-size = {least}")));
    }
    if !said.is_empty() {
        frame.warnings.add(format!("the command ended well, and said: {}", said.replace('\n', " ")));
    }
    if settings.check.is_empty() {
        return Ok(());
    }
    let running = start(frame, settings, &settings.check, Stdio::null())?;
    ended(settings, &settings.check, running, async { Ok(()) }).await.map(drop)
}

/// Waits until a command has ended well, and `meanwhile` with it. Returns what that returned, and what was said on standard error.
async fn ended<T>(
    settings: &CommandSettings,
    command: &[String],
    mut running: Running,
    meanwhile: impl Future<Output = Result<T>>,
) -> Result<(T, String)> {
    let listener = Listener::to(running.child.stderr.take());
    let until = tokio::time::Instant::now() + settings.timeout;
    let too_long =
        |held: &str| failed(command, format!("it did not end within timeout = {}{held}", human_duration(settings.timeout)));
    let Ok(done) = tokio::time::timeout_at(until, meanwhile).await else {
        let held = if running.has_ended() { ": something that it has started holds its output" } else { "" };
        return Err(too_long(held));
    };
    let done = done?;
    let status = tokio::time::timeout_at(until, running.wait()).await.map_err(|_| too_long(""))?;
    let status = status.map_err(|e| failed(command, e.to_string()))?;
    let said = listener.said().await;
    if status.success() {
        return Ok((done, said));
    }
    Err(failed(command, if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }))
}

/// Passes on what is printed. Returns how much that was.
async fn pass(frame: &Frame<'_>, gate: &Gate, stdout: Option<ChildStdout>, to: &mpsc::Sender<Piece>) -> Result<u64> {
    let Some(mut stdout) = stdout else { return Ok(0) };
    let mut bytes = 0;
    loop {
        let mut buffer = BytesMut::with_capacity(READ);
        let n = stdout.read_buf(&mut buffer).await.map_err(|e| EngineError::Internal(e.to_string()))?;
        if n == 0 {
            return Ok(bytes);
        }
        bytes += n as u64;
        frame.ctx.progress.advance("output", 0, n as u64);
        tokio::time::sleep(gate.cost(n as u64)).await;
        if to.send(Piece::Data(buffer.freeze())).await.is_err() {
            return Err(EngineError::Cancelled);
        }
    }
}

/// Restores a command's output as a file.
pub(crate) async fn restore(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    content: &CommandContent,
    folder: &Path,
    options: &FolderOptions,
) -> Result<FolderReport> {
    let began = Instant::now();
    let (stored, path) = (content.stored.clone(), FilePath::new(content.name.as_bytes()));
    let target = Target::open(folder, Owners::Ours, options.replace)?;
    target.sweep(&FilePath::new(""))?;
    let occupied = target.occupied(&path, false)?;
    if occupied == Occupied::ByAnotherKind || occupied == Occupied::Yes && !options.replace {
        return Err(EngineError::FolderOccupied { folder: folder.to_owned(), files: vec![content.name.clone()] });
    }
    ctx.progress.stage(Stage::Data, 0, stored.bytes);
    let data = Digests::of(manifest).fetch(ctx, repository, &stored.object).await?;
    let at = manifest.started;
    let meta = FileMeta {
        mode: 0o600,
        uid: rustix::process::geteuid().as_raw(),
        mtime: FileTime { seconds: at.as_second(), nanos: u32::try_from(at.subsec_nanosecond()).unwrap_or(0) },
        ..FileMeta::default()
    };
    let cancel = ctx.cancel.clone();
    let of_thread = stored.clone();
    blocking(move || {
        let mut new = target.begin(&path)?;
        let io = FilesError::file(path.path());
        let wrong = unpack(data, &of_thread, &cancel, |bytes| Ok(new.file.write_all(bytes).map_err(io)?))?;
        if let Some(reason) = wrong {
            return Err(EngineError::Damaged { object: of_thread.object, reason });
        }
        new.file.sync_all().map_err(io)?;
        Ok(target.finish(new, &path, &meta)?)
    })
    .await?;
    Ok(FolderReport {
        backup: format!("{}@{}", manifest.source, manifest.id),
        target: folder.display().to_string(),
        outcome: "done",
        files: vec![RestoredFile { path: content.name.clone(), bytes: stored.bytes, tables: 0, rows: 0, verdict: "equal" }],
        set: None,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// What a restore into a stream did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StreamReport {
    /// Source and id.
    pub backup: String,
    /// Bytes that were written.
    pub bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

/// Writes a command's output again; `out` is given its bytes, from another thread. The object was compared with the manifest before.
///
/// # Errors
/// [`EngineError::OtherKind`]; [`EngineError::Output`] when `out` fails.
pub async fn restore_stream(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    mut out: impl FnMut(&[u8]) -> std::io::Result<()> + Send + 'static,
) -> Result<StreamReport> {
    let began = Instant::now();
    let Content::Command(content) = &manifest.content else { return Err(EngineError::other_kind(manifest, "command")) };
    let stored = content.stored.clone();
    let bytes = stored.bytes;
    let data = Digests::of(manifest).fetch(ctx, repository, &stored.object).await?;
    let cancel = ctx.cancel.clone();
    let wrong = blocking(move || {
        let wrong = unpack(data, &stored, &cancel, |bytes| out(bytes).map_err(EngineError::Output))?;
        Ok(wrong.map(|reason| EngineError::Damaged { object: stored.object, reason }))
    })
    .await?;
    match wrong {
        Some(error) => Err(error),
        None => Ok(StreamReport {
            backup: format!("{}@{}", manifest.source, manifest.id),
            bytes,
            seconds: began.elapsed().as_secs_f64(),
        }),
    }
}

/// Gives a command's output to another command. By the end of its standard input that is told that this was all, and only when it was;
/// else it is killed first, with everything that it has started.
///
/// # Errors
/// [`EngineError::OtherKind`]; [`EngineError::Command`] when it fails, or ends before it has read everything.
pub async fn restore_into(
    ctx: &Context,
    repository: &Repository,
    manifest: &Manifest,
    command: &[String],
) -> Result<StreamReport> {
    let Some((program, arguments)) = command.split_first() else { return Err(failed(command, "it is empty".into())) };
    if !matches!(manifest.content, Content::Command(_)) {
        return Err(EngineError::other_kind(manifest, "command"));
    }
    let mut command_line = Command::new(program);
    command_line.args(arguments);
    let (sender, pieces) = mpsc::channel(QUEUE);
    let unpacked = restore_stream(ctx, repository, manifest, move |bytes| {
        sender.blocking_send(Bytes::copy_from_slice(bytes)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    });
    let mut running = Running::start(&mut command_line, Stdio::piped()).map_err(|e| failed(command, e.to_string()))?;
    let mut stdin = running.child.stdin.take();
    let fed = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
        (read, unpacked) = async { tokio::join!(feed(&mut running, stdin.as_mut(), pieces), unpacked) } => match unpacked {
            // Nobody takes any more of it: the command says why.
            Err(EngineError::Output(_)) => Ok(None),
            unpacked => unpacked.map(|report| read.then_some(report)),
        },
    };
    let report = match fed {
        Ok(report) => report,
        Err(e) => {
            running.kill();
            return Err(e);
        }
    };
    drop(stdin);
    let status = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
        status = running.wait() => status.map_err(|e| failed(command, e.to_string()))?,
    };
    if !status.success() {
        return Err(failed(command, status.to_string()));
    }
    report.ok_or_else(|| failed(command, "it ended without reading everything".into()))
}

/// Writes pieces into a command, and waits until it has read them. Returns whether it has.
async fn feed(running: &mut Running, stdin: Option<&mut ChildStdin>, mut pieces: mpsc::Receiver<Bytes>) -> bool {
    let Some(stdin) = stdin else { return false };
    while let Some(piece) = pieces.recv().await {
        if stdin.write_all(&piece).await.is_err() {
            return false;
        }
    }
    loop {
        match rustix::io::ioctl_fionread(&*stdin) {
            Ok(0) | Err(_) => return true,
            Ok(_) if running.has_ended() => return rustix::io::ioctl_fionread(&*stdin).is_ok_and(|left| left == 0),
            Ok(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Says how to restore without dozo.
fn restore_md(manifest: &Manifest, url: &str) -> String {
    let Content::Command(content) = &manifest.content else { return String::new() };
    let StoredFile { object, compression, bytes, sha256 } = &content.stored;
    let tool = compression.unpacker();
    format!(
        "# Restore backup {source}@{id} without dozo

What `{command}` printed at {started}: {size}.

Set this first; the repository was at `{url}`. If it lies in a bucket, copy `{object}` to a folder first, keeping its path.

    export REPO=/path/to/the/repository    # the folder that holds dozo-repository.json
    export TARGET=/path/to/a/new/folder

```sh
set -eu
mkdir -p \"$TARGET\"
{tool} \"$REPO/{object}\" > \"$TARGET\"/{name}
echo \"{sha256}  $TARGET/\"{name} | sha256sum -c
```

## Objects

Sizes and SHA-256 stand in `manifest.json` under `objects`.

- `{object}`
",
        source = manifest.source,
        id = manifest.id,
        command = plain(&content.command.join(" ")),
        started = manifest.started,
        size = human_bytes(*bytes),
        name = shell(&content.name),
    )
}

/// Tells where a program is, or why it cannot be run.
pub(crate) fn find_program(base: &Path, program: &str) -> std::result::Result<std::path::PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let path = base.join(program);
        return if runs(&path) { Ok(path) } else { Err(format!("{} is not a program", path.display())) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|p| runs(p));
    found.ok_or_else(|| format!("there is no program `{program}` in PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_the_system_finds_them() {
        let base = Path::new("/bin");
        assert!(find_program(base, "sh").is_ok() && find_program(base, "./sh").is_ok());
        assert!(find_program(base, "no-such-program").is_err() && find_program(base, "/etc/passwd").is_err());
    }
}
