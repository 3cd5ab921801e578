//! What stands in the repository and belongs to no backup, and its deletion.
//!
//! *Invariants*: an object goes only when no committed backup names it and no backup that may still be committed could. A manifest
//! that cannot be read, is missing though its backup was committed, or asks for a newer deleter stops every deletion.
//! *Ordering* of `gc_apply`: due marks are doomed → abandoned backups are aborted → objects are listed → fates, manifests and intents
//! are read → backups are listed once more → deletes. A backup whose intent stands then holds back all deletes of its source; one
//! whose intent comes later sees every doom that was read. *Crash behaviour*: objects of a doomed backup go before its manifest, its fate stays; the next run
//! goes on.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use dozo_model::{BackupId, FORMAT_VERSION, LeaseRecord, Operator, SourceName, Timestamp};
use dozo_store::{Layout, ObjectInfo};
use serde::Serialize;

use crate::fate::{Decision, Fate};
use crate::holder::{lives, this_host};
use crate::repository::{BackupEntry, BackupState, Repository};
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
    /// Sources of which nothing was deleted, because these backups are running.
    pub postponed: Vec<String>,
}

/// A look at everything.
struct Survey {
    plan: GcPlan,
    /// What may go now, in this order.
    garbage: Vec<ObjectInfo>,
    /// What killed uploads left, and may go.
    unfinished: Vec<ObjectInfo>,
    /// Backups that hold back the deletes of their source.
    running: BTreeSet<(SourceName, BackupId)>,
}

impl Repository {
    /// Finds uncommitted and marked backups, orphans and staging files. Changes nothing.
    ///
    /// # Errors
    /// What the store says.
    pub async fn gc_plan(&self, options: &GcOptions) -> Result<GcPlan> {
        Ok(self.survey(options).await?.plan)
    }

