//! `gc plan`: what stands in the repository and belongs to no backup.
//!
//! *Invariants*: nothing is deleted here. A manifest that cannot be read stops every deletion, because the objects that
//! it names cannot be known; the plan says so. An object of a running backup is not an orphan.

use std::collections::{BTreeMap, HashSet};

use dozo_model::{BackupId, SourceName, Timestamp};
use dozo_store::{Layout, ObjectInfo};
use serde::Serialize;

use crate::Result;
use crate::repository::{BackupState, Repository};

/// A backup that has no manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UncommittedBackup {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// When it began, by its host's clock.
    pub started: Option<Timestamp>,
    /// Whether it holds the lease of its source now.
    pub running: bool,
    /// Whether somebody took its manifest key to abort it.
    pub aborted: bool,
    /// Its objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What could go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct GcPlan {
    /// Backups without a manifest.
    pub uncommitted: Vec<UncommittedBackup>,
    /// Objects that no manifest names and that belong to no uncommitted backup.
    pub orphans: Vec<String>,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Staging files of killed uploads (local stores).
    pub staged: Vec<String>,
    /// Their bytes.
    pub staged_bytes: u64,
    /// Manifests that cannot be read: while there is one, nothing may be deleted.
    pub unreadable: Vec<String>,
}

impl Repository {
    /// Finds uncommitted backups, orphans and staging files.
    ///
    /// # Errors
    /// What the store says.
    pub async fn gc_plan(&self) -> Result<GcPlan> {
        // Intents are read after the data listing: an object listed here whose backup begins later cannot exist.
        let data = self.store().list(Layout::DATA).await?;
        let mut plan = GcPlan::default();
        let mut named: HashSet<String> = HashSet::new();
        let mut open: BTreeMap<BackupId, UncommittedBackup> = BTreeMap::new();
        for entry in self.backups(None).await? {
            match entry.state {
                BackupState::Committed(manifest) => named.extend(manifest.objects.iter().map(|o| o.key.clone())),
                BackupState::Unreadable(why) => plan.unreadable.push(why),
                state @ (BackupState::Uncommitted(_) | BackupState::Aborted) => {
                    let (_, lease) = self.newest_lease(&entry.source).await?;
                    let running = lease.is_some_and(|l| l.backup == entry.id && !crate::holder::surely_dead(&l.holder));
                    let beside = self.store().list(&Layout::backup(&entry.source, &entry.id)).await?;
                    let started = match &state {
                        BackupState::Uncommitted(Some(intent)) => Some(intent.started),
                        _ => None,
                    };
                    open.insert(
                        entry.id.clone(),
                        UncommittedBackup {
                            source: entry.source,
                            id: entry.id,
                            started,
                            running,
                            aborted: matches!(state, BackupState::Aborted),
                            objects: beside.len() as u64,
                            bytes: beside.iter().map(|o| o.bytes).sum(),
                        },
                    );
                }
            }
        }
        for object in data.into_iter().filter(|o| !named.contains(&o.key)) {
            match backup_of(&object).and_then(|id| open.get_mut(&id)) {
                Some(backup) => {
                    backup.objects += 1;
                    backup.bytes += object.bytes;
                }
                None => {
                    plan.orphan_bytes += object.bytes;
                    plan.orphans.push(object.key);
                }
            }
        }
        if !plan.unreadable.is_empty() {
            // What an unreadable manifest names cannot be known, so nothing can be called an orphan.
            plan.orphans.clear();
            plan.orphan_bytes = 0;
        }
        plan.uncommitted = open.into_values().collect();
        for object in self.store().list("").await?.into_iter().filter(|o| o.key.starts_with("probe-")) {
            plan.orphan_bytes += object.bytes;
            plan.orphans.push(object.key);
        }
        for object in self.store().staged()? {
            plan.staged_bytes += object.bytes;
            plan.staged.push(object.key);
        }
        Ok(plan)
    }
}

/// Reads the backup id out of a data key: `<chunk>-<backup id>-<random>.parquet`.
fn backup_of(object: &ObjectInfo) -> Option<BackupId> {
    let name = object.key.rsplit('/').next()?;
    let (_, rest) = name.split_once('-')?;
    BackupId::parse(rest.get(..23)?).ok()
}
