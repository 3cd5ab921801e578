//! `backup` of a Postgres database: one snapshot, table by table, into Parquet.
//!
//! *Ordering*: lease → parent → intent → locks, snapshot → catalogs → change tokens → schema dump → rows of what changed, in
//! chunks → sequences → files → WAL flushed, all objects are listed, parent and coordinator still stand → manifest. *Crash
//! behaviour*: anything before the manifest is an uncommitted backup that `gc plan` lists. *Cancellation*: workers stop within a
//! block, uploads are aborted.

mod copier;
mod dump;
mod geo;
mod losses;
mod plan;
mod prove;
mod reuse;
mod script;
mod unit;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dozo_model::{
    Algorithm, Content, Dataset, LeftOut, Manifest, PostgresContent, QualifiedName, RowVersions, ServerIdentity, SourceMatch,
    Stage, TableFormat, Timestamp,
};
use dozo_postgres::{
    ConnInfo, Coordinator, LargeObjectCensus, LedgerState, PgTools, ServerFacts, Session, SnapshotWorker, database_facts,
    large_objects, large_objects_name, ledger_rows, materialized_views, roles, sequence_values, sequences, table_definitions,
    write_canary,
};

pub(crate) use copier::{Copier, Place};
pub(crate) use plan::{Outcome, Plan};
pub(crate) use prove::Proving;
pub(crate) use unit::too_large;
pub(crate) use watch::{OurBackends, Watch};

use self::dump::{DumpedFiles, note_dependents};
use self::plan::Selection;
use self::reuse::Reuse;
use self::unit::{UnitReport, confirm};
use super::frame::{Draft, Frame, Work};
use super::gate::Gate;
use super::report::{self, BackupReport, Bottleneck, TableReport};
use crate::budget::Budget;
use crate::canary::KEPT;
use crate::context::{PostgresSettings, SourceSettings};
use crate::error::chain;
use crate::{EngineError, Result};

/// How long the WAL of the snapshot may take to be flushed before the backup is committed without change tokens.
pub(crate) const FLUSH: Duration = Duration::from_secs(30);

/// Connections, programs and tables: what is known before anything is locked.
pub(super) struct Opened<'a> {
    settings: &'a PostgresSettings,
    info: ConnInfo,
    looker: Session,
    facts: ServerFacts,
    tools: PgTools,
    selection: Selection,
}

impl<'a> Opened<'a> {
    /// Connects and looks.
    ///
    /// # Errors
    /// What the server says; a pattern that matches nothing; client programs that are missing.
    pub(super) async fn open(source: &SourceSettings, settings: &'a PostgresSettings) -> Result<Self> {
        let info = settings.connection()?;
        let looker = Session::connect(&info).await?;
        looker.refuse_pooler().await?;
        let facts = looker.facts().await?;
        let tools = PgTools::find(&settings.pg_tools, facts.version_num).await?;
        let selection = Selection::new(source, facts.standby, &dozo_postgres::tables(&looker).await?)?;
        Ok(Self { settings, info, looker, facts, tools, selection })
    }
}

/// Backs up a database.
pub(super) async fn run(frame: &Frame<'_>, opened: Opened<'_>) -> Result<BackupReport> {
    let now = frame.ctx.clock.fixed().unwrap_or(opened.facts.now);
    if opened.settings.canary {
        match write_canary(&opened.looker, &frame.ctx.operator.host, KEPT).await {
            Ok(_) => {}
            // A backup without a fresh canary is better than none.
            Err(e) => frame.warnings.add(format!("the canary was not written: {}", chain(&e))),
        }
    }
    let reuse = Reuse::find(frame.repository, frame.source, &frame.history, &opened.facts, now, frame.options.full).await?;
    let gate = Arc::new(Gate::new(frame.source.rate.map(|r| r.0)));
    if opened.settings.max_replication_lag.is_some() {
        // Until the first look says that replicas keep up.
        gate.pause(true);
    }
    Run { frame, opened, reuse, gate, ours: OurBackends::default() }.go().await
}

struct Run<'a> {
    frame: &'a Frame<'a>,
    opened: Opened<'a>,
    reuse: Reuse,
    gate: Arc<Gate>,
    ours: OurBackends,
}

