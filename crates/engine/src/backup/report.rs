//! What a backup says about itself when it is done.

use std::collections::{BTreeMap, HashMap};

use dozo_model::{BackupId, Dataset, Fingerprint, LeftOut, Loss, QualifiedName, SourceMatch};
use serde::Serialize;

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupReport {
    /// Source.
    pub source: String,
    /// Database.
    pub database: String,
    /// Id.
    pub id: BackupId,
    /// `done`, `suspect` or `partial`.
    pub outcome: &'static str,
    /// Backup whose objects it shares.
    pub parent: Option<BackupId>,
    /// Why it shares none.
    pub full_because: Option<String>,
    /// Rows.
    pub rows: u64,
    /// COPY bytes read.
    pub bytes_read: u64,
    /// Bytes of the objects that it wrote.
    pub bytes_written: u64,
    /// Bytes of all objects that it needs, shared ones too.
    pub bytes_needed: u64,
    /// Tables and partitions that were copied.
    pub copied: usize,
    /// Tables and partitions that name the objects of an earlier backup.
    pub reused: usize,
    /// Seconds in all and per stage.
    pub seconds: BTreeMap<String, f64>,
    /// Expected peak of memory.
    pub memory_budget: u64,
    /// Per table.
    pub tables: Vec<TableReport>,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
    /// Tables that lost more rows than is likely.
    pub losses: Vec<Loss>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// What a backup did for one table or partition.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TableReport {
    /// Table.
    pub table: String,
    /// Root of its tree.
    pub root: Option<String>,
    /// `copied` or `reused`.
    pub how: &'static str,
    /// Why it was copied although there is a backup to lean on.
    pub because: Option<String>,
    /// Backup that copied the rows.
    pub copied_by: BackupId,
    /// Physical copies of these very rows in the repository, this backup's included.
    pub copies: usize,
    /// Rows.
    pub rows: u64,
    /// COPY bytes read by this run.
    pub bytes_read: u64,
    /// Bytes stored by this run; a shared object counts by rows.
    pub bytes_written: u64,
    /// Seconds on the workers: versions (change token), receive, decode (with digests), encode (with upload), prove.
    pub seconds: BTreeMap<String, f64>,
    /// Fingerprint.
    pub fingerprint: Fingerprint,
    /// What the server's own fingerprint confirmed.
    pub source_match: Option<SourceMatch>,
}

impl TableReport {
    pub(super) fn new(dataset: &Dataset, id: &BackupId, work: TableWork, because: Option<String>) -> Self {
        let reused = dataset.copied_by.is_some();
        Self {
            table: dataset.name.to_string(),
            root: dataset.root.as_ref().map(ToString::to_string),
            how: if reused { "reused" } else { "copied" },
            because,
            copied_by: dataset.copied_by.clone().unwrap_or_else(|| id.clone()),
            copies: 1,
            rows: dataset.fingerprint.rows,
            bytes_read: if reused { 0 } else { dataset.bytes_read },
            bytes_written: work.written,
            seconds: work.seconds,
            fingerprint: dataset.fingerprint,
            source_match: dataset.source_match,
        }
    }
}

/// What a table cost.
#[derive(Debug, Default)]
pub(super) struct TableWork {
    pub(super) written: u64,
    pub(super) seconds: BTreeMap<String, f64>,
}

/// Fills in how many physical copies there are.
pub(super) fn count_copies(tables: &mut [TableReport], datasets: &[Dataset], copies: &BTreeMap<QualifiedName, usize>) {
    let names: HashMap<String, usize> =
        datasets.iter().map(|d| (d.name.to_string(), copies.get(&d.name).copied().unwrap_or(1))).collect();
    for table in tables {
        table.copies = names.get(&table.table).copied().unwrap_or(1);
    }
}
