//! Object locks: what a tier keeps, nobody can delete before the tier ends.
//!
//! *Ordering*: before a manifest is put, every object that it names is locked, those of earlier backups too; then the manifest itself. What
//! serves a longer tier later is locked again by `retention apply`, its manifest last: the manifest's lock tells that all the rest have
//! it. Locks are only ever lengthened.

use std::collections::HashMap;

use dozo_model::{Manifest, RetentionPolicy, Tier, Timestamp};
use dozo_store::{Layout, LockMode};
use futures::{StreamExt, TryStreamExt};
use jiff::SignedDuration;

use super::facts::Facts;
use super::plan::{Plan, Verdict, plan};
use super::reasons::Kept;
use crate::history::{BackupRecord, History};
use crate::repository::{FETCHES, Repository};
use crate::{CatalogError, Result};

/// A lock lasts so much longer than it must, so that objects that night after night names are not locked again each night.
const SLACK: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The longest lock: a tier without an end is locked again when it comes near.
const LONGEST: SignedDuration = SignedDuration::from_hours(3650 * 24);

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPolicy {
    /// How.
    pub mode: LockMode,
    /// Backups of this tier, and of longer ones.
    pub tier: Tier,
}

impl LockPolicy {
    /// Returns until when a backup is locked by what it serves; none when nothing is to be locked.
    fn until(&self, verdict: &Verdict, policy: &RetentionPolicy) -> Option<Timestamp> {
        let zone = policy.zone();
        let longest = Timestamp::now().checked_add(LONGEST).ok();
        let tiers = verdict.kept.iter().filter_map(|k| match k {
            Kept::Tier { tier, kept, .. } if *tier >= self.tier => kept.until(verdict.started, &zone).or(longest),
            _ => None,
        });
        let until = tiers.max().map(|until| longest.map_or(until, |longest| until.min(longest)))?;
        // Locks are told to the second. What has ended by the real clock cannot be locked.
        let until = Timestamp::from_second(until.as_second() + i64::from(until.subsec_nanosecond() > 0)).ok();
        until.filter(|until| *until > Timestamp::now())
    }
}

impl Repository {
    /// Locks everything that a manifest names, before it is put. Returns until when all of it is locked; none when its tier is not to be.
    ///
    /// # Errors
    /// What the store says.
    pub async fn lock_named(
        &self,
        manifest: &Manifest,
        history: &History,
        lock: &LockPolicy,
        policy: &RetentionPolicy,
        now: Timestamp,
    ) -> Result<Option<Timestamp>> {
        let mut facts = Facts::of(history);
        let (holds, checks) = (Vec::new(), Vec::new());
        let new = BackupRecord {
            manifest: Box::new(manifest.clone()),
            checks,
            accepted: None,
            holds,
            drills: vec![],
            mark: None,
            damaged: None,
        };
        facts.add(&new);
        let plan = plan(&facts, |_| policy, now);
        let verdict = plan.backups.iter().find(|v| v.id == manifest.id);
        let Some(until) = verdict.and_then(|v| lock.until(v, policy)) else { return Ok(None) };
        let mut known: HashMap<&str, Timestamp> = HashMap::new();
        for record in &history.records {
            let Some(locked) = &record.manifest.locked_until else { continue };
            if record.manifest.lock_mode.as_deref() != Some(lock.mode.as_str()) {
                continue;
            }
            for object in &record.manifest.objects {
                known.entry(&object.key).and_modify(|at| *at = (*at).max(*locked)).or_insert(*locked);
            }
        }
        let enough = |key: &str| known.get(key).filter(|at| **at >= until);
        let longer = until.checked_add(SLACK).unwrap_or(until);
        let short = manifest.objects.iter().map(|o| o.key.as_str()).filter(|key| enough(key).is_none());
        self.lock_all(short, lock.mode, longer).await?;
        Ok(manifest.objects.iter().map(|o| enough(&o.key).copied().unwrap_or(longer)).min().or(Some(until)))
    }

    /// Locks a manifest that was put.
    ///
    /// # Errors
    /// What the store says: it is committed nevertheless.
    pub async fn lock_manifest(&self, manifest: &Manifest, mode: LockMode, until: Timestamp) -> Result<()> {
        let key = Layout::file(&manifest.source, &manifest.id, "manifest.json");
        Ok(self.store().lock(&key, mode, until).await?)
    }

    async fn lock_all<'k>(&self, keys: impl Iterator<Item = &'k str>, mode: LockMode, until: Timestamp) -> Result<()> {
        let locks = futures::stream::iter(keys).map(|key| self.store().lock(key, mode, until));
        Ok(locks.buffer_unordered(FETCHES).try_collect::<()>().await?)
    }

    /// Lengthens the locks of backups that serve a longer tier than when they were made. Returns which.
    pub(super) async fn lengthen_locks<'p>(
        &self,
        plan: &Plan,
        lock: &LockPolicy,
        policy: impl Fn(&dozo_model::SourceName) -> &'p RetentionPolicy,
    ) -> (Vec<String>, Option<CatalogError>) {
        let (mut lengthened, mut failed) = (Vec::new(), None);
        for verdict in &plan.backups {
            let until = lock.until(verdict, policy(&verdict.source));
            let Some(until) = until.filter(|until| verdict.locked_until.is_none_or(|at| at < *until)) else { continue };
            match self.lengthen(verdict, lock, until).await {
                Ok(false) | Err(CatalogError::Doomed { .. }) => {}
                Ok(true) => lengthened.push(format!("{}@{}", verdict.source, verdict.id)),
                // One that cannot be locked keeps nothing else from being done.
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        (lengthened, failed)
    }

    /// Lengthens the locks of one backup. Tells whether that was needed.
    async fn lengthen(&self, verdict: &Verdict, lock: &LockPolicy, until: Timestamp) -> Result<bool> {
        let manifest = self.manifest(&verdict.source, &verdict.id).await?;
        let key = Layout::file(&verdict.source, &verdict.id, "manifest.json");
        if self.store().locked_until(&key).await?.is_some_and(|at| at >= until) {
            return Ok(false);
        }
        self.lock_all(manifest.objects.iter().map(|o| o.key.as_str()), lock.mode, until).await?;
        self.lock_manifest(&manifest, lock.mode, until).await?;
        Ok(true)
    }
}
