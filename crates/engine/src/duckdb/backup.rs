//! `backup` of DuckDB files.
//!
//! *Ordering*: per file: lock (DuckDB's, shared) → tables, schema → rows or bytes, and their fingerprints → lock given back; then files
//! beside, manifest. *Invariant*: what is stored of a file is one committed state of it: nobody writes while it is attached. A file
//! with a WAL is copied with it and brought together before it is stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dozo_duckdb::{DuckFile, DuckdbError, OpenOptions, RowRange, StoredRows, TableInfo, TableReader, checkpoint, engine_version};
use dozo_encode::{BlockWriter, EncodeError, EncodeOptions, ParquetEncoder, TableEncoder};
use dozo_model::{
    Algorithm, BackupId, Compression, Content, DuckdbContent, DuckdbFile, DuckdbForm, DuckdbPart, DuckdbTable, Fingerprint,
    LeftOut, Loss, LossUnit, Manifest, ObjectRef, Progress, QualifiedName, Sha256Digest, SourceName, Stage, StoredFile,
    random_suffix,
};
use dozo_store::Layout;
use tokio_util::sync::CancellationToken;

use super::{divide, restore_md};
use crate::backup::{BackupReport, Draft, Frame, Gate, TableReport, Upload, UploadSink, Uploads, Work};
use crate::budget::Budget;
use crate::context::{DuckdbSettings, SourceSettings};
use crate::select::Patterns;
use crate::stored::level_of;
use crate::workers::{Workers, blocking};
use crate::{EngineError, Result};

/// Rows of a unit: eight row groups of DuckDB's.
const UNIT_ROWS: u64 = 8 * 122_880;

/// The files that a source's pattern matches.
pub(crate) struct Found<'a> {
    settings: &'a DuckdbSettings,
    /// Path below the root, and path; by the first.
    files: Vec<(String, PathBuf)>,
}

impl<'a> Found<'a> {
    /// Looks for them.
    ///
    /// # Errors
    /// [`EngineError::NothingToBackUp`]; [`EngineError::BadPattern`].
    pub(crate) fn look(source: &SourceSettings, settings: &'a DuckdbSettings) -> Result<Self> {
        // What stands in the folder's own name is no pattern.
        let base = PathBuf::from(glob::Pattern::escape(&settings.base.to_string_lossy()));
        let pattern = base.join(&settings.path);
        let text = pattern.to_string_lossy();
        let bad = |reason: String| EngineError::BadPattern { pattern: text.clone().into_owned(), reason };
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..glob::MatchOptions::default()
        };
        let mut files = Vec::new();
        for entry in glob::glob_with(&text, options).map_err(|e| bad(e.to_string()))? {
            let path = entry.map_err(|e| EngineError::Folder { folder: e.path().to_owned(), reason: e.to_string() })?;
            if path.to_str().is_none() {
                return Err(EngineError::Folder { folder: path, reason: "its name is not UTF-8".into() });
            }
            // A WAL belongs to its file.
            let beside = path.extension().is_some_and(|e| ["wal", "checkpoint", "recovery"].iter().any(|b| e == *b));
            if path.is_file() && !beside {
                files.push((below(&path, settings), path));
            }
        }
        files.sort();
        if let Some(twice) = files.windows(2).find(|w| w[0].0 == w[1].0) {
            let (a, b) = (twice[0].1.display(), twice[1].1.display());
            return Err(EngineError::Options(format!(
                "{a} and {b} would both be `{}` in the backup: give them sources of their own",
                twice[0].0
            )));
        }
        if files.is_empty() {
            let why = format!("no file matches {text}");
            return Err(EngineError::NothingToBackUp { source_name: source.name.to_string(), why });
        }
        Ok(Self { settings, files })
    }
}

