//! `backup`: one snapshot of a Postgres database, table by table, into Parquet; the manifest last.
//!
//! *Ordering*: lease → parent → intent → locks, snapshot → catalogs → change tokens → schema dump → rows of what changed, in
//! chunks → sequences → files → WAL flushed, all objects are listed, parent and coordinator still stand → manifest. *Crash behaviour*: anything before
//! the manifest is an uncommitted backup that `gc plan` lists. *Cancellation*: workers stop within a block, uploads are aborted.

mod dump;
mod gate;
mod geo;
mod losses;
mod plan;
mod prove;
mod report;
mod reuse;
mod unit;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dozo_catalog::{History, Repository, this_process, tool};
use dozo_model::{
    ALGORITHM, BackupId, Dataset, FORMAT_VERSION, Intent, LeftOut, Manifest, ManifestForm, ObjectRef, QualifiedName, RowVersions,
    ServerIdentity, Settings, Sha256Digest, SourceMatch, Stage, Tier, Timestamp, human_duration,
};
use dozo_postgres::{
    ConnInfo, Coordinator, LargeObjectCensus, PgError, PgTools, Session, SnapshotWorker, database_facts, large_objects,
    large_objects_name, materialized_views, roles, sequence_values, sequences,
};
use dozo_store::RequestCounts;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use report::{BackupReport, Bottleneck, TableReport};
pub(crate) use unit::too_large;

use crate::backup::dump::{DumpedFiles, note_dependents};
use crate::backup::gate::Gate;
use crate::backup::plan::{Outcome, Plan, PlannedTable, Selection};
use crate::backup::prove::Proving;
use crate::backup::reuse::Reuse;
use crate::backup::unit::{UnitContext, UnitReport, all_stored, confirm, run_unit};
use crate::backup::watch::{OurBackends, Warnings, Watch};
use crate::budget::Budget;
use crate::context::{Context, OnBlock, RepositorySettings, SourceSettings};
use crate::workers::{Workers, first_error};
use crate::{EngineError, Result, hooks};

/// How often the coordinator is asked whether it still stands.
const PING: Duration = Duration::from_secs(2);
/// How long the WAL of the snapshot may take to be flushed before the backup is committed without change tokens.
const FLUSH: Duration = Duration::from_secs(30);
/// Uploads on their way for each worker: the one that it feeds, and the end of the one before.
const UPLOADS_PER_WORKER: usize = 2;
/// How often a backup starts over because others waited behind its locks.
const RELEASES: usize = 3;

/// How a backup is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupOptions {
    /// How long another backup of the same source is waited for.
    pub wait: Duration,
    /// Copy everything.
    pub full: bool,
    /// Percent of the rows that the server is to confirm by its own fingerprint; none = none.
    pub prove: Option<u8>,
}

/// Backs up a source.
///
/// # Errors
/// See [`EngineError`]; nothing is committed then.
pub async fn backup(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    options: &BackupOptions,
) -> Result<BackupReport> {
    settings.check_space(repository.store())?;
    if let Some(hook) = &source.hooks.before {
        hooks::run("before", hook, &[("SOURCE", source.name.to_string())]).await?;
    }
    let mut done = once(ctx, repository, settings, source, options).await;
    for _ in 1..RELEASES {
        match &done {
            Err(e @ EngineError::Blocking { .. }) if source.on_block == OnBlock::Release => {
                ctx.progress.warn(&format!("{}: {e}: it gave them back and starts over", source.name));
                // Whoever waited is through as soon as the transaction is gone; others may be in line.
                tokio::time::sleep(source.max_block).await;
                done = once(ctx, repository, settings, source, options).await;
            }
            _ => break,
        }
    }
    if let Some(hook) = &source.hooks.after {
        let outcome = done.as_ref().map_or("failed", |r| r.outcome);
        let id = done.as_ref().map(|r| r.id.to_string()).unwrap_or_default();
        let facts = [("SOURCE", source.name.to_string()), ("OUTCOME", outcome.to_owned()), ("BACKUP", id)];
        if let Err(e) = hooks::run("after", hook, &facts).await {
            // The backup is what it is; the hook's failure is told.
            ctx.progress.warn(&format!("{}: {e}", source.name));
            if let Ok(report) = &mut done {
                report.warnings.push(e.to_string());
            }
        }
    }
    done
}

