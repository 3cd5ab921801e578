//! What stands in the repository and belongs to no backup, and its deletion.
//!
//! *Invariants*: an object goes only when no committed backup names it and no backup that may still be committed could. A manifest
//! that cannot be read, is missing though its backup was committed, or asks for a newer deleter stops every deletion.
//! *Ordering* of `gc_apply`: marks that are due, and that a plan made now would make again, are doomed → abandoned backups are aborted → survey (`survey.rs`) → deletes. *Crash behaviour*: objects of a doomed backup go before its manifest, its fate stays; the next run
//! goes on.

use std::collections::HashSet;
use std::time::Duration;

use dozo_model::{BackupId, Operator, SourceName, Timestamp};
use dozo_store::StoreError;
use serde::Serialize;

use crate::fate::Decision;
use crate::holder::this_host;
use crate::repository::{BackupState, Repository};
use crate::{CatalogError, Result};

/// How garbage is collected.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// What is younger is left alone, unless its process is known to be dead.
    pub grace: Duration,
    /// Now, by this host's clock.
    pub now: Timestamp,
    /// The only host that writes to a store without create-only puts.
    pub only_host: Option<String>,
}

/// What a backup without a manifest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Uncommitted {
    /// It holds the lease of its source, or is younger than the grace: it is waited for.
    Running,
    /// Its process is dead, or it is older than the grace.
    Abandoned,
    /// Somebody took its manifest's key.
    Aborted,
}

/// A backup that has no manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UncommittedBackup {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// When it began, by its host's clock.
    pub started: Option<Timestamp>,
    /// What it is.
    pub state: Uncommitted,
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A backup that is to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MarkedBackup {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// Until when it can be taken back; none once it is doomed.
    pub due: Option<Timestamp>,
}

/// What could go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct GcPlan {
    /// Backups without a manifest.
    pub uncommitted: Vec<UncommittedBackup>,
    /// Backups that are marked for deletion, and deleted ones of which something is left.
    pub marked: Vec<MarkedBackup>,
    /// Objects that no backup names and none will.
    pub orphans: Vec<String>,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Staging files (local stores) and unfinished multipart uploads (S3) of killed uploads.
    pub unfinished: Vec<String>,
    /// Their bytes, where they are known.
    pub unfinished_bytes: u64,
    /// Files that dozo did not write: they are never deleted.
    pub foreign: Vec<String>,
    /// Backups whose needs cannot be known: while there is one, nothing is deleted.
    pub unreadable: Vec<String>,
    /// What could not be looked at, and holds nothing back.
    pub not_looked_at: Vec<String>,
}

/// What went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct GcDone {
    /// Backups doomed now.
    pub doomed: Vec<String>,
    /// Backups aborted now.
    pub aborted: Vec<String>,
    /// Objects deleted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that a lock keeps for now.
    pub retained: u64,
    /// Until when the first of them is locked.
    pub retained_until: Option<Timestamp>,
    /// Sources of which nothing was deleted, because these backups are running.
    pub postponed: Vec<String>,
}

impl Repository {
    /// Finds uncommitted and marked backups, orphans and staging files. Changes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn gc_plan(&self, options: &GcOptions) -> Result<GcPlan> {
        Ok(self.survey(options).await?.plan)
    }

    /// Makes sure that this host may delete something in this store.
    pub(crate) fn may_delete(&self, options: &GcOptions) -> Result<()> {
        if !self.marker().create_only && options.only_host.as_deref() != Some(this_host().as_str()) {
            return Err(CatalogError::NoCreateOnly { url: self.store().url().to_owned() });
        }
        Ok(())
    }

    /// Dooms due marks that nobody holds, aborts abandoned backups, and deletes what nothing needs. `stays` is asked, when marks are due, which
    /// backups are not to be doomed whatever their marks say.
    ///
    /// # Errors
    /// [`CatalogError::UnknownNeeds`], [`CatalogError::NoCreateOnly`], or what the store says; what was deleted by then was garbage.
    pub async fn gc_apply(
        &self,
        options: &GcOptions,
        operator: &Operator,
        stays: impl AsyncFnOnce() -> Result<HashSet<(SourceName, BackupId)>>,
    ) -> Result<GcDone> {
        self.may_delete(options)?;
        let plan = self.gc_plan(options).await?;
        refuse_unknown(&plan.unreadable)?;
        let mut done = GcDone::default();
        let decision = |reason| Decision { operator, at: options.now, reason };
        let due: Vec<&MarkedBackup> = plan.marked.iter().filter(|m| m.due.is_some_and(|due| due <= options.now)).collect();
        // What was to go when it was marked may be the last good one by now.
        let stays = if due.is_empty() { HashSet::new() } else { stays().await? };
        for backup in due.into_iter().filter(|m| !stays.contains(&(m.source.clone(), m.id.clone()))) {
            let (source, id) = (&backup.source, &backup.id);
            if self.undo_if_held(source, id, operator, options.now).await? {
                continue;
            }
            match self.doom(source, id, &decision("its time to be taken back is over")).await {
                Ok(true) => done.doomed.push(format!("{source}@{id}")),
                // Somebody took it back.
                Ok(false) | Err(CatalogError::NotMarked { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        for backup in plan.uncommitted.iter().filter(|b| b.state == Uncommitted::Abandoned) {
            let (source, id) = (&backup.source, &backup.id);
            if matches!(self.abort(source, id, &decision("it was never committed")).await?, BackupState::Aborted) {
                done.aborted.push(format!("{source}@{id}"));
            }
        }
        let survey = self.survey(options).await?;
        refuse_unknown(&survey.plan.unreadable)?;
        let mut refused = None;
        for object in &survey.garbage {
            match self.store().delete(&object.key).await {
                Ok(()) => {
                    done.objects += 1;
                    done.bytes += object.bytes;
                }
                // What is promised to nobody any more goes when its lock has ended.
                Err(StoreError::Locked { until, .. }) => {
                    done.retained += 1;
                    done.retained_until = Some(done.retained_until.map_or(until, |at| at.min(until)));
                }
                // One that nobody may delete keeps nothing else from going.
                Err(e @ StoreError::Denied { .. }) => refused = refused.or(Some(e)),
                Err(e) => return Err(e.into()),
            }
        }
        for object in &survey.unfinished {
            self.store().remove_unfinished(&object.key).await?;
            done.objects += 1;
            done.bytes += object.bytes;
        }
        done.postponed = survey.running.iter().map(|(source, id)| format!("{source}@{id}")).collect();
        refused.map_or(Ok(done), |e| Err(e.into()))
    }
}

pub(crate) fn refuse_unknown(unreadable: &[String]) -> Result<()> {
    match unreadable.first() {
        None => Ok(()),
        Some(first) => Err(CatalogError::UnknownNeeds { count: unreadable.len(), first: first.clone() }),
    }
}
