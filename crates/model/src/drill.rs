//! Drills: what a rehearsed restore has shown, as a record that is created once, names what it tested by digest, and stands in a chain.
//!
//! `drills/<n>.json` holds a [`DrillRecord`], and like a manifest its last line is the digest of every byte before it. Each names the digest
//! of the record before it, and beside every backup that was restored stands a [`DrillEvent`] that names the record: a record that is
//! edited, removed or moved contradicts one of them. The schema is `docs/drill.schema.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{BackupId, Fingerprint, Operator, Sha256Digest, SourceName, Timestamp, Tool, Verdict};

/// A drill that has ended, whatever came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillRecord {
    /// Layout version.
    pub format: u32,
    /// Its place in the chain, from 1.
    pub number: u64,
    /// The record before it; none for the first.
    pub previous: Option<DrillLink>,
    /// Id of the repository.
    pub repository: String,
    /// Name in the configuration.
    pub drill: String,
    /// When it began, by this host's clock.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Worst of all items: one finding fails it, one item that could not run keeps it from being green.
    pub verdict: Verdict,
    /// What was rehearsed, and for which incident.
    pub incident: Incident,
    /// What was promised.
    pub objectives: Objectives,
    /// What was measured over all items.
    pub measured: Measured,
    /// What was restored.
    pub items: Vec<DrillItem>,
    /// What speaks against all of it together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Steps that people follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<Runbook>,
    /// What people should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whom to call, and how.
    #[serde(default)]
    pub contacts: Vec<(String, String)>,
    /// Program.
    pub tool: Tool,
    /// Who ran it.
    pub operator: Operator,
}

/// Another record of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillLink {
    /// Its number.
    pub number: u64,
    /// SHA-256 of its bytes.
    pub sha256: Sha256Digest,
}

/// How bad the rehearsed incident is: each has an objective of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Incident {
    /// A table, a partition, a file.
    Minor,
    /// A database.
    Database,
    /// Everything.
    Complete,
}

impl Incident {
    /// Returns the word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minor => "minor",
            Self::Database => "database",
            Self::Complete => "complete",
        }
    }
}

/// What was promised, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Objectives {
    /// Recovery time.
    pub rto_seconds: u64,
    /// Age of the newest row that comes back.
    pub rpo_seconds: u64,
}

/// What was measured over all items of a drill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// Longest time of an item to its verified end; of a complete loss the time of all together. Of a sample it is the estimate.
    pub rto_seconds: Option<f64>,
    /// Greatest age of the newest row that came back.
    pub rpo_seconds: Option<f64>,
    /// Wall time of the whole drill.
    pub wall_seconds: f64,
}

/// Kind of what was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillScope {
    /// A whole Postgres database.
    Database,
    /// Named tables.
    Tables,
    /// Random tables and partitions.
    Sample,
    /// A partition out of an archive.
    Archive,
    /// DuckDB files.
    Duckdb,
    /// A file set.
    Files,
    /// What a command printed.
    Command,
}

impl DrillScope {
    /// Returns the words for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Database => "whole database",
            Self::Tables => "tables",
            Self::Sample => "sample",
            Self::Archive => "archived partition",
            Self::Duckdb => "DuckDB files",
            Self::Files => "file set",
            Self::Command => "output of a command",
        }
    }
}

/// One restore of a drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillItem {
    /// Source.
    pub source: SourceName,
    /// What of it.
    pub scope: DrillScope,
    /// Backup, or unit of an archive; none where there was none to restore.
    pub backup: Option<BackupId>,
    /// SHA-256 of its manifest: which names every object by digest.
    pub manifest_sha256: Option<Sha256Digest>,
    /// When it was taken, by its server's clock.
    pub taken: Option<Timestamp>,
    /// Tables, partition, or files that were chosen; empty = all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<String>,
    /// Where it was restored to: a scratch server and its version, a test server, a folder.
    pub place: String,
    /// Outcome.
    pub verdict: Verdict,
    /// Why it is not green.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Seconds of each phase: provision, fetch, load, index, verify, checks, teardown.
    pub seconds: BTreeMap<String, f64>,
    /// From the first step to the verified end; none where it did not come to that.
    pub rto_seconds: Option<f64>,
    /// Of a sample: how long the whole would take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Measured age of the newest row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<MeasuredRpo>,
    /// Age of the backup when the drill began.
    pub backup_age_seconds: Option<f64>,
    /// Tables, or files, that came back.
    pub restored: u64,
    /// Of these, those that were compared and equal.
    pub equal: u64,
    /// Rows that came back.
    pub rows: u64,
    /// Bytes that were fetched and loaded: of rows before they were encoded, of files as they are.
    pub bytes: u64,
    /// Sum of all fingerprints that the restored database computed; none for files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Every check.
    pub checks: Vec<DrillCheck>,
    /// Definitions that the backup lacks and that stood in the one that was drilled before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// What nobody looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_checked: Vec<String>,
}