async fn once(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    options: &BackupOptions,
) -> Result<BackupReport> {
    let started = Instant::now();
    let requests_before = repository.store().requests();
    ctx.progress.stage(Stage::Prepare, 0, 0);
    let info = source.connection()?;
    let looker = Session::connect(&info).await?;
    looker.refuse_pooler().await?;
    let facts = looker.facts().await?;
    let tools = PgTools::find(&source.pg_tools, facts.version_num).await?;
    let selection = Selection::new(source, facts.standby, &dozo_postgres::tables(&looker).await?)?;

    let id = BackupId::new(ctx.clock.now(), &mut rand::rng());
    let lease = repository.lease(&source.name, &id, Arc::clone(&ctx.clock), options.wait).await?;
    let warnings = Warnings::new(source.name.as_str(), Arc::clone(&ctx.progress));
    if let Some(broken) = &lease.broken {
        warnings
            .add(format!("took over from backup {} of a dead process (pid {} on {})", broken.backup, broken.pid, broken.host));
    }
    let cancel = ctx.cancel.clone();
    let work = async {
        let history = repository.history(&source.name).await?;
        let now = ctx.clock.fixed().unwrap_or(facts.now);
        let reuse = Reuse::find(repository, source, &history, &facts, now, options.full).await?;
        let gate = Arc::new(Gate::new(source.rate.map(|r| r.0)));
        if source.max_replication_lag.is_some() {
            // Until the first look says that replicas keep up.
            gate.pause(true);
        }
        let ours = OurBackends::default();
        let run = Run {
            ctx,
            repository,
            settings,
            source,
            options,
            info,
            looker,
            tools,
            selection,
            id,
            started,
            warnings,
            history,
            reuse,
            gate,
            ours,
            requests_before,
        };
        run.go().await
    };
    let done = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(EngineError::Cancelled),
        done = work => done,
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
    settings: &'a RepositorySettings,
    source: &'a SourceSettings,
    options: &'a BackupOptions,
    info: ConnInfo,
    looker: Session,
    tools: PgTools,
    selection: Selection,
    id: BackupId,
    started: Instant,
    warnings: Warnings,
    history: History,
    reuse: Reuse,
    gate: Arc<Gate>,
    ours: OurBackends,
    requests_before: RequestCounts,
}

