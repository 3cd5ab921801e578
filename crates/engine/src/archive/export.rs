//! A partition becomes the objects of a unit, beside the archive; then they are read back, and the server's own fingerprint counts.
//!
//! *Ordering*: `planned` → locks, snapshot → rows, each range proven by the server in the same snapshot → definitions → `exported` →
//! every object is read back and decoded → manifest → `proven`. *Invariant*: a unit is proven only if the stored rows, the stream and the
//! server have the same fingerprint. *Crash behaviour*: what is not proven is given up by the next run.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dozo_catalog::{ArchivedUnit, Repository, tool};
use dozo_model::{
    BackupId, Content, DatabaseFacts, Dataset, FORMAT_VERSION, Files, Manifest, ObjectRef, PartitionedTable, PostgresContent,
    QualifiedName, Settings, Sha256Digest, Stage, TableFormat, UnitEvent, UnitPlan, UnitState, Verdict, VerifyLevel,
};
use dozo_postgres::{
    Check, Coordinator, LargeObjectCensus, LedgerRow, LedgerState, PgTools, ServerFacts, Session, ledger_rows, roles,
    rows_outside,
};
use dozo_store::Layout;

use super::has_left;
use super::job::{ArchiveJob, Leftover};
use super::point::point;
use super::survey::Candidate;
use crate::backup::{Copier, FLUSH, Gate, OurBackends, Outcome, Place, Plan, Proving, Warnings, Watch, server_identity};
use crate::budget::Budget;
use crate::context::{Context, PostgresSettings, RepositorySettings, SourceSettings};
use crate::verify::examine;
use crate::{EngineError, Result};

/// What every step of a run needs.
pub(crate) struct Run<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) repository: &'a Repository,
    pub(crate) settings: &'a RepositorySettings,
    pub(crate) source: &'a SourceSettings,
    /// The source's, but for the format: archives are Parquet.
    pub(crate) postgres: PostgresSettings,
    pub(crate) info: dozo_postgres::ConnInfo,
    pub(crate) tools: PgTools,
    /// The server when the run began.
    pub(crate) facts: ServerFacts,
    /// Sets of servers that continue each other.
    pub(crate) joined: Vec<Vec<String>>,
    pub(crate) warnings: Warnings,
}

/// Why a unit was not exported.
pub(crate) enum Exported {
    /// It is proven.
    Proven(Box<(ArchivedUnit, Manifest)>),
    /// It holds rows that are not meant to leave, or that nobody can prove.
    Refused(String),
}

