//! Who decides that a backup goes, or stays: create-only puts, never clocks or leases.
//!
//! *Protocol*: a committed backup gets a tombstone (`fate-<even n>.json`). At the key behind it stands, later, either `doom` or
//! `undo`: whoever creates it decides. Only a won doom licenses deletes; it is final, and stays for ever, so that a commit that
//! was repeated by a process asleep since then brings nothing back to life. A backup that was never committed is discarded by taking its
//! manifest's key. *Ordering*: a backup looks at its parent's fate after its intent was put, and again before its manifest.

use dozo_model::{
    AbortRecord, BackupId, FORMAT_VERSION, FateRecord, FateState, ManifestError, Operator, SourceName, Timestamp, random_suffix,
};
use dozo_store::{Layout, PutOutcome};

use crate::holder::surely_dead;
use crate::repository::{BackupState, Repository, from_json, to_json};
use crate::{CatalogError, Result};

/// What is to become of a committed backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stands,
    /// It is to go, and can be taken back.
    Marked(FateRecord),
    /// It goes, or is gone.
    Doomed(FateRecord),
}

impl Fate {
    /// Returns the mark that can be taken back, if there is one.
    #[must_use]
    pub fn mark(&self) -> Option<&FateRecord> {
        match self {
            Self::Marked(record) => Some(record),
            _ => None,
        }
    }
}

/// What the records about a backup say.
#[derive(Debug)]
pub(crate) struct Fates {
    pub(crate) fate: Fate,
    /// Number of the record that would change it.
    pub(crate) next: u32,
    /// The newest record cannot be read: nobody may delete, or lean on the backup.
    pub(crate) unknown: Option<CatalogError>,
}

/// Somebody who decides about a backup.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// Who.
    pub operator: &'a Operator,
    /// When, by this host's clock.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: &'a str,
}

impl Decision<'_> {
    fn record(&self, backup: &BackupId, state: FateState, due: Option<Timestamp>) -> FateRecord {
        FateRecord {
            format: FORMAT_VERSION,
            backup: backup.clone(),
            state,
            at: self.at,
            due,
            reason: self.reason.to_owned(),
            nonce: random_suffix(&mut rand::rng(), 12),
            operator: self.operator.clone(),
            replica_of: None,
        }
    }
}

impl Repository {
    /// Returns the fate of a backup.
    ///
    /// # Errors
    /// What the store says, or a damaged record.
    pub async fn fate(&self, source: &SourceName, id: &BackupId) -> Result<Fate> {
        Ok(self.fate_and_next(source, id).await?.0)
    }

    /// Returns the fate, and the number of the record that would change it.
    async fn fate_and_next(&self, source: &SourceName, id: &BackupId) -> Result<(Fate, u32)> {
        let fates = self.fates(source, id).await?;
        match fates.unknown {
            Some(error) => Err(error),
            None => Ok((fates.fate, fates.next)),
        }
    }

    /// Reads all records about a backup.
    pub(crate) async fn fates(&self, source: &SourceName, id: &BackupId) -> Result<Fates> {
        let listed = self.store().list(&Layout::backup(source, id)).await?;
        let numbers = listed.iter().filter_map(|o| fate_number(&o.key)).collect();
        self.fates_of(source, id, numbers).await
    }

    /// Reads the records of these numbers. A doom counts wherever it stands; else the newest record does. One that is lost was answered
    /// by the one behind it; one that cannot be read, and is the newest, leaves the fate unknown.
    pub(crate) async fn fates_of(&self, source: &SourceName, id: &BackupId, mut numbers: Vec<u32>) -> Result<Fates> {
        numbers.sort_unstable();
        let mut fates = Fates { fate: Fate::Stands, next: numbers.last().map_or(0, |n| n + 1), unknown: None };
        // A doom is final and the last one: of what is gone, one record is read.
        if let Some(last) = numbers.last().copied().filter(|n| n % 2 == 1)
            && let Ok(record) = self.fate_record(source, id, last).await?
            && record.state == FateState::Doom
        {
            return Ok(Fates { fate: Fate::Doomed(record), ..fates });
        }
        for n in numbers {
            let key = fate_key(source, id, n);
            let fate = match self.fate_record(source, id, n).await?.map(|record| (n % 2, record.state, record)) {
                Ok((1, FateState::Doom, record)) => {
                    return Ok(Fates { fate: Fate::Doomed(record), next: n + 1, unknown: None });
                }
                Ok((0, FateState::Tombstone, record)) => Ok(Fate::Marked(record)),
                Ok((1, FateState::Undo, _)) => Ok(Fate::Stands),
                Ok(_) => Err(CatalogError::Record { key, reason: "it stands where another kind of record belongs".into() }),
                Err(e) => Err(e),
            };
            match fate {
                Ok(fate) => (fates.fate, fates.unknown) = (fate, None),
                Err(e) => fates.unknown = Some(e),
            }
        }
        Ok(fates)
    }

