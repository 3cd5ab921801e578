//! Rows of planned tables become objects: workers on connections that share the coordinator's snapshot.
//!
//! *Invariants*: every worker holds all tables before its first row; the coordinator is asked again and again whether it still
//! stands; the first error ends all of them. *Crash behaviour*: what was uploaded is named by nothing yet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dozo_model::{BackupId, human_duration};
use dozo_postgres::{ConnInfo, Coordinator, PgError, SnapshotWorker, Unit};
use dozo_store::Store;
use tokio_util::sync::CancellationToken;

use super::plan::{Plan, PlannedTable};
use super::prove::Proving;
use super::unit::{UnitContext, UnitReport, run_unit};
use super::watch::OurBackends;
use crate::backup::gate::Gate;
use crate::backup::uploads::Uploads;
use crate::backup::warnings::Warnings;
use crate::context::{Context, SourceSettings};
use crate::workers::{Workers, first_error};
use crate::{EngineError, Result};

/// How often the coordinator is asked whether it still stands.
const PING: Duration = Duration::from_secs(2);

/// Where objects go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the data of backups.
    Data,
    /// Into the staging folder of a unit of an archive.
    Staging,
}

/// What copying needs.
pub(crate) struct Copier<'a> {
    pub(crate) ctx: &'a Context,
    pub(crate) store: &'a Store,
    pub(crate) source: &'a SourceSettings,
    /// How long others may wait behind our locks.
    pub(crate) max_block: Duration,
    pub(crate) info: &'a ConnInfo,
    /// Backup, or unit of an archive, that the objects belong to.
    pub(crate) id: &'a BackupId,
    pub(crate) place: Place,
    pub(crate) gate: &'a Arc<Gate>,
    pub(crate) ours: &'a OurBackends,
    pub(crate) warnings: &'a Warnings,
}

impl Copier<'_> {
    /// Copies units, sums the row versions of the tables in `versions`, and lets the server confirm what `prove` says. Returns how long
    /// uploads took after the last row.
    pub(crate) async fn copy(
        &self,
        plan: &Plan,
        coordinator: &Coordinator,
        units: Vec<Unit>,
        versions: HashSet<usize>,
        prove: Proving,
    ) -> Result<(Vec<UnitReport>, Duration)> {
        let stop = self.ctx.cancel.child_token();
        let unless_stored = stop.clone().drop_guard();
        let uploads = Arc::new(Uploads::new(self.ctx, self.store, plan.budget.workers, stop));
        let shared = Arc::new(UnitContext {
            source: self.source.name.clone(),
            id: self.id.clone(),
            place: self.place,
            datasets: plan.tables.clone(),
            budget: plan.budget,
            zstd_level: self.source.zstd_level,
            encoding: coordinator.facts.encoding.clone(),
            versions_wanted: versions,
            prove,
            gate: Arc::clone(self.gate),
            warnings: self.warnings.clone(),
            uploads: Arc::clone(&uploads),
            progress: Arc::clone(&self.ctx.progress),
        });
        let work = move |worker: &mut SnapshotWorker, unit| run_unit(worker, &unit, &shared);
        let mut done = self.pool(coordinator, &plan.tables, plan.budget.workers, units, work).await?;
        let fed = Instant::now();
        for unit in &mut done {
            uploads.stored(&mut unit.upload, &unit.object).await?;
        }
        unless_stored.disarm();
        Ok((done, fed.elapsed()))
    }

    /// Runs work on connections that share the snapshot, while the coordinator is asked whether it still stands.
    pub(crate) async fn pool<W: Send + 'static, R: Send + 'static>(
        &self,
        coordinator: &Coordinator,
        tables: &Arc<Vec<PlannedTable>>,
        count: usize,
        items: Vec<W>,
        work: impl Fn(&mut SnapshotWorker, W) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let (info, snapshot, cancel) = (self.info.clone(), coordinator.snapshot_id.clone(), self.ctx.cancel.child_token());
        let (ours, tables, limit) = (self.ours.clone(), Arc::clone(tables), human_duration(self.max_block));
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