impl Run<'_> {
    /// Returns an event of this moment.
    pub(crate) fn event(&self, state: UnitState) -> UnitEvent {
        UnitEvent {
            state,
            at: self.ctx.clock.now(),
            fingerprint: None,
            reason: None,
            tool: tool(),
            operator: self.ctx.operator.clone(),
            plan: None,
        }
    }

    /// Adds an event to a unit.
    pub(crate) async fn record(&self, unit: ArchivedUnit, event: UnitEvent) -> Result<ArchivedUnit> {
        let event = UnitEvent { fingerprint: event.fingerprint.or(unit.last.fingerprint), ..event };
        let (name, state) = (unit.plan.partition.clone(), event.state);
        let unit = self.repository.put_event(unit, event).await?;
        point(&format!("{state}"), &name);
        Ok(unit)
    }

    /// Tells whether a unit came from a server that this one does not continue: nothing is done with it here.
    pub(crate) fn foreign(&self, unit: &ArchivedUnit) -> bool {
        let (Some(own), Some(other)) = (&self.facts.system_identifier, &unit.plan.system_identifier) else { return false };
        !continues(own, other, &self.joined)
    }

    /// Gives a unit up, unless its rows have left the database or stand where readers look: then it stays what it is.
    pub(crate) async fn abandon(&self, unit: ArchivedUnit, why: &str) -> Result<()> {
        let session = Session::connect_as(&self.info, "dozo archive").await?;
        let left = |r: &LedgerRow| r.unit == unit.plan.unit.as_str() && r.state != LedgerState::Detaching;
        if unit.is_published() || has_left(&unit) || ledger_rows(&session).await?.iter().any(left) {
            return Ok(());
        }
        let event = UnitEvent { reason: Some(why.to_owned()), ..self.event(UnitState::Abandoned) };
        let unit = self.record(unit, event).await?;
        self.clear_staging(&unit).await
    }

    /// Deletes what is staged of a unit.
    pub(crate) async fn clear_staging(&self, unit: &ArchivedUnit) -> Result<()> {
        let plan = &unit.plan;
        let folder = format!("{}/_staging/{}", Layout::archive(&plan.source, &plan.table), plan.unit);
        for object in self.repository.store().list(&folder).await? {
            self.repository.store().delete(&object.key).await?;
        }
        Ok(())
    }

    /// Exports and proves a partition.
    pub(crate) async fn export(&self, job: &ArchiveJob, candidate: &Candidate) -> Result<Exported> {
        let id = BackupId::new(self.ctx.clock.now(), &mut rand::rng());
        let plan = UnitPlan {
            format: FORMAT_VERSION,
            unit: id.clone(),
            job: job.name.clone(),
            source: self.source.name.clone(),
            table: job.table.clone(),
            partition: candidate.partition.name.clone(),
            parent: candidate.parent.clone(),
            bound: candidate.partition.bound.clone(),
            label: candidate.label.clone().unwrap_or_default(),
            root: job.root().to_owned(),
            relid: candidate.partition.oid,
            system_identifier: self.facts.system_identifier.clone(),
            database: self.facts.database.clone(),
        };
        let unit = self.repository.plan_unit(plan, self.event(UnitState::Planned)).await?;
        point("planned", &candidate.partition.name);
        let looker = Session::connect(&self.info).await?;
        let wanted: HashSet<u32> = candidate.tables.iter().map(|(oid, _)| *oid).collect();
        let coordinator = Coordinator::begin(&self.info, &looker, self.source.lock_timeout, |t| wanted.contains(&t.oid)).await?;
        let (gate, ours) = (Arc::new(Gate::new(self.source.rate.map(|r| r.0))), OurBackends::default());
        gate.pause(self.postgres.max_replication_lag.is_some());
        ours.add(coordinator.pid());
        let watch = Watch {
            info: &self.info,
            source: &self.postgres,
            repository: self.settings,
            store: self.repository.store(),
            gate: &gate,
            ours: &ours,
            warnings: &self.warnings,
        };
        let exported = tokio::select! {
            biased;
            stopped = watch.run() => Err(stopped.err().unwrap_or(EngineError::Cancelled)),
            done = self.copy(job, candidate, &id, coordinator, &looker, (&gate, &ours)) => done,
        };
        let manifest = match exported? {
            Ok(manifest) => manifest,
            Err(why) => {
                self.abandon(unit, &why).await?;
                return Ok(Exported::Refused(why));
            }
        };
        let fingerprint = Some(manifest.datasets().iter().map(|d| d.fingerprint).sum());
        let unit = self.record(unit, UnitEvent { fingerprint, ..self.event(UnitState::Exported) }).await?;
        if let Err(why) = self.read_back(&manifest).await? {
            self.abandon(unit, &why).await?;
            return Ok(Exported::Refused(why));
        }
        self.repository.put_unit_manifest(&unit, &manifest).await?;
        let unit = self.record(unit, UnitEvent { fingerprint, ..self.event(UnitState::Proven) }).await?;
        Ok(Exported::Proven(Box::new((unit, manifest))))
    }

    /// Reads every object of a unit to its end; says what is wrong.
    pub(crate) async fn read_back(&self, manifest: &Manifest) -> Result<std::result::Result<(), String>> {
        let check = examine(self.ctx, self.repository, manifest, VerifyLevel::Content, None).await?;
        if check.verdict == Verdict::Passed {
            return Ok(Ok(()));
        }
        let found = check.findings.iter().map(|f| format!("{}: {}", f.object, f.detail));
        Ok(Err(found.chain(check.not_run.clone()).next().unwrap_or_else(|| "it could not be read back".into())))
    }

    async fn copy(
        &self,
        job: &ArchiveJob,
        candidate: &Candidate,
        id: &BackupId,
        coordinator: Coordinator,
        looker: &Session,
        (gate, ours): (&Arc<Gate>, &OurBackends),
    ) -> Result<std::result::Result<Manifest, String>> {
        let began = Instant::now();
        let leaves: Vec<_> = coordinator.tables.iter().filter(|t| candidate.leaves.contains(&t.oid)).collect();
        if leaves.len() != candidate.leaves.len() {
            return Ok(Err("its partitions have changed since they were looked at".into()));
        }
        if let (Some(filter), Leftover::Refuse) = (&job.filter, job.leftover) {
            for leaf in &leaves {
                let outside = rows_outside(coordinator.session(), &leaf.name, filter).await?;
                if outside > 0 {
                    return Ok(Err(format!(
                        "{outside} rows of {} do not satisfy `where`: they would leave with it (leftover = \"archive-all\" lets them)",
                        leaf.name
                    )));
                }
            }
        }
        let budget = Budget::new(self.source.memory.0, self.source.workers, self.repository.store().parts()).for_large_files();
        let mut plan = Plan::new(&coordinator, &self.postgres, &LargeObjectCensus::default(), budget).await?;
        let order = if job.sort_by.is_empty() { vec![job.column.clone()] } else { job.sort_by.clone() };
        if let Some(why) = plan.sort(&order) {
            return Ok(Err(why));
        }
        if let Some((table, column)) = plan.unrestorable() {
            return Ok(Err(format!("{table}.{column} is of a type that no server reads back: it would be lost")));
        }
        let outcome: Vec<Outcome> = plan.tables.iter().map(|_| Outcome::Copy { because: None, versions: None }).collect();
        let (rows, bytes) = plan.estimate(&outcome);
        self.ctx.progress.stage(Stage::Data, rows, bytes);
        let units = plan.units(&outcome);
        let ranges = units.iter().flat_map(|u| &u.pieces).map(|p| (p.dataset, p.blocks, p.weight)).collect();
        let versions = (0..plan.tables.len()).filter(|i| plan.tables[*i].shape.is_ok()).collect();
        let copier = Copier {
            ctx: self.ctx,
            store: self.repository.store(),
            source: self.source,
            max_block: self.postgres.max_block,
            info: &self.info,
            id,
            place: Place::Staging,
            gate,
            ours,
            warnings: &self.warnings,
        };
        let (done, _) = copier.copy(&plan, &coordinator, units, versions, Proving::choose(ranges, Some(100))).await?;
        let folder = Layout::ledger(&self.source.name, &job.table, id);
        let names: Vec<String> = candidate.tables.iter().map(|(_, n)| n.sql()).collect();
        let timeout = self.source.lock_timeout.as_millis();
        let dump = self.tools.dump_tables(&self.info, &coordinator.snapshot_id, &names, timeout).await?;
        let sql = self.tools.dump_to_sql(&dump, None, &[], false).await?;
        let role_names = roles(coordinator.session()).await?;
        let workers = plan.budget.workers;
        let (worked, mut objects) = plan.datasets(done, outcome);
        let mut datasets: Vec<Dataset> = worked.into_iter().map(|(d, _)| d).collect();
        if let Some(unproven) = datasets.iter().find(|d| d.fingerprint.rows > 0 && !d.source_match.is_some_and(|m| m.whole)) {
            return Ok(Err(format!("the server could not confirm the rows of {}", unproven.name)));
        }
        if !coordinator.flushed(looker, FLUSH).await? {
            datasets.iter_mut().for_each(|d| d.change_token = None);
        }
        let mut put = async |name: &str, bytes: Bytes| -> Result<String> {
            let key = format!("{folder}/{name}");
            objects.push(ObjectRef { key: key.clone(), bytes: bytes.len() as u64, sha256: Sha256Digest::of(&bytes) });
            self.repository.put_beside_unit(&key, bytes).await?;
            Ok(key)
        };
        let schema_dump = put("schema.dump", dump.into()).await?;
        let schema_sql = put("schema.sql", sql.into()).await?;
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup();
        let partitioned = candidate.tables.iter().filter(|(oid, _)| !candidate.leaves.contains(oid)).map(|(oid, name)| {
            let parent = coordinator.tables.iter().find(|t| t.oid == *oid).and_then(|t| t.parent.clone());
            PartitionedTable { name: name.clone(), parent }
        });
        let content = PostgresContent {
            server: server_identity(&coordinator),
            snapshot: coordinator.snapshot.clone(),
            datasets,
            partitioned: partitioned.collect(),
            sequences: Vec::new(),
            materialized_views: Vec::new(),
            database: DatabaseFacts::default(),
            large_objects: Vec::new(),
            roles: role_names,
            definitions: None,
            dump_version: self.tools.major,
            files: Files { restore_md: schema_sql.clone(), schema_dump, schema_sql, globals_sql: None, script: None },
        };
        let fingerprint = content.datasets.first().map_or("b1", |d| d.fingerprint.algorithm.id()).to_owned();
        let finished = coordinator.server_clock().await?;
        coordinator.alive().await?;
        let manifest = Manifest {
            format: FORMAT_VERSION,
            min_reader: FORMAT_VERSION,
            min_deleter: FORMAT_VERSION,
            repository: self.repository.marker().id.clone(),
            id: id.clone(),
            source: self.source.name.clone(),
            replica_of: None,
            parent: None,
            tool: tool(),
            operator: self.ctx.operator.clone(),
            complete: true,
            started: coordinator.taken_at,
            finished,
            settings: Settings {
                format: TableFormat::Parquet.as_str().into(),
                include: vec![candidate.partition.name.to_string()],
                exclude: vec![],
                workers,
                zstd_level: self.source.zstd_level,
                time_zone: job.time_zone.clone().unwrap_or_else(|| "UTC".into()),
            },
            fingerprint,
            left_out: vec![],
            losses: vec![],
            seconds: BTreeMap::from([("total".to_owned(), began.elapsed().as_secs_f64())]),
            locked_until: None,
            lock_mode: None,
            content: Content::Postgres(Box::new(content)),
            objects,
        };
        let _ = coordinator.end().await;
        Ok(Ok(manifest))
    }
}

/// Tells whether a server is the one that units came from, or goes on with its data: `source rebind` joined the two.
pub(super) fn continues(own: &String, other: &String, joined: &[Vec<String>]) -> bool {
    own == other || joined.iter().any(|set| set.contains(own) && set.contains(other))
}

/// Returns the leaves of a unit as they must be found.
pub(crate) fn checks(manifest: &Manifest, candidate: &[(u32, QualifiedName)]) -> Vec<Check> {
    let check = |d: &Dataset| {
        let oid = candidate.iter().find(|(_, name)| name == &d.name).map_or(0, |(oid, _)| *oid);
        Check { oid, name: d.name.clone(), columns: d.columns.clone(), token: d.change_token, fingerprint: d.fingerprint }
    };
    manifest.datasets().iter().map(check).collect()
}
