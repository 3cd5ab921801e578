//! How the verbs tell what they are doing, without knowing who listens.

/// A stage of a verb, as shown to people and timed in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Connect, lock, export the snapshot, read the catalogs.
    Prepare,
    /// Which tables have changed.
    Changes,
    /// Schema, roles.
    Schema,
    /// Rows.
    Data,
    /// Indexes, constraints, triggers.
    PostData,
    /// Fingerprints and digests.
    Verify,
    /// Manifest.
    Commit,
}

impl Stage {
    /// Returns the word shown to people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Changes => "changes",
            Self::Schema => "schema",
            Self::Data => "data",
            Self::PostData => "post-data",
            Self::Verify => "verify",
            Self::Commit => "commit",
        }
    }
}

/// Receives what a verb reports while it runs. Called from many threads, cheaply.
pub trait Progress: Send + Sync {
    /// A stage begins; `rows` and `bytes` are estimates of its whole, 0 where unknown.
    fn stage(&self, stage: Stage, rows: u64, bytes: u64);
    /// Rows and bytes of `dataset` were done since the last call.
    fn advance(&self, dataset: &str, rows: u64, bytes: u64);
    /// A dataset is complete.
    fn done(&self, dataset: &str, rows: u64, seconds: f64);
    /// Something that people should know and that does not stop the run.
    fn warn(&self, message: &str);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn stage(&self, _: Stage, _: u64, _: u64) {}
    fn advance(&self, _: &str, _: u64, _: u64) {}
    fn done(&self, _: &str, _: u64, _: f64) {}
    fn warn(&self, _: &str) {}
}
