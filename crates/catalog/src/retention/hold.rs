//! Holds: somebody wants a backup kept, whatever the policy says.
//!
//! *Ordering*: a hold is put first, and a mark that stands is taken back after it; whoever marks or dooms looks at the holds in between.
//! So of a hold and a mark that come at the same time, the mark is taken back. *Invariant*: records are never removed while their backup stands.

use dozo_model::{BackupId, HoldRecord, HoldState, Operator, SourceName, Timestamp};
use dozo_store::Layout;

use super::facts::Hold;
use crate::fate::{Decision, Fate, doomed};
use crate::repository::Repository;
use crate::{CatalogError, Result};

/// Returns the holds that were put since the last release.
fn since_release(records: &[HoldRecord]) -> &[HoldRecord] {
    let since = records.iter().rposition(|r| r.state == HoldState::Released).map_or(0, |n| n + 1);
    &records[since..]
}

/// Returns the hold that lasts longest, of those that were put since the last release; it may have ended by itself.
pub(crate) fn longest_hold(records: &[HoldRecord]) -> Option<Hold> {
    let newest = since_release(records).iter().max_by_key(|r| (r.until.is_none(), r.until))?;
    Some(Hold {
        reason: newest.reason.clone(),
        by: format!("{}@{}", newest.operator.user, newest.operator.host),
        since: newest.at,
        until: newest.until,
    })
}

impl Repository {
    /// Returns who holds a backup at this time.
    ///
    /// # Errors
    /// What the store says, or a damaged record.
    pub async fn held(&self, source: &SourceName, id: &BackupId, now: Timestamp) -> Result<Option<Hold>> {
        Ok(longest_hold(&self.holds(source, id).await?).filter(|hold| hold.lasts(now)))
    }

    /// Takes a mark back if somebody holds the backup. Tells whether somebody does.
    pub(crate) async fn undo_if_held(
        &self,
        source: &SourceName,
        id: &BackupId,
        operator: &Operator,
        now: Timestamp,
    ) -> Result<bool> {
        let Some(hold) = self.held(source, id, now).await? else { return Ok(false) };
        let reason = format!("held: {}", hold.reason);
        match self.undo(source, id, &Decision { operator, at: now, reason: &reason }).await {
            Ok(()) | Err(CatalogError::NotMarked { .. } | CatalogError::Doomed { .. }) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Returns what was said about keeping a backup, oldest first.
    ///
    /// # Errors
    /// What the store says, or a damaged record.
    pub async fn holds(&self, source: &SourceName, id: &BackupId) -> Result<Vec<HoldRecord>> {
        self.records(&self.beside(source, id).await?.holds).await
    }

    /// Says about a copy what was said about its original, and is not said about it yet.
    ///
    /// # Errors
    /// As [`Repository::hold`].
    pub async fn say_holds(&self, source: &SourceName, copy: &BackupId, said: &[HoldRecord]) -> Result<()> {
        if said.is_empty() {
            return Ok(());
        }
        let there = self.holds(source, copy).await?;
        let same = |a: &HoldRecord, b: &HoldRecord| (a.at, a.state, &a.reason, a.until) == (b.at, b.state, &b.reason, b.until);
        let own = since_release(&there).iter().any(|t| !said.iter().any(|r| same(r, t)));
        for record in said.iter().filter(|r| !there.iter().any(|t| same(r, t))) {
            // Whoever holds the copy itself is not asked by a release of the original.
            if own && record.state == HoldState::Released {
                continue;
            }
            match self.hold(source, copy, &HoldRecord { backup: copy.clone(), ..record.clone() }).await {
                // It was released before it came here.
                Ok(_) | Err(CatalogError::NotHeld { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Puts a hold on a committed backup, or releases it. A mark for deletion is taken back by a hold. Tells whether one was.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`], [`CatalogError::Doomed`] when it is too late, [`CatalogError::NotHeld`] where there is nothing to release, or what the
    /// store says.
    pub async fn hold(&self, source: &SourceName, id: &BackupId, record: &HoldRecord) -> Result<bool> {
        self.manifest(source, id).await?;
        if record.state == HoldState::Released && longest_hold(&self.holds(source, id).await?).is_none() {
            return Err(CatalogError::NotHeld { source_name: source.clone(), id: id.clone() });
        }
        self.append(&Layout::holds(source, id), record).await?;
        if record.state == HoldState::Released {
            return Ok(false);
        }
        match self.fate(source, id).await? {
            Fate::Stands => Ok(false),
            Fate::Doomed(found) => Err(doomed(source, id, found)),
            Fate::Marked(_) => {
                let reason = format!("held: {}", record.reason);
                self.undo(source, id, &Decision { operator: &record.operator, at: record.at, reason: &reason }).await?;
                Ok(true)
            }
        }
    }
}
