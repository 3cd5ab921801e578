//! `[archive.NAME]`, resolved: which partitions leave, when, and what becomes of them.

use std::time::Duration;

use dozo_model::{Period, QualifiedName, SourceName};
use serde::Serialize;

/// An archive job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveJob {
    /// Name.
    pub name: String,
    /// Source: a Postgres database.
    pub source: SourceName,
    /// Root of a partition tree.
    pub table: QualifiedName,
    /// Column that it is partitioned by.
    pub column: String,
    /// Partitions whose upper bound is older than this leave.
    pub older_than: Period,
    /// What becomes of them.
    pub then: Then,
    /// How long a partition stays in quarantine before it may be dropped; zero = it never gets there.
    pub quarantine: Duration,
    /// Width of a folder of the archive.
    pub granularity: Granularity,
    /// Columns by which files are sorted; empty = the partition key.
    pub sort_by: Vec<String>,
    /// How a partition is detached.
    pub protocol: Protocol,
    /// Rows that are meant to leave; all of a partition must be such rows, or [`ArchiveJob::leftover`] decides.
    pub filter: Option<String>,
    /// What becomes of a partition with other rows.
    pub leftover: Leftover,
    /// Whether an empty partition takes the place of each that left, for late rows.
    pub stub: bool,
    /// Calendar of the folders; a job over `timestamptz` needs one.
    pub time_zone: Option<String>,
    /// Command that prints how full the server's data disk is, in percent; empty = the disk is looked at where it is this host's.
    pub disk_command: Vec<String>,
}

/// What becomes of an archived partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It stays: the archive holds a copy.
    Keep,
    /// It is detached, and waits in quarantine for somebody to drop it.
    Quarantine,
    /// It is dropped when its quarantine is over.
    Drop,
}

/// Width of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// `2023-01`
    Month,
    /// `2023`
    Year,
    /// `2023-W05` (ISO 8601)
    Week,
    /// `2023-01-31`
    Day,
}

impl Granularity {
    /// Returns its name, which is a part of the name of the folders' column.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Year => "year",
            Self::Week => "week",
            Self::Day => "day",
        }
    }
}

/// How a partition is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// In one transaction, which has the table for itself for a moment.
    Plain,
    /// Beside readers and writers of the table; it must have no DEFAULT partition.
    Concurrent,
}

/// What becomes of a partition that holds rows outside of [`ArchiveJob::filter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leftover {
    /// It stays.
    Refuse,
    /// All of its rows are archived.
    ArchiveAll,
}

impl ArchiveJob {
    /// Returns the name of the folders' column: never that of a column of the rows.
    #[must_use]
    pub fn label_column(&self) -> String {
        format!("{}_{}", dozo_store::encode_name(&self.column), self.granularity.as_str())
    }

    /// Returns the root of the version under which files are published.
    #[must_use]
    pub fn root(&self) -> &'static str {
        if self.then == Then::Keep { "copy/v1" } else { "v1" }
    }
}
