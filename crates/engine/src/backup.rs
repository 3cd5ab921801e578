//! `backup`: one snapshot of a Postgres database, table by table, into Parquet; the manifest last.
//!
//! *Ordering*: lease → intent → locks, snapshot → catalogs → schema dump → rows in chunks → sequences → files →
//! the coordinator still stands → manifest. *Crash behaviour*: anything before the manifest is an uncommitted backup that
//! `gc plan` lists. *Cancellation*: workers stop within a block, uploads are aborted.

mod plan;
mod unit;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dozo_catalog::{Repository, this_process, tool};
use dozo_model::{
    ALGORITHM, BackupId, Dataset, FORMAT_VERSION, Files, Fingerprint, Intent, LeftOut, Manifest, ObjectRef, QualifiedName,
    ServerIdentity, Settings, Sha256Digest, Stage,
};
use dozo_postgres::{
    ConnInfo, Coordinator, PgError, PgTools, Session, dependents, materialized_views, not_carried, roles, sequence_values,
    sequences, subscriptions,
};
use dozo_store::Layout;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::backup::plan::{Plan, Selection};
use crate::backup::unit::{UnitContext, UnitReport, run_unit};
use crate::budget::Budget;
use crate::context::{Context, SourceSettings};
use crate::workers::{Workers, first_error};
use crate::{EngineError, Result};

/// How often the coordinator is asked whether it still stands.
const PING: Duration = Duration::from_secs(2);

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupReport {
    /// Source.
    pub source: String,
    /// Id.
    pub id: BackupId,
    /// `done` or `partial`.
    pub outcome: &'static str,
    /// Rows.
    pub rows: u64,
    /// COPY bytes read.
    pub bytes_read: u64,
    /// Bytes stored.
    pub bytes_written: u64,
    /// Seconds in all and per stage.
    pub seconds: BTreeMap<String, f64>,
    /// Expected peak of memory.
    pub memory_budget: u64,
    /// Per table.
    pub tables: Vec<TableReport>,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// What a backup did for one table or partition.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableReport {
    /// Table.
    pub table: String,
    /// Root of its tree.
    pub root: Option<String>,
    /// Rows.
    pub rows: u64,
    /// COPY bytes read.
    pub bytes_read: u64,
    /// Bytes stored; a shared object counts by rows.
    pub bytes_written: u64,
    /// Seconds on the workers: receive, decode (with digests), encode (with upload).
    pub seconds: BTreeMap<String, f64>,
    /// Fingerprint.
    pub fingerprint: Fingerprint,
}

/// Backs up a source.
///
/// # Errors
/// See [`EngineError`]; nothing is committed then.
pub async fn backup(ctx: &Context, repository: &Repository, source: &SourceSettings, wait: Duration) -> Result<BackupReport> {
    let started = Instant::now();
    ctx.progress.stage(Stage::Prepare, 0, 0);
    let info = source.url.resolve()?;
    let looker = Session::connect(&info).await?;
    looker.refuse_pooler().await?;
    let facts = looker.facts().await?;
    let tools = PgTools::find(&source.pg_tools, facts.version_num).await?;
    let selection = Selection::new(source, facts.standby, &dozo_postgres::tables(&looker).await?)?;

    let id = BackupId::new(ctx.clock.now(), &mut rand::rng());
    let lease = repository.lease(&source.name, &id, Arc::clone(&ctx.clock), wait).await?;
    let mut warnings = Vec::new();
    if let Some(broken) = &lease.broken {
        warnings
            .push(format!("took over from backup {} of a dead process (pid {} on {})", broken.backup, broken.pid, broken.host));
    }
    let run = Run { ctx, repository, source, info, looker, tools, selection, id, started, warnings };
    let cancel = ctx.cancel.clone();
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(EngineError::Cancelled),
        done = run.go() => done,
    };
    // The backup's own outcome counts; a lease that cannot be given back is found dead by the next run.
    let released = lease.release().await;
    let report = done?;
    if let Err(e) = released {
        ctx.progress.warn(&format!("the lease could not be given back: {e}"));
    }
    Ok(report)
}

struct Run<'a> {
    ctx: &'a Context,
    repository: &'a Repository,
    source: &'a SourceSettings,
    info: ConnInfo,
    looker: Session,
    tools: PgTools,
    selection: Selection,
    id: BackupId,
    started: Instant,
    warnings: Vec<String>,
}