    /// Reads one record. What cannot be believed is an error inside, what the store says one outside.
    async fn fate_record(&self, source: &SourceName, id: &BackupId, n: u32) -> Result<Result<FateRecord>> {
        let key = fate_key(source, id, n);
        Ok(match self.store().get_opt(&key).await? {
            Some(bytes) => from_json(&key, &bytes),
            None => Err(CatalogError::Record { key, reason: "it is listed, and cannot be read".into() }),
        })
    }

    /// Marks a committed backup for deletion, which may be taken back until it is doomed. Returns the mark that stands.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`] when it is not committed, [`CatalogError::Doomed`], or what the store says.
    pub async fn mark(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>, due: Timestamp) -> Result<FateRecord> {
        let manifest = self.manifest(source, id).await?;
        let mut record = by.record(id, FateState::Tombstone, Some(due));
        record.replica_of = manifest.replica_of;
        loop {
            let n = match self.fate_and_next(source, id).await? {
                (Fate::Marked(found), _) => return Ok(found),
                (Fate::Doomed(found), _) => return Err(doomed(source, id, found)),
                (Fate::Stands, n) => n,
            };
            if self.put_fate(source, id, n, &record).await? {
                return Ok(record);
            }
        }
    }

    /// Takes a mark back.
    ///
    /// # Errors
    /// [`CatalogError::NotMarked`], [`CatalogError::Doomed`] when it is too late, or what the store says.
    pub async fn undo(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>) -> Result<()> {
        loop {
            match self.decide(source, id, &by.record(id, FateState::Undo, None)).await? {
                Fate::Doomed(found) => return Err(doomed(source, id, found)),
                Fate::Stands => return Ok(()),
                // Somebody else took it back, and somebody marked it again: that mark is to go as well.
                Fate::Marked(_) => {}
            }
        }
    }

    /// Gives a backup up whose manifest is damaged or lost, so that deletions can go on. What it alone needs becomes garbage.
    ///
    /// # Errors
    /// [`CatalogError::Readable`] when its manifest can be read, [`CatalogError::Manifest`] when a newer dozo can read it,
    /// [`CatalogError::LeaseHeld`] while it is made, [`CatalogError::NoBackup`], or what the store says.
    pub async fn give_up(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>) -> Result<()> {
        let owned = async || {
            let data = self.store().list(&format!("{}/{source}", Layout::DATA)).await?;
            Ok::<_, CatalogError>(data.iter().any(|o| Layout::owner(&o.key).as_ref() == Some(id)))
        };
        if self.store().list(&Layout::backup(source, id)).await?.is_empty() && !owned().await? {
            return Err(CatalogError::NoBackup { selector: format!("{source}@{id}") });
        }
        match self.fates_and_manifest(source, id).await {
            Err(CatalogError::Doomed { .. }) => return Ok(()),
            Ok((Fates { unknown: None, .. }, _)) => {
                return Err(CatalogError::Readable { source_name: source.clone(), id: id.clone() });
            }
            // Not damaged, but of a newer dozo: that one may decide.
            Err(e @ CatalogError::Manifest { source: ManifestError::TooNew { .. }, .. }) => return Err(e),
            Err(CatalogError::NoBackup { .. }) => {
                let (_, lease) = self.newest_lease(source).await?;
                if let Some(held) = lease.filter(|l| &l.backup == id && !surely_dead(&l.holder)) {
                    let (host, pid, backup) = (held.holder.host, held.holder.pid, held.backup);
                    return Err(CatalogError::LeaseHeld { source_name: source.clone(), host, pid, backup });
                }
                // Whoever sleeps and wakes up can commit it no more.
                self.abort(source, id, by).await?;
            }
            Ok(_) | Err(CatalogError::Manifest { .. } | CatalogError::Misplaced { .. }) => {}
            Err(e) => return Err(e),
        }
        loop {
            let fates = self.fates(source, id).await?;
            let record = match (fates.fate, fates.next % 2) {
                (Fate::Doomed(_), _) => return Ok(()),
                (_, 1) => by.record(id, FateState::Doom, None),
                _ => by.record(id, FateState::Tombstone, Some(by.at)),
            };
            self.put_fate(source, id, fates.next, &record).await?;
        }
    }

