//! What stands beside a manifest: the repository's marker, intents, fates, leases, and the results of checks.
//!
//! All of these are created once and never edited. A check is an event beside the manifest, never a change of it.

use serde::{Deserialize, Serialize};

use crate::{BackupId, Sha256Digest, SourceName, Timestamp};

/// `dozo-repository.json`, created once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RepositoryMarker {
    /// Layout version.
    pub format: u32,
    /// Oldest format version a reader must understand.
    pub min_reader: u32,
    /// Random id.
    pub id: String,
    /// When it was created.
    pub created: Timestamp,
    /// Program that created it.
    pub tool: Tool,
    /// Whether the store refused the second of two create-only puts of one key when it was first used.
    pub create_only: bool,
    /// What else the store could do then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// What a store can do, as it was found out by doing it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Capabilities {
    /// The second of two writers of one key is refused, also when both come at once.
    pub create_only: Ability,
    /// A put that names the version it replaces is refused when another stands.
    pub if_match: Ability,
    /// Objects can be written in parts.
    pub multipart: Ability,
    /// A body that does not match its announced SHA-256 is refused.
    pub checksums: Ability,
    /// The configured storage class is kept.
    pub storage_class: Ability,
    /// The bucket keeps versions.
    pub versioning: Ability,
    /// A locked version cannot be deleted.
    pub object_lock: Ability,
    /// A listing shows what was just written.
    pub list_after_write: Ability,
    /// This user may delete.
    pub delete: Ability,
}

/// Whether a store can do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ability {
    /// It did.
    Yes,
    /// It did not.
    No,
    /// It was not asked, or gave no answer.
    Unknown,
}

impl From<bool> for Ability {
    fn from(can: bool) -> Self {
        if can { Self::Yes } else { Self::No }
    }
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `dozo`.
    pub name: String,
    /// Version.
    pub version: String,
}

/// Who ran it: never with a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Operator {
    /// OS user.
    pub user: String,
    /// Host.
    pub host: String,
    /// Arguments, secrets masked.
    pub arguments: Vec<String>,
}

/// `intent.json`: a backup is being made. Put before its first object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Intent {
    /// Layout version.
    pub format: u32,
    /// Id of the backup.
    pub id: BackupId,
    /// Source.
    pub source: SourceName,
    /// Backup whose objects it means to share.
    pub parent: Option<BackupId>,
    /// Start, by this machine's clock.
    pub started: Timestamp,
    /// Process that makes it.
    pub holder: LeaseHolder,
    /// Backup of another repository that it is to be a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<ReplicaOf>,
}

/// A backup of another repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplicaOf {
    /// Id of the repository.
    pub repository: String,
    /// Id of the backup there.
    pub id: BackupId,
    /// SHA-256 of its `manifest.json`.
    pub manifest: Sha256Digest,
}

impl ReplicaOf {
    /// Tells whether this is the backup `id` of a repository.
    #[must_use]
    pub fn is(&self, repository: &str, id: &BackupId) -> bool {
        self.repository == repository && &self.id == id
    }
}

/// What a fate record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FateState {
    /// The backup is to be deleted; until the next record it can be taken back.
    Tombstone,
    /// It is not deleted after all.
    Undo,
    /// Its objects may be deleted. Final.
    Doom,
}

/// `fate-<n>.json`: records with an even number are tombstones, the one behind it decides. Whoever creates that key decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FateRecord {
    /// Layout version.
    pub format: u32,
    /// Backup.
    pub backup: BackupId,
    /// What it says.
    pub state: FateState,
    /// When it was written, by its host's clock.
    pub at: Timestamp,
    /// Until when a tombstone can be taken back.
    pub due: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Told apart from a record of the same words.
    pub nonce: String,
    /// Who wrote it.
    pub operator: Operator,
    /// What the backup is a copy of: that is not copied again, once it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_of: Option<ReplicaOf>,
}

/// What somebody says about keeping a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldState {
    /// It is to be kept, whatever the policy says.
    Held,
    /// It is not held any more.
    Released,
}

/// `holds/<n>.json`: of the holds since the last release the longest counts; none is ever removed while the backup stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HoldRecord {
    /// Layout version.
    pub format: u32,
    /// Backup.
    pub backup: BackupId,
    /// What it says.
    pub state: HoldState,
    /// When it was written, by its host's clock.
    pub at: Timestamp,
    /// Until when it is held; none = until somebody releases it.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Who.
    pub operator: Operator,
}