impl Run<'_> {
    async fn go(mut self) -> Result<BackupReport> {
        let source = self.source;
        let intent = Intent {
            format: FORMAT_VERSION,
            id: self.id.clone(),
            source: source.name.clone(),
            parent: self.reuse.parent().map(|p| p.id.clone()),
            started: self.ctx.clock.now(),
            holder: this_process(),
            replica_of: None,
        };
        self.repository.begin(&intent).await?;
        if let Some(parent) = &intent.parent {
            self.repository.parent_stands(&source.name, parent).await?;
        }
        let coordinator = Coordinator::begin(&self.info, &self.looker, source.lock_timeout, |t| self.selection.wants(t)).await?;
        self.ours.add(coordinator.pid());
        if self.reuse.parent().is_some() {
            // Known only now: a standby that was promoted goes on as the same process on another timeline.
            let before = self.history.records.last().and_then(|r| r.manifest.server.timeline);
            if coordinator.timeline.is_none() || before != coordinator.timeline {
                self.reuse = Reuse::Nothing("the timeline is not that of the last backup".into());
            }
        }
        let watch = Watch {
            info: &self.info,
            source,
            repository: self.settings,
            store: self.repository.store(),
            gate: &self.gate,
            ours: &self.ours,
            warnings: &self.warnings,
        };
        tokio::select! {
            biased;
            stopped = watch.run() => Err(stopped.err().unwrap_or(EngineError::Cancelled)),
            done = self.under_locks(coordinator) => done,
        }
    }

    async fn under_locks(&self, coordinator: Coordinator) -> Result<BackupReport> {
        let (ctx, source) = (self.ctx, self.source);
        let mut left_out = self.selection.left_out(&coordinator.tables);
        let excluded = self.selection.hidden_from_dump(&coordinator.tables);
        note_dependents(&coordinator, &excluded, &mut left_out).await?;
        let large = self.large_objects(&coordinator, &mut left_out).await?;
        let database = database_facts(coordinator.session()).await?;
        for hidden in database.subscriptions.iter().filter(|s| s.connection.is_none()) {
            let name = QualifiedName::new("pg_subscription", &hidden.name);
            let reason = "subscription: its connection may not be read".into();
            left_out.push(LeftOut { name, reason, error: false, needed_by: vec![] });
        }
        let plan = Plan::new(
            &coordinator,
            source,
            &large,
            Budget::new(source.memory.0, source.workers, self.repository.store().parts()),
        )
        .await?;
        if plan.tables.is_empty() && coordinator.tables.iter().any(dozo_postgres::TableInfo::has_rows) {
            let why = left_out.first().map(|l| format!("{}: {}", l.name, l.reason)).unwrap_or_default();
            return Err(EngineError::NothingToBackUp { source_name: source.name.to_string(), why });
        }
        let mut seconds = BTreeMap::from([("prepare".to_owned(), self.started.elapsed().as_secs_f64())]);

        let stage = Instant::now();
        let mut outcome = self.outcome(&plan, &coordinator).await?;
        seconds.insert("changes".into(), stage.elapsed().as_secs_f64());

        ctx.progress.stage(Stage::Schema, 0, 0);
        let stage = Instant::now();
        let files = DumpedFiles::make(&self.info, &self.tools, source, &coordinator, &excluded, &self.warnings).await?;
        seconds.insert("schema".into(), stage.elapsed().as_secs_f64());

        let (rows, bytes) = plan.estimate(&outcome);
        ctx.progress.stage(Stage::Data, rows, bytes);
        let stage = Instant::now();
        let (units, waited_for_uploads) = self.copy(&plan, &coordinator, &mut outcome).await?;
        // The scan for change tokens is interleaved with the copy, so that a table is read from disk once. All workers share it.
        #[expect(clippy::cast_precision_loss, reason = "a handful of workers")]
        let scanning = units.iter().flat_map(|u| &u.pieces).filter_map(|p| p.seconds.get("versions")).sum::<f64>()
            / plan.budget.workers as f64;
        let data = stage.elapsed().as_secs_f64();
        seconds.insert("data".into(), (data - scanning).max(0.0));
        *seconds.entry("changes".into()).or_default() += scanning.min(data);

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
        let because: HashMap<QualifiedName, String> = plan
            .tables
            .iter()
            .zip(&outcome)
            .filter_map(|(t, o)| match o {
                Outcome::Copy { because: Some(why), .. } => Some((t.locked.name.clone(), why.clone())),
                _ => None,
            })
            .collect();
        let (worked, mut objects) = plan.datasets(units, outcome);
        let (mut datasets, work): (Vec<Dataset>, Vec<_>) = worked.into_iter().unzip();
        let written: u64 = objects.iter().map(|o| o.bytes).sum();
        let reused = datasets.iter().filter(|d| d.copied_by.is_some()).count();
        let parent = self.reuse.parent().filter(|_| reused > 0);
        if let Some(parent) = parent {
            let named = datasets.iter().filter(|d| d.copied_by.is_some()).flat_map(|d| parent.objects_of(d)).cloned();
            objects.extend(named);
        }
        if !coordinator.flushed(&self.looker, FLUSH).await? {
            self.warnings
                .add("the WAL position of the snapshot is not known to be flushed: the next backup copies everything".into());
            datasets.iter_mut().for_each(|d| d.change_token = None);
        }
        let mut losses = Vec::new();
        if let Some(before) = self.history.newest_good() {
            losses = losses::losses(source, &before.manifest, &datasets, &left_out)?;
        }
        let file_keys = files.keys(&self.id, source);
        let mut manifest = Manifest {
            format: FORMAT_VERSION,
            min_reader: FORMAT_VERSION,
            min_deleter: FORMAT_VERSION,
            repository: self.repository.marker().id.clone(),
            id: self.id.clone(),
            source: source.name.clone(),
            replica_of: None,
            parent: parent.map(|p| p.id.clone()),
            kind: "postgres".into(),
            tool: tool(),
            operator: ctx.operator.clone(),
            complete: !left_out.iter().any(|l| l.error),
            server: server_identity(&coordinator),
            snapshot: coordinator.snapshot.clone(),
            started: ctx.clock.fixed().unwrap_or(coordinator.taken_at),
            finished: self.finished(&coordinator).await?,
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
            database,
            large_objects: large.groups,
            roles: role_names,
            left_out,
            losses,
            seconds: BTreeMap::new(),
            files: file_keys.clone(),
            dump_version: self.tools.major,
            locked_until: None,
            lock_mode: None,
            objects: Vec::new(),
        };
        let restore_md = crate::restore_md::write(&manifest, self.repository.store().url(), &files.unrestorable);
        let mut put = vec![
            (file_keys.restore_md, Bytes::from(restore_md)),
            (file_keys.schema_dump, files.dump),
            (file_keys.schema_sql, files.sql),
        ];
        put.extend(file_keys.globals_sql.zip(files.globals));
        let mut beside = 0;
        for (key, bytes) in put {
            beside += bytes.len() as u64;
            objects.push(ObjectRef { key: key.clone(), bytes: bytes.len() as u64, sha256: Sha256Digest::of(&bytes) });
            self.repository.store().put_own(&key, bytes).await?;
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        // Several partitions may share an object.
        objects.dedup();
        manifest.objects = objects;
        if let Some(lock) = &self.settings.lock {
            let (history, policy) = (&self.history, &source.retention);
            manifest.locked_until = self.repository.lock_named(&manifest, history, lock, policy, self.ctx.clock.now()).await?;
            manifest.lock_mode = manifest.locked_until.map(|_| lock.mode.as_str().to_owned());
            if manifest.locked_until.is_none() && lock.tier == Tier::Daily && manifest.complete && !manifest.suspect() {
                self.warnings.add("it is not locked: it serves no tier yet, or what it serves has ended".into());
            }
        }
        self.repository.everything_stands(&manifest).await?;
        if let Some(parent) = &manifest.parent {
            self.repository.parent_stands(&source.name, parent).await?;
        }
        coordinator.alive().await?;
        seconds.insert("commit".into(), stage.elapsed().as_secs_f64());
        seconds.insert("total".into(), self.started.elapsed().as_secs_f64());
        manifest.seconds = seconds.clone();
        self.repository.commit(&manifest).await?;
        if let (Some(lock), Some(until)) = (&self.settings.lock, manifest.locked_until)
            && let Err(e) = self.repository.lock_manifest(&manifest, lock.mode, until).await
        {
            self.warnings.add(format!("the manifest could not be locked, `dozo retention apply` tries it again: {e}"));
        }
        for alarm in self.source.alarms.of(&manifest, self.history.newest_good().map(|r| r.manifest.as_ref())) {
            self.warnings.add(alarm.text);
        }
        // Committed: what the server says about the end of the read-only transaction changes nothing any more.
        let _ = coordinator.end().await;
        let mut tables: Vec<TableReport> = manifest
            .datasets
            .iter()
            .zip(work)
            .map(|(d, w)| TableReport::new(d, &self.id, w, because.get(&d.name).cloned()))
            .collect();
        report::count_copies(&mut tables, &manifest.datasets, &self.history.physical_copies(&manifest));
        Ok(BackupReport {
            source: source.name.to_string(),
            database: manifest.server.database.clone(),
            id: self.id.clone(),
            outcome: match (manifest.complete, manifest.suspect()) {
                (false, _) => "partial",
                (true, true) => "suspect",
                (true, false) => "done",
            },
            full_because: match &self.reuse {
                Reuse::Nothing(why) => Some(why.clone()),
                Reuse::From(_) => None,
            },
            parent: manifest.parent.clone(),
            rows: manifest.rows(),
            bytes_read: tables.iter().map(|t| t.bytes_read).sum(),
            bytes_written: written + beside,
            bytes_needed: manifest.stored_bytes(),
            copied: tables.len() - reused,
            reused,
            seconds,
            memory_budget: plan.budget.peak_bytes() as u64,
            bottleneck: Bottleneck::find(&tables, waited_for_uploads.mul_f64(plan.budget.workers as f64)),
            requests: self.repository.store().requests().since(&self.requests_before),
            tables,
            left_out: manifest.left_out,
            losses: manifest.losses,
            warnings: self.warnings.all(),
        })
    }

    /// Looks for large objects; those that are not taken are named.
    async fn large_objects(&self, coordinator: &Coordinator, left_out: &mut Vec<LeftOut>) -> Result<LargeObjectCensus> {
        let mut census = large_objects(coordinator.session()).await?;
        let mut leave = |reason: String, error: bool| {
            left_out.push(LeftOut { name: large_objects_name(), reason, error, needed_by: vec![] });
        };
        match self.selection.without_large_objects() {
            Some(reason) if !census.groups.is_empty() || census.unreadable > 0 => {
                leave(reason, false);
                census.groups.clear();
            }
            None if census.unreadable > 0 => {
                leave(format!("permission denied for {} large objects", census.unreadable), true);
            }
            _ => {}
        }
        Ok(census)
    }

    async fn finished(&self, coordinator: &Coordinator) -> Result<Timestamp> {
        match self.ctx.clock.fixed() {
            Some(now) => Ok(now),
            None => Ok(coordinator.server_clock().await?),
        }
    }

    /// Decides for every table whether it is copied: sums the row versions of those that have something to lean on.
    async fn outcome(&self, plan: &Plan, coordinator: &Coordinator) -> Result<Vec<Outcome>> {
        let Some(parent) = self.reuse.parent() else {
            return Ok(plan.tables.iter().map(|_| Outcome::Copy { because: None, versions: None }).collect());
        };
        let candidates: Vec<_> = plan.tables.iter().map(|t| parent.candidate(t)).collect();
        let asked: Vec<usize> = (0..candidates.len()).filter(|i| candidates[*i].is_ok()).collect();
        self.ctx.progress.stage(Stage::Changes, 0, 0);
        let (tables, gate) = (Arc::clone(&plan.tables), Arc::clone(&self.gate));
        let work = move |worker: &mut SnapshotWorker, (table, blocks): (usize, dozo_model::BlockRange)| {
            gate.pass(0, worker.cancel())?;
            Ok((table, worker.row_versions(&tables[table].locked, blocks)?))
        };
        let summed = self.pool(coordinator, &plan.tables, plan.budget.workers, plan.version_ranges(&asked), work).await?;
        let mut versions: HashMap<usize, RowVersions> = HashMap::new();
        for (table, part) in summed {
            *versions.entry(table).or_default() += part;
        }
        let decide = |(i, candidate): (usize, std::result::Result<&Dataset, String>)| match candidate {
            Err(why) => Outcome::Copy { because: Some(why), versions: None },
            Ok(before) => {
                let found = versions.get(&i).copied().unwrap_or_default();
                if before.change_token.is_some_and(|t| t.versions == found) {
                    Outcome::Reuse(Box::new(plan.tables[i].unchanged(before, parent.id.clone())))
                } else {
                    Outcome::Copy { because: Some("its rows have changed".into()), versions: Some(found) }
                }
            }
        };
        Ok(candidates.into_iter().enumerate().map(decide).collect())
    }

    /// Copies what is to be copied, and lets the server confirm what it is asked about. Returns how long uploads took after the last row.
    async fn copy(&self, plan: &Plan, coordinator: &Coordinator, outcome: &mut [Outcome]) -> Result<(Vec<UnitReport>, Duration)> {
        let units = plan.units(outcome);
        let mut ranges: Vec<_> = units.iter().flat_map(|u| &u.pieces).map(|p| (p.dataset, p.blocks, p.weight)).collect();
        let mut reused = Vec::new();
        for (i, o) in outcome.iter().enumerate() {
            if let Outcome::Reuse(dataset) = o {
                reused.extend(dataset.parts.iter().map(|p| (i, p.blocks, p.fingerprint)));
            }
        }
        ranges.extend(reused.iter().map(|(i, blocks, _)| (*i, *blocks, plan.tables[*i].weight(*blocks))));
        let prove = Proving::choose(ranges, self.options.prove);
        reused.retain(|(i, blocks, _)| prove.wants(*i, *blocks));
        let unknown = |o: &Outcome| matches!(o, Outcome::Copy { versions: None, .. });
        let wanted = (0..outcome.len()).filter(|i| unknown(&outcome[*i]) && plan.tables[*i].shape.is_ok());
        let stop = self.ctx.cancel.child_token();
        let unless_stored = stop.clone().drop_guard();
        let shared = Arc::new(UnitContext {
            source: self.source.name.clone(),
            id: self.id.clone(),
            datasets: plan.tables.clone(),
            budget: plan.budget,
            zstd_level: self.source.zstd_level,
            versions_wanted: wanted.collect(),
            prove,
            gate: Arc::clone(&self.gate),
            warnings: self.warnings.clone(),
            store: self.repository.store().clone(),
            uploads: Arc::new(Semaphore::new(plan.budget.workers * UPLOADS_PER_WORKER)),
            upload_failed: Arc::default(),
            handle: Handle::current(),
            tracker: self.ctx.uploads.clone(),
            stop_uploads: stop.clone(),
            progress: Arc::clone(&self.ctx.progress),
        });
        let of_workers = Arc::clone(&shared);
        let work = move |worker: &mut SnapshotWorker, unit| run_unit(worker, &unit, &of_workers);
        let mut done = self.pool(coordinator, &plan.tables, plan.budget.workers, units, work).await?;
        let fed = Instant::now();
        all_stored(&mut done, &shared).await?;
        let waited = fed.elapsed();
        unless_stored.disarm();
        if !reused.is_empty() {
            let (tables, warnings) = (Arc::clone(&plan.tables), self.warnings.clone());
            let work = move |worker: &mut SnapshotWorker, (i, blocks, stored): (usize, _, _)| {
                let table = &tables[i];
                Ok((i, confirm(worker, &table.locked, &table.columns, blocks, stored, &warnings)?))
            };
            let mut confirmed: HashMap<usize, usize> = HashMap::new();
            for (i, rows) in self.pool(coordinator, &plan.tables, plan.budget.workers, reused, work).await? {
                if let Outcome::Reuse(dataset) = &mut outcome[i] {
                    let parts = confirmed.entry(i).or_default();
                    *parts += 1;
                    let matched = dataset.source_match.map_or(0, |m| m.rows) + rows;
                    let whole = *parts == dataset.parts.len() && matched == dataset.fingerprint.rows;
                    dataset.source_match = Some(SourceMatch { rows: matched, whole });
                }
            }
        }
        Ok((done, waited))
    }

    /// Runs work on connections that share the snapshot, while the coordinator is asked whether it still stands.
    async fn pool<W: Send + 'static, R: Send + 'static>(
        &self,
        coordinator: &Coordinator,
        tables: &Arc<Vec<PlannedTable>>,
        count: usize,
        items: Vec<W>,
        work: impl Fn(&mut SnapshotWorker, W) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let (info, snapshot, cancel) = (self.info.clone(), coordinator.snapshot_id.clone(), self.ctx.cancel.child_token());
        let (ours, tables, limit) = (self.ours.clone(), Arc::clone(tables), human_duration(self.source.max_block));
        let start = move |stop: &CancellationToken| {
            let mut worker = SnapshotWorker::start(&info, &snapshot, stop.clone())?;
            ours.add(worker.pid());
            // All at once, right behind the coordinator: a migration that comes later waits for both.
            for table in tables.iter() {
                worker.lock(&table.locked).map_err(|e| match e {
                    PgError::LockTimeout { what, .. } => EngineError::Blocking { waiting: what, limit: limit.clone() },
                    e => e.into(),
                })?;
            }
            Ok(worker)
        };
        let mut workers = Workers::start(count, items, &cancel, start, work);
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

fn server_identity(coordinator: &Coordinator) -> ServerIdentity {
    let facts = coordinator.facts.clone();
    ServerIdentity {
        system_identifier: facts.system_identifier,
        timeline: coordinator.timeline,
        database: facts.database,
        database_oid: facts.database_oid,
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
