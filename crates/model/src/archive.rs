//! Archives: what stands in the ledger of the repository about each unit, a partition that left its table.
//!
//! Place in the flow: `archive/<source>/<schema>/<table>/_ledger/<unit>/<n>-<state>.json`, one record for each step, created once and
//! never edited; beside them the unit's manifest. *Invariant*: this is history. Whether a unit is archived is true only while the
//! database's own `dozo.ledger` has its row.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{BackupId, Fingerprint, Operator, QualifiedName, SourceName, Timestamp, Tool};

/// Where a unit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitState {
    /// It is being exported.
    Planned,
    /// Its rows are stored, beside the archive.
    Exported,
    /// They were read back, and the server's own fingerprint of the same snapshot is theirs.
    Proven,
    /// A concurrent detach has begun.
    Detaching,
    /// The partition left its table, and waits in quarantine.
    Detached,
    /// The partition is gone.
    Dropped,
    /// The stored rows stand where readers look.
    Published,
    /// They were taken away from there.
    Withdrawn,
    /// The partition is back in its table.
    Restored,
    /// It was given up before anything left the database.
    Abandoned,
}

impl UnitState {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Planned,
        Self::Exported,
        Self::Proven,
        Self::Detaching,
        Self::Detached,
        Self::Dropped,
        Self::Published,
        Self::Withdrawn,
        Self::Restored,
        Self::Abandoned,
    ];

    /// Returns its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Exported => "exported",
            Self::Proven => "proven",
            Self::Detaching => "detaching",
            Self::Detached => "detached",
            Self::Dropped => "dropped",
            Self::Published => "published",
            Self::Withdrawn => "withdrawn",
            Self::Restored => "restored",
            Self::Abandoned => "abandoned",
        }
    }

    /// Tells whether nothing comes after it.
    #[must_use]
    pub fn is_last(self) -> bool {
        matches!(self, Self::Restored | Self::Abandoned)
    }
}

impl fmt::Display for UnitState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UnitState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or_else(|| format!("`{text}` is not a state of a unit"))
    }
}

/// What is known of a unit before its first row is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UnitPlan {
    /// Layout version.
    pub format: u32,
    /// Id.
    pub unit: BackupId,
    /// Job of the configuration.
    pub job: String,
    /// Source.
    pub source: SourceName,
    /// Root of the partition tree.
    pub table: QualifiedName,
    /// The partition.
    pub partition: QualifiedName,
    /// Partitioned table right above it.
    pub parent: QualifiedName,
    /// Its bound, as `pg_get_expr` prints it.
    pub bound: String,
    /// Folder of the archive, like `ordered_at_month=2023-01`.
    pub label: String,
    /// Root of the version under which it is published: `v1`, or `copy/v1` for a copy of live rows.
    pub root: String,
    /// OID of the partition.
    pub relid: u32,
    /// System identifier of the server, where it tells.
    pub system_identifier: Option<String>,
    /// Database.
    pub database: String,
}

/// One step of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UnitEvent {
    /// What is reached.
    pub state: UnitState,
    /// When, by the ledger's clock.
    pub at: Timestamp,
    /// Rows and their digests, once they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Why, where somebody would ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Program.
    pub tool: Tool,
    /// Who ran it.
    pub operator: Operator,
    /// What is planned: in the first event only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<UnitPlan>,
}