    /// Dooms due marks, aborts abandoned backups, and deletes what nothing needs.
    ///
    /// # Errors
    /// [`CatalogError::UnknownNeeds`], [`CatalogError::NoCreateOnly`], or what the store says; what was deleted by then was garbage.
    pub async fn gc_apply(&self, options: &GcOptions, operator: &Operator) -> Result<GcDone> {
        if !self.marker().create_only && options.only_host.as_deref() != Some(this_host().as_str()) {
            return Err(CatalogError::NoCreateOnly { url: self.store().url().to_owned() });
        }
        let plan = self.gc_plan(options).await?;
        refuse_unknown(&plan)?;
        let mut done = GcDone::default();
        let decision = |reason| Decision { operator, at: options.now, reason };
        for backup in plan.marked.iter().filter(|m| m.due.is_some_and(|due| due <= options.now)) {
            let (source, id) = (&backup.source, &backup.id);
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
        refuse_unknown(&survey.plan)?;
        for object in &survey.garbage {
            self.store().delete(&object.key).await?;
            done.objects += 1;
            done.bytes += object.bytes;
        }
        for object in &survey.unfinished {
            self.store().remove_unfinished(&object.key).await?;
            done.objects += 1;
            done.bytes += object.bytes;
        }
        done.postponed = survey.running.iter().map(|(source, id)| format!("{source}@{id}")).collect();
        Ok(done)
    }

    async fn survey(&self, options: &GcOptions) -> Result<Survey> {
        // Objects first: whatever is listed here was announced before, so the catalog read below knows its backup.
        let data = self.store().list(Layout::DATA).await?;
        let entries = self.backups(None).await?;
        // Intents last: one that comes later than this listing sees every doom that was read above.
        let mut misplaced = Vec::new();
        let mut beside: BTreeMap<(SourceName, BackupId), Vec<ObjectInfo>> = BTreeMap::new();
        for object in self.store().list(Layout::BACKUPS).await? {
            let mut parts = object.key.split('/').skip(1);
            let source = parts.next().and_then(|s| SourceName::parse(s).ok());
            match (source, parts.next().and_then(|id| BackupId::parse(id).ok())) {
                (Some(source), Some(id)) => beside.entry((source, id)).or_default().push(object),
                _ => misplaced.push(object.key),
            }
        }
        let known: HashSet<(&SourceName, &BackupId)> = entries.iter().map(|e| (&e.source, &e.id)).collect();
        let came_since = beside.keys().filter(|(source, id)| !known.contains(&(source, id))).cloned();
        let mut survey =
            Survey { plan: GcPlan::default(), garbage: Vec::new(), unfinished: Vec::new(), running: came_since.collect() };
        let plan = &mut survey.plan;
        for key in misplaced {
            // Somebody renamed a folder: what its backup needs is not seen.
            let list = if key.ends_with("/manifest.json") { &mut plan.unreadable } else { &mut plan.foreign };
            list.push(format!("{key} stands where no backup of dozo stands"));
        }
        let mut named: HashSet<&str> = HashSet::new();
        // Whose objects are named by others was committed once.
        let mut parents: HashSet<BackupId> = HashSet::new();
        for entry in &entries {
            let BackupState::Committed(manifest) = &entry.state else { continue };
            named.extend(manifest.objects.iter().map(|o| o.key.as_str()));
            parents.extend(manifest.parent.clone());
            parents.extend(manifest.objects.iter().filter_map(|o| Layout::owner(&o.key)));
            if manifest.min_deleter > FORMAT_VERSION {
                plan.unreadable.push(format!("{}@{} asks for a newer dozo to delete anything", entry.source, entry.id));
            }
            if let Fate::Marked(record) = self.fate(&entry.source, &entry.id).await? {
                let (source, id) = (entry.source.clone(), entry.id.clone());
                plan.marked.push(MarkedBackup { source, id, due: record.due.or(Some(record.at)) });
            }
        }
        let mut open: BTreeMap<&BackupId, usize> = BTreeMap::new();
        let mut gone: HashSet<&BackupId> = HashSet::new();
        for entry in &entries {
            let own = beside.get(&(entry.source.clone(), entry.id.clone())).map_or(&[][..], Vec::as_slice);
            let state = match &entry.state {
                BackupState::Committed(_) => continue,
                BackupState::Unreadable(why) => {
                    plan.unreadable.push(why.clone());
                    continue;
                }
                BackupState::Doomed(_) => {
                    gone.insert(&entry.id);
                    let left: Vec<ObjectInfo> = own.iter().filter(|o| !o.key.contains("/fate-")).cloned().collect();
                    if !left.is_empty() {
                        plan.marked.push(MarkedBackup { source: entry.source.clone(), id: entry.id.clone(), due: None });
                    }
                    survey.garbage.extend(left);
                    continue;
                }
                BackupState::Aborted => {
                    gone.insert(&entry.id);
                    survey.garbage.extend(own.iter().filter(|o| !o.key.ends_with("/manifest.json")).cloned());
                    Uncommitted::Aborted
                }
                BackupState::Uncommitted(_) => {
                    // A check, an acceptance, a fate or a child: it was committed, and its manifest is lost, unless it came since.
                    let is_event = |key: &str| ["/checks/", "/accepted.json", "/fate-"].iter().any(|part| key.contains(part));
                    let events = own.iter().any(|o| is_event(&o.key));
                    let committed_since = own.iter().any(|o| o.key.ends_with("/manifest.json"));
                    if (events || parents.contains(&entry.id)) && !committed_since {
                        plan.unreadable.push(format!("the manifest of {}@{} is missing", entry.source, entry.id));
                        continue;
                    }
                    let newest = own.iter().map(|o| o.modified).max().unwrap_or(options.now);
                    let state = self.uncommitted(entry, newest, options).await?;
                    survey.running.insert((entry.source.clone(), entry.id.clone()));
                    state
                }
            };
            open.insert(&entry.id, plan.uncommitted.len());
            plan.uncommitted.push(UncommittedBackup {
                source: entry.source.clone(),
                id: entry.id.clone(),
                started: match &entry.state {
                    BackupState::Uncommitted(Some(intent)) => Some(intent.started),
                    _ => None,
                },
                state,
                objects: own.len() as u64,
                bytes: own.iter().map(|o| o.bytes).sum(),
            });
        }
        let old = |o: &ObjectInfo| older(o.modified, options.now, options.grace);
        let held: HashSet<&str> = survey.running.iter().map(|(source, _)| source.as_str()).collect();
        let is_held = |o: &ObjectInfo| o.key.split('/').nth(1).is_some_and(|source| held.contains(source));
        let mut garbage = Vec::new();
        let ids: HashSet<&BackupId> = entries.iter().map(|e| &e.id).collect();
        let mut lost: HashSet<BackupId> = HashSet::new();
        for object in data.into_iter().filter(|o| !named.contains(o.key.as_str())) {
            let Some(id) = Layout::owner(&object.key) else {
                plan.foreign.push(object.key);
                continue;
            };
            if !ids.contains(&id) {
                // Intents come before objects, and aborts and dooms stay: its folder is lost, and what else it named is unknown.
                if lost.insert(id.clone()) {
                    plan.unreadable.push(format!("{} is there, and nothing of its backup {id} is", object.key));
                }
                continue;
            }
            if let Some(backup) = open.get(&id).and_then(|n| plan.uncommitted.get_mut(*n)) {
                backup.objects += 1;
                backup.bytes += object.bytes;
            } else {
                plan.orphan_bytes += object.bytes;
                plan.orphans.push(object.key.clone());
            }
            if gone.contains(&id) || old(&object) {
                garbage.push(object);
            }
        }
        // Data first, and a manifest only when nothing that it names is left.
        let (manifests, files): (Vec<_>, Vec<_>) = survey.garbage.into_iter().partition(|o| o.key.ends_with("/manifest.json"));
        garbage.extend(files);
        garbage.extend(manifests);
        garbage.retain(|o| !is_held(o));
        for folder in self.store().folders("").await?.into_iter().filter(|name| is_probe(name)) {
            for object in self.store().list(&folder).await? {
                plan.orphan_bytes += object.bytes;
                plan.orphans.push(object.key.clone());
                garbage.extend(Some(object).filter(old));
            }
        }
        for object in self.store().unfinished().await? {
            plan.unfinished_bytes += object.bytes;
            plan.unfinished.push(object.key.clone());
            survey.unfinished.extend(Some(object).filter(|o| old(o) && !is_held(o)));
        }
        if !plan.unreadable.is_empty() {
            // What they need cannot be known, so nothing can be called an orphan.
            plan.orphans.clear();
            plan.orphan_bytes = 0;
            garbage.clear();
            survey.unfinished.clear();
        }
        // Aborted ones of which nothing but the mark is left are no news.
        plan.uncommitted.retain(|b| b.state != Uncommitted::Aborted || b.objects > 1);
        survey.garbage = garbage;
        Ok(survey)
    }

    /// Tells whether a backup without a manifest is to be waited for. Being wrong costs work, never an object that a committed
    /// backup names.
    async fn uncommitted(&self, entry: &BackupEntry, newest: Timestamp, options: &GcOptions) -> Result<Uncommitted> {
        let BackupState::Uncommitted(intent) = &entry.state else { return Ok(Uncommitted::Aborted) };
        // Whoever holds the lease for it works on it; it may be another process than the one that began it.
        let (_, lease) = self.newest_lease(&entry.source).await?;
        let patience = options.grace.max(3 * self.lease_times().dead_after);
        let beats = |l: &LeaseRecord| lives(&l.holder).unwrap_or(!older(l.written, options.now, patience));
        let held = lease.as_ref().is_some_and(|l| l.backup == entry.id && beats(l));
        let running = held
            || intent.as_ref().and_then(|i| lives(&i.holder)).unwrap_or_else(|| {
                let started = intent.as_ref().map_or(newest, |i| i.started);
                !older(started, options.now, options.grace)
            });
        Ok(if running { Uncommitted::Running } else { Uncommitted::Abandoned })
    }
}

fn refuse_unknown(plan: &GcPlan) -> Result<()> {
    match plan.unreadable.first() {
        None => Ok(()),
        Some(first) => Err(CatalogError::UnknownNeeds { count: plan.unreadable.len(), first: first.clone() }),
    }
}

/// Tells whether something is at least so old.
fn older(at: Timestamp, now: Timestamp, least: Duration) -> bool {
    let age = now.duration_since(at);
    !age.is_negative() && age.unsigned_abs() >= least
}

/// Tells whether a folder is one that a probe of the store leaves behind.
fn is_probe(folder: &str) -> bool {
    folder.strip_prefix("probe-").is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|c| c.is_ascii_alphanumeric()))
}
