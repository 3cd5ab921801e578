//! What a plan is made of: plain data about every committed backup, and about WAL.

use std::collections::BTreeMap;

use dozo_model::{BackupId, RetentionPolicy, Sha256Digest, SourceName, Timestamp};
use serde::Serialize;

/// What kind of backup it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum BackupKind {
    /// Rows, files: it needs nothing but its own objects.
    Logical,
    /// A copy of a server's data folder: it needs the WAL of its own making.
    #[serde(rename_all = "kebab-case")]
    Base {
        /// Timeline.
        timeline: u32,
        /// Segment in which it starts, counted from the beginning of WAL.
        first_segment: u64,
        /// Segment that makes it consistent.
        last_segment: u64,
    },
}

/// Somebody wants it kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Who.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when; none = until it is released.
    pub until: Option<Timestamp>,
}

impl Hold {
    /// Tells whether it has not ended at this time.
    #[must_use]
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// It is marked for deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mark {
    /// Until when it can be taken back.
    pub due: Timestamp,
    /// Why it was marked.
    pub reason: String,
}

/// A committed backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupFacts {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// Kind.
    pub kind: BackupKind,
    /// The server that it came from, where it tells: backups of different ones do not stand in for each other.
    pub incarnation: Option<String>,
    /// Start, as the source's clock recorded it.
    pub started: Timestamp,
    /// End.
    pub finished: Timestamp,
    /// `complete`, `suspect`, `partial`, `damaged`.
    pub state: &'static str,
    /// Whether it may be relied on: committed, complete, not suspect, no open finding.
    pub good: bool,
    /// Whether a check of its content has passed.
    pub verified: bool,
    /// Who wants it kept.
    pub hold: Option<Hold>,
    /// Backups that it cannot be restored without.
    pub needs: Vec<BackupId>,
    /// What stands beside it and cannot be read: it may be held.
    pub unknown: Option<String>,
    /// Whether it is marked for deletion.
    pub mark: Option<Mark>,
    /// Until when all its objects are locked at least.
    pub locked_until: Option<Timestamp>,
    /// Its objects, by their places in [`Facts::objects`].
    #[serde(skip)]
    pub objects: Vec<u32>,
}

/// WAL without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalRun {
    /// Source.
    pub source: SourceName,
    /// Server.
    pub incarnation: Option<String>,
    /// Timeline.
    pub timeline: u32,
    /// First segment.
    pub from: u64,
    /// Last segment.
    pub to: u64,
    /// When its last segment was written.
    pub newest: Timestamp,
}

/// Everything that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Committed backups, in any order.
    pub backups: Vec<BackupFacts>,
    /// Size of each object.
    pub objects: Vec<u64>,
    /// Servers of a source that continue each other.
    pub joined: BTreeMap<SourceName, Vec<Vec<String>>>,
    /// WAL.
    pub wal: Vec<WalRun>,
    /// What could not be read: nothing is deleted while there is any.
    pub unreadable: Vec<String>,
    /// The latest time that a host of dozo's has written down, and where it stands.
    pub latest_record: Option<(Timestamp, String)>,
}

impl BackupFacts {
    /// A good backup that was verified, of which nothing else is known.
    #[must_use]
    pub fn good(source: SourceName, id: BackupId, started: Timestamp) -> Self {
        Self {
            source,
            id,
            kind: BackupKind::Logical,
            incarnation: None,
            started,
            finished: started,
            state: "complete",
            good: true,
            verified: true,
            hold: None,
            needs: Vec::new(),
            unknown: None,
            mark: None,
            locked_until: None,
            objects: Vec::new(),
        }
    }
}

impl Facts {
    /// Returns what tells these facts under these policies from others: a plan is carried out only while it is equal.
    #[must_use]
    pub fn digest<'p>(&self, policy: impl Fn(&SourceName) -> &'p RetentionPolicy) -> Sha256Digest {
        let mut backups: Vec<&BackupFacts> = self.backups.iter().collect();
        backups.sort_by_key(|b| (&b.source, &b.id));
        let mut wal: Vec<&WalRun> = self.wal.iter().collect();
        wal.sort_by_key(|w| (&w.source, &w.incarnation, w.timeline, w.from));
        let policies: BTreeMap<&SourceName, &RetentionPolicy> = backups.iter().map(|b| (&b.source, policy(&b.source))).collect();
        let all = serde_json::json!({ "backups": backups, "joined": self.joined, "wal": wal, "policies": policies });
        Sha256Digest::of(all.to_string().as_bytes())
    }
}
