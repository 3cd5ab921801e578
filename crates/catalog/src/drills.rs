//! Records of drills: a chain that shows when one of its links was edited, removed or moved.
//!
//! *Layout*: `drills/<n>.json`, numbered from 1 without a gap, each with the digest of the one before; beside each backup that was
//! restored an event that names the record. *Ordering*: the record first, then its events: an event without its record is a removed
//! record. *Invariant*: whoever creates number *n* decides what stands there, so two drills at once do not fork the chain. *What it cannot
//! see alone*: records cut off the end together with the events about them; for that the head (number and digest) goes out with every
//! notification, and is compared with what the caller remembers.

use std::collections::BTreeMap;

use bytes::Bytes;
use dozo_model::{BackupId, DrillEvent, DrillLink, DrillRecord, Sha256Digest, SourceName};
use dozo_store::{Layout, PutOutcome};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use crate::repository::{FETCHES, Repository};
use crate::{CatalogError, Result};

/// A record and the digest of its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDrill {
    /// Number and digest.
    pub link: DrillLink,
    /// What it says.
    pub record: DrillRecord,
}

/// The chain, and whatever contradicts it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillChain {
    /// Records that can be believed by their own digest, by number.
    pub records: Vec<StoredDrill>,
    /// What was found.
    pub broken: Vec<BrokenLink>,
}

/// Something that contradicts the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenLink {
    /// Record.
    pub number: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl DrillChain {
    /// Returns the newest record.
    #[must_use]
    pub fn head(&self) -> Option<&DrillLink> {
        self.records.last().map(|r| &r.link)
    }

    fn find(&self, number: u64) -> Option<&StoredDrill> {
        self.records.iter().find(|r| r.link.number == number)
    }

    /// Compares with a link that was told elsewhere: by an event beside a backup, a notification, an earlier look.
    pub fn confirm(&mut self, link: &DrillLink, told_by: &str) {
        let reason = match self.find(link.number) {
            Some(found) if found.link.sha256 == link.sha256 => return,
            Some(_) => format!("it is not the record that {told_by} names: it was edited, or replaced"),
            None => format!("it is gone, or cannot be believed: {told_by} names it"),
        };
        self.break_at(link.number, reason);
    }

    fn break_at(&mut self, number: u64, reason: String) {
        let broken = BrokenLink { number, reason };
        if !self.broken.contains(&broken) {
            self.broken.push(broken);
            self.broken.sort_by_key(|b| b.number);
        }
    }

    /// Takes the stored bytes of each number for a chain.
    fn of(stored: BTreeMap<u64, Bytes>) -> Self {
        let mut chain = Self::default();
        let mut expected = 1;
        for (number, bytes) in stored {
            if expected < number {
                let last = number - 1;
                let also = if last > expected { format!(", and so are those up to {last}") } else { String::new() };
                chain.break_at(expected, format!("it is gone{also}"));
            }
            expected = number.saturating_add(1);
            let link = DrillLink { number, sha256: Sha256Digest::of(&bytes) };
            match DrillRecord::from_bytes(&bytes) {
                Err(e) => chain.break_at(number, format!("it was edited: {e}")),
                Ok(record) if record.number != number => {
                    chain.break_at(number, format!("it is the record of number {}: it was moved", record.number));
                }
                Ok(record) => chain.records.push(StoredDrill { link, record }),
            }
        }
        for at in 0..chain.records.len() {
            let (number, previous) = (chain.records[at].link.number, chain.records[at].record.previous.clone());
            match previous {
                Some(before) if before.number.checked_add(1) == Some(number) => {
                    chain.confirm(&before, &format!("record {number}"));
                }
                Some(_) => chain.break_at(number, "it names another record than the one before it".into()),
                None if number == 1 => {}
                None => chain.break_at(number, "it names no record before it".into()),
            }
        }
        chain
    }
}

impl Repository {
    /// Loads all records, and holds them against each other.
    ///
    /// # Errors
    /// What the store says. What is wrong with a record is in the chain.
    pub async fn drills(&self) -> Result<DrillChain> {
        let mut numbers: Vec<(u64, String)> = Vec::new();
        for object in self.store().list(Layout::DRILLS).await? {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            let number = name.strip_suffix(".json").and_then(|n| n.parse::<u64>().ok());
            // What only looks like one is not one.
            if let Some(number) = number.filter(|n| *n > 0 && Layout::drill(*n, "json") == object.key) {
                numbers.push((number, object.key));
            }
        }
        let read = async |(number, key): (u64, String)| -> Result<_> { Ok((number, self.store().get_opt(&key).await?)) };
        let stored: Vec<(u64, Option<Bytes>)> = futures::stream::iter(numbers).map(read).buffered(FETCHES).try_collect().await?;
        Ok(DrillChain::of(stored.into_iter().filter_map(|(n, bytes)| Some((n, bytes?))).collect()))
    }

