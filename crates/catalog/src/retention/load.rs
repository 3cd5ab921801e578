//! Facts out of a repository: heads of manifests and what stands beside them, one after the other.
//!
//! *Memory*: keys of objects are kept once, however many backups name them; a manifest's tables are never built.

use std::collections::{BTreeMap, HashMap};

use dozo_model::{FORMAT_VERSION, ManifestForm, ManifestHead, SourceName, Verdict, VerifyLevel};
use futures::{StreamExt, TryStreamExt};

use super::facts::{BackupFacts, BackupKind, Facts, Mark};
use super::longest_hold;
use crate::history::{BackupRecord, History};
use crate::repository::{BackupEntry, BackupState, FETCHES, Repository};
use crate::{CatalogError, Result};

/// One backup as it was read.
enum Loaded {
    Committed(Box<BackupRecord<ManifestHead>>),
    Unreadable(String),
    Nothing,
}

/// Keys of objects, and their places.
type Places = HashMap<String, u32>;

impl Repository {
    /// Loads what a retention plan is made of.
    ///
    /// # Errors
    /// What the store says. What cannot be read is among the facts.
    pub async fn retention_facts(&self) -> Result<Facts> {
        let mut facts = Facts::default();
        let listed = self.listed(None).await?;
        let mut sources: Vec<SourceName> = listed.iter().map(|(source, ..)| source.clone()).collect();
        sources.dedup();
        let mut loaded = futures::stream::iter(listed)
            .map(|one| async move { self.load(self.entry::<ManifestHead>(one).await?).await })
            .buffered(FETCHES);
        let mut places = Places::new();
        while let Some(one) = loaded.try_next().await? {
            match one {
                Loaded::Committed(record) => facts.take(&record, &mut places),
                Loaded::Unreadable(why) => facts.unreadable.push(why),
                Loaded::Nothing => {}
            }
        }
        drop(loaded);
        let mut joined = BTreeMap::new();
        for source in sources {
            match self.joined(&source).await {
                Ok(sets) if sets.is_empty() => {}
                Ok(sets) => drop(joined.insert(source, sets)),
                Err(e @ CatalogError::Record { .. }) => facts.unreadable.push(e.to_string()),
                Err(e) => return Err(e),
            }
        }
        facts.joined = joined;
        Ok(facts)
    }

    async fn load(&self, entry: BackupEntry<ManifestHead>) -> Result<Loaded> {
        let label = format!("{}@{}", entry.source, entry.id);
        if let Some(why) = entry.fate_unknown {
            return Ok(Loaded::Unreadable(format!("the fate of {label} is not known: {why}")));
        }
        match &entry.state {
            BackupState::Committed(manifest) if manifest.min_deleter > FORMAT_VERSION => {
                return Ok(Loaded::Unreadable(format!("{label} asks for a newer dozo to delete anything")));
            }
            BackupState::Unreadable(why) => return Ok(Loaded::Unreadable(why.clone())),
            // It was committed once.
            BackupState::Uncommitted(_) if entry.beside.has_events() => {
                return Ok(Loaded::Unreadable(format!("the manifest of {label} is missing")));
            }
            _ => {}
        }
        Ok(self.record_of(entry).await?.map_or(Loaded::Nothing, |record| Loaded::Committed(Box::new(record))))
    }
}

impl Facts {
    /// Returns the facts of one source whose history was loaded.
    #[must_use]
    pub fn of(history: &History) -> Self {
        let (mut facts, mut places) = (Self::default(), Places::new());
        for record in &history.records {
            facts.take(record, &mut places);
        }
        if let (Some(first), false) = (history.records.first(), history.joined.is_empty()) {
            facts.joined.insert(first.manifest.source.clone(), history.joined.clone());
        }
        facts
    }

    /// Adds a backup that nobody else knows of yet.
    pub(super) fn add<M: ManifestForm>(&mut self, record: &BackupRecord<M>) {
        // Its objects count for sizes alone.
        self.take(record, &mut Places::new());
    }

    fn take<M: ManifestForm>(&mut self, record: &BackupRecord<M>, places: &mut Places) {
        let manifest = record.manifest.as_ref();
        let marked = record.mark.as_ref().map(|m| m.at);
        let written = record.checks.iter().map(|c| c.at).chain(record.holds.iter().map(|h| h.at)).chain(marked).max();
        if let Some(at) = written.filter(|at| self.latest_record.as_ref().is_none_or(|(known, _)| at > known)) {
            self.latest_record = Some((at, format!("{}@{}", manifest.source(), manifest.id())));
        }
        let check = Repository::verified(&record.checks, VerifyLevel::Content);
        let findings = !Repository::open_findings(&record.checks).is_empty();
        let mut objects = Vec::new();
        for (key, bytes) in manifest.sizes() {
            let next = u32::try_from(self.objects.len()).unwrap_or(u32::MAX);
            let place = places.get(key).copied().unwrap_or_else(|| {
                self.objects.push(bytes);
                places.insert(key.to_owned(), next);
                next
            });
            objects.push(place);
        }
        self.backups.push(BackupFacts {
            source: manifest.source().clone(),
            id: manifest.id().clone(),
            kind: BackupKind::Logical,
            incarnation: manifest.server().map(str::to_owned),
            started: manifest.started(),
            finished: manifest.finished(),
            state: if findings || record.damaged.is_some() { "damaged" } else { record.state() },
            good: record.good(),
            verified: check.is_some_and(|c| c.verdict == Verdict::Passed) && !findings,
            hold: longest_hold(&record.holds),
            needs: Vec::new(),
            unknown: record.damaged.clone(),
            locked_until: manifest.locked_until(),
            mark: record.mark.as_ref().map(|m| Mark { due: m.due.unwrap_or(m.at), reason: m.reason.clone() }),
            objects,
        });
    }
}
