//! What every verb is given: who listens, what time it is, when to stop, and resolved settings.

use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::{LockPolicy, Repository};
use dozo_files::UnseenWriters;
use dozo_model::{
    ByteSize, Clock, Compression, DuckdbForm, Operator, Profile, Progress, QualifiedName, RetentionPolicy, SourceName,
    TableFormat,
};
use dozo_postgres::{ConnInfo, ToolChoice, UrlRef};
use dozo_store::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alarms::AlarmRules;
use crate::replicate::ReplicaChoice;
use crate::{EngineError, Result};

/// Given to every verb.
#[derive(Clone)]
pub struct Context {
    /// Who listens.
    pub progress: Arc<dyn Progress>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// When to stop.
    pub cancel: CancellationToken,
    /// Who runs it.
    pub operator: Operator,
    /// Uploads on their way. Whoever ends the process after a cancellation waits a moment for them: they abort what they began.
    pub uploads: TaskTracker,
    /// What must be taken down before the process ends: throw-away servers and their folders. Whoever ends it waits for the tokens.
    pub cleanups: TaskTracker,
}

/// `[repository]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySettings {
    /// URL.
    pub url: String,
    /// Settings of the store.
    pub store: StoreOptions,
    /// Folder that relative paths count from.
    pub base: std::path::PathBuf,
    /// Percent of the disk that a backup leaves free.
    pub min_free: u8,
    /// Percent of the disk in use at which people are told, warned, alarmed.
    pub disk_levels: [u8; 3],
    /// What is locked against deletion.
    pub lock: Option<LockPolicy>,
    /// The only host that writes to it: allows deletes on a store without create-only puts.
    pub only_host: Option<String>,
    /// Repositories that hold copies of its backups.
    pub replicas: Vec<ReplicaSettings>,
}

/// `[[repository.replica]]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// Name on the command line.
    pub name: String,
    /// The repository that is filled; it has no replicas itself.
    pub repository: RepositorySettings,
    /// Which backups it is to have.
    pub choice: ReplicaChoice,
    /// Whether each backup is copied as soon as it is made.
    pub after_backup: bool,
}

impl RepositorySettings {
    /// Makes sure that the repository's disk has enough room. Only local ones can be asked.
    ///
    /// # Errors
    /// [`EngineError::LowSpace`].
    pub fn check_space(&self, store: &Store) -> Result<()> {
        let Some((free, total)) = store.space() else { return Ok(()) };
        if u128::from(free) * 100 < u128::from(total) * u128::from(self.min_free) {
            return Err(EngineError::LowSpace { url: store.url().to_owned(), free, total, min_free: self.min_free });
        }
        Ok(())
    }

    /// Checks the form of the URL.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn check_url(&self) -> Result<()> {
        Ok(Store::check_url(&self.url)?)
    }

    /// Opens the store, without looking at it.
    ///
    /// # Errors
    /// When the URL or a setting is wrong.
    pub fn store(&self) -> Result<Store> {
        Ok(Store::open(&self.url, &self.store, &self.base)?)
    }

    /// Opens an existing repository.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub async fn open(&self) -> Result<Repository> {
        Ok(Repository::open(self.store()?).await?)
    }
}

/// `[source.NAME]`, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSettings {
    /// Name.
    pub name: SourceName,
    /// What it is, with the settings that only such sources have.
    pub kind: SourceKind,
    /// Tables or files to take; empty = all.
    pub include: Vec<String>,
    /// Tables or files to leave out.
    pub exclude: Vec<String>,
    /// Threads, each with a connection of its own.
    pub workers: usize,
    /// Memory for all workers together.
    pub memory: ByteSize,
    /// How long to wait for a lock.
    pub lock_timeout: Duration,
    /// zstd level.
    pub zstd_level: i32,
    /// Time zone of the policy.
    pub time_zone: String,
    /// An object whose content was not verified for this long is copied again.
    pub reuse_max_age: Duration,
    /// Percent of its rows that a table may lose before the backup is suspect.
    pub shrink_max: u8,
    /// Tables that may lose any number of rows.
    pub shrink_ignore: Vec<String>,
    /// Bytes per second that a run may read; none = as fast as it goes.
    pub rate: Option<ByteSize>,
    /// Commands around a backup.
    pub hooks: Hooks,
    /// What is kept of it.
    pub retention: RetentionPolicy,
    /// What raises an alarm.
    pub alarms: AlarmRules,
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// A Postgres database, or a whole server.
    Postgres(PostgresSettings),
    /// DuckDB files.
    Duckdb(DuckdbSettings),
    /// A file set.
    Files(FilesSettings),
    /// What a command prints.
    Command(CommandSettings),
}

