//! What stands in the repository: which backups, whose objects, and what belongs to nobody.
//!
//! *Ordering*: objects are listed → backups are listed, their fates, manifests and intents read → backups are listed once more. Whatever is
//! among the objects was announced before them, so its backup is known. A backup whose intent stands in the last listing holds back all
//! deletes of its source; one whose intent comes later sees every doom that was read. *Invariant*: while the needs of one backup
//! are not known, nothing at all is garbage.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use dozo_model::{BackupId, FORMAT_VERSION, LeaseRecord, ManifestForm, ManifestHead, SourceName, Timestamp};
use dozo_store::{Layout, ObjectInfo, StoreError};

use crate::Result;
use crate::fate::Fate;
use crate::gc::{GcOptions, GcPlan, MarkedBackup, Uncommitted, UncommittedBackup};
use crate::holder::lives;
use crate::repository::{BackupEntry, BackupState, Repository};

/// A look at everything.
#[derive(Default)]
pub(crate) struct Survey {
    pub(crate) plan: GcPlan,
    /// What may go now, in this order.
    pub(crate) garbage: Vec<ObjectInfo>,
    /// What killed uploads left, and may go.
    pub(crate) unfinished: Vec<ObjectInfo>,
    /// Backups that hold back the deletes of their source.
    pub(crate) running: BTreeSet<(SourceName, BackupId)>,
    /// Backups that are doomed or aborted: whatever only they name goes, however young.
    gone: HashSet<BackupId>,
    /// Backups without a manifest, by their place in the plan.
    open: HashMap<BackupId, usize>,
}

/// What lies beside each backup.
type Beside = BTreeMap<(SourceName, BackupId), Vec<ObjectInfo>>;

impl Repository {
    pub(crate) async fn survey(&self, options: &GcOptions) -> Result<Survey> {
        let data = self.store().list(Layout::DATA).await?;
        let entries = self.entries::<ManifestHead>(None).await?;
        let mut survey = Survey::default();
        let beside = survey.beside(self.store().list(Layout::BACKUPS).await?);
        let known: HashSet<(&SourceName, &BackupId)> = entries.iter().map(|e| (&e.source, &e.id)).collect();
        survey.running.extend(beside.keys().filter(|(source, id)| !known.contains(&(source, id))).cloned());
        // Whose objects are named by others was committed once.
        let mut parents: HashSet<BackupId> = HashSet::new();
        let mut named: HashSet<&str> = HashSet::new();
        for entry in &entries {
            let BackupState::Committed(manifest) = &entry.state else { continue };
            named.extend(manifest.keys());
            parents.extend(manifest.parent.clone());
            parents.extend(manifest.keys().filter_map(Layout::owner));
        }
        for entry in &entries {
            let own = beside.get(&(entry.source.clone(), entry.id.clone())).map_or(&[][..], Vec::as_slice);
            let state = match &entry.state {
                BackupState::Uncommitted(_) => Some(self.uncommitted(entry, own, options).await?),
                _ => None,
            };
            survey.classify(entry, own, state, parents.contains(&entry.id));
        }
        let ids: HashSet<&BackupId> = entries.iter().map(|e| &e.id).collect();
        survey.unnamed(data.into_iter().filter(|o| !named.contains(o.key.as_str())), &ids, options);
        self.strays(&mut survey, options).await?;
        if !survey.plan.unreadable.is_empty() {
            // What they need cannot be known, so nothing can be called an orphan.
            survey.plan.orphans.clear();
            survey.plan.orphan_bytes = 0;
            survey.garbage.clear();
            survey.unfinished.clear();
        }
        // Aborted ones of which nothing but the mark is left are no news.
        survey.plan.uncommitted.retain(|b| b.state != Uncommitted::Aborted || b.objects > 1);
        Ok(survey)
    }

