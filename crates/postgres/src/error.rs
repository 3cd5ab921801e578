//! Postgres errors, by what the caller can do. No text ever holds a password.

use dozo_model::{ErrorClass, Explain, Fingerprint, IdError, QualifiedName};

use crate::codec::WireError;

/// Why the values of a type would not come back as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// Only the server itself makes them.
    #[error("no server reads its text")]
    Unreadable,
    /// Their only portable form says less than they hold.
    #[error("its text says less than its value")]
    Shortened,
}

/// A column of a type whose values would not come back as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedColumn {
    /// Table.
    pub table: QualifiedName,
    /// Column.
    pub column: String,
    /// Type.
    pub type_name: String,
    /// Why.
    pub loss: Loss,
}

/// Why Postgres, or one of its tools, did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PgError {
    /// The connection text is wrong.
    #[error("the connection text of {origin} cannot be used: {reason}")]
    Conninfo {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A URL on the command line or in the configuration holds a password.
    #[error("the URL of {origin} holds a password")]
    PasswordInUrl {
        /// Where it came from.
        origin: String,
    },
    /// `env:NAME` or `file:PATH` cannot be read.
    #[error("{origin}: {reason}")]
    Secret {
        /// Where it should come from.
        origin: String,
        /// Why not.
        reason: String,
    },
    /// Nobody answers.
    #[error("cannot connect to {target}")]
    Unreachable {
        /// Host, port, database.
        target: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Wrong password, unknown role, no `pg_hba.conf` line.
    #[error("{target} refuses the login: {reason}")]
    Auth {
        /// User, host, port, database.
        target: String,
        /// What the server says.
        reason: String,
    },
    /// The database does not exist.
    #[error("{target}: {reason}")]
    NoDatabase {
        /// Host, port, database.
        target: String,
        /// What the server says.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error("TLS to {target} cannot be set up: {reason}")]
    Tls {
        /// Host, port, database.
        target: String,
        /// Why.
        reason: String,
    },
    /// PgBouncer, or its like, in transaction mode.
    #[error("{target} is a pooler in transaction mode: a snapshot cannot be shared through it")]
    Pooler {
        /// Host, port, database.
        target: String,
    },
    /// The server is too old, or of an encoding that dozo does not carry.
    #[error("{target}: {reason}")]
    Server {
        /// Host, port, database.
        target: String,
        /// Why.
        reason: String,
    },
    /// A statement failed.
    #[error("{what}: {reason}")]
    Query {
        /// What was being done.
        what: String,
        /// What the server says.
        reason: String,
        /// SQLSTATE.
        sqlstate: String,
    },
    /// The connection broke.
    #[error("the connection was lost while {what}")]
    Lost {
        /// What was being done.
        what: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The lock of a table was not free in time.
    #[error("{what}: a lock was not free within {timeout}")]
    LockTimeout {
        /// What was being done.
        what: String,
        /// The limit.
        timeout: String,
    },
    /// The transaction that holds the locks and the snapshot is gone.
    #[error("the transaction that holds the snapshot is gone: {reason}")]
    CoordinatorLost {
        /// How that was seen.
        reason: String,
    },
    /// Tables kept changing while they were being locked.
    #[error("tables changed while they were being locked, three times in a row: {tables}")]
    Unstable {
        /// Which.
        tables: String,
    },
    /// A table was rewritten or dropped under a worker although its lock was held.
    #[error("table {table} is not the one that was locked: {reason}")]
    Replaced {
        /// Which.
        table: QualifiedName,
        /// What differs.
        reason: String,
    },
    /// After an exchange a table would not hold what it must; it was rolled back.
    #[error("{table} would hold {found} instead of {expected}: nothing was changed")]
    MergeDiffers {
        /// Which.
        table: QualifiedName,
        /// What it must hold.
        expected: Fingerprint,
        /// What it would hold.
        found: Fingerprint,
    },
    /// A table that must be empty is not.
    #[error("{table} holds rows")]
    NotEmpty {
        /// Which.
        table: QualifiedName,
    },
    /// Deleting or changing rows would change rows of another table.
    #[error("replacing {table} would delete or change rows of {child} (foreign key {key}): nothing was changed")]
    WouldCascade {
        /// Which.
        table: QualifiedName,
        /// The other table.
        child: String,
        /// The foreign key.
        key: String,
    },
    /// Columns of types whose values would not come back as they were.
    #[error("{} that no restore could bring back: {}", plural(columns.len()), listed(columns))]
    Unsupported {
        /// All of them.
        columns: Vec<UnsupportedColumn>,
    },
    /// A row that the server cannot send.
    #[error("table {table}: the server cannot send its largest row ({row}, {}): {reason}", dozo_model::human_bytes(*bytes))]
    RowTooLarge {
        /// Table.
        table: String,
        /// Its key, or where it is.
        row: String,
        /// Bytes of its texts.
        bytes: u64,
        /// What the server says.
        reason: String,
    },
    /// A value whose text no server reads back.
    #[error("{table}.{column} holds an interval that prints as {text}, which no server reads back")]
    Unreadable {
        /// Table.
        table: String,
        /// Column.
        column: String,
        /// What it prints.
        text: &'static str,
        /// The table, or the root of its tree, whose form may be another.
        keep: String,
    },
    /// Definitions that the server cannot hold.
    #[error("the server cannot hold {} of the backup: {}", count(objects.len()), objects.join("; "))]
    CannotHold {
        /// What, and why.
        objects: Vec<String>,
    },
    /// Bytes that are not what the server sends for a type, or rows of a file that are none.
    #[error("table {table}: {source}")]
    Wire {
        /// Table.
        table: String,
        /// What.
        #[source]
        source: WireError,
    },
    /// A client program is missing or too old.
    #[error("{program} cannot be used: {reason}")]
    Tool {
        /// Program.
        program: String,
        /// Why.
        reason: String,
    },
    /// A client program failed.
    #[error("{program} failed ({status}): {stderr}")]
    ToolFailed {
        /// Program.
        program: String,
        /// Exit status.
        status: String,
        /// Last lines of its error output.
        stderr: String,
    },
    /// A throw-away server did not come up, or died.
    #[error("the scratch server in {} did not run: {reason}", folder.display())]
    Scratch {
        /// Its folder.
        folder: std::path::PathBuf,
        /// Why, in its own words.
        reason: String,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The work was stopped.
    #[error("stopped")]
    Cancelled,
}

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn count(n: usize) -> String {
    if n == 1 { "1 object".into() } else { format!("{n} objects") }
}

fn plural(n: usize) -> String {
    if n == 1 { "1 column".into() } else { format!("{n} columns") }
}

fn listed(columns: &[UnsupportedColumn]) -> String {
    columns.iter().map(|c| format!("{}.{} ({}: {})", c.table, c.column, c.type_name, c.loss)).collect::<Vec<_>>().join(", ")
}

impl Explain for PgError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Conninfo { .. } | Self::PasswordInUrl { .. } | Self::Secret { .. } | Self::Name(_) => ErrorClass::Input,
            Self::Unreachable { .. } | Self::Lost { .. } | Self::LockTimeout { .. } | Self::Unstable { .. } => {
                ErrorClass::Transient
            }
            Self::Cancelled => ErrorClass::Cancelled,
            Self::MergeDiffers { .. } => ErrorClass::Integrity,
            _ => ErrorClass::Failed,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Conninfo { .. } => "DOZO-E2101",
            Self::PasswordInUrl { .. } => "DOZO-E2102",
            Self::Secret { .. } => "DOZO-E2103",
            Self::Unreachable { .. } => "DOZO-E2104",
            Self::Auth { .. } => "DOZO-E2105",
            Self::NoDatabase { .. } => "DOZO-E2106",
            Self::Tls { .. } => "DOZO-E2107",
            Self::Pooler { .. } => "DOZO-E2108",
            Self::Server { .. } => "DOZO-E2109",
            Self::Query { .. } => "DOZO-E2110",
            Self::Lost { .. } => "DOZO-E2111",
            Self::LockTimeout { .. } => "DOZO-E2112",
            Self::CoordinatorLost { .. } => "DOZO-E2113",
            Self::Unstable { .. } => "DOZO-E2114",
            Self::Replaced { .. } => "DOZO-E2115",
            Self::Unsupported { .. } => "DOZO-E2116",
            Self::Wire { .. } => "DOZO-E2117",
            Self::Tool { .. } => "DOZO-E2118",
            Self::ToolFailed { .. } => "DOZO-E2119",
            Self::Name(_) => "DOZO-E2120",
            Self::Cancelled => "DOZO-E2121",
            Self::MergeDiffers { .. } => "DOZO-E2122",
            Self::WouldCascade { .. } => "DOZO-E2123",
            Self::NotEmpty { .. } => "DOZO-E2124",
            Self::CannotHold { .. } => "DOZO-E2125",
            Self::RowTooLarge { .. } => "DOZO-E2126",
            Self::Unreadable { .. } => "DOZO-E2127",
            Self::Scratch { .. } => "DOZO-E2128",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Conninfo { .. } => "write it as postgres://user@host:5432/database?sslmode=verify-full".into(),
            Self::PasswordInUrl { .. } => {
                "put the URL into an environment variable or a file of mode 0600 and name it as env:NAME or file:PATH".into()
            }
            Self::Secret { .. } => "set the variable or write the file, then run `dozo check`".into(),
            Self::Unreachable { .. } | Self::Lost { .. } | Self::ToolFailed { .. } => "dozo check".into(),
            Self::Auth { .. } => "correct user and password (env:, file: or PGPASSFILE), then run `dozo check`".into(),
            Self::NoDatabase { .. } => "correct the database name in the URL; `psql -l` lists them".into(),
            Self::Tls { .. } => "check sslmode and sslrootcert in the URL".into(),
            Self::Pooler { .. } => "name the server itself in the URL, or a session-mode pool".into(),
            Self::Server { .. } => "see Supported servers in README.md".into(),
            Self::Query { sqlstate, .. } if sqlstate == "42501" => "dozo check prints the missing GRANT statements".into(),
            Self::Query { .. } | Self::CoordinatorLost { .. } => "run the command again; the server's log tells more".into(),
            Self::LockTimeout { .. } => "see who holds it (pg_locks), or raise lock-timeout".into(),
            Self::Unstable { .. } => "run it again when no migration runs".into(),
            Self::Replaced { .. } => "run the backup again".into(),
            Self::Unsupported { .. } => "text-only = [\"schema.table.column\"] exports a column as text, which no restore loads; or leave the tables out with \
                                         exclude = [\"schema.table\"]"
                .into(),
            Self::Wire { .. } => "leave the table out with exclude = [\"schema.table\"], and please report this".into(),
            Self::Scratch { .. } => "look at its last words above; server-programs, run-as and folder of the drill say how it is made".into(),
            Self::Tool { .. } => "install the client package of the server's version, or set pg-tools".into(),
            Self::MergeDiffers { .. } => "restore beside it with --beside, and compare".into(),
            Self::NotEmpty { .. } => "use --existing append or replace".into(),
            Self::RowTooLarge { .. } => {
                "split the row (a message of the protocol ends at 1 GB), or leave the table out with exclude = [\"schema.table\"]".into()
            }
            Self::Unreadable { keep, .. } => format!("keep it as Parquet: formats = {{ \"{keep}\" = \"parquet\" }}"),
            Self::CannotHold { .. } => {
                "install what is missing there, or restore everything else with --skip-unsupported".into()
            }
            Self::WouldCascade { .. } => "restore the other table too, or restore beside it with --beside".into(),
            Self::Name(_) | Self::Cancelled => return None,
        })
    }
}

/// Says what a driver error means for whoever was doing `what`.
pub(crate) fn query_error(what: impl Into<String>, error: tokio_postgres::Error) -> PgError {
    let what = what.into();
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
            server_error(what, db.code().code().to_owned(), format!("{}{detail}", db.message()))
        }
        None if error.is_closed() => PgError::Lost { what, source: error.into() },
        None => {
            use std::error::Error as _;
            if error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>) {
                PgError::Lost { what, source: error.into() }
            } else {
                PgError::Query { what, reason: error.to_string(), sqlstate: String::new() }
            }
        }
    }
}

/// Says what an error of the server means for whoever was doing `what`.
pub(crate) fn server_error(what: String, sqlstate: String, reason: String) -> PgError {
    match sqlstate.as_str() {
        "55P03" => PgError::LockTimeout { what, timeout: "lock-timeout".into() },
        "57P01" | "57P02" | "57P03" => PgError::Lost { what, source: reason.into() },
        _ => PgError::Query { what, reason, sqlstate },
    }
}
