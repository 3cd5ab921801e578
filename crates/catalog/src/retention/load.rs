//! Facts out of a repository: heads of manifests and what stands beside them, one after the other.
//!
//! *Memory*: keys of objects are kept once, however many backups name them; a manifest's tables are never built.

use std::collections::{BTreeMap, HashMap};

use dozo_model::{FORMAT_VERSION, ManifestHead, SourceName, Timestamp, Verdict, VerifyLevel};
use futures::{StreamExt, TryStreamExt};

use super::facts::{BackupFacts, BackupKind, Facts, Mark};
use super::hold::newest_hold;
use crate::Result;
use crate::fate::Fate;
use crate::history::BackupRecord;
use crate::repository::{BackupEntry, BackupState, FETCHES, Repository};

/// One backup as it was read.
enum Loaded {
    Committed(Box<BackupRecord<ManifestHead>>, Option<Mark>, Option<Timestamp>),
    Unreadable(String),
    Nothing,
}

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
        let mut places: HashMap<String, u32> = HashMap::new();
        while let Some(one) = loaded.try_next().await? {
            match one {
                Loaded::Committed(record, mark, at) => {
                    let label = format!("{}@{}", record.manifest.source, record.manifest.id);
                    let latest = record.checks.iter().map(|c| c.at).chain(record.holds.iter().map(|h| h.at)).chain(at).max();
                    if let Some(latest) = latest.filter(|at| facts.latest_record.as_ref().is_none_or(|(known, _)| at > known)) {
                        facts.latest_record = Some((latest, label));
                    }
                    let backup = facts.take(*record, mark, &mut places);
                    facts.backups.push(backup);
                }
                Loaded::Unreadable(why) => facts.unreadable.push(why),
                Loaded::Nothing => {}
            }
        }
        drop(loaded);
        let mut joined = BTreeMap::new();
        for source in sources {
            let sets = self.joined(&source).await?;
            if !sets.is_empty() {
                joined.insert(source, sets);
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
        let manifest = match entry.state {
            BackupState::Committed(manifest) => manifest,
            BackupState::Unreadable(why) => return Ok(Loaded::Unreadable(why)),
            // It was committed once.
            BackupState::Uncommitted(_) if entry.beside.has_events() => {
                return Ok(Loaded::Unreadable(format!("the manifest of {label} is missing")));
            }
            BackupState::Uncommitted(_) | BackupState::Aborted | BackupState::Doomed(_) => return Ok(Loaded::Nothing),
        };
        if manifest.min_deleter > FORMAT_VERSION {
            return Ok(Loaded::Unreadable(format!("{label} asks for a newer dozo to delete anything")));
        }
        let (mark, at) = match entry.fate {
            Fate::Marked(r) => (Some(Mark { due: r.due.unwrap_or(r.at), reason: r.reason }), Some(r.at)),
            _ => (None, None),
        };
        let record = self.record_with(manifest, entry.beside).await?;
        Ok(Loaded::Committed(Box::new(record), mark, at))
    }
}

impl Facts {
    fn take(&mut self, record: BackupRecord<ManifestHead>, mark: Option<Mark>, places: &mut HashMap<String, u32>) -> BackupFacts {
        let (good, state) = (record.good(), record.state());
        let check = Repository::verified(&record.checks, VerifyLevel::Content);
        let findings = !Repository::open_findings(&record.checks).is_empty();
        let verified = check.is_some_and(|c| c.verdict == Verdict::Passed) && !findings;
        let head = *record.manifest;
        let mut objects = Vec::with_capacity(head.objects.len());
        for object in head.objects {
            let place = *places.entry(object.key).or_insert_with(|| {
                self.objects.push(object.bytes);
                u32::try_from(self.objects.len() - 1).unwrap_or(u32::MAX)
            });
            objects.push(place);
        }
        BackupFacts {
            source: head.source,
            id: head.id,
            kind: BackupKind::Logical,
            incarnation: head.server.system_identifier,
            started: head.started,
            finished: head.finished,
            state: if findings || record.damaged.is_some() { "damaged" } else { state },
            good,
            verified,
            hold: newest_hold(&record.holds),
            needs: Vec::new(),
            unknown: record.damaged,
            mark,
            objects,
        }
    }
}
