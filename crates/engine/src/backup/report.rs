//! What a backup says about itself when it is done.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dozo_model::{BackupId, Dataset, LeftOut, Loss, QualifiedName, SourceMatch};
use dozo_store::RequestCounts;
use serde::Serialize;

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupReport {
    /// Source.
    pub source: String,
    /// Kind of source.
    pub kind: &'static str,
    /// Database, where the source is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
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
    /// What the workers spent most of their time on; none when they had nothing to do.
    pub bottleneck: Option<Bottleneck>,
    /// Requests to the store.
    pub requests: RequestCounts,
    /// Per table.
    pub tables: Vec<TableReport>,
    /// Of a file set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<FilesReport>,
    /// What is not in it.
    pub left_out: Vec<LeftOut>,
    /// Tables that lost more rows than is likely.
    pub losses: Vec<Loss>,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// What a backup did with a file set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesReport {
    /// Regular files in it.
    pub files: u64,
    /// Folders, links and pipes.
    pub others: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Regular files whose content this backup stored.
    pub stored: u64,
    /// Regular files whose content an earlier backup stored.
    pub unchanged: u64,
    /// Files that changed each time that they were read.
    pub changed: Vec<String>,
}

/// What a run was bound by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bottleneck {
    /// `server` (waiting for its rows), `changes` (its search for what changed), `prove` (its fingerprints), `encode` (this machine:
    /// decoding, digests, compression) or `upload` (waiting for the store).
    pub what: &'static str,
    /// Share of the workers' time, 0 to 1.
    pub share: f64,
}

impl Bottleneck {
    /// Finds it; `after` is the time that workers waited for uploads when all rows were read.
    pub(crate) fn find(tables: &[TableReport], after: Duration) -> Option<Self> {
        let mut sums = BTreeMap::from([("upload", after.as_secs_f64())]);
        for (stage, seconds) in tables.iter().flat_map(|t| &t.seconds) {
            let what = match stage.as_str() {
                "receive" => "server",
                "versions" => "changes",
                "prove" => "prove",
                "upload" => "upload",
                _ => "encode",
            };
            *sums.entry(what).or_default() += seconds;
        }
        let total: f64 = sums.values().sum();
        let (what, most) = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (total > 0.0).then(|| Self { what, share: most / total })
    }
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
    /// Seconds on the workers: versions (change token), receive, decode (with digests), encode, upload (waiting for it), prove.
    pub seconds: BTreeMap<String, f64>,
    /// Fingerprint, printed.
    pub fingerprint: String,
    /// What the server's own fingerprint confirmed.
    pub source_match: Option<SourceMatch>,
}

impl TableReport {
    /// Begins the report of a table that is copied by the backup `id`.
    #[cfg(feature = "duckdb")]
    pub(crate) fn copied(table: String, id: &BackupId) -> Self {
        Self {
            table,
            root: None,
            how: "copied",
            because: None,
            copied_by: id.clone(),
            copies: 1,
            rows: 0,
            bytes_read: 0,
            bytes_written: 0,
            seconds: BTreeMap::new(),
            fingerprint: String::new(),
            source_match: None,
        }
    }

    pub(crate) fn new(dataset: &Dataset, id: &BackupId, work: TableWork, because: Option<String>) -> Self {
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
            fingerprint: dataset.fingerprint.to_string(),
            source_match: dataset.source_match,
        }
    }
}

/// What a table cost.
#[derive(Debug, Default)]
pub(crate) struct TableWork {
    pub(crate) written: u64,
    pub(crate) seconds: BTreeMap<String, f64>,
}

/// Fills in how many physical copies there are.
pub(crate) fn count_copies(tables: &mut [TableReport], datasets: &[Dataset], copies: &BTreeMap<QualifiedName, usize>) {
    let names: HashMap<String, usize> =
        datasets.iter().map(|d| (d.name.to_string(), copies.get(&d.name).copied().unwrap_or(1))).collect();
    for table in tables {
        table.copies = names.get(&table.table).copied().unwrap_or(1);
    }
}