impl Run<'_> {
    async fn go(mut self) -> Result<BackupReport> {
        let source = self.frame.source;
        self.frame.begin(self.reuse.parent().map(|p| &p.id)).await?;
        let coordinator =
            Coordinator::begin(&self.opened.info, &self.opened.looker, source.lock_timeout, |t| self.opened.selection.wants(t))
                .await?;
        self.ours.add(coordinator.pid());
        if self.reuse.parent().is_some() {
            // Known only now: a standby that was promoted goes on as the same process on another timeline.
            let before = self.frame.history.records.last().and_then(|r| r.manifest.postgres()?.server.timeline);
            if coordinator.timeline.is_none() || before != coordinator.timeline {
                self.reuse = Reuse::Nothing("the timeline is not that of the last backup".into());
            }
        }
        let watch = Watch {
            info: &self.opened.info,
            source: self.opened.settings,
            repository: self.frame.settings,
            store: self.frame.repository.store(),
            gate: &self.gate,
            ours: &self.ours,
            warnings: &self.frame.warnings,
        };
        tokio::select! {
            biased;
            stopped = watch.run() => Err(stopped.err().unwrap_or(EngineError::Cancelled)),
            done = self.under_locks(coordinator) => done,
        }
    }

    async fn under_locks(&self, coordinator: Coordinator) -> Result<BackupReport> {
        let (ctx, source) = (self.frame.ctx, self.frame.source);
        let mut left_out = self.opened.selection.left_out(&coordinator.tables);
        let excluded = self.opened.selection.hidden_from_dump(&coordinator.tables);
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
            self.opened.settings,
            &large,
            Budget::new(source.memory.0, source.workers, self.frame.repository.store().parts()),
        )
        .await?;
        if plan.tables.is_empty() && coordinator.tables.iter().any(dozo_postgres::TableInfo::has_rows) {
            let why = left_out.first().map(|l| format!("{}: {}", l.name, l.reason)).unwrap_or_default();
            return Err(EngineError::NothingToBackUp { source_name: source.name.to_string(), why });
        }
        for pattern in &plan.unused {
            self.frame.warnings.add(format!("formats: `{pattern}` matches no table (of a partitioned table the root counts)"));
        }
        let lost = plan.tables.iter().filter(|t| t.format != TableFormat::Parquet);
        for (table, column) in lost.flat_map(|t| t.columns.iter().filter(|c| c.text_only).map(move |c| (t, c))) {
            let (name, kind) = (&table.locked.name, &column.type_name);
            self.frame.warnings.add(format!("{name}.{} ({kind}) is left out: no server reads its text back", column.name));
        }
        let mut seconds = BTreeMap::from([("prepare".to_owned(), self.frame.started.elapsed().as_secs_f64())]);

        let stage = Instant::now();
        let mut outcome = self.outcome(&plan, &coordinator).await?;
        seconds.insert("changes".into(), stage.elapsed().as_secs_f64());

        ctx.progress.stage(Stage::Schema, 0, 0);
        let stage = Instant::now();
        let files =
            DumpedFiles::make(&self.opened.info, &self.opened.tools, source, &coordinator, &excluded, &self.frame.warnings)
                .await?;
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
        let taken = self.opened.selection.sequences(&coordinator.tables, listed);
        let (sequence_values, unread) = sequence_values(&self.opened.looker, &taken).await?;
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
        let tables: BTreeSet<QualifiedName> =
            plan.tables.iter().map(|t| t.locked.name.clone()).chain(plan.partitioned.iter().map(|p| p.name.clone())).collect();
        let definitions = table_definitions(coordinator.session(), |name| tables.contains(name)).await?;
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
        if !coordinator.flushed(&self.opened.looker, FLUSH).await? {
            self.frame
                .warnings
                .add("the WAL position of the snapshot is not known to be flushed: the next backup copies everything".into());
            datasets.iter_mut().for_each(|d| d.change_token = None);
        }
        let mut losses = Vec::new();
        if let Some(before) = self.frame.history.newest_good() {
            let rows = ledger_rows(coordinator.session()).await?;
            let left = rows.into_iter().filter(|r| matches!(r.state, LedgerState::Detached | LedgerState::Dropped));
            let archived: BTreeSet<QualifiedName> = left.map(|r| r.partition).collect();
            losses = losses::losses(source, &before.manifest, &datasets, &left_out, &archived)?;
        }
        let (keys, scripts) = files.keys(&self.frame.id, source);
        let mut put = vec![(keys.schema_dump.clone(), files.dump), (keys.schema_sql.clone(), files.sql)];
        put.extend(keys.globals_sql.clone().zip(files.globals));
        let content = PostgresContent {
            server: server_identity(&coordinator),
            snapshot: coordinator.snapshot.clone(),
            datasets,
            partitioned: plan.partitioned.clone(),
            sequences: sequence_values,
            materialized_views: views,
            database,
            large_objects: large.groups,
            roles: role_names,
            definitions: Some(definitions),
            dump_version: self.opened.tools.major,
            files: keys,
        };
        put.extend(files.script.files(&content, &scripts, &files.unrestorable)?);
        let draft = Draft {
            parent: parent.map(|p| p.id.clone()),
            started: ctx.clock.fixed().unwrap_or(coordinator.taken_at),
            finished: self.finished(&coordinator).await?,
            format: self.opened.settings.format.as_str(),
            workers: plan.budget.workers,
            fingerprint: algorithms(&content.datasets),
            left_out,
            losses,
            objects,
            put,
            seconds,
            content: Content::Postgres(Box::new(content)),
        };
        let url = self.frame.repository.store().url();
        let describe = |m: &Manifest| m.postgres().map(|pg| crate::restore_md::write(m, pg, &scripts, url)).unwrap_or_default();
        let stands = async || Ok(coordinator.alive().await?);
        let committed = self.frame.commit(draft, stage, describe, stands).await?;
        // Committed: what the server says about the end of the read-only transaction changes nothing any more.
        let _ = coordinator.end().await;
        let mut tables: Vec<TableReport> = committed
            .manifest
            .datasets()
            .iter()
            .zip(work)
            .map(|(d, w)| TableReport::new(d, &self.frame.id, w, because.get(&d.name).cloned()))
            .collect();
        let copies = self.frame.history.physical_copies(&committed.manifest);
        report::count_copies(&mut tables, committed.manifest.datasets(), &copies);
        #[expect(clippy::cast_precision_loss, reason = "a handful of workers")]
        let waited = waited_for_uploads.mul_f64(plan.budget.workers as f64);
        let work = Work {
            full_because: match &self.reuse {
                Reuse::Nothing(why) => Some(why.clone()),
                Reuse::From(_) => None,
            },
            bytes_read: tables.iter().map(|t| t.bytes_read).sum(),
            written,
            memory_budget: plan.budget.peak_bytes() as u64,
            bottleneck: Bottleneck::find(&tables, waited),
            tables,
            files: None,
        };
        Ok(self.frame.report(committed, work))
    }

    /// Looks for large objects; those that are not taken are named.
    async fn large_objects(&self, coordinator: &Coordinator, left_out: &mut Vec<LeftOut>) -> Result<LargeObjectCensus> {
        let mut census = large_objects(coordinator.session()).await?;
        let mut leave = |reason: String, error: bool| {
            left_out.push(LeftOut { name: large_objects_name(), reason, error, needed_by: vec![] });
        };
        match self.opened.selection.without_large_objects() {
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
        match self.frame.ctx.clock.fixed() {
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
        self.frame.ctx.progress.stage(Stage::Changes, 0, 0);
        let (tables, gate) = (Arc::clone(&plan.tables), Arc::clone(&self.gate));
        let work = move |worker: &mut SnapshotWorker, (table, blocks): (usize, dozo_model::BlockRange)| {
            gate.pass(0, worker.cancel())?;
            Ok((table, worker.row_versions(&tables[table].locked, blocks)?))
        };
        let ranges = plan.version_ranges(&asked);
        let summed = self.copier().pool(coordinator, &plan.tables, plan.budget.workers, ranges, work).await?;
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
        let prove = Proving::choose(ranges, self.frame.options.prove);
        reused.retain(|(i, blocks, _)| prove.wants(*i, *blocks));
        let unknown = |o: &Outcome| matches!(o, Outcome::Copy { versions: None, .. });
        let wanted = (0..outcome.len()).filter(|i| unknown(&outcome[*i]) && plan.tables[*i].shape.is_ok());
        let copier = self.copier();
        let (done, waited) = copier.copy(plan, coordinator, units, wanted.collect(), prove).await?;
        if !reused.is_empty() {
            let (tables, warnings) = (Arc::clone(&plan.tables), self.frame.warnings.clone());
            let work = move |worker: &mut SnapshotWorker, (i, blocks, stored): (usize, _, _)| {
                let table = &tables[i];
                Ok((i, confirm(worker, &table.locked, &table.columns, blocks, stored, &warnings)?))
            };
            let mut confirmed: HashMap<usize, usize> = HashMap::new();
            for (i, rows) in copier.pool(coordinator, &plan.tables, plan.budget.workers, reused, work).await? {
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

    fn copier(&self) -> Copier<'_> {
        Copier {
            ctx: self.frame.ctx,
            store: self.frame.repository.store(),
            source: self.frame.source,
            max_block: self.opened.settings.max_block,
            info: &self.opened.info,
            id: &self.frame.id,
            place: Place::Data,
            gate: &self.gate,
            ours: &self.ours,
            warnings: &self.frame.warnings,
        }
    }
}

/// Names the algorithms of the fingerprints of some tables.
fn algorithms(datasets: &[Dataset]) -> String {
    let ids: BTreeSet<&str> = datasets.iter().map(|d| Algorithm::of(&d.columns).id()).collect();
    if ids.is_empty() { Algorithm::default().id().to_owned() } else { ids.into_iter().collect::<Vec<_>>().join(",") }
}

pub(crate) fn server_identity(coordinator: &Coordinator) -> ServerIdentity {
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