    /// Loads all records, and holds them against what stands beside the backups that were restored.
    ///
    /// # Errors
    /// What the store says.
    pub async fn drills_confirmed(&self) -> Result<DrillChain> {
        let mut chain = self.drills().await?;
        for (source, id, beside) in self.listed(None).await? {
            for event in self.records::<DrillEvent>(&beside.drills).await? {
                chain.confirm(&event.record, &format!("backup {source}@{id}"));
            }
        }
        Ok(chain)
    }

    /// Adds a record behind the newest. Returns it with its place.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_drill(&self, mut record: DrillRecord) -> Result<StoredDrill> {
        loop {
            let chain = self.drills().await?;
            // A number whose record cannot be believed is taken nevertheless.
            let taken = chain.broken.iter().map(|b| b.number).chain(chain.head().map(|h| h.number)).max().unwrap_or(0);
            record.number = taken.saturating_add(1);
            record.previous = chain.head().cloned();
            let key = Layout::drill(record.number, "json");
            let bytes = record.to_bytes().map_err(|e| CatalogError::Record { key: key.clone(), reason: e.to_string() })?;
            let bytes = Bytes::from(bytes);
            let link = DrillLink { number: record.number, sha256: Sha256Digest::of(&bytes) };
            if self.store().put_new(&key, bytes).await? == PutOutcome::Created {
                return Ok(StoredDrill { link, record });
            }
        }
    }

    /// Puts the page of a record beside it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_drill_page(&self, number: u64, html: String) -> Result<()> {
        Ok(self.store().put_own(&Layout::drill(number, "html"), html.into()).await?)
    }

    /// Says beside a backup that it was restored.
    ///
    /// # Errors
    /// What the store says.
    pub async fn record_drilled(&self, source: &SourceName, id: &BackupId, event: &DrillEvent) -> Result<()> {
        self.append(&Layout::drilled(source, id), event).await
    }
}

#[cfg(test)]
mod tests {
    use dozo_model::{Incident, Measured, Objectives, Operator, Timestamp, Verdict};

    use super::*;

    fn record(number: u64, previous: Option<DrillLink>) -> DrillRecord {
        DrillRecord {
            format: 1,
            number,
            previous,
            repository: "r".into(),
            drill: "monthly".into(),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            verdict: Verdict::Passed,
            incident: Incident::Database,
            objectives: Objectives { rto_seconds: 1, rpo_seconds: 1 },
            measured: Measured::default(),
            items: vec![],
            findings: vec![],
            runbook: None,
            warnings: vec![],
            contacts: vec![],
            tool: crate::tool(),
            operator: Operator { user: "u".into(), host: "h".into(), arguments: vec![] },
        }
    }

    fn chain(length: u64) -> BTreeMap<u64, Bytes> {
        let (mut all, mut previous) = (BTreeMap::new(), None);
        for number in 1..=length {
            let bytes = Bytes::from(record(number, previous).to_bytes().unwrap());
            previous = Some(DrillLink { number, sha256: Sha256Digest::of(&bytes) });
            all.insert(number, bytes);
        }
        all
    }

    #[test]
    fn every_change_of_a_chain_shows() {
        let whole = chain(4);
        assert_eq!(DrillChain::of(whole.clone()).broken, []);
        let broken = |change: &dyn Fn(&mut BTreeMap<u64, Bytes>)| {
            let mut changed = whole.clone();
            change(&mut changed);
            DrillChain::of(changed).broken.iter().map(|b| b.number).collect::<Vec<_>>()
        };
        // One byte of any record.
        for number in 1..=4 {
            let edited = broken(&|all| {
                let text = String::from_utf8(all[&number].to_vec()).unwrap();
                all.insert(number, text.replacen("passed", "failed", 1).into());
            });
            assert!(edited.contains(&number), "{edited:?}");
        }
        // Edited with its own digest made anew: the next one tells.
        let edited = broken(&|all| {
            let mut second = DrillRecord::from_bytes(&all[&2]).unwrap();
            second.verdict = Verdict::Failed;
            all.insert(2, second.to_bytes().unwrap().into());
        });
        assert_eq!(edited, [2]);
        assert!(broken(&|all| drop(all.remove(&1))).contains(&1));
        assert!(broken(&|all| drop(all.remove(&3))).contains(&3));
        let reordered = broken(&|all| {
            let (second, third) = (all[&2].clone(), all[&3].clone());
            all.extend([(2, third), (3, second)]);
        });
        assert!(reordered.contains(&2) && reordered.contains(&3), "{reordered:?}");
        // The end is cut off: somebody who was told the head knows.
        let head = DrillChain::of(whole.clone()).head().cloned().unwrap();
        let mut cut = DrillChain::of(whole.into_iter().filter(|(n, _)| *n < 4).collect());
        assert_eq!(cut.broken, []);
        cut.confirm(&head, "the last notification");
        assert_eq!(cut.broken.len(), 1, "{:?}", cut.broken);
    }
}
