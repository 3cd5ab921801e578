//! What decides about a backup as a whole: a manifest without its tables, columns and rows.
//!
//! *Memory*: of a manifest of a thousand tables the objects' keys and sizes are kept, and nothing else is built.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Manifest, checked_body};
use crate::{BackupId, FORMAT_VERSION, Loss, ManifestError, ReplicaOf, SourceName, Timestamp};

/// How much of a manifest is read: all of it, or its head.
pub trait ManifestForm: DeserializeOwned + Send {
    /// Returns the id that it says it has.
    fn id(&self) -> &BackupId;
    /// Returns the source that it says it is of.
    fn source(&self) -> &SourceName;
    /// Returns the keys of all objects that it names.
    fn keys(&self) -> impl Iterator<Item = &str>;
    /// Returns the oldest format version that a reader must understand.
    fn min_reader(&self) -> u32;
    /// Returns when it began, by the server's clock.
    fn started(&self) -> Timestamp;
    /// Returns when its data ended.
    fn finished(&self) -> Timestamp;
    /// Returns what tells the server from others, where it says so.
    fn server(&self) -> Option<&str>;
    /// Returns the keys and sizes of all objects that it names.
    fn sizes(&self) -> impl Iterator<Item = (&str, u64)>;
    /// Returns until when every object that it names is locked at least.
    fn locked_until(&self) -> Option<Timestamp>;
    /// Tells whether everything that was asked for is in it.
    fn complete(&self) -> bool;
    /// Tells whether a table lost more than is likely.
    fn suspect(&self) -> bool;

    /// Checks the digest line, then reads the rest.
    ///
    /// # Errors
    /// See [`ManifestError`].
    fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let body = checked_body(bytes)?;
        match serde_json::from_slice::<Self>(body) {
            Ok(found) if found.min_reader() <= FORMAT_VERSION => Ok(found),
            Ok(found) => Err(ManifestError::TooNew { found: found.min_reader() }),
            // Another layout: does it say why?
            Err(syntax) => {
                let marks: Marks = serde_json::from_slice(body).map_err(ManifestError::Syntax)?;
                Err(match marks {
                    Marks { aborted: Some(_), .. } => ManifestError::Aborted,
                    Marks { min_reader: Some(found), .. } if found > FORMAT_VERSION => ManifestError::TooNew { found },
                    Marks { .. } => ManifestError::Syntax(syntax),
                })
            }
        }
    }
}

/// What tells why something is no manifest of ours.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Marks {
    aborted: Option<serde::de::IgnoredAny>,
    min_reader: Option<u32>,
}

impl ManifestForm for Manifest {
    fn id(&self) -> &BackupId {
        &self.id
    }

    fn source(&self) -> &SourceName {
        &self.source
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|o| o.key.as_str())
    }

    fn min_reader(&self) -> u32 {
        self.min_reader
    }

    fn started(&self) -> Timestamp {
        self.started
    }

    fn finished(&self) -> Timestamp {
        self.finished
    }

    fn server(&self) -> Option<&str> {
        self.postgres()?.server.system_identifier.as_deref()
    }

    fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.objects.iter().map(|o| (o.key.as_str(), o.bytes))
    }

    fn locked_until(&self) -> Option<Timestamp> {
        self.locked_until
    }

    fn complete(&self) -> bool {
        self.complete
    }

    fn suspect(&self) -> bool {
        !self.losses.is_empty()
    }
}

/// The head of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ManifestHead {
    /// Oldest format version a reader must understand.
    pub min_reader: u32,
    /// Oldest format version a program must understand to delete what this names.
    pub min_deleter: u32,
    /// Id.
    pub id: BackupId,
    /// Source.
    pub source: SourceName,
    /// Backup of another repository that it is a copy of.
    #[serde(default)]
    pub replica_of: Option<ReplicaOf>,
    /// Backup whose objects it shares.
    pub parent: Option<BackupId>,
    /// Kind of source.
    pub kind: String,
    /// Whether everything that was asked for is in it.
    pub complete: bool,
    /// The server it came from; none = its source is no server.
    #[serde(default)]
    pub server: Option<ServerHead>,
    /// Start, by the server's clock.
    pub started: Timestamp,
    /// End of the data, by the server's clock.
    pub finished: Timestamp,
    /// Tables that lost more than is likely.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// Until when every object that it names is locked at least.
    #[serde(default)]
    pub locked_until: Option<Timestamp>,
    /// Every object that it needs.
    pub objects: Vec<ObjectSize>,
}

/// What tells one server from another.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServerHead {
    /// `pg_control_system().system_identifier`; none where the server hides it.
    pub system_identifier: Option<String>,
    /// `server_version`.
    pub version: String,
}

/// An object and its size.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ObjectSize {
    /// Key.
    pub key: String,
    /// Size.
    pub bytes: u64,
}

impl ManifestForm for ManifestHead {
    fn id(&self) -> &BackupId {
        &self.id
    }

    fn source(&self) -> &SourceName {
        &self.source
    }

    fn keys(&self) -> impl Iterator<Item = &str> {
        self.objects.iter().map(|o| o.key.as_str())
    }

    fn min_reader(&self) -> u32 {
        self.min_reader
    }

    fn started(&self) -> Timestamp {
        self.started
    }

    fn finished(&self) -> Timestamp {
        self.finished
    }

    fn server(&self) -> Option<&str> {
        self.server.as_ref()?.system_identifier.as_deref()
    }

    fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.objects.iter().map(|o| (o.key.as_str(), o.bytes))
    }

    fn locked_until(&self) -> Option<Timestamp> {
        self.locked_until
    }

    fn complete(&self) -> bool {
        self.complete
    }

    fn suspect(&self) -> bool {
        !self.losses.is_empty()
    }
}