impl Run<'_> {
    async fn go(mut self) -> Result<BackupReport> {
        let (ctx, source) = (self.ctx, self.source);
        let intent = Intent {
            format: FORMAT_VERSION,
            id: self.id.clone(),
            source: source.name.clone(),
            parent: None,
            started: ctx.clock.now(),
            holder: this_process(),
        };
        self.repository.begin(&intent).await?;
        let coordinator = Coordinator::begin(&self.info, &self.looker, source.lock_timeout, |t| self.selection.wants(t)).await?;
        let mut left_out = self.selection.left_out(&coordinator.tables);
        let excluded = self.selection.hidden_from_dump(&coordinator.tables);
        self.note_dependents(&coordinator, &excluded, &mut left_out).await?;
        for (name, reason) in not_carried(coordinator.session()).await? {
            left_out.push(LeftOut { name, reason, error: true, needed_by: vec![] });
        }
        for name in subscriptions(coordinator.session()).await? {
            let reason = "subscription: its connection text holds a password".into();
            left_out.push(LeftOut { name: QualifiedName::new("pg_subscription", name), reason, error: false, needed_by: vec![] });
        }
        let plan = Plan::new(&coordinator, Budget::new(source.memory.0, source.workers)).await?;
        if plan.tables.is_empty() && coordinator.tables.iter().any(dozo_postgres::TableInfo::has_rows) {
            let why = left_out.first().map(|l| format!("{}: {}", l.name, l.reason)).unwrap_or_default();
            return Err(EngineError::NothingToBackUp { source_name: source.name.to_string(), why });
        }
        let mut seconds = BTreeMap::from([("prepare".to_owned(), self.started.elapsed().as_secs_f64())]);

        ctx.progress.stage(Stage::Schema, 0, 0);
        let stage = Instant::now();
        let files = self.dump_files(&coordinator, &excluded).await?;
        seconds.insert("schema".into(), stage.elapsed().as_secs_f64());

        let (rows, bytes) = plan.estimate();
        ctx.progress.stage(Stage::Data, rows, bytes);
        let stage = Instant::now();
        let units = self.copy(&plan, &coordinator).await?;
        seconds.insert("data".into(), stage.elapsed().as_secs_f64());

        ctx.progress.stage(Stage::Commit, 0, 0);
        let stage = Instant::now();
        let listed = sequences(coordinator.session()).await?;
        let taken = self.selection.sequences(&coordinator.tables, listed);
        let (sequence_values, unread) = sequence_values(&self.looker, &taken).await?;
        for (name, reason) in unread {
            left_out.push(LeftOut {
                name,
                reason: format!("its value cannot be read: {reason}"),
                error: true,
                needed_by: vec![],
            });
        }
        let mut views = materialized_views(coordinator.session()).await?;
        for view in views.iter_mut().filter(|v| v.populated) {
            view.rows = coordinator.count_rows(&view.name).await?;
        }
        let role_names = roles(coordinator.session()).await?;
        let (datasets, mut objects, tables) = plan.datasets(units);
        let file_keys = files.keys(&self.id, source);
        let facts = coordinator.facts.clone();
        let mut manifest = Manifest {
            format: FORMAT_VERSION,
            min_reader: FORMAT_VERSION,
            min_deleter: FORMAT_VERSION,
            repository: self.repository.marker().id.clone(),
            id: self.id.clone(),
            source: source.name.clone(),
            parent: None,
            kind: "postgres".into(),
            tool: tool(),
            operator: ctx.operator.clone(),
            complete: !left_out.iter().any(|l| l.error),
            server: ServerIdentity {
                system_identifier: facts.system_identifier,
                timeline: coordinator.timeline,
                database: facts.database,
                version_num: facts.version_num,
                version: facts.version,
                standby: facts.standby,
                postmaster_start: facts.postmaster_start,
                encoding: facts.encoding,
                collate: facts.collate,
                ctype: facts.ctype,
                locale_provider: facts.locale_provider,
                locale: facts.locale,
                lc_monetary: facts.lc_monetary,
            },
            snapshot: coordinator.snapshot.clone(),
            started: coordinator.taken_at,
            finished: coordinator.server_clock().await?,
            settings: Settings {
                format: "parquet".into(),
                include: source.include.clone(),
                exclude: source.exclude.clone(),
                workers: plan.budget.workers,
                zstd_level: source.zstd_level,
                time_zone: source.time_zone.clone(),
            },
            fingerprint: ALGORITHM.into(),
            datasets,
            partitioned: plan.partitioned.clone(),
            sequences: sequence_values,
            materialized_views: views,
            roles: role_names,
            left_out,
            seconds: BTreeMap::new(),
            files: file_keys.clone(),
            dump_version: self.tools.major,
            objects: Vec::new(),
        };
        let restore_md = crate::restore_md::write(&manifest, self.repository.store().url(), &files.unrestorable);
        let mut put = vec![
            (file_keys.restore_md, Bytes::from(restore_md)),
            (file_keys.schema_dump, files.dump),
            (file_keys.schema_sql, files.sql),
        ];
        put.extend(file_keys.globals_sql.zip(files.globals));
        for (key, bytes) in put {
            objects.push(ObjectRef { key: key.clone(), bytes: bytes.len() as u64, sha256: Sha256Digest::of(&bytes) });
            self.repository.store().put_own(&key, bytes).await?;
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        manifest.objects = objects;
        coordinator.alive().await?;
        seconds.insert("commit".into(), stage.elapsed().as_secs_f64());
        seconds.insert("total".into(), self.started.elapsed().as_secs_f64());
        manifest.seconds = seconds.clone();
        self.repository.commit(&manifest).await?;
        // Committed: what the server says about the end of the read-only transaction changes nothing any more.
        let _ = coordinator.end().await;
        Ok(BackupReport {
            source: source.name.to_string(),
            id: self.id,
            outcome: if manifest.complete { "done" } else { "partial" },
            rows: manifest.rows(),
            bytes_read: manifest.datasets.iter().map(|d| d.bytes_read).sum(),
            bytes_written: manifest.stored_bytes(),
            seconds,
            memory_budget: plan.budget.peak_bytes() as u64,
            tables,
            left_out: manifest.left_out,
            warnings: self.warnings,
        })
    }

    /// Says which foreign keys and views need a table that is not in the dump.
    async fn note_dependents(
        &mut self,
        coordinator: &Coordinator,
        hidden: &[(u32, String)],
        left_out: &mut [LeftOut],
    ) -> Result<()> {
        let oids: Vec<u32> = hidden.iter().map(|(oid, _)| *oid).collect();
        if oids.is_empty() {
            return Ok(());
        }
        let mut needed = dependents(coordinator.session(), &oids).await?;
        let by_name: HashMap<&QualifiedName, u32> = coordinator.tables.iter().map(|t| (&t.name, t.oid)).collect();
        for left in left_out {
            left.needed_by = by_name.get(&left.name).and_then(|oid| needed.remove(oid)).unwrap_or_default();
        }
        Ok(())
    }

    async fn dump_files(&mut self, coordinator: &Coordinator, excluded: &[(u32, String)]) -> Result<DumpedFiles> {
        let patterns: Vec<String> = excluded.iter().map(|(_, pattern)| pattern.clone()).collect();
        let timeout = self.source.lock_timeout.as_millis();
        let dump = self.tools.dump_schema(&self.info, &coordinator.snapshot_id, &patterns, timeout).await?;
        let sql = self.tools.dump_to_sql(&dump, None, &[], false).await?;
        let globals = match self.tools.dump_globals(&self.info).await {
            Ok(bytes) => Some(Bytes::from(bytes)),
            Err(e @ PgError::ToolFailed { .. }) => {
                self.warnings.push(format!("roles could not be dumped: {e}"));
                None
            }
            Err(e) => return Err(e.into()),
        };
        let unrestorable = self.unrestorable(&dump, coordinator, excluded).await?;
        Ok(DumpedFiles { dump: dump.into(), sql: sql.into(), globals, unrestorable })
    }

    /// Returns the entries of the dump that need a table which is not in it.
    async fn unrestorable(&self, dump: &[u8], coordinator: &Coordinator, excluded: &[(u32, String)]) -> Result<BTreeSet<u32>> {
        let hidden: BTreeSet<u32> = excluded.iter().map(|(oid, _)| *oid).collect();
        let absent: BTreeSet<QualifiedName> =
            coordinator.tables.iter().filter(|t| hidden.contains(&t.oid)).map(|t| t.name.clone()).collect();
        if absent.is_empty() {
            return Ok(BTreeSet::new());
        }
        let script = self.tools.schema_script(dump, &[]).await?;
        Ok(script.needing(&absent))
    }

    async fn copy(&self, plan: &Plan, coordinator: &Coordinator) -> Result<Vec<UnitReport>> {
        let shared = Arc::new(UnitContext {
            source: self.source.name.clone(),
            id: self.id.clone(),
            datasets: plan.tables.clone(),
            budget: plan.budget,
            zstd_level: self.source.zstd_level,
            store: self.repository.store().clone(),
            handle: Handle::current(),
            progress: Arc::clone(&self.ctx.progress),
        });
        let (info, snapshot, cancel) = (self.info.clone(), coordinator.snapshot_id.clone(), self.ctx.cancel.child_token());
        let start = move |stop: &CancellationToken| Ok(dozo_postgres::SnapshotWorker::start(&info, &snapshot, stop.clone())?);
        let work = move |worker: &mut dozo_postgres::SnapshotWorker, unit| run_unit(worker, &unit, &shared);
        let mut workers = Workers::start(plan.budget.workers, plan.units.clone(), &cancel, start, work);
        let mut done = Vec::new();
        let mut failed: Option<EngineError> = None;
        let mut ping = tokio::time::interval(PING);
        loop {
            tokio::select! {
                result = workers.next() => match result {
                    Some(Ok(report)) => done.push(report),
                    Some(Err(error)) => {
                        failed = Some(first_error(failed, error));
                        cancel.cancel();
                    }
                    None => break,
                },
                _ = ping.tick() => if failed.is_none() && let Err(error) = coordinator.alive().await {
                    failed = Some(error.into());
                    cancel.cancel();
                },
            }
        }
        workers.stop().await;
        match failed {
            Some(error) => Err(error),
            None if self.ctx.cancel.is_cancelled() => Err(EngineError::Cancelled),
            None => Ok(done),
        }
    }
}

