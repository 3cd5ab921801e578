//! Engine errors, by what the caller can do. Findings of a verification are data, not errors.

use std::path::Path;

use dozo_catalog::CatalogError;
use dozo_encode::EncodeError;
use dozo_files::FilesError;
use dozo_model::{ErrorClass, Explain, Fingerprint, IdError, Manifest, QualifiedName, human_bytes};
use dozo_postgres::{PgError, WireError};
use dozo_store::StoreError;

/// Why a verb did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Postgres.
    #[error(transparent)]
    Postgres(#[from] PgError),
    /// A DuckDB file.
    #[cfg(feature = "duckdb")]
    #[error(transparent)]
    Duckdb(#[from] dozo_duckdb::DuckdbError),
    /// Files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A command is no good backup.
    #[error("command `{program}`: {reason}")]
    Command {
        /// Program.
        program: String,
        /// Why.
        reason: String,
    },
    /// This program was built without DuckDB.
    #[error("{what}: this dozo was built without DuckDB")]
    WithoutDuckdb {
        /// What needs it.
        what: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Parquet.
    #[error("`{object}`")]
    Encode {
        /// Object or table.
        object: String,
        /// Why.
        #[source]
        source: EncodeError,
    },
    /// A pattern is not valid.
    #[error("pattern `{pattern}` is not valid: {reason}")]
    BadPattern {
        /// Pattern.
        pattern: String,
        /// Why.
        reason: String,
    },
    /// A pattern matches no table.
    #[error("pattern `{pattern}` matches no table of {place}")]
    NoMatch {
        /// Pattern.
        pattern: String,
        /// Where.
        place: String,
    },
    /// Something stands in a folder where a restore would put something else.
    #[error("{} holds something else already: {}", folder.display(), files.join(", "))]
    FolderOccupied {
        /// Folder.
        folder: std::path::PathBuf,
        /// Some of what stands there.
        files: Vec<String>,
    },
    /// A table is to be kept in two forms.
    #[error("{table} is to be kept in two formats, by `{}` and by `{}`", patterns[0], patterns[1])]
    Formats {
        /// Table.
        table: QualifiedName,
        /// Patterns that match it.
        patterns: [String; 2],
    },
    /// A pattern matches no file of a backup.
    #[error("pattern `{pattern}` matches no file of {backup}")]
    NoFile {
        /// Pattern.
        pattern: String,
        /// Source and id.
        backup: String,
    },
    /// Texts of a database that does not know its encoding, where these are to be refused.
    #[error("the database has no encoding (SQL_ASCII), and these columns hold texts: {}", columns.join(", "))]
    UnknownEncoding {
        /// All of them.
        columns: Vec<String>,
    },
    /// A replica holds no repository.
    #[error("replica `{name}`: there is no dozo repository at {url}")]
    NoReplica {
        /// Its name.
        name: String,
        /// URL.
        url: String,
    },
    /// A replica is the repository that it is to be a copy of.
    #[error("replica `{name}` at {url} is the repository itself, or a copy of its files")]
    SameRepository {
        /// Its name.
        name: String,
        /// URL.
        url: String,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A backup of another kind of source than the verb is for.
    #[error("{backup} is a backup of a {kind} source: this needs one of a {wanted} source")]
    OtherKind {
        /// Source and id.
        backup: String,
        /// Kind of its source.
        kind: &'static str,
        /// Kind that is needed.
        wanted: &'static str,
    },
    /// An answer could not be written.
    #[error("the answer could not be written: {0}")]
    Output(std::io::Error),
    /// Options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The target has tables that the restore would create.
    #[error("{target} is not empty: {}", tables.join(", "))]
    TargetOccupied {
        /// Database.
        target: String,
        /// Some of them.
        tables: Vec<String>,
    },
    /// An interrupted restore of something else lies in the target.
    #[error("{target} holds an interrupted restore of {label}")]
    OtherRestore {
        /// Database.
        target: String,
        /// What it restores.
        label: String,
    },
    /// A live table cannot take the stored rows.
    #[error("{table} has other columns than the backup: {}", columns.join(", "))]
    TableDiffers {
        /// Table.
        table: QualifiedName,
        /// What differs.
        columns: Vec<String>,
    },
    /// What was loaded is not what the manifest says; the live table is as it was.
    #[error("what was loaded for {table} is {found} instead of {expected}: nothing was changed")]
    SideDiffers {
        /// Table.
        table: QualifiedName,
        /// By the manifest.
        expected: Fingerprint,
        /// By the target.
        found: Fingerprint,
    },
    /// Another restore runs.
    #[error("another restore into {target} is running")]
    RestoreRunning {
        /// Database.
        target: String,
    },
    /// Another archive run works in the database.
    #[error("another archive run works in {target}")]
    ArchiveRunning {
        /// Database.
        target: String,
    },
    /// Roles are missing.
    #[error("{} of the backup do not exist in {target}: {}", if roles.len() == 1 { "a role" } else { "roles" }, roles.join(", "))]
    MissingRoles {
        /// Database.
        target: String,
        /// Roles.
        roles: Vec<String>,
    },
    /// A restore failed after its start: what is complete stays, and it can be run again.
    #[error("the restore stopped after {complete} of {total} tables were complete")]
    RestoreStopped {
        /// Complete tables.
        complete: usize,
        /// All tables.
        total: usize,
        /// Why.
        #[source]
        source: Box<EngineError>,
    },
    /// The stored bytes of an object are not what the manifest says.
    #[error("`{object}` is damaged: {reason}")]
    Damaged {
        /// Object.
        object: String,
        /// What is wrong.
        reason: String,
    },
    /// A stored file holds something that is no row of its table.
    #[error("stored rows cannot be read")]
    Rows(#[from] WireError),
    /// No such table.
    #[error("table {0} does not exist, or may not be seen")]
    NoTable(QualifiedName),
    /// The database has tables, but none of them may be read or is asked for.
    #[error("there is nothing to back up in source `{source_name}` ({why})")]
    NothingToBackUp {
        /// Source.
        source_name: String,
        /// An example.
        why: String,
    },
    /// The server's own fingerprint is not that of the rows that were copied.
    #[error("{table}: the rows that were copied are not those of the source: {found} by the server, {copied} copied")]
    NotSourceMatched {
        /// Table and range.
        table: String,
        /// What the server says.
        found: Fingerprint,
        /// What was copied.
        copied: Fingerprint,
    },
    /// Somebody waits behind our locks.
    #[error("{waiting} has waited longer than {limit} behind the locks of this backup")]
    Blocking {
        /// Who, for what.
        waiting: String,
        /// `max-block`.
        limit: String,
    },
    /// The repository's disk is too full.
    #[error("the disk of {url} has {} of {} free, less than min-free = \"{min_free}%\"", human_bytes(*free), human_bytes(*total))]
    LowSpace {
        /// Repository.
        url: String,
        /// Free bytes.
        free: u64,
        /// Bytes in all.
        total: u64,
        /// Percent.
        min_free: u8,
    },
    /// A hook failed.
    #[error("hook `{hook}` ({command} …): {reason}")]
    Hook {
        /// `before` or `after`.
        hook: &'static str,
        /// Program.
        command: String,
        /// Why.
        reason: String,
    },
    /// A folder of dumps cannot be read, or changed.
    #[error("{}: {reason}", folder.display())]
    Folder {
        /// Folder, or what is in it.
        folder: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// More of a folder's dumps would go than the policy lets go at once.
    #[error("nothing was moved: {deletes} of {standing} dumps in {} would go, which is more than max-delete = \"{max_delete}%\"", folder.display())]
    TooManyDumps {
        /// Folder.
        folder: std::path::PathBuf,
        /// How many would go.
        deletes: usize,
        /// How many there are.
        standing: usize,
        /// Percent.
        max_delete: u8,
    },
    /// There is nothing to accept.
    #[error("backup {backup} is not suspect: {reason}")]
    NotSuspect {
        /// Backup.
        backup: String,
        /// What it is.
        reason: String,
    },
    /// The work was stopped.
    #[error("interrupted")]
    Cancelled,
    /// A bug.
    #[error("internal error: {0}")]
    Internal(String),
}

impl EngineError {
    /// Says that a backup is of another kind than the `wanted` one.
    pub(crate) fn other_kind(manifest: &Manifest, wanted: &'static str) -> Self {
        Self::OtherKind { backup: format!("{}@{}", manifest.source, manifest.id), kind: manifest.kind(), wanted }
    }

    /// Says which folder or file the system refused.
    pub(crate) fn folder(path: &Path) -> impl Fn(std::io::Error) -> Self + Copy + use<'_> {
        move |e| Self::Folder { folder: path.to_owned(), reason: e.to_string() }
    }
}

/// Returns an error and what it came from in one line; what was said already is not said again.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

impl Explain for EngineError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Postgres(e) => e.class(),
            #[cfg(feature = "duckdb")]
            Self::Duckdb(e) => e.class(),
            Self::Files(e) => e.class(),
            Self::Store(e) => e.class(),
            Self::Catalog(e) => e.class(),
            Self::Encode { source, .. } => source.class(),
            Self::BadPattern { .. }
            | Self::NoMatch { .. }
            | Self::NoFile { .. }
            | Self::Formats { .. }
            | Self::Name(_)
            | Self::Options(_)
            | Self::OtherKind { .. }
            | Self::WithoutDuckdb { .. }
            | Self::SameRepository { .. } => ErrorClass::Input,
            Self::TargetOccupied { .. }
            | Self::FolderOccupied { .. }
            | Self::OtherRestore { .. }
            | Self::TableDiffers { .. }
            | Self::MissingRoles { .. }
            | Self::NoTable(_)
            | Self::LowSpace { .. }
            | Self::Hook { .. }
            | Self::Command { .. }
            | Self::Folder { .. }
            | Self::Output(_)
            | Self::TooManyDumps { .. }
            | Self::NotSuspect { .. }
            | Self::NoReplica { .. }
            | Self::UnknownEncoding { .. }
            | Self::NothingToBackUp { .. } => ErrorClass::Failed,
            Self::Blocking { .. } => ErrorClass::Transient,
            Self::RestoreRunning { .. } | Self::ArchiveRunning { .. } => ErrorClass::Conflict,
            Self::RestoreStopped { source, .. } => source.class(),
            Self::Damaged { .. } | Self::Rows(_) | Self::NotSourceMatched { .. } | Self::SideDiffers { .. } => {
                ErrorClass::Integrity
            }
            Self::Cancelled => ErrorClass::Cancelled,
            Self::Internal(_) => ErrorClass::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Postgres(e) => e.code(),
            #[cfg(feature = "duckdb")]
            Self::Duckdb(e) => e.code(),
            Self::Files(e) => e.code(),
            Self::Store(e) => e.code(),
            Self::Catalog(e) => e.code(),
            Self::Encode { source, .. } => source.code(),
            Self::BadPattern { .. } => "DOZO-E6001",
            Self::NoMatch { .. } => "DOZO-E6002",
            Self::Options(_) => "DOZO-E6003",
            Self::TargetOccupied { .. } => "DOZO-E6004",
            Self::OtherRestore { .. } => "DOZO-E6005",
            Self::RestoreRunning { .. } => "DOZO-E6006",
            Self::MissingRoles { .. } => "DOZO-E6007",
            Self::RestoreStopped { source, .. } => source.code(),
            Self::Damaged { .. } => "DOZO-E6008",
            Self::NoTable(_) => "DOZO-E6009",
            Self::Rows(_) => "DOZO-E6011",
            Self::NothingToBackUp { .. } => "DOZO-E6012",
            Self::NotSourceMatched { .. } => "DOZO-E6013",
            Self::Blocking { .. } => "DOZO-E6014",
            Self::LowSpace { .. } => "DOZO-E6015",
            Self::Hook { .. } => "DOZO-E6016",
            Self::NotSuspect { .. } => "DOZO-E6017",
            Self::Name(_) => "DOZO-E6019",
            Self::TableDiffers { .. } => "DOZO-E6020",
            Self::SideDiffers { .. } => "DOZO-E6021",
            Self::UnknownEncoding { .. } => "DOZO-E6022",
            Self::NoReplica { .. } => "DOZO-E6023",
            Self::SameRepository { .. } => "DOZO-E6024",
            Self::Folder { .. } => "DOZO-E6025",
            Self::TooManyDumps { .. } => "DOZO-E6026",
            Self::OtherKind { .. } => "DOZO-E6027",
            Self::WithoutDuckdb { .. } => "DOZO-E6028",
            Self::Output(_) => "DOZO-E6029",
            Self::Command { .. } => "DOZO-E6030",
            Self::NoFile { .. } => "DOZO-E6031",
            Self::FolderOccupied { .. } => "DOZO-E6032",
            Self::Formats { .. } => "DOZO-E6033",
            Self::ArchiveRunning { .. } => "DOZO-E6034",
            Self::Cancelled => "DOZO-E6010",
            Self::Internal(_) => "DOZO-E6099",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Postgres(e) => return e.next(),
            #[cfg(feature = "duckdb")]
            Self::Duckdb(e) => return e.next(),
            Self::Files(e) => return e.next(),
            Self::Store(e) => return e.next(),
            Self::Catalog(e) => return e.next(),
            Self::Encode { source, .. } => return source.next(),
            Self::BadPattern { .. } | Self::NoMatch { .. } => {
                "patterns are schema.table with * and ?; dozo check lists the tables".into()
            }
            Self::FolderOccupied { .. } => {
                "restore into a new folder; --existing replace puts files in the place of files, what is of another kind must go first".into()
            }
            Self::NoFile { .. } => "patterns are those of .gitignore; dozo show --files lists the files".into(),
            Self::Formats { .. } => "write formats so that a table and its partitions match one pattern".into(),
            Self::Options(_) => "dozo help, and the verb".into(),
            Self::OtherKind { .. } => "dozo list shows what there is".into(),
            Self::Output(_) => "check the path, its permissions and its disk".into(),
            Self::WithoutDuckdb { .. } => "build it with the feature duckdb, which is on by default".into(),
            Self::NoReplica { name, .. } => format!("mount its disk, or make it: dozo replicate --init --to {name}"),
            Self::SameRepository { .. } => "give [[repository.replica]] the url of another repository".into(),
            Self::TargetOccupied { .. } => {
                "restore into an empty database (--create-db makes one), beside with --beside, or with --existing append or replace".into()
            }
            Self::OtherRestore { .. } => {
                "run that restore again to complete it, or drop the table dozo.restore and what it created".into()
            }
            Self::RestoreRunning { .. } | Self::ArchiveRunning { .. } => "wait for it to end".into(),
            Self::MissingRoles { roles, .. } => {
                let create: Vec<String> = roles.iter().map(|r| format!("CREATE ROLE {};", dozo_model::quote_ident(r))).collect();
                format!("{} or restore with --no-owner --no-privileges", create.join(" "))
            }
            Self::RestoreStopped { .. } => "run the same command again: it continues".into(),
            Self::Damaged { .. } | Self::Rows(_) | Self::SideDiffers { .. } => {
                "dozo verify, then restore from another backup".into()
            }
            Self::NoTable(_) | Self::NothingToBackUp { .. } => "dozo check".into(),
            Self::NotSourceMatched { .. } => {
                "run the backup again; if it fails again, please report this with the table's definition".into()
            }
            Self::Blocking { .. } => "run it again when no migration runs, or raise max-block, or set on-block".into(),
            Self::LowSpace { .. } => "make room (dozo gc plan shows what belongs to no backup), or lower min-free".into(),
            Self::Hook { .. } | Self::Command { .. } => "run the command by hand".into(),
            Self::Folder { .. } => "check the path, its permissions and its disk".into(),
            Self::TooManyDumps { .. } => "look at it without --apply; if that is meant, add --max-delete 100%".into(),
            Self::NotSuspect { .. } => "dozo list".into(),
            Self::UnknownEncoding { .. } => {
                "unknown-encoding = \"binary\" keeps them as bytes; or leave the tables out with exclude = [\"schema.table\"]".into()
            }
            Self::TableDiffers { .. } => "restore beside it with --beside, and move the rows by SQL".into(),
            Self::Name(_) => "give the database a source of its own, with a short name".into(),
            Self::Cancelled => return None,
            Self::Internal(_) => "please report this with the command and its output".into(),
        })
    }
}