    /// Tells whether a backup without a manifest is to be waited for. Being wrong costs work, never an object that a committed
    /// backup names.
    async fn uncommitted(
        &self,
        entry: &BackupEntry<ManifestHead>,
        own: &[ObjectInfo],
        options: &GcOptions,
    ) -> Result<Uncommitted> {
        let BackupState::Uncommitted(intent) = &entry.state else { return Ok(Uncommitted::Aborted) };
        // Whoever holds the lease for it works on it; it may be another process than the one that began it.
        let (_, lease) = self.newest_lease(&entry.source).await?;
        let patience = options.grace.max(3 * self.lease_times().dead_after);
        let beats = |l: &LeaseRecord| lives(&l.holder).unwrap_or(!older(l.written, options.now, patience));
        let held = lease.as_ref().is_some_and(|l| l.backup == entry.id && beats(l));
        let running = held
            || intent.as_ref().and_then(|i| lives(&i.holder)).unwrap_or_else(|| {
                let newest = own.iter().map(|o| o.modified).max().unwrap_or(options.now);
                !older(intent.as_ref().map_or(newest, |i| i.started), options.now, options.grace)
            });
        Ok(if running { Uncommitted::Running } else { Uncommitted::Abandoned })
    }

    /// Finds what probes and killed uploads left.
    async fn strays(&self, survey: &mut Survey, options: &GcOptions) -> Result<()> {
        let old = |o: &ObjectInfo| older(o.modified, options.now, options.grace);
        for folder in self.store().folders("").await?.into_iter().filter(|name| is_probe(name)) {
            for object in self.store().list(&folder).await? {
                survey.plan.orphan_bytes += object.bytes;
                survey.plan.orphans.push(object.key.clone());
                survey.garbage.extend(Some(object).filter(old));
            }
        }
        let unfinished = match self.store().unfinished().await {
            Err(e @ (StoreError::Denied { .. } | StoreError::Unsupported { .. })) => {
                survey.plan.not_looked_at.push(format!("unfinished uploads: {e}"));
                Vec::new()
            }
            listed => listed?,
        };
        for object in unfinished {
            let key = object.key.rsplit_once('#').map_or(object.key.as_str(), |(key, _)| key);
            if !Layout::is_own(key) && !key.split('/').next().is_some_and(is_probe) {
                survey.plan.foreign.push(object.key);
                continue;
            }
            survey.plan.unfinished_bytes += object.bytes;
            survey.plan.unfinished.push(object.key.clone());
            let may_go = old(&object) && !survey.is_held(&object.key);
            survey.unfinished.extend(Some(object).filter(|_| may_go));
        }
        Ok(())
    }
}

impl Survey {
    /// Sorts what lies beside backups. What lies where no backup does is told.
    fn beside(&mut self, listed: Vec<ObjectInfo>) -> Beside {
        let mut beside = Beside::new();
        for object in listed {
            let mut parts = object.key.split('/').skip(1);
            let source = parts.next().and_then(|s| SourceName::parse(s).ok());
            match (source, parts.next().and_then(|id| BackupId::parse(id).ok())) {
                (Some(source), Some(id)) => beside.entry((source, id)).or_default().push(object),
                _ => {
                    // Somebody renamed a folder: what its backup needs is not seen.
                    let lost = object.key.ends_with("/manifest.json");
                    let list = if lost { &mut self.plan.unreadable } else { &mut self.plan.foreign };
                    list.push(format!("{} stands where no backup of dozo stands", object.key));
                }
            }
        }
        beside
    }