/// A file's name in the backup: below the configuration's folder, else below what of the pattern has no wildcard.
fn below(path: &Path, settings: &DuckdbSettings) -> String {
    let plain = |c: &Component<'_>| !c.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let fixed: PathBuf = settings.path.parent().unwrap_or(&settings.path).components().take_while(plain).collect();
    let fixed = settings.base.join(fixed);
    let relative = path.strip_prefix(&settings.base).or_else(|_| path.strip_prefix(&fixed)).unwrap_or(path);
    let parts = relative.components().filter_map(|c| match c {
        Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
        _ => None,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Tells about each file for `check`: its name, and its version and tables, or why it does not open.
pub(crate) fn look_at(source: &SourceSettings, settings: &DuckdbSettings) -> Result<Vec<(String, Result<String>)>> {
    let found = Found::look(source, settings)?;
    let temp = tempfile::tempdir().map_err(EngineError::folder(&std::env::temp_dir()))?;
    let look = |path: &Path| -> Result<String> {
        let options = OpenOptions { lock_timeout: source.lock_timeout, memory: source.memory.0 / 4, temp: temp.path().into() };
        let file = DuckFile::open(path, &options, || false)?;
        let tables = file.tables()?;
        exact(settings.form, &tables)?;
        let written_by = file.head.written_by.clone().unwrap_or_else(|| "an unknown version".into());
        Ok(format!("{} tables, written by DuckDB {written_by}", tables.len()))
    };
    Ok(found.files.iter().map(|(name, path)| (name.clone(), look(path))).collect())
}

/// Makes sure that the form holds every column exactly.
fn exact(form: DuckdbForm, tables: &[TableInfo]) -> Result<()> {
    let columns: Vec<String> = tables.iter().flat_map(TableInfo::inexact).collect();
    if form == DuckdbForm::File || columns.is_empty() {
        return Ok(());
    }
    Err(DuckdbError::Inexact { columns }.into())
}

/// What the units of one file share.
struct Shared {
    source: SourceName,
    id: BackupId,
    file: String,
    tables: Vec<TableInfo>,
    budget: Budget,
    zstd_level: i32,
    uploads: Arc<Uploads>,
    progress: Arc<dyn Progress>,
    gate: Arc<Gate>,
    cancel: CancellationToken,
}

/// Rows of a table that become one object.
struct Unit {
    table: usize,
    chunk: usize,
    range: RowRange,
    last: bool,
}

struct Done {
    table: usize,
    range: RowRange,
    fingerprint: Fingerprint,
    /// Where the rows are stored.
    object: Option<(ObjectRef, Upload)>,
    bytes: u64,
    seconds: f64,
}

/// What was read of a file.
struct ReadFile {
    described: DuckdbFile,
    objects: Vec<ObjectRef>,
    put: Vec<(String, Bytes)>,
    bytes: u64,
    reports: Vec<TableReport>,
}

/// Backs up all files of a source.
pub(crate) async fn run(frame: &Frame<'_>, found: Found<'_>) -> Result<BackupReport> {
    frame.begin(None).await?;
    let (ctx, source) = (frame.ctx, frame.source);
    let started = ctx.clock.now();
    let stage = Instant::now();
    let (include, exclude) = (Patterns::new(&source.include)?, Patterns::new(&source.exclude)?);
    let (duckdb_memory, budget) = divide(source.memory.0, source.workers, frame.repository.store().parts());
    let stop = ctx.cancel.child_token();
    let unless_stored = stop.clone().drop_guard();
    let job = Job {
        frame,
        settings: found.settings,
        include,
        exclude,
        duckdb_memory,
        budget,
        uploads: Arc::new(Uploads::new(ctx, frame.repository.store(), budget.workers, stop)),
        gate: Arc::new(Gate::new(source.rate.map(|r| r.0))),
    };
    if frame.options.prove.is_some() {
        frame.warnings.add("--prove is for Postgres: here nothing but dozo computed the fingerprints".into());
    }
    let (mut files, mut left_out, mut first_failure) = (Vec::new(), Vec::new(), None);
    for (number, (name, path)) in found.files.iter().enumerate() {
        match job.one(number, name, path, &mut left_out).await {
            Ok(read) => files.push(read),
            // One that is held or broken does not stop the others; alone, it is the outcome.
            Err(EngineError::Duckdb(
                e
                @ (DuckdbError::Locked { .. } | DuckdbError::Open { .. } | DuckdbError::File { .. } | DuckdbError::Query { .. }),
            )) if found.files.len() > 1 => {
                frame.warnings.add(e.to_string());
                left_out.push(LeftOut {
                    name: QualifiedName::new("file", name),
                    reason: e.to_string(),
                    error: true,
                    needed_by: vec![],
                });
                first_failure.get_or_insert(e);
            }
            Err(e) => return Err(e),
        }
    }
    if let (true, Some(error)) = (files.is_empty(), first_failure) {
        return Err(error.into());
    }
    unless_stored.disarm();
    let data = stage.elapsed().as_secs_f64();

    ctx.progress.stage(Stage::Commit, 0, 0);
    let since = Instant::now();
    let (mut described, mut objects, mut put, mut tables) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut bytes_read = 0;
    for file in files {
        described.push(file.described);
        objects.extend(file.objects);
        put.extend(file.put);
        tables.extend(file.reports);
        bytes_read += file.bytes;
    }
    let written = objects.iter().map(|o| o.bytes).sum();
    let content = DuckdbContent {
        engine: engine_version()?,
        form: found.settings.form,
        restore_md: Layout::file(&source.name, &frame.id, "RESTORE.md"),
        files: described,
    };
    let before = frame.history.newest_good().map(|r| &r.manifest.content);
    let losses = match before {
        Some(Content::Duckdb(before)) => losses(source, before, &content, &left_out)?,
        _ => Vec::new(),
    };
    let draft = Draft {
        parent: None,
        started,
        finished: ctx.clock.now(),
        format: match (found.settings.form, found.settings.compression) {
            (DuckdbForm::Parquet, _) => "parquet",
            (DuckdbForm::File, Compression::Zstd) => "duckdb.zst",
            (DuckdbForm::File, Compression::Gzip) => "duckdb.gz",
        },
        workers: budget.workers,
        fingerprint: Algorithm::T1.id().to_owned(),
        left_out,
        losses,
        objects,
        put,
        seconds: BTreeMap::from([("data".to_owned(), data)]),
        content: Content::Duckdb(content),
    };
    let url = frame.repository.store().url();
    let describe = |m: &Manifest| restore_md::write(m, url);
    let committed = frame.commit(draft, since, describe, async || Ok(())).await?;
    let work = Work {
        full_because: None,
        bytes_read,
        written,
        memory_budget: duckdb_memory + budget.peak_bytes() as u64,
        bottleneck: None,
        tables,
        files: None,
    };
    Ok(frame.report(committed, work))
}

struct Job<'a> {
    frame: &'a Frame<'a>,
    settings: &'a DuckdbSettings,
    include: Patterns,
    exclude: Patterns,
    duckdb_memory: u64,
    budget: Budget,
    uploads: Arc<Uploads>,
    gate: Arc<Gate>,
}

impl Job<'_> {
    /// Reads one file.
    async fn one(&self, number: usize, name: &str, path: &Path, left_out: &mut Vec<LeftOut>) -> Result<ReadFile> {
        let (ctx, source) = (self.frame.ctx, self.frame.source);
        ctx.progress.stage(Stage::Prepare, 0, 0);
        let temp = tempfile::tempdir().map_err(EngineError::folder(&std::env::temp_dir()))?;
        let options = OpenOptions { lock_timeout: source.lock_timeout, memory: self.duckdb_memory, temp: temp.path().to_owned() };
        let (path, cancel) = (path.to_owned(), ctx.cancel.clone());
        let opened = path.clone();
        let (file, tables, storage_version) = blocking(move || {
            let file = DuckFile::open(&opened, &options, || cancel.is_cancelled())?;
            let tables = file.tables()?;
            let version = file.storage_version()?;
            Ok((file, tables, version))
        })
        .await?;
        let written_by = file.head.written_by.clone();
        let size = file.bytes().metadata().map_err(|source| DuckdbError::File { path: path.clone(), source })?.len();
        let wanted = |t: &TableInfo| {
            let name = QualifiedName::new(&t.schema, &t.name);
            (self.include.is_empty() || self.include.matching(&name, None).is_some())
                && self.exclude.matching(&name, None).is_none()
        };
        let (tables, others): (Vec<TableInfo>, Vec<TableInfo>) = tables.into_iter().partition(wanted);
        left_out.extend(others.iter().map(|t| LeftOut {
            name: QualifiedName::new(format!("{name}:{}", t.schema), &t.name),
            reason: "excluded".into(),
            error: false,
            needed_by: vec![],
        }));
        exact(self.settings.form, &tables)?;
        let file = Arc::new(file);
        let mut stored = None;
        let mut put = Vec::new();
        let mut objects = Vec::new();
        match self.settings.form {
            DuckdbForm::Parquet => {
                put = self.schema(number, &file, &others).await?;
            }
            DuckdbForm::File => {
                let whole = self.whole(name, &path, &file, temp.path()).await?;
                objects.push(whole.1);
                stored = Some(whole.0);
            }
        }
        let (tables, stored_objects, reports, bytes) = self.tables(name, file, tables).await?;
        objects.extend(stored_objects);
        let described = DuckdbFile {
            path: name.to_owned(),
            bytes: size,
            storage_version,
            written_by,
            schema_sql: put.first().map(|(key, _)| key.clone()),
            after_sql: put.get(1).map(|(key, _)| key.clone()),
            stored,
            tables,
        };
        Ok(ReadFile { described, objects, put, bytes, reports })
    }

    async fn schema(&self, number: usize, file: &Arc<DuckFile>, others: &[TableInfo]) -> Result<Vec<(String, Bytes)>> {
        self.frame.ctx.progress.stage(Stage::Schema, 0, 0);
        let gone: Vec<(String, String)> = others.iter().map(|t| (t.schema.clone(), t.name.clone())).collect();
        let file = Arc::clone(file);
        let script =
            blocking(move || Ok(file.schema(|schema, table| gone.iter().any(|(s, t)| s == schema && t == table))?)).await?;
        for (statement, reason) in &script.broken {
            let first = statement.lines().next().unwrap_or_default();
            self.frame.warnings.add(format!("`{first}` does not run, and is a comment in the stored schema: {reason}"));
        }
        for constraint in &script.volatile {
            self.frame.warnings.add(format!("a restore may refuse rows that were let in once: {constraint}"));
        }
        let key = |name: &str| Layout::file(&self.frame.source.name, &self.frame.id, &format!("{name}-{number:05}.sql"));
        Ok(vec![(key("schema"), script.before_sql().into()), (key("after"), script.after_sql().into())])
    }

    /// Stores the file itself.
    async fn whole(&self, name: &str, path: &Path, file: &Arc<DuckFile>, temp: &Path) -> Result<(StoredFile, ObjectRef)> {
        let frame = self.frame;
        let random = random_suffix(&mut rand::rng(), 8);
        let compression = self.settings.compression;
        let key = Layout::file_data(&frame.source.name, name, &frame.id, &random, &format!("duckdb.{}", compression.suffix()));
        let size = file.bytes().metadata().map_or(0, |m| m.len());
        frame.ctx.progress.stage(Stage::Data, 0, size);
        let (uploads, budget, level) = (Arc::clone(&self.uploads), self.budget, frame.source.zstd_level);
        let (cancel, progress, memory) = (frame.ctx.cancel.clone(), Arc::clone(&frame.ctx.progress), self.duckdb_memory);
        let gate = Arc::clone(&self.gate);
        let (file, path, temp, label) = (Arc::clone(file), path.to_owned(), temp.to_owned(), name.to_owned());
        let stored_key = key.clone();
        let (written, mut upload) = blocking(move || {
            let together;
            let input = if file.beside().is_empty() {
                file.bytes()
            } else {
                together = with_wal(&file, &path, &temp, memory)?;
                &together
            };
            let level = level_of(compression, level);
            uploads.store(&stored_key, |sink| {
                let encode = |source| EngineError::Encode { object: stored_key.clone(), source };
                let mut writer = BlockWriter::new(compression, level, budget.workers, budget.parts.bytes, sink);
                let advance = |n| {
                    progress.advance(&label, 0, n);
                    pass(&gate, n, &cancel)
                };
                copy(input, &mut writer, &path, &stored_key, advance)?;
                let (sink, done) = writer.finish().map_err(encode)?;
                sink.end().map_err(|_| encode(EncodeError::Closed))?;
                Ok(done)
            })
        })
        .await?;
        let object = ObjectRef { key: key.clone(), bytes: written.bytes, sha256: written.sha256 };
        self.uploads.stored(&mut upload, &object).await?;
        Ok((StoredFile { object: key, compression, bytes: written.raw_bytes, sha256: written.raw_sha256 }, object))
    }

    /// Reads all tables: stores them in the parquet form, only digests them in the file form.
    async fn tables(
        &self,
        name: &str,
        file: Arc<DuckFile>,
        tables: Vec<TableInfo>,
    ) -> Result<(Vec<DuckdbTable>, Vec<ObjectRef>, Vec<TableReport>, u64)> {
        let frame = self.frame;
        let mut units: Vec<Unit> = Vec::new();
        for (i, table) in tables.iter().enumerate() {
            let rows = if table.whole { table.end.max(1) } else { UNIT_ROWS };
            let starts: Vec<u64> = (0..table.end).step_by(usize::try_from(rows).unwrap_or(usize::MAX)).collect();
            let last = starts.len();
            let unit = |(chunk, from): (usize, u64)| {
                let to = (from + rows).min(table.end);
                Unit { table: i, chunk, range: RowRange { from, to }, last: chunk + 1 == last }
            };
            units.extend(starts.into_iter().enumerate().map(unit));
        }
        // Largest first, so that no worker is left with one at the end.
        units.sort_by_key(|u| std::cmp::Reverse((tables[u.table].end, u.table, std::cmp::Reverse(u.chunk))));
        let rows = tables.iter().map(|t| t.end).sum();
        frame.ctx.progress.stage(Stage::Data, rows, 0);
        let counted: Vec<u64> = tables.iter().map(|t| t.rows).collect();
        let shared = Arc::new(Shared {
            source: frame.source.name.clone(),
            id: frame.id.clone(),
            file: name.to_owned(),
            tables,
            budget: self.budget,
            zstd_level: frame.source.zstd_level,
            uploads: Arc::clone(&self.uploads),
            progress: Arc::clone(&frame.ctx.progress),
            gate: Arc::clone(&self.gate),
            cancel: frame.ctx.cancel.clone(),
        });
        let store = self.settings.form == DuckdbForm::Parquet;
        let of_workers = Arc::clone(&shared);
        let start = move |_: &CancellationToken| Ok(file.reader()?);
        let work = move |reader: &mut TableReader, unit: Unit| run_unit(reader, &unit, &of_workers, store);
        let workers = Workers::start(self.budget.workers, units, &frame.ctx.cancel, start, work);
        let mut done = workers.collect(|_| {}).await?;
        done.sort_by_key(|d| (d.table, d.range.from));
        let mut found: Vec<DuckdbTable> = shared.tables.iter().map(described).collect();
        let mut reports: Vec<TableReport> = found.iter().map(|t| TableReport::copied(t.full_name(name), &frame.id)).collect();
        let (mut objects, mut bytes) = (Vec::new(), 0);
        for unit in done {
            let (table, report) = (&mut found[unit.table], &mut reports[unit.table]);
            table.fingerprint += unit.fingerprint;
            report.bytes_read += unit.bytes;
            *report.seconds.entry("worker".into()).or_default() += unit.seconds;
            bytes += unit.bytes;
            if let Some((object, mut upload)) = unit.object {
                self.uploads.stored(&mut upload, &object).await?;
                report.bytes_written += object.bytes;
                table.parts.push(DuckdbPart { object: object.key.clone(), fingerprint: unit.fingerprint });
                objects.push(object);
            }
        }
        for ((table, report), expected) in found.iter().zip(&mut reports).zip(counted) {
            let rows = table.fingerprint.rows;
            if rows != expected {
                let what = table.full_name(name);
                return Err(EngineError::Internal(format!("{rows} rows of {what} were read, of {expected}")));
            }
            report.rows = table.fingerprint.rows;
            report.fingerprint = table.fingerprint.to_string();
        }
        Ok((found, objects, reports, bytes))
    }
}

fn described(table: &TableInfo) -> DuckdbTable {
    let columns: Vec<String> = table.columns.iter().map(|c| format!("{}\0{}", c.name, c.type_name)).collect();
    DuckdbTable {
        schema: table.schema.clone(),
        name: table.name.clone(),
        columns: table.columns.clone(),
        fingerprint: Fingerprint::none(Algorithm::T1),
        shape: Sha256Digest::of(columns.join("\0\0").as_bytes()),
        parts: Vec::new(),
    }
}

fn run_unit(reader: &mut TableReader, unit: &Unit, shared: &Shared, store: bool) -> Result<Done> {
    let began = Instant::now();
    let table = &shared.tables[unit.table];
    let name = format!("{}:{}", shared.file, table.full_name());
    let mut bytes = 0;
    let mut progressed = |rows: &StoredRows| {
        bytes += rows.bytes;
        shared.progress.advance(&name, rows.batch.num_rows() as u64, rows.bytes);
        pass(&shared.gate, rows.bytes, &shared.cancel)
    };
    let (fingerprint, object) = if store {
        let random = random_suffix(&mut rand::rng(), 8);
        let of_table = QualifiedName::new(&table.schema, &table.name);
        let key = Layout::table_data(&shared.source, &shared.file, &of_table, unit.chunk, &shared.id, &random);
        let encode = |source| EngineError::Encode { object: key.clone(), source };
        let columns = serde_json::to_string(&table.columns).map_err(|e| EngineError::Internal(e.to_string()))?;
        let options = EncodeOptions {
            zstd_level: shared.zstd_level,
            row_group_rows: shared.budget.row_group_rows,
            row_group_bytes: shared.budget.row_group_bytes,
            part_bytes: shared.budget.parts.bytes,
            metadata: vec![
                ("dozo.backup".into(), format!("{}@{}", shared.source, shared.id)),
                ("dozo.table".into(), name.clone()),
                ("dozo.duckdb-columns".into(), columns),
            ],
        };
        let ((fingerprint, object), upload) = shared.uploads.store(&key, |sink: UploadSink| {
            let schema = reader.stored_schema(table)?;
            let mut encoder = Box::new(ParquetEncoder::new(&schema, &options, sink).map_err(encode)?);
            let fingerprint = reader.rows(table, unit.range, |rows| {
                progressed(&rows)?;
                encoder.write(&rows.batch).map_err(encode)
            })?;
            let (sink, encoded) = encoder.finish().map_err(encode)?;
            sink.end().map_err(|_| encode(EncodeError::Closed))?;
            Ok((fingerprint, ObjectRef { key: key.clone(), bytes: encoded.bytes, sha256: encoded.sha256 }))
        })?;
        (fingerprint, Some((object, upload)))
    } else {
        let fingerprint = reader.digests(table, unit.range, |rows| progressed(&rows))?;
        (fingerprint, None)
    };
    if unit.last {
        shared.progress.done(&name, table.end, began.elapsed().as_secs_f64());
    }
    Ok(Done { table: unit.table, range: unit.range, fingerprint, object, bytes, seconds: began.elapsed().as_secs_f64() })
}

/// Copies a file and its WAL, which nobody changes meanwhile, and brings the copy to one file.
fn with_wal(file: &DuckFile, path: &Path, temp: &Path, memory: u64) -> Result<File> {
    let copy_path = temp.join("copy.duckdb");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| EngineError::from(DuckdbError::File { path, source })
    };
    let mut from = file.bytes();
    from.seek(SeekFrom::Start(0)).map_err(io(path))?;
    let mut to = File::create(&copy_path).map_err(io(&copy_path))?;
    std::io::copy(&mut from, &mut to).map_err(io(&copy_path))?;
    drop(to);
    for (beside, ending) in file.beside() {
        let copied = temp.join(format!("copy.duckdb{ending}"));
        std::fs::copy(&beside, &copied).map_err(io(&copied))?;
    }
    checkpoint(&copy_path, path, memory, temp)?;
    File::open(&copy_path).map_err(io(&copy_path))
}

