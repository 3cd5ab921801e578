//! `[drill.NAME]`, resolved.

use std::path::PathBuf;
use std::time::Duration;

use dozo_model::{Incident, SourceName};
use dozo_postgres::{ScratchOptions, UrlRef};

use crate::archive::ArchiveJob;

/// What is rehearsed, and what is promised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillJob {
    /// Name.
    pub name: String,
    /// Sources whose backups are restored.
    pub sources: Vec<SourceName>,
    /// Which of their backups.
    pub backup: BackupPick,
    /// Only these tables of databases (patterns); empty = everything.
    pub tables: Vec<String>,
    /// Only so many random tables and partitions of databases.
    pub sample: Option<SampleSize>,
    /// Archives of which a partition is restored.
    pub archives: Vec<ArchiveJob>,
    /// Which partition.
    pub partition: PartitionPick,
    /// Where databases are restored to.
    pub server: DrillServer,
    /// How a throw-away server is made.
    pub scratch: ScratchOptions,
    /// Folder for throw-away servers and restored files.
    pub folder: PathBuf,
    /// Connections of a restore.
    pub workers: usize,
    /// The incident; none = by what is restored.
    pub incident: Option<Incident>,
    /// Recovery time objective; none = that of the incident.
    pub rto: Option<Duration>,
    /// Recovery point objective; none = the oldest that the sources' newest backups may be.
    pub rpo: Option<Duration>,
    /// A canary that was not written for longer than this when its backup was made is stale.
    pub canary_max_age: Duration,
    /// Whether `pg_amcheck` looks at the restored database.
    pub amcheck: bool,
    /// Checks of one's own.
    pub checks: Vec<OwnCheck>,
    /// Steps that people follow.
    pub runbook: Option<PathBuf>,
    /// A runbook that was not written for longer than this is worth a warning.
    pub runbook_max_age: Duration,
}

/// Which backup of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupPick {
    /// The newest good one.
    Latest,
    /// The oldest that is kept.
    Oldest,
    /// Any good one.
    Random,
}

impl BackupPick {
    /// Returns its word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Oldest => "oldest",
            Self::Random => "random",
        }
    }
}

/// How much of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleSize {
    /// So many tables and partitions.
    Count(usize),
    /// So many percent of its bytes, about.
    Share(u8),
}

/// Which partition of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionPick {
    /// Any.
    Random,
    /// The one that was archived last.
    Latest,
    /// The one that was archived first.
    Oldest,
    /// This one, by its name or its folder.
    Named(String),
}

/// Where databases are restored to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrillServer {
    /// A throw-away server for each.
    Scratch,
    /// A new database on this server, which must not be one that backups came from.
    Test(UrlRef),
}

/// A check of one's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCheck {
    /// Name.
    pub name: String,
    /// Source whose restored data it is about; none = every one that it fits.
    pub source: Option<SourceName>,
    /// What is done.
    pub kind: CheckKind,
    /// It is ended after this long.
    pub timeout: Duration,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Asks the restored database.
    Query {
        /// SQL.
        query: String,
        /// What it must answer, as `psql -At` prints it.
        expect: String,
    },
    /// Runs a command, with the connection or the folder in its environment; it must succeed.
    Command(Vec<String>),
}