struct DumpedFiles {
    dump: Bytes,
    sql: Bytes,
    globals: Option<Bytes>,
    unrestorable: BTreeSet<u32>,
}

impl DumpedFiles {
    fn keys(&self, id: &BackupId, source: &SourceSettings) -> Files {
        let key = |name: &str| Layout::file(&source.name, id, name);
        Files {
            restore_md: key("RESTORE.md"),
            schema_dump: key("schema.dump"),
            schema_sql: key("schema.sql"),
            globals_sql: self.globals.as_ref().map(|_| key("globals.sql")),
        }
    }
}

fn table_report(dataset: &Dataset, written: u64, seconds: BTreeMap<String, f64>) -> TableReport {
    TableReport {
        table: dataset.name.to_string(),
        root: dataset.root.as_ref().map(ToString::to_string),
        rows: dataset.fingerprint.rows,
        bytes_read: dataset.bytes_read,
        bytes_written: written,
        seconds,
        fingerprint: dataset.fingerprint,
    }
}

/// What a role may read of a source.
pub(crate) struct Readable<'a> {
    /// Tables that a backup would take, if it may.
    pub(crate) wanted: Vec<&'a dozo_postgres::TableInfo>,
    /// Of these, those that row-level security hides rows of.
    pub(crate) row_security: Vec<String>,
}

/// Tells what a backup of a source would take, and what stands in its way.
pub(crate) fn readable<'a>(
    source: &SourceSettings,
    standby: bool,
    tables: &'a [dozo_postgres::TableInfo],
) -> Result<Readable<'a>> {
    let selection = Selection::new(source, standby, tables)?;
    let wanted: Vec<_> = tables.iter().filter(|t| selection.asks_for(t)).collect();
    let row_security = wanted.iter().filter(|t| t.row_security).map(|t| t.name.to_string()).collect();
    Ok(Readable { wanted, row_security })
}

/// Tells which sequences a backup of a source would take.
pub(crate) fn wanted_sequences(
    source: &SourceSettings,
    standby: bool,
    tables: &[dozo_postgres::TableInfo],
    listed: Vec<dozo_postgres::SequenceInfo>,
) -> Result<Vec<dozo_postgres::SequenceInfo>> {
    Ok(Selection::new(source, standby, tables)?.sequences(tables, listed))
}
