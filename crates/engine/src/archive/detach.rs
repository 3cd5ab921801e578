//! The step in which a partition leaves its table, tried again while others are in the way, and given up before others wait for long.
//!
//! *Invariant*: nobody waits behind our locks for longer than `max-block`: whoever does is seen in time, our statement is cancelled, and
//! everything is as it was.

use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::ArchivedUnit;
use dozo_model::{Manifest, QualifiedName, UnitEvent, UnitState};
use dozo_postgres::{
    Leave, LedgerDetails, LedgerRow, LedgerState, PgError, Removal, Session, announce, backend_pid, cancel_backend, checks_of,
    concurrently, forget_announced, holders, is_pending, leave, own_keys_of, waiting_behind,
};

use super::export::{Run, checks};
use super::job::{ArchiveJob, Protocol, Then};
use super::point::point;
use crate::{EngineError, Result};

/// How often a step that gave way is tried again.
const TRIES: u32 = 6;
/// The first pause before that.
const PAUSE: Duration = Duration::from_millis(500);

/// What became of a step under locks.
pub(crate) enum Step {
    /// It ended.
    Ended(Removal),
    /// Others were in the way, again and again.
    InTheWay(String),
}

impl Run<'_> {
    /// Runs a step under locks, gives way to whoever waits for it, and tries again.
    pub(crate) async fn giving_way<F: Future<Output = std::result::Result<Removal, PgError>>>(
        &self,
        step: impl Fn(Arc<Session>) -> F,
    ) -> Result<Step> {
        let looker = Session::connect_as(&self.info, "dozo watch").await?;
        let session = Arc::new(Session::connect_as(&self.info, "dozo archive").await?);
        let pid = backend_pid(&session).await?;
        // Time for the cancellation itself, and for a look.
        let (patience, every) =
            (self.postgres.max_block.mul_f64(0.5), (self.postgres.max_block / 20).max(Duration::from_millis(5)));
        let mut pause = PAUSE;
        let mut why = String::new();
        for _ in 0..TRIES {
            let work = step(Arc::clone(&session));
            tokio::pin!(work);
            let mut gave_way = None;
            let done = loop {
                tokio::select! {
                    biased;
                    () = self.ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
                    done = &mut work => break done,
                    () = tokio::time::sleep(every.min(Duration::from_millis(100))) => {
                        let waiting = waiting_behind(&looker, &[pid]).await?;
                        if let Some(w) = waiting.into_iter().find(|w| w.seconds >= patience.as_secs_f64()) {
                            gave_way = Some(format!("pid {} ({}) waited for {}", w.pid, w.user, w.target));
                            cancel_backend(&looker, pid).await?;
                        }
                    }
                }
            };
            match done {
                Ok(removal) => return Ok(Step::Ended(removal)),
                Err(PgError::LockTimeout { what, .. }) => why = format!("{what}: others held it"),
                Err(PgError::Query { sqlstate, .. }) if sqlstate == "57014" => {
                    why = gave_way.unwrap_or_else(|| "a statement was cancelled".into());
                }
                // Deadlocks are broken by the server.
                Err(PgError::Query { sqlstate, reason, .. }) if sqlstate == "40P01" => why = reason,
                // Rows that refer to it: the server's own word.
                Err(PgError::Query { sqlstate, reason, .. }) if sqlstate == "23503" => {
                    return Ok(Step::Ended(Removal::Refused(reason)));
                }
                Err(e) => return Err(e.into()),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(Step::InTheWay(why))
    }

    /// The longest that a lock is waited for: whoever comes behind us waits as long.
    pub(crate) fn lock_patience(&self) -> Duration {
        self.source.lock_timeout.min(self.postgres.max_block.mul_f64(0.4))
    }

    /// Lets a proven unit leave its table; its events follow. `known` is what was announced before a concurrent detach that a run has left
    /// in the middle.
    pub(crate) async fn detach(
        &self,
        job: &ArchiveJob,
        unit: ArchivedUnit,
        manifest: &Manifest,
        tables: &[(u32, QualifiedName)],
        state: Attached,
        known: LedgerDetails,
    ) -> Result<(ArchivedUnit, Step)> {
        let plan = unit.plan.clone();
        let drops = job.then == Then::Drop && job.quarantine.is_zero();
        let mut row = LedgerRow {
            unit: plan.unit.to_string(),
            job: plan.job.clone(),
            state: if drops { LedgerState::Dropped } else { LedgerState::Detached },
            root: plan.table.clone(),
            parent: plan.parent.clone(),
            partition: plan.partition.clone(),
            bound: plan.bound.clone(),
            label: plan.label.clone(),
            relid: plan.relid,
            fingerprint: manifest.datasets().iter().map(|d| d.fingerprint).sum(),
            manifest: manifest_digest(manifest)?,
            left_at: self.ctx.clock.fixed().unwrap_or(self.facts.now),
            details: known,
        };
        let mut unit = unit;
        let mut attached = state == Attached::Yes;
        // What is pending is ended, whatever the job says by now.
        if state == Attached::Pending || job.protocol == Protocol::Concurrent && state == Attached::Yes {
            let session = Session::connect_as(&self.info, "dozo archive").await?;
            if state == Attached::Yes {
                // Once begun it cannot be taken back, and its rows are not seen: so not while somebody looks at the table for long.
                if let Some(who) = self.looked_at(&session, &plan.parent).await? {
                    return Ok((unit, Step::InTheWay(who)));
                }
                row.details.checks = checks_of(&session, plan.relid).await?;
                let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
                row.details.own_keys = own_keys_of(&session, &oids).await?;
                announce(&session, &LedgerRow { state: LedgerState::Detaching, ..row.clone() }).await?;
                unit = self.record(unit, self.event(UnitState::Detaching)).await?;
            }
            let pending = state == Attached::Pending;
            if let Err(e) = self.detach_concurrently(&session, &unit, pending).await {
                if !is_pending(&session, plan.relid).await? {
                    forget_announced(&session, plan.unit.as_str()).await?;
                }
                return match e {
                    EngineError::Postgres(PgError::Query { sqlstate, reason, .. }) if sqlstate == "23503" => {
                        Ok((unit, Step::Ended(Removal::Refused(reason))))
                    }
                    EngineError::Postgres(PgError::LockTimeout { what, .. }) => {
                        let seen = "it is pending, and its rows are seen by nobody until it is ended";
                        Ok((unit, Step::InTheWay(format!("{what}: others held it ({seen})"))))
                    }
                    e => Err(e),
                };
            }
            point("concurrently", &unit.plan.partition);
            attached = false;
        }
        let leaves = checks(manifest, tables);
        let postmaster = manifest.postgres().map_or(self.facts.postmaster_start, |pg| pg.server.postmaster_start);
        let step = self
            .giving_way(|session| {
                let (row, leaves) = (row.clone(), leaves.as_slice());
                async move {
                    let facts = session.facts().await?;
                    let leaving = Leave {
                        row,
                        tables,
                        leaves,
                        postmaster_start: postmaster,
                        profile: self.postgres.profile,
                        attached,
                        stub: job.stub,
                        lock_timeout: self.lock_patience(),
                    };
                    leave(&session, &facts, &leaving).await
                }
            })
            .await?;
        let unit = match &step {
            Step::Ended(Removal::Done(row)) => {
                point("left", &unit.plan.partition);
                let reached = if row.state == LedgerState::Dropped { UnitState::Dropped } else { UnitState::Detached };
                let event = UnitEvent { fingerprint: Some(row.fingerprint), at: row.left_at, ..self.event(reached) };
                self.record(unit, event).await?
            }
            _ => unit,
        };
        Ok((unit, step))
    }

    /// Waits until nobody looks at a table for long; says who does.
    async fn looked_at(&self, session: &Session, table: &QualifiedName) -> Result<Option<String>> {
        let mut pause = PAUSE;
        for _ in 1..TRIES {
            if holders(session, table).await?.is_none() {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(holders(session, table).await?)
    }

    /// Waits for everybody who looks at the table; what stays pending is finished as soon as it can be.
    async fn detach_concurrently(&self, session: &Session, unit: &ArchivedUnit, mut pending: bool) -> Result<()> {
        let plan = &unit.plan;
        let mut pause = PAUSE;
        for attempt in 1.. {
            match concurrently(session, &plan.parent, &plan.partition, pending, self.lock_patience()).await {
                Ok(()) => return Ok(()),
                Err(PgError::LockTimeout { .. }) if attempt < TRIES => {}
                Err(e) => return Err(e.into()),
            }
            pending = is_pending(session, plan.relid).await?;
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }
}

/// Whether a partition stands in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attached {
    /// As ever.
    Yes,
    /// A concurrent detach has begun.
    Pending,
    /// Not any more.
    No,
}

/// Returns the digest by which the ledger names a manifest.
fn manifest_digest(manifest: &Manifest) -> Result<String> {
    let bytes = manifest.to_bytes().map_err(|e| EngineError::Internal(e.to_string()))?;
    Ok(dozo_model::Sha256Digest::of(&bytes).to_string())
}
