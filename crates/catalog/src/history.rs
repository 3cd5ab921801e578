//! What is known about a source's committed backups taken together: which are good, which objects were read by a check and
//! when, which must not be trusted, how often the same rows are stored.
//!
//! *Invariant*: everything here is computed from manifests, checks and acceptances; nothing is stored twice.

use std::collections::{BTreeMap, HashMap, HashSet};

use dozo_model::{
    Acceptance, BackupId, CheckEvent, Dataset, DrillEvent, FateRecord, HoldRecord, Manifest, ManifestForm, QualifiedName,
    SourceName, Timestamp, VerifyLevel,
};
use dozo_store::{Layout, PutOutcome};
use futures::{StreamExt, TryStreamExt};

use crate::repository::{BackupEntry, BackupState, Beside, FETCHES, Repository, from_json, to_json};
use crate::retention::{Hold, longest_hold};
use crate::{CatalogError, Result};

/// A committed backup with everything that stands beside its manifest.
#[derive(Debug, Clone)]
pub struct BackupRecord<M = Manifest> {
    /// Manifest.
    pub manifest: Box<M>,
    /// Checks, oldest first.
    pub checks: Vec<CheckEvent>,
    /// Somebody took it for good although it is suspect.
    pub accepted: Option<Acceptance>,
    /// What was said about keeping it, oldest first.
    pub holds: Vec<HoldRecord>,
    /// The drills that it was restored in, oldest first.
    pub drills: Vec<DrillEvent>,
    /// It is marked for deletion.
    pub mark: Option<FateRecord>,
    /// What stands beside the manifest cannot be read: nothing is known about the backup's checks.
    pub damaged: Option<String>,
}

impl<M: ManifestForm> BackupRecord<M> {
    /// Tells whether the backup may be relied on: complete, not suspect (or accepted), no open finding.
    #[must_use]
    pub fn good(&self) -> bool {
        self.manifest.complete()
            && self.damaged.is_none()
            && (!self.manifest.suspect() || self.accepted.is_some())
            && Repository::open_findings(&self.checks).is_empty()
    }

    /// Returns who holds it at this time.
    #[must_use]
    pub fn hold(&self, now: Timestamp) -> Option<Hold> {
        longest_hold(&self.holds).filter(|hold| hold.lasts(now))
    }

    /// Returns the word for its state.
    #[must_use]
    pub fn state(&self) -> &'static str {
        match (self.manifest.complete(), self.manifest.suspect()) {
            (false, _) => "partial",
            (true, true) if self.accepted.is_none() => "suspect",
            (true, _) => "complete",
        }
    }
}

/// All committed backups of one source, oldest first by their recorded start.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The backups.
    pub records: Vec<BackupRecord>,
    /// Servers that continue each other.
    pub joined: Vec<Vec<String>>,
    /// What could not be read: nothing is deleted while there is any.
    pub unreadable: Vec<String>,
}

impl History {
    /// Returns the newest good backup.
    #[must_use]
    pub fn newest_good(&self) -> Option<&BackupRecord> {
        self.records.iter().rev().find(|r| r.good())
    }

    /// Returns when each object's content was last read by a check that found nothing wrong with it.
    #[must_use]
    pub fn content_checked(&self) -> HashMap<&str, Timestamp> {
        let mut times: HashMap<&str, Timestamp> = HashMap::new();
        for record in &self.records {
            for check in record.checks.iter().filter(|c| c.level >= VerifyLevel::Content) {
                let bad: HashSet<&str> = check.findings.iter().map(|f| f.object.as_str()).collect();
                let skipped: HashMap<&str, Timestamp> = check.skipped.iter().map(|s| (s.object.as_str(), s.checked)).collect();
                for object in &record.manifest.objects {
                    let key = object.key.as_str();
                    if bad.contains(key) || check.could_not_read(key) {
                        continue;
                    }
                    let at = skipped.get(key).copied().unwrap_or(check.at);
                    times.entry(key).and_modify(|t| *t = (*t).max(at)).or_insert(at);
                }
            }
        }
        times
    }

    /// Returns every object with an open finding in any backup that names it.
    #[must_use]
    pub fn distrusted(&self) -> HashSet<&str> {
        let open = self.records.iter().flat_map(|r| Repository::open_findings(&r.checks));
        let unknown = self.records.iter().filter(|r| r.damaged.is_some()).flat_map(|r| &r.manifest.objects);
        open.map(|f| f.object.as_str()).chain(unknown.map(|o| o.key.as_str())).collect()
    }