/// `sources/<source>/<n>.json`: servers whose backups continue each other. All records count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RebindRecord {
    /// Layout version.
    pub format: u32,
    /// System identifiers.
    pub servers: Vec<String>,
    /// When it was written, by its host's clock.
    pub at: Timestamp,
    /// Why.
    pub reason: String,
    /// Who.
    pub operator: Operator,
}

/// What stands at the manifest key of a backup that somebody aborted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AbortRecord {
    /// When, by the clock of the host that aborted it.
    pub aborted: Timestamp,
    /// Why.
    pub reason: String,
    /// Who did.
    pub operator: Operator,
}

impl AbortRecord {
    /// Serializes it as a manifest is: with its digest line.
    ///
    /// # Errors
    /// What the serializer says.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        crate::manifest::with_digest(self)
    }
}

/// A process on a host, told apart from its namesakes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseHolder {
    /// Host name.
    pub host: String,
    /// Boot id of the kernel: after a reboot the same pid is somebody else.
    pub boot_id: String,
    /// PID namespace: in another container the same pid is somebody else.
    pub pid_namespace: String,
    /// Process id.
    pub pid: u32,
    /// Start time of the process in clock ticks since boot: a pid is used again.
    pub pid_start: u64,
}

/// State of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseState {
    /// Held; the counter grows while the holder lives.
    Held,
    /// Given back.
    Released,
}

/// `leases/<source>/<n>.json`: the record with the greatest `n` counts. Courtesy only: fates are decided by
/// create-only puts of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseRecord {
    /// Layout version.
    pub format: u32,
    /// Backup that holds it.
    pub backup: BackupId,
    /// State.
    pub state: LeaseState,
    /// Heartbeat counter.
    pub counter: u64,
    /// Process that holds it.
    pub holder: LeaseHolder,
    /// When it was written, by the holder's clock: for people only.
    pub written: Timestamp,
}

/// How deep a verification looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// Every object is there with its size.
    Exists,
    /// Every object was read again; sizes and digests are equal.
    Digest,
    /// Every row was decoded and encoded again as a restore would; counts and fingerprints are equal.
    Content,
}

impl VerifyLevel {
    /// Returns the word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Digest => "digest",
            Self::Content => "content",
        }
    }
}

/// Outcome of a check. A check that could not run is never green.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was looked at is as it must be.
    Passed,
    /// There is a finding.
    Failed,
    /// It could not be looked at.
    NotRun,
}

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// Not there.
    Missing,
    /// Another size.
    Size,
    /// Other bytes.
    Digest,
    /// Cannot be decoded.
    Decode,
    /// Decodes to another number of rows.
    Rows,
    /// Decodes to other rows.
    Content,
    /// The manifest contradicts itself.
    Manifest,
    /// Somebody put a delete marker or another version over it; the object itself is still there.
    Versions,
}

/// One finding of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Kind.
    pub kind: FindingKind,
    /// Object.
    pub object: String,
    /// Tables that need it.
    pub tables: Vec<String>,
    /// What was found.
    pub detail: String,
}

/// An object that was not read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedObject {
    /// Key.
    pub object: String,
    /// When a check last read its content.
    pub checked: Timestamp,
}

/// `checks/<n>.json`: the result of a verification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckEvent {
    /// Layout version.
    pub format: u32,
    /// Backup.
    pub backup: BackupId,
    /// Level.
    pub level: VerifyLevel,
    /// Outcome.
    pub verdict: Verdict,
    /// When it ended, by this machine's clock.
    pub at: Timestamp,
    /// Objects looked at.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Rows decoded.
    pub rows: u64,
    /// All findings.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub not_run: Vec<String>,
    /// Objects of earlier backups that were not read again, because a check had read them not long before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedObject>,
    /// Program.
    pub tool: Tool,
    /// Who ran it.
    pub operator: Operator,
}

impl CheckEvent {
    /// Tells whether an object could not be looked at: then it stands in `not_run` as `key: why`.
    #[must_use]
    pub fn could_not_read(&self, key: &str) -> bool {
        self.not_run.iter().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
    }

    /// Tells whether this check has looked at an object of its backup by itself.
    #[must_use]
    pub fn has_read(&self, key: &str) -> bool {
        !self.could_not_read(key) && !self.skipped.iter().any(|s| s.object == key)
    }
}
