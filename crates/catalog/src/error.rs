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
            | Self::TooNew { .. }
            | Self::Manifest { source: ManifestError::TooNew { .. } | ManifestError::Aborted, .. } => ErrorClass::Failed,
            Self::NoBackup { .. } | Self::Ambiguous { .. } | Self::BadSelector(_) => ErrorClass::Input,
            Self::BadMarker { .. } | Self::Manifest { .. } | Self::Misplaced { .. } | Self::Record { .. } => {
                ErrorClass::Integrity
            }
            Self::LeaseHeld { .. } | Self::Fate { .. } | Self::ParentGone { .. } => ErrorClass::Conflict,
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
            Self::Record { .. } => "dozo gc plan".into(),
        })
    }
}
