//! DuckDB errors, by what the caller can do.

use std::path::PathBuf;
use std::time::Duration;

use dozo_model::{ErrorClass, Explain, human_duration};

/// Why a DuckDB file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DuckdbError {
    /// Another process holds the file.
    #[error("{} is held by {}, waited {} for it", path.display(), holder(*pid, command.as_deref()), human_duration(*waited))]
    Locked {
        /// File.
        path: PathBuf,
        /// Who holds it; none = on another host.
        pid: Option<u32>,
        /// What it runs.
        command: Option<String>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// DuckDB does not open it.
    #[error("{} cannot be opened by DuckDB {engine}{}: {reason}", path.display(), written_by.as_ref().map(|v| format!(" (it was written by {v})")).unwrap_or_default())]
    Open {
        /// File.
        path: PathBuf,
        /// Version of ours.
        engine: String,
        /// Version in its header.
        written_by: Option<String>,
        /// Why, as DuckDB says it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Columns whose values have no exact form outside DuckDB.
    #[error("the parquet form cannot hold these columns exactly: {}", columns.join(", "))]
    Inexact {
        /// All of them, each with its type.
        columns: Vec<String>,
    },
    /// Schemas within schemas.
    #[error("{} has schemas within schemas, which cannot be backed up: {schemas}", path.display())]
    NestedSchemas {
        /// File.
        path: PathBuf,
        /// The inner ones.
        schemas: String,
    },
    /// A definition does not run on an empty database.
    #[error("a definition cannot be made again ({reason}): {statement}")]
    Definition {
        /// Its SQL.
        statement: String,
        /// Why, as DuckDB says it.
        reason: String,
    },
    /// A statement failed.
    #[error("{what}: {reason}")]
    Query {
        /// What it was about.
        what: String,
        /// Why, as DuckDB says it.
        reason: String,
    },
    /// Rows that refer to each other in circles cannot be inserted.
    #[error("table {table}: {rows} rows refer to each other in circles, which DuckDB cannot insert")]
    Circle {
        /// Table.
        table: String,
        /// How many are left.
        rows: u64,
    },
    /// The run was interrupted.
    #[error("interrupted")]
    Cancelled,
}

fn holder(pid: Option<u32>, command: Option<&str>) -> String {
    match (pid, command) {
        (Some(pid), Some(command)) => format!("process {pid} ({command})"),
        (Some(pid), None) => format!("process {pid}"),
        _ => "a process on another host".into(),
    }
}

impl DuckdbError {
    pub(crate) fn query(what: impl Into<String>, error: &duckdb::Error) -> Self {
        Self::Query { what: what.into(), reason: said(error) }
    }
}

/// What DuckDB says, in one line.
pub(crate) fn said(error: &duckdb::Error) -> String {
    let text = error.to_string();
    let text = text.lines().map(str::trim).filter(|l| !l.is_empty()).take(3).collect::<Vec<_>>().join(" ");
    text.split(" See also https://").next().unwrap_or(&text).to_owned()
}

impl Explain for DuckdbError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Locked { .. } => ErrorClass::Transient,
            Self::Open { .. } | Self::File { .. } | Self::Query { .. } | Self::Circle { .. } => ErrorClass::Failed,
            Self::Inexact { .. } | Self::NestedSchemas { .. } | Self::Definition { .. } => ErrorClass::Input,
            Self::Cancelled => ErrorClass::Cancelled,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "DOZO-E7001",
            Self::Open { .. } => "DOZO-E7002",
            Self::File { .. } => "DOZO-E7003",
            Self::Inexact { .. } => "DOZO-E7004",
            Self::Query { .. } => "DOZO-E7005",
            Self::Circle { .. } => "DOZO-E7006",
            Self::Cancelled => "DOZO-E7007",
            Self::NestedSchemas { .. } => "DOZO-E7008",
            Self::Definition { .. } => "DOZO-E7009",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Locked { .. } => "wait until it has closed the file, or raise lock-timeout".into(),
            Self::Open { .. } => "open it with the DuckDB that wrote it, or restore it from a backup".into(),
            Self::File { .. } => "check the path, its permissions and its disk".into(),
            Self::Inexact { .. } => "format = \"duckdb.zst\" keeps the file itself; or leave the tables out with exclude".into(),
            Self::NestedSchemas { .. } => "move their tables into schemas of their own".into(),
            Self::Definition { .. } => {
                "format = \"duckdb.zst\" keeps the file itself; or take in what it needs, or leave it out with exclude".into()
            }
            Self::Query { .. } => "run the statement with the DuckDB command line".into(),
            Self::Circle { .. } => "restore it from a backup in the form format = \"duckdb.zst\"".into(),
            Self::Cancelled => return None,
        })
    }
}