/// One check of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// What was looked at.
    pub name: String,
    /// Outcome.
    pub verdict: Verdict,
    /// What was found, in a line.
    pub detail: String,
}

/// How long the whole would take, by the rates of a sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Share of the bytes that were sampled, 0 to 1.
    pub share: f64,
    /// Seconds.
    pub seconds: f64,
    /// Seconds, at best.
    pub low: f64,
    /// Seconds, at worst.
    pub high: f64,
}

/// Age of the newest row that came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MeasuredRpo {
    /// `canary`, or a column.
    pub from: String,
    /// Time in the newest row.
    pub newest: Timestamp,
    /// Seconds between it and the begin of the drill.
    pub seconds: f64,
    /// Seconds between it and the backup: how long nobody had written one.
    pub before_backup_seconds: f64,
}

/// The steps that people follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Runbook {
    /// Path, as configured.
    pub path: String,
    /// Days since it was last written; none where it cannot be read.
    pub age_days: Option<u64>,
    /// SHA-256 of its text.
    pub sha256: Option<Sha256Digest>,
}

/// `backups/<source>/<id>/drills/<n>.json`: this backup was restored in a drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DrillEvent {
    /// Layout version.
    pub format: u32,
    /// Record that tells of it.
    pub record: DrillLink,
    /// Whether all of the backup was restored.
    pub whole: bool,
    /// Outcome.
    pub verdict: Verdict,
    /// When the drill ended.
    pub at: Timestamp,
}

impl DrillRecord {
    /// Serializes it as a manifest is: with its digest line.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        crate::manifest::with_digest(self)
    }

    /// Checks the digest line, and reads it.
    ///
    /// # Errors
    /// [`crate::ManifestError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, crate::ManifestError> {
        let record: Self = serde_json::from_slice(crate::manifest::checked_body(bytes)?).map_err(crate::ManifestError::Syntax)?;
        if record.format > crate::FORMAT_VERSION {
            return Err(crate::ManifestError::TooNew { found: record.format });
        }
        Ok(record)
    }

    /// Returns every finding, with the item that it is about; none = all of them together.
    pub fn all_findings(&self) -> impl Iterator<Item = (Option<&DrillItem>, &str)> {
        let own = self.findings.iter().map(|f| (None, f.as_str()));
        own.chain(self.items.iter().flat_map(|i| i.findings.iter().map(move |f| (Some(i), f.as_str()))))
    }
}

impl DrillItem {
    /// Names it: `shop@20261121T020000Z-k3x9qa`, or the source alone.
    #[must_use]
    pub fn label(&self) -> String {
        self.backup.as_ref().map_or_else(|| self.source.to_string(), |id| format!("{}@{id}", self.source))
    }

    /// Tells whether it restored all of its backup.
    #[must_use]
    pub fn whole(&self) -> bool {
        matches!(self.scope, DrillScope::Database | DrillScope::Duckdb | DrillScope::Files | DrillScope::Command)
    }
}

impl Verdict {
    /// Returns the words for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotRun => "not run",
        }
    }

    /// Returns the verdict of several: a finding outweighs what could not run, and nothing at all is not green.
    pub fn of(all: impl Iterator<Item = Self>) -> Self {
        all.reduce(|a, b| match (a, b) {
            (Self::Failed, _) | (_, Self::Failed) => Self::Failed,
            (Self::NotRun, _) | (_, Self::NotRun) => Self::NotRun,
            _ => Self::Passed,
        })
        .unwrap_or(Self::NotRun)
    }
}

/// Tables of a database, and what belongs to each: `index orders_pkey` → digest of its definition; of a foreign key, behind the digest, the
/// table that it refers to.
pub type DefinitionsByTable = BTreeMap<String, BTreeMap<String, String>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_outweighs_what_could_not_run_and_nothing_is_not_green() {
        use Verdict::{Failed, NotRun, Passed};
        for (all, expected) in [
            (vec![], NotRun),
            (vec![Passed, Passed], Passed),
            (vec![Passed, NotRun], NotRun),
            (vec![NotRun, Failed, Passed], Failed),
            (vec![Failed, NotRun], Failed),
        ] {
            assert_eq!(Verdict::of(all.into_iter()), expected);
        }
    }
}