    /// Dooms a marked backup. Returns whether it is doomed now, by us or by somebody else; a mark that is not due stays.
    ///
    /// # Errors
    /// [`CatalogError::NotMarked`], or what the store says.
    pub async fn doom(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>) -> Result<bool> {
        let fate = self.decide(source, id, &by.record(id, FateState::Doom, None)).await?;
        Ok(matches!(fate, Fate::Doomed(_)))
    }

    /// Puts what decides about a mark, and returns what was decided: by us, or by whoever came first.
    async fn decide(&self, source: &SourceName, id: &BackupId, record: &FateRecord) -> Result<Fate> {
        match self.fate_and_next(source, id).await? {
            (Fate::Stands, _) => Err(CatalogError::NotMarked { source_name: source.clone(), id: id.clone() }),
            (Fate::Doomed(found), _) => Ok(Fate::Doomed(found)),
            // Another mark than the one that was looked at: it was taken back and made again meanwhile.
            (Fate::Marked(mark), _) if record.state == FateState::Doom && mark.due.is_some_and(|due| due > record.at) => {
                Ok(Fate::Marked(mark))
            }
            (Fate::Marked(mark), n) => {
                let record = FateRecord { replica_of: mark.replica_of, ..record.clone() };
                self.put_fate(source, id, n, &record).await?;
                self.fate(source, id).await
            }
        }
    }

    async fn put_fate(&self, source: &SourceName, id: &BackupId, n: u32, record: &FateRecord) -> Result<bool> {
        let key = fate_key(source, id, n);
        Ok(self.store().put_new(&key, to_json(&key, record)?).await? == PutOutcome::Created)
    }

    /// Makes sure that a backup whose objects are to be shared still stands: it is committed, and nobody has marked it for
    /// deletion.
    ///
    /// # Errors
    /// [`CatalogError::ParentGone`], or what the store says.
    pub async fn parent_stands(&self, source: &SourceName, id: &BackupId) -> Result<()> {
        let gone = || CatalogError::ParentGone { source_name: source.clone(), id: id.clone() };
        match self.fates_and_manifest(source, id).await {
            Ok((Fates { unknown: Some(error), .. }, _)) => Err(error),
            Ok((Fates { fate: Fate::Stands, .. }, _)) => Ok(()),
            Ok(_)
            | Err(
                CatalogError::NoBackup { .. }
                | CatalogError::Doomed { .. }
                | CatalogError::Manifest { source: ManifestError::Aborted, .. },
            ) => Err(gone()),
            Err(e) => Err(e),
        }
    }

    /// Discards a backup that was not committed, by taking its manifest's key. Returns what it is now: aborted, or committed
    /// after all.
    ///
    /// # Errors
    /// What the store says.
    pub async fn abort(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>) -> Result<BackupState> {
        let key = Layout::file(source, id, "manifest.json");
        let record = AbortRecord { aborted: by.at, reason: by.reason.to_owned(), operator: by.operator.clone() };
        let bytes = record.to_bytes().map_err(|e| CatalogError::Record { key: key.clone(), reason: e.to_string() })?;
        match self.store().put_new(&key, bytes.into()).await? {
            PutOutcome::Created => Ok(BackupState::Aborted),
            PutOutcome::Exists => self.state(source, id).await,
        }
    }
}

fn fate_key(source: &SourceName, id: &BackupId, n: u32) -> String {
    Layout::file(source, id, &format!("fate-{n}.json"))
}

/// Returns the number of a fate, by its key or name.
pub(crate) fn fate_number(key: &str) -> Option<u32> {
    key.rsplit('/').next()?.strip_prefix("fate-")?.strip_suffix(".json")?.parse().ok()
}

pub(crate) fn doomed(source: &SourceName, id: &BackupId, record: FateRecord) -> CatalogError {
    CatalogError::Doomed { source_name: source.clone(), id: id.clone(), reason: record.reason }
}