    /// Counts, for each table of a backup, the separate physical copies of the very rows that it shows: sets of objects in
    /// all backups that hold the table with the same fingerprint and shape.
    #[must_use]
    pub fn physical_copies(&self, manifest: &Manifest) -> BTreeMap<QualifiedName, usize> {
        let wanted: HashMap<&QualifiedName, &Dataset> = manifest.datasets().iter().map(|d| (&d.name, d)).collect();
        let mut copies: BTreeMap<QualifiedName, HashSet<Vec<(&str, u32)>>> = BTreeMap::new();
        let others = self.records.iter().map(|r| r.manifest.as_ref());
        for dataset in others.chain([manifest]).flat_map(Manifest::datasets) {
            let same = |d: &&&Dataset| d.fingerprint == dataset.fingerprint && d.shape == dataset.shape;
            if wanted.get(&dataset.name).filter(same).is_some() {
                let place = dataset.parts.iter().map(|p| (p.object.as_str(), p.row_groups.0)).collect();
                copies.entry(dataset.name.clone()).or_default().insert(place);
            }
        }
        copies.into_iter().map(|(name, places)| (name, places.len())).collect()
    }
}

impl Repository {
    /// Loads everything about the committed backups of a source.
    ///
    /// # Errors
    /// What the store says. A manifest that cannot be read is left out: `list` and `verify` show it.
    pub async fn history(&self, source: &SourceName) -> Result<History> {
        let entries = self.backups(Some(source)).await?;
        let unreadable = entries.iter().filter_map(|e| match &e.state {
            BackupState::Unreadable(why) => Some(why.clone()),
            _ => e.fate_unknown.clone(),
        });
        let unreadable = unreadable.collect();
        let mut records: Vec<BackupRecord> = futures::stream::iter(entries)
            .map(|entry| self.record_of(entry))
            .buffered(FETCHES)
            .try_filter_map(|record| std::future::ready(Ok(record)))
            .try_collect()
            .await?;
        records.sort_by_key(|r| r.manifest.started);
        let joined = match self.joined(source).await {
            // Servers that nobody is known to have joined keep more, never less.
            Err(CatalogError::Record { .. }) => Vec::new(),
            joined => joined?,
        };
        Ok(History { records, joined, unreadable })
    }

    /// Loads what stands beside a manifest. A damaged record is told, and makes the backup not good.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record<M: ManifestForm>(&self, manifest: Box<M>) -> Result<BackupRecord<M>> {
        let beside = self.beside(manifest.source(), manifest.id()).await?;
        let fates = self.fates_of(manifest.source(), manifest.id(), beside.fates.clone()).await?;
        self.record_with(manifest, beside, fates.fate.mark().cloned()).await
    }

    /// As [`Repository::record`], of what was listed already; none when it is not committed.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_of<M: ManifestForm>(&self, entry: BackupEntry<M>) -> Result<Option<BackupRecord<M>>> {
        match entry.state {
            BackupState::Committed(manifest) => {
                Ok(Some(self.record_with(manifest, entry.beside, entry.fate.mark().cloned()).await?))
            }
            _ => Ok(None),
        }
    }

    async fn record_with<M: ManifestForm>(
        &self,
        manifest: Box<M>,
        beside: Beside,
        mark: Option<FateRecord>,
    ) -> Result<BackupRecord<M>> {
        let read = async {
            let mut checks: Vec<CheckEvent> = self.records(&beside.checks).await?;
            checks.sort_by_key(|c| c.at);
            let suspect = manifest.suspect() && beside.accepted;
            let accepted = if suspect { self.acceptance(manifest.source(), manifest.id()).await? } else { None };
            let mut drills: Vec<DrillEvent> = self.records(&beside.drills).await?;
            drills.sort_by_key(|d| d.at);
            Ok((checks, accepted, self.records(&beside.holds).await?, drills))
        };
        let (checks, accepted, holds, drills, damaged) = match read.await {
            Ok((checks, accepted, holds, drills)) => (checks, accepted, holds, drills, None),
            // One damaged record must not keep the next backup from being made.
            Err(e @ CatalogError::Record { .. }) => (Vec::new(), None, Vec::new(), Vec::new(), Some(e.to_string())),
            Err(e) => return Err(e),
        };
        Ok(BackupRecord { manifest, checks, accepted, holds, drills, mark, damaged })
    }

    async fn acceptance(&self, source: &SourceName, id: &BackupId) -> Result<Option<Acceptance>> {
        let key = Layout::file(source, id, "accepted.json");
        self.store().get_opt(&key).await?.map(|bytes| from_json(&key, &bytes)).transpose()
    }

    /// Takes a suspect backup for good. Returns what stands now: an earlier acceptance is kept.
    ///
    /// # Errors
    /// What the store says.
    pub async fn accept(&self, source: &SourceName, id: &BackupId, acceptance: &Acceptance) -> Result<Acceptance> {
        let key = Layout::file(source, id, "accepted.json");
        if self.store().put_new(&key, to_json(&key, acceptance)?).await? == PutOutcome::Created {
            return Ok(acceptance.clone());
        }
        Ok(self.acceptance(source, id).await?.unwrap_or_else(|| acceptance.clone()))
    }
}
