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
        let listed = self.store().list(&Layout::backup(source, id)).await?;
        let numbers: Vec<u32> = listed.iter().filter_map(|o| fate_number(&o.key)).collect();
        self.fate_of(source, id, numbers).await
    }

    /// Returns the fate that records of these numbers decide. A record that is missing is an error, unless another one dooms.
    pub(crate) async fn fate_of(&self, source: &SourceName, id: &BackupId, mut numbers: Vec<u32>) -> Result<(Fate, u32)> {
        numbers.sort_unstable();
        let (mut fate, mut wrong) = (Fate::Stands, None);
        for (at, n) in (0..).zip(&numbers) {
            let key = fate_key(source, id, *n);
            let Some(bytes) = self.store().get_opt(&key).await? else {
                wrong = wrong.or(Some(CatalogError::Record { key, reason: "it is listed, and cannot be read".into() }));
                continue;
            };
            let record: FateRecord = match from_json(&key, &bytes) {
                Ok(record) => record,
                Err(e) => {
                    wrong = wrong.or(Some(e));
                    continue;
                }
            };
            if at != *n {
                let key = fate_key(source, id, at);
                wrong = wrong.or(Some(CatalogError::Record { key, reason: "it is missing, and a later one stands".into() }));
            }
            fate = match (n % 2, record.state) {
                (1, FateState::Doom) => return Ok((Fate::Doomed(record), n + 1)),
                (0, FateState::Tombstone) => Fate::Marked(record),
                (1, FateState::Undo) => Fate::Stands,
                _ => {
                    let reason = "it stands where another kind of record belongs".into();
                    wrong = wrong.or(Some(CatalogError::Record { key, reason }));
                    continue;
                }
            };
        }
        match wrong {
            Some(error) => Err(error),
            None => Ok((fate, numbers.last().map_or(0, |n| n + 1))),
        }
    }

    /// Marks a committed backup for deletion, which may be taken back until it is doomed. Returns the mark that stands.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`] when it is not committed, [`CatalogError::Doomed`], or what the store says.
    pub async fn mark(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>, due: Timestamp) -> Result<FateRecord> {
        self.manifest(source, id).await?;
        let record = by.record(id, FateState::Tombstone, Some(due));
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
    /// [`CatalogError::Readable`] when its manifest can be read, [`CatalogError::NoBackup`], or what the store says.
    pub async fn give_up(&self, source: &SourceName, id: &BackupId, by: &Decision<'_>) -> Result<()> {
        let owned = async || {
            let data = self.store().list(&format!("{}/{source}", Layout::DATA)).await?;
            Ok::<_, CatalogError>(data.iter().any(|o| Layout::owner(&o.key).as_ref() == Some(id)))
        };
        if self.store().list(&Layout::backup(source, id)).await?.is_empty() && !owned().await? {
            return Err(CatalogError::NoBackup { selector: format!("{source}@{id}") });
        }
        match self.state(source, id).await? {
            BackupState::Committed(_) => {
                return Err(CatalogError::Readable { source_name: source.clone(), id: id.clone() });
            }
            BackupState::Doomed(_) => return Ok(()),
            // An abort is final, too, and leaves nothing that could be read later.
            BackupState::Uncommitted(_) => drop(self.abort(source, id, by).await?),
            BackupState::Aborted | BackupState::Unreadable(_) => {}
        }
        loop {
            let (record, n) = match self.fate_and_next(source, id).await? {
                (Fate::Doomed(_), _) => return Ok(()),
                (Fate::Marked(_), n) => (by.record(id, FateState::Doom, None), n),
                (Fate::Stands, n) => (by.record(id, FateState::Tombstone, Some(by.at)), n),
            };
            self.put_fate(source, id, n, &record).await?;
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
            (Fate::Marked(_), n) => {
                self.put_fate(source, id, n, record).await?;
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
        match self.fate_and_manifest(source, id).await {
            Ok((Fate::Stands, _)) => Ok(()),
            Ok(_) | Err(CatalogError::NoBackup { .. } | CatalogError::Doomed { .. }) => Err(gone()),
            Err(CatalogError::Manifest { source: ManifestError::Aborted, .. }) => Err(gone()),
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
