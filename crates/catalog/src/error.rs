//! Catalog errors, by what the caller can do.

use dozo_model::{BackupId, ErrorClass, Explain, ManifestError, SourceName};
use dozo_store::StoreError;

/// Why the repository did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No repository at this URL.
    #[error("there is no dozo repository at {url}")]
    NoRepository {
        /// URL.
        url: String,
    },
    /// The repository's marker cannot be read.
    #[error("`dozo-repository.json` in {url} cannot be read: {reason}")]
    BadMarker {
        /// URL.
        url: String,
        /// Why.
        reason: String,
    },
    /// The repository is of a newer version.
    #[error("the repository at {url} has format version {found}, this dozo reads up to {known}")]
    TooNew {
        /// URL.
        url: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A manifest cannot be believed or read.
    #[error("the manifest of {source_name}@{id} cannot be used")]
    Manifest {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The manifest says it belongs elsewhere.
    #[error("the manifest of {source_name}@{id} is that of {found}")]
    Misplaced {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
        /// What it says.
        found: String,
    },
    /// Nothing matches.
    #[error("no backup matches `{selector}`")]
    NoBackup {
        /// What was asked for.
        selector: String,
    },
    /// More than one matches.
    #[error("`{selector}` matches {count} backups: {first} and {second}{more}", more = if *count > 2 { ", …" } else { "" })]
    Ambiguous {
        /// What was asked for.
        selector: String,
        /// How many match.
        count: usize,
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The selector has no valid form.
    #[error("`{0}` names no backup (SOURCE@latest, SOURCE@ID, or a unique prefix of an id)")]
    BadSelector(String),
    /// Another process works on this source.
    #[error("source `{source_name}` is being backed up by pid {pid} on {host} (backup {backup})")]
    LeaseHeld {
        /// Source.
        source_name: SourceName,
        /// Host.
        host: String,
        /// Process.
        pid: u32,
        /// Its backup.
        backup: BackupId,
    },
    /// The backup was aborted by somebody else before it could be committed.
    #[error("backup {id} of `{source_name}` was aborted before it was committed: its manifest key is taken")]
    Fate {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
    },
    /// The backup whose objects were to be shared is marked for deletion, or gone.
    #[error("backup {source_name}@{id}, whose objects this backup shares, is being deleted")]
    ParentGone {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
    },
    /// The backup was deleted: its objects may be gone.
    #[error("backup {source_name}@{id} was deleted ({reason})")]
    Doomed {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
        /// Why it was.
        reason: String,
    },
    /// The backup's manifest can be read: there is no reason to give it up.
    #[error("the manifest of {source_name}@{id} can be read: it is not given up")]
    Readable {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
    },
    /// The backup is not marked for deletion.
    #[error("backup {source_name}@{id} is not marked for deletion")]
    NotMarked {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
    },
    /// What other backups need cannot be known, so nothing may be deleted.
    #[error("nothing was deleted: what {count} backup(s) need cannot be known; the first: {first}")]
    UnknownNeeds {
        /// How many.
        count: usize,
        /// One of them, and why.
        first: String,
    },
    /// The store acknowledged objects and does not list them as they were written.
    #[error(
        "{url} does not hold {count} object(s) that it acknowledged: `{key}` has {} instead of {} bytes",
        found.map_or_else(|| "no".to_owned(), |n| n.to_string()),
        expected.map_or_else(|| "some".to_owned(), |n| n.to_string())
    )]
    NotStored {
        /// URL.
        url: String,
        /// How many.
        count: usize,
        /// One of them.
        key: String,
        /// Its size; none = not known any more.
        expected: Option<u64>,
        /// The size that is listed.
        found: Option<u64>,
    },
    /// The store has no create-only puts.
    #[error("nothing was deleted: {url} does not refuse a second put of a key, so two hosts could not agree on what goes")]
    NoCreateOnly {
        /// URL.
        url: String,
    },
    /// The plan would delete more of a source than its policy lets go at once.
    #[error(
        "nothing was deleted: {deletes} of {standing} backups of {source_name} would go, which is more than max-delete = \"{max_delete}%\""
    )]
    TooMany {
        /// Source.
        source_name: SourceName,
        /// How many would go.
        deletes: usize,
        /// How many there are.
        standing: usize,
        /// Percent.
        max_delete: u8,
    },
    /// The time is not believable.
    #[error("nothing was deleted: this host's clock says {now}, and {reason}")]
    Clock {
        /// This host's time.
        now: dozo_model::Timestamp,
        /// What contradicts it.
        reason: String,
    },
    /// A plan was made of another repository than the one that is there now.
    #[error("nothing was deleted: since the plan was made, {reason}")]
    PlanChanged {
        /// What has changed.
        reason: String,
    },
    /// The backup is not held.
    #[error("backup {source_name}@{id} is not held")]
    NotHeld {
        /// Source.
        source_name: SourceName,
        /// Backup.
        id: BackupId,
    },
    /// The work was stopped.
    #[error("interrupted")]
    Cancelled,
    /// A record could not be written as JSON, or a damaged one stands in the repository.
    #[error("`{key}` is not valid: {reason}")]
    Record {
        /// Key.
        key: String,
        /// Why.
        reason: String,
    },
}