    /// Decides what a backup is, and what beside it may go.
    fn classify(
        &mut self,
        entry: &BackupEntry<ManifestHead>,
        own: &[ObjectInfo],
        uncommitted: Option<Uncommitted>,
        parent: bool,
    ) {
        let (source, id) = (entry.source.clone(), entry.id.clone());
        if let (Some(why), false) = (&entry.fate_unknown, matches!(entry.state, BackupState::Unreadable(_))) {
            self.plan.unreadable.push(format!("the fate of {source}@{id} is not known: {why}"));
        }
        let state = match &entry.state {
            BackupState::Committed(manifest) => {
                if manifest.min_deleter > FORMAT_VERSION {
                    self.plan.unreadable.push(format!("{source}@{id} asks for a newer dozo to delete anything"));
                }
                if let Fate::Marked(mark) = &entry.fate {
                    self.plan.marked.push(MarkedBackup { source, id, due: mark.due.or(Some(mark.at)) });
                }
                return;
            }
            BackupState::Unreadable(why) => return self.plan.unreadable.push(why.clone()),
            BackupState::Doomed(_) => {
                let left = self.discard(own, |key| key.contains("/fate-"));
                if left > 0 {
                    self.plan.marked.push(MarkedBackup { source, id, due: None });
                }
                self.gone.insert(entry.id.clone());
                return;
            }
            BackupState::Aborted => {
                self.discard(own, |key| key.ends_with("/manifest.json"));
                self.gone.insert(id.clone());
                Uncommitted::Aborted
            }
            BackupState::Uncommitted(_) => {
                // A check, an acceptance, a fate or a child: it was committed, and its manifest is lost, unless it came since.
                let is_event =
                    |key: &str| ["/checks/", "/holds/", "/accepted.json", "/fate-"].iter().any(|part| key.contains(part));
                let events = own.iter().any(|o| is_event(&o.key));
                let committed_since = own.iter().any(|o| o.key.ends_with("/manifest.json"));
                if (events || parent) && !committed_since {
                    return self.plan.unreadable.push(format!("the manifest of {source}@{id} is missing"));
                }
                self.running.insert((source.clone(), id.clone()));
                uncommitted.unwrap_or(Uncommitted::Running)
            }
        };
        let started = match &entry.state {
            BackupState::Uncommitted(Some(intent)) => Some(intent.started),
            _ => None,
        };
        self.open.insert(id.clone(), self.plan.uncommitted.len());
        let (objects, bytes) = (own.len() as u64, own.iter().map(|o| o.bytes).sum());
        self.plan.uncommitted.push(UncommittedBackup { source, id, started, state, objects, bytes });
    }

    /// Takes what dozo wrote beside a backup for garbage, but for what is to stay. Returns how much that is.
    fn discard(&mut self, own: &[ObjectInfo], stays: impl Fn(&str) -> bool) -> usize {
        let (ours, foreign): (Vec<&ObjectInfo>, Vec<_>) =
            own.iter().filter(|o| !stays(&o.key)).partition(|o| Layout::is_own(&o.key));
        self.plan.foreign.extend(foreign.into_iter().map(|o| o.key.clone()));
        self.garbage.extend(ours.iter().map(|o| (*o).clone()));
        ours.len()
    }

    /// Decides about data that no committed backup names, and puts all garbage in its order: data first, and a manifest only when
    /// nothing that it names is left.
    fn unnamed(&mut self, data: impl Iterator<Item = ObjectInfo>, ids: &HashSet<&BackupId>, options: &GcOptions) {
        let (mut garbage, mut lost) = (Vec::new(), HashSet::new());
        for object in data {
            let Some(id) = Layout::owner(&object.key) else {
                self.plan.foreign.push(object.key);
                continue;
            };
            if !ids.contains(&id) {
                // Intents come before objects, and aborts and dooms stay: its folder is lost, and what else it named is unknown.
                if lost.insert(id.clone()) {
                    self.plan.unreadable.push(format!("{} is there, and nothing of its backup {id} is", object.key));
                }
                continue;
            }
            if let Some(backup) = self.open.get(&id).and_then(|n| self.plan.uncommitted.get_mut(*n)) {
                backup.objects += 1;
                backup.bytes += object.bytes;
            } else {
                self.plan.orphan_bytes += object.bytes;
                self.plan.orphans.push(object.key.clone());
            }
            if self.gone.contains(&id) || older(object.modified, options.now, options.grace) {
                garbage.push(object);
            }
        }
        let beside = std::mem::take(&mut self.garbage);
        let (manifests, files): (Vec<_>, Vec<_>) = beside.into_iter().partition(|o| o.key.ends_with("/manifest.json"));
        garbage.extend(files);
        garbage.extend(manifests);
        garbage.retain(|o| !self.is_held(&o.key));
        self.garbage = garbage;
    }

    /// Tells whether a running backup holds back what lies under this key.
    fn is_held(&self, key: &str) -> bool {
        let source = key.split('/').nth(1);
        self.running.iter().any(|(held, _)| Some(held.as_str()) == source)
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
