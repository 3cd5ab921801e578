//! What lets one backup lean on another, and what keeps it from being believed: change tokens, losses, acceptance.
//!
//! Place in the flow: parts of the manifest and of the records beside it. *Invariant*: a token says nothing by itself; it
//! is compared only between backups of the same server process, timeline and database.

use serde::{Deserialize, Serialize};

use crate::{Operator, QualifiedName, Sha256Digest, Timestamp, Tool};

/// What stood in a table when it was read. An equal token from the same server process (system identifier, timeline,
/// `pg_postmaster_start_time()`, database) means the same rows, so the next backup may name the same objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChangeToken {
    /// `relfilenode`: another one after TRUNCATE, VACUUM FULL, CLUSTER and rewrites.
    pub filenode: u32,
    /// Which row versions the snapshot sees.
    #[serde(flatten)]
    pub versions: RowVersions,
    /// Everything that decides what the same bytes on disk mean: columns, types and their labels, encodings, the writer.
    pub shape: Sha256Digest,
}

/// Number of visible row versions, and the sum modulo 2⁶⁴ of `hashtidextended(ctid, xmin)` over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RowVersions {
    /// Row versions.
    pub versions: u64,
    /// Summed hashes, as 16 hex digits.
    #[serde(with = "hex16")]
    pub version_sum: u64,
}

impl std::ops::AddAssign for RowVersions {
    fn add_assign(&mut self, other: Self) {
        self.versions += other.versions;
        self.version_sum = self.version_sum.wrapping_add(other.version_sum);
    }
}

mod hex16 {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{value:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(d)?, 16).map_err(serde::de::Error::custom)
    }
}

/// A table that lost more rows than is likely: the backup is suspect until somebody accepts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Loss {
    /// Table, root of a partition tree, or whole source.
    #[serde(flatten)]
    pub name: QualifiedName,
    /// What is counted.
    #[serde(default, skip_serializing_if = "LossUnit::is_rows")]
    pub unit: LossUnit,
    /// How many in the newest good backup before.
    pub before: u64,
    /// How many now; none when it is gone.
    pub now: Option<u64>,
}

/// What a loss is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossUnit {
    /// Rows of a table.
    #[default]
    Rows,
    /// Files of a set.
    Files,
    /// Bytes that a command printed.
    Bytes,
}

impl LossUnit {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    fn is_rows(&self) -> bool {
        *self == Self::Rows
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Files => "files",
            Self::Bytes => "bytes",
        }
    }
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, before, unit) = (&self.name, crate::human_count(self.before), self.unit.as_str());
        match self.now {
            None => write!(f, "{name} is gone (it had {before} {unit})"),
            Some(0) => write!(f, "{name} is empty (it had {before} {unit})"),
            Some(now) => write!(f, "{name} has {} {unit} instead of {before}", crate::human_count(now)),
        }
    }
}

/// `accepted.json`: somebody looked at a suspect backup and takes it for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Acceptance {
    /// Layout version.
    pub format: u32,
    /// When, by this machine's clock.
    pub at: Timestamp,
    /// Why, in the words of whoever did.
    pub reason: Option<String>,
    /// Program.
    pub tool: Tool,
    /// Who.
    pub operator: Operator,
}

/// How much of a dataset the server's own fingerprint has confirmed, in the snapshot that was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceMatch {
    /// Rows whose fingerprint the server computed and found equal.
    pub rows: u64,
    /// Whether these are all rows.
    pub whole: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_add_up_and_are_written_as_hex() {
        let mut sum = RowVersions { versions: 1, version_sum: u64::MAX };
        sum += RowVersions { versions: 2, version_sum: 3 };
        assert_eq!(sum, RowVersions { versions: 3, version_sum: 2 });
        let json = serde_json::to_value(ChangeToken { filenode: 7, versions: sum, shape: Sha256Digest::of(b"") }).unwrap();
        assert_eq!((&json["versions"], &json["version-sum"]), (&3.into(), &"0000000000000002".into()));
        assert_eq!(serde_json::from_value::<ChangeToken>(json).unwrap().versions, sum);
    }

    #[test]
    fn losses_read_well() {
        let loss = |now| Loss { name: QualifiedName::new("public", "a"), unit: LossUnit::Rows, before: 1000, now }.to_string();
        assert_eq!(loss(None), "public.a is gone (it had 1,000 rows)");
        assert_eq!(loss(Some(0)), "public.a is empty (it had 1,000 rows)");
        assert_eq!(loss(Some(400)), "public.a has 400 rows instead of 1,000");
    }
}