/// Waits as `rate` says, and stops when somebody says stop.
fn pass(gate: &Gate, bytes: u64, cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(EngineError::Cancelled) } else { gate.pass(bytes, cancel) }
}

/// Copies a file's bytes.
fn copy<S: dozo_encode::PartSink>(
    mut input: &File,
    writer: &mut BlockWriter<S>,
    path: &Path,
    key: &str,
    advance: impl Fn(u64) -> Result<()>,
) -> Result<()> {
    let io = |source| EngineError::from(DuckdbError::File { path: path.to_owned(), source });
    input.seek(SeekFrom::Start(0)).map_err(io)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = input.read(&mut buffer).map_err(io)?;
        if n == 0 {
            return Ok(());
        }
        let written = writer.write_all(&buffer[..n]);
        written.map_err(|e| EngineError::Encode { object: key.to_owned(), source: EncodeError::stream(&e) })?;
        advance(n as u64)?;
    }
}

/// Did a table lose more rows than is likely, or is it gone?
fn losses(source: &SourceSettings, before: &DuckdbContent, now: &DuckdbContent, left_out: &[LeftOut]) -> Result<Vec<Loss>> {
    let ignored = Patterns::new(&source.shrink_ignore)?;
    let rows: BTreeMap<String, u64> = now.tables().map(|(file, t)| (t.full_name(file), t.fingerprint.rows)).collect();
    let unread = |file: &str| left_out.iter().any(|l| l.error && l.name.name == file);
    let lost = before.tables().filter_map(|(file, t)| {
        let table = QualifiedName::new(&t.schema, &t.name);
        let name = QualifiedName::new(format!("{file}:{}", t.schema), &t.name);
        let (had, has) = (t.fingerprint.rows, rows.get(&t.full_name(file)).copied());
        let meant = ignored.matching(&table, None).is_some() || left_out.iter().any(|l| l.name == name) || unread(file);
        (source.shrank(had, has) && !meant).then_some(Loss { name, unit: LossUnit::Rows, before: had, now: has })
    });
    Ok(lost.collect())
}
