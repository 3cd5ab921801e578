//! Carrying a plan out: marks that are not wanted any more are taken back, what is to go is marked, and what was marked long enough ago goes.
//!
//! *Crash behaviour*: each mark stands for itself. A run that was killed is continued by the next one, which makes the same plan: nothing
//! is deleted before its grace is over, and nothing at all while something cannot be read.

use dozo_model::{Operator, RetentionPolicy, SourceName, Timestamp};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::lock::LockPolicy;
use super::plan::{Action, Plan, Verdict, plan};
use crate::fate::Decision;
use crate::gc::{GcDone, GcOptions, refuse_unknown};
use crate::repository::Repository;
use crate::{CatalogError, Result};

/// A host's clock may be ahead or behind by this much.
const SKEW: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);
/// When nobody has written anything for this long beyond the age that a backup may have, the clock is doubted.
const SILENCE: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);

/// How the clock is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockDoubts {
    /// By what stands in the repository, and by the store's own clock.
    All,
    /// By what stands in the repository: the time was given.
    Records,
    /// Somebody looked at it: it is right.
    None,
}

/// How a plan is carried out.
#[derive(Debug, Clone)]
pub struct RetentionOptions {
    /// How garbage is collected in the end; its `now` is the time of everything.
    pub gc: GcOptions,
    /// Percent of a source's backups that may go at once, where somebody confirmed more than the policy lets.
    pub max_delete: Option<u8>,
    /// How the clock is doubted.
    pub doubts: ClockDoubts,
    /// What is locked.
    pub lock: Option<LockPolicy>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct RetentionDone {
    /// Backups of which the mark was taken back.
    pub taken_back: Vec<String>,
    /// Backups marked now.
    pub marked: Vec<String>,
    /// Backups that serve a longer tier than before, and are locked for it.
    pub locked: Vec<String>,
    /// What went.
    pub gc: GcDone,
}

impl Repository {
    /// Carries a plan out that was made of the repository as it is now.
    ///
    /// # Errors
    /// [`CatalogError::UnknownNeeds`], [`CatalogError::TooMany`], [`CatalogError::Clock`], [`CatalogError::NoCreateOnly`],
    /// [`CatalogError::Cancelled`], or what the store says.
    pub async fn retention_apply<'p>(
        &self,
        plan: &Plan,
        latest_record: Option<&(Timestamp, String)>,
        policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
        options: &RetentionOptions,
        operator: &Operator,
        cancel: &CancellationToken,
    ) -> Result<RetentionDone> {
        self.may_delete(&options.gc)?;
        refuse_unknown(&plan.unreadable)?;
        for source in &plan.sources {
            let most = options.max_delete.unwrap_or(source.policy.max_delete);
            if source.exceeds(most) {
                let (source_name, deletes, standing) = (source.source.clone(), source.deletes, source.standing);
                return Err(CatalogError::TooMany { source_name, deletes, standing, max_delete: most });
            }
        }
        self.look_at_the_clock(plan, latest_record, options.gc.now, options.doubts).await?;
        let mut done = RetentionDone::default();
        let now = options.gc.now;
        for verdict in plan.takes_back() {
            stop(cancel)?;
            let (source, id, reason) = (&verdict.source, &verdict.id, verdict.reasons.join("; "));
            match self.undo(source, id, &Decision { operator, at: now, reason: &reason }).await {
                Ok(()) => done.taken_back.push(format!("{source}@{id}")),
                // Somebody else took it back, or it went: then the plan was too late.
                Err(CatalogError::NotMarked { .. } | CatalogError::Doomed { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        for verdict in plan.marks() {
            stop(cancel)?;
            let (source, id, reason) = (&verdict.source, &verdict.id, verdict.reasons.join("; "));
            let due = now.checked_add(policy(source).grace).unwrap_or(Timestamp::MAX);
            match self.mark(source, id, &Decision { operator, at: now, reason: &reason }, due).await {
                // Somebody may have put a hold on it since the plan was made.
                Ok(_) if self.undo_if_held(source, id, operator, now).await? => {}
                Ok(_) => done.marked.push(format!("{source}@{id}")),
                Err(CatalogError::NoBackup { .. } | CatalogError::Doomed { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let mut unlocked = None;
        if let Some(lock) = &options.lock {
            (done.locked, unlocked) = self.lengthen_locks(plan, lock, &policy).await;
        }
        stop(cancel)?;
        done.gc = self.gc_apply_by(&options.gc, operator, options.doubts, policy).await?;
        unlocked.map_or(Ok(done), Err)
    }

    /// Collects garbage, and dooms of the marks that are due only those that a plan made now would make again.
    ///
    /// # Errors
    /// As [`Repository::retention_apply`].
    pub async fn gc_apply_by<'p>(
        &self,
        gc: &GcOptions,
        operator: &Operator,
        doubts: ClockDoubts,
        policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
    ) -> Result<GcDone> {
        let stays = async || {
            let facts = self.retention_facts().await?;
            refuse_unknown(&facts.unreadable)?;
            let plan = plan(&facts, &policy, gc.now);
            self.look_at_the_clock(&plan, facts.latest_record.as_ref(), gc.now, doubts).await?;
            let kept = plan.backups.into_iter().filter(|v| !v.kept.is_empty());
            Ok(kept.map(|v| (v.source, v.id)).collect())
        };
        self.gc_apply(gc, operator, stays).await
    }

    /// Makes sure that the time is believable: by what others wrote down, and by the store's own clock.
    async fn look_at_the_clock(
        &self,
        plan: &Plan,
        latest_record: Option<&(Timestamp, String)>,
        now: Timestamp,
        doubts: ClockDoubts,
    ) -> Result<()> {
        if doubts == ClockDoubts::None {
            return Ok(());
        }
        let doubt = |reason: String| Err(CatalogError::Clock { now, reason });
        if let Some((at, place)) = latest_record
            && at.duration_since(now) > SKEW
        {
            return doubt(format!("beside {place} stands a record of {at}"));
        }
        if doubts == ClockDoubts::All
            && let Some(theirs) = self.store().clock(&dozo_model::random_suffix(&mut rand::rng(), 12)).await?
        {
            if theirs.duration_since(now).abs() > SKEW {
                return doubt(format!("the clock of {} says {theirs}", self.store().url()));
            }
            return Ok(());
        }
        // Nobody else can be asked. Time decides only about marks that are due: then somebody must have been here not long ago.
        let due = |v: &Verdict| v.action == Action::Marked && v.goes.is_some_and(|due| due <= now);
        if !plan.backups.iter().any(due) {
            return Ok(());
        }
        let newest = plan.backups.iter().map(|b| b.started).chain(latest_record.map(|(at, _)| *at)).max();
        let usual = plan.sources.iter().map(|s| s.policy.max_age).max().unwrap_or_default();
        let patience = SILENCE.saturating_add(jiff::SignedDuration::try_from(usual).unwrap_or(SILENCE));
        match newest {
            Some(newest) if now.duration_since(newest) > patience => doubt(format!("nothing was written here since {newest}")),
            _ => Ok(()),
        }
    }
}

fn stop(cancel: &CancellationToken) -> Result<()> {
    if cancel.is_cancelled() { Err(CatalogError::Cancelled) } else { Ok(()) }
}