/// What only a Postgres source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where the connection text comes from.
    pub url: UrlRef,
    /// Another database of the same server than the URL's.
    pub database: Option<String>,
    /// Every database that these patterns match is a source of its own; none = only the URL's.
    pub databases: Option<DatabaseChoice>,
    /// Client programs.
    pub pg_tools: ToolChoice,
    /// How long others may wait behind our locks.
    pub max_block: Duration,
    /// What happens then.
    pub on_block: OnBlock,
    /// Replicas that lag more than this make the run pause; none = they are not looked at.
    pub max_replication_lag: Option<Duration>,
    /// For whom files are written.
    pub profile: Profile,
    /// Form in which tables are kept.
    pub format: TableFormat,
    /// Patterns of tables that are kept in another form.
    pub formats: Vec<(String, TableFormat)>,
    /// Columns of types that nobody can load, which are exported as text nevertheless: `schema.table.column`.
    pub text_only: Vec<String>,
    /// Whether each backup writes a row into the canary first.
    pub canary: bool,
    /// Column of time whose newest value tells the recovery point, instead of the canary: table and column.
    pub rpo_column: Option<(QualifiedName, String)>,
    /// Whether a database without an encoding is refused where it has texts, instead of kept as bytes.
    pub refuse_unknown_encoding: bool,
}

/// What only a DuckDB source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuckdbSettings {
    /// Folder that the pattern counts from.
    pub base: std::path::PathBuf,
    /// Pattern of the files' paths; every file that it matches is backed up.
    pub path: std::path::PathBuf,
    /// How they are stored.
    pub form: DuckdbForm,
    /// How the file form is compressed.
    pub compression: Compression,
}

/// What only a file set has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesSettings {
    /// Folder that everything lies below.
    pub root: std::path::PathBuf,
    /// How tar objects are compressed.
    pub compression: Compression,
    /// What becomes of old files; none = nothing.
    pub rotate: Option<RotateSettings>,
}

/// What becomes of old files of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotateSettings {
    /// One that was not written for so long is compressed.
    pub compress_after: Option<Duration>,
    /// One that was not written for so long, compressed or not, is deleted.
    pub delete_after: Option<Duration>,
    /// Nothing is done to a file that no verified backup holds.
    pub after_backup: bool,
    /// What is done about processes that cannot be seen.
    pub unseen_writers: UnseenWriters,
}

/// What only a command has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// Folder that it runs in.
    pub base: std::path::PathBuf,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Program and arguments that must succeed afterwards; empty = none.
    pub check: Vec<String>,
    /// Each is killed after this long.
    pub timeout: Duration,
    /// Fewer bytes than this are no backup.
    pub min_size: ByteSize,
    /// Name of the file that holds what it printed.
    pub file: String,
    /// How that is compressed.
    pub compression: Compression,
}

impl SourceSettings {
    /// Returns the source that makes backups under this name: the one of that name, or the server that it is a database of.
    #[must_use]
    pub fn of<'s>(all: &'s [Self], name: &SourceName) -> Option<&'s Self> {
        all.iter().find(|s| &s.name == name).or_else(|| all.iter().find(|s| s.has_database(name)))
    }

    /// Tells whether losing so much is unlikely enough to make a backup suspect. `now`: none = it is gone altogether.
    #[must_use]
    pub(crate) fn shrank(&self, before: u64, now: Option<u64>) -> bool {
        let lost = before.saturating_sub(now.unwrap_or(0));
        now.is_none() || lost > 0 && u128::from(lost) * 100 >= u128::from(before) * u128::from(self.shrink_max)
    }

    /// Returns what only a Postgres source has.
    #[must_use]
    pub fn postgres(&self) -> Option<&PostgresSettings> {
        match &self.kind {
            SourceKind::Postgres(settings) => Some(settings),
            SourceKind::Duckdb(_) | SourceKind::Files(_) | SourceKind::Command(_) => None,
        }
    }

    /// Returns which databases of a server are sources of their own; none = it is a source by itself.
    #[must_use]
    pub fn databases(&self) -> Option<&DatabaseChoice> {
        self.postgres()?.databases.as_ref()
    }

    /// Tells whether this is a whole server, and `name` one of its databases.
    #[must_use]
    pub fn has_database(&self, name: &SourceName) -> bool {
        let rest = name.as_str().strip_prefix(self.name.as_str());
        self.databases().is_some() && rest.is_some_and(|rest| rest.starts_with('-'))
    }
}

impl PostgresSettings {
    /// Resolves how it is connected.
    ///
    /// # Errors
    /// What is wrong with the URL, or where it should come from.
    pub fn connection(&self) -> Result<ConnInfo> {
        let info = self.url.resolve()?;
        Ok(self.database.as_ref().map_or(info.clone(), |name| info.with_database(name)))
    }
}

/// Which databases of a server are backed up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseChoice {
    /// Patterns of names.
    pub include: Vec<String>,
    /// Patterns of names to leave out.
    pub exclude: Vec<String>,
}

/// What a run does when others wait behind its locks for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBlock {
    /// Says so.
    Warn,
    /// Gives its locks back, lets the others through, and starts over.
    Release,
    /// Fails.
    Abort,
}

/// Commands around a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Before the source is read; a failure fails the backup.
    pub before: Option<Hook>,
    /// After it, whatever came of it.
    pub after: Option<Hook>,
}

/// A command with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It is killed after this long.
    pub timeout: Duration,
}