impl Explain for CatalogError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Store(e) => e.class(),
            Self::NoRepository { .. }
            | Self::Doomed { .. }
            | Self::NoCreateOnly { .. }
            | Self::TooMany { .. }
            | Self::Clock { .. }
            | Self::TooNew { .. }
            | Self::Manifest { source: ManifestError::TooNew { .. } | ManifestError::Aborted, .. } => ErrorClass::Failed,
            Self::NoBackup { .. }
            | Self::NotMarked { .. }
            | Self::NotHeld { .. }
            | Self::Readable { .. }
            | Self::Ambiguous { .. }
            | Self::BadSelector(_) => ErrorClass::Input,
            Self::BadMarker { .. }
            | Self::Manifest { .. }
            | Self::Misplaced { .. }
            | Self::Record { .. }
            | Self::UnknownNeeds { .. }
            | Self::NotStored { .. } => ErrorClass::Integrity,
            Self::LeaseHeld { .. } | Self::Fate { .. } | Self::ParentGone { .. } | Self::PlanChanged { .. } => {
                ErrorClass::Conflict
            }
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Store(e) => e.code(),
            Self::NoRepository { .. } => "DOZO-E5001",
            Self::BadMarker { .. } => "DOZO-E5002",
            Self::TooNew { .. } => "DOZO-E5003",
            Self::Manifest { .. } => "DOZO-E5004",
            Self::Misplaced { .. } => "DOZO-E5005",
            Self::NoBackup { .. } => "DOZO-E5006",
            Self::Ambiguous { .. } => "DOZO-E5007",
            Self::BadSelector(_) => "DOZO-E5008",
            Self::LeaseHeld { .. } => "DOZO-E5009",
            Self::Fate { .. } => "DOZO-E5010",
            Self::Record { .. } => "DOZO-E5011",
            Self::ParentGone { .. } => "DOZO-E5012",
            Self::Doomed { .. } => "DOZO-E5013",
            Self::NotMarked { .. } => "DOZO-E5014",
            Self::UnknownNeeds { .. } => "DOZO-E5015",
            Self::NoCreateOnly { .. } => "DOZO-E5016",
            Self::NotStored { .. } => "DOZO-E5017",
            Self::Readable { .. } => "DOZO-E5018",
            Self::TooMany { .. } => "DOZO-E5019",
            Self::Clock { .. } => "DOZO-E5020",
            Self::PlanChanged { .. } => "DOZO-E5021",
            Self::NotHeld { .. } => "DOZO-E5022",
            Self::Cancelled => "DOZO-E5023",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Store(e) => return e.next(),
            Self::NoRepository { .. } => "check [repository] url; the first `dozo backup` makes a repository".into(),
            Self::BadMarker { .. } => "restore that file from a copy of the repository".into(),
            Self::TooNew { .. } | Self::Manifest { source: ManifestError::TooNew { .. }, .. } => {
                "install a newer dozo on this host".into()
            }
            Self::Manifest { source_name, .. } | Self::Misplaced { source_name, .. } => {
                format!("use another backup: dozo list {source_name}")
            }
            Self::NoBackup { .. } | Self::BadSelector(_) => "dozo list".into(),
            Self::Ambiguous { .. } => "write more of the id".into(),
            Self::LeaseHeld { .. } => "wait for it to end, or use --wait 15min".into(),
            Self::Fate { .. } | Self::ParentGone { .. } => "run the backup again".into(),
            Self::Record { .. } | Self::UnknownNeeds { .. } => "dozo gc plan".into(),
            Self::Doomed { source_name, .. }
            | Self::NotMarked { source_name, .. }
            | Self::NotHeld { source_name, .. }
            | Self::Readable { source_name, .. } => {
                format!("dozo list {source_name}")
            }
            Self::TooMany { .. } => {
                "look at it: dozo retention plan; if that is meant: dozo retention apply --max-delete 100%".into()
            }
            Self::Clock { .. } => "look at the clock (timedatectl); if it is right: dozo retention apply --trust-clock".into(),
            Self::PlanChanged { .. } => "dozo retention plan".into(),
            Self::Cancelled => return None,
            Self::NotStored { .. } => "do not trust this store: run `dozo verify --all`, and look at its own logs".into(),
            Self::NoCreateOnly { .. } => {
                "if one host alone writes to it, name that host: [repository] only-host = \"HOST\"".into()
            }
        })
    }
}
