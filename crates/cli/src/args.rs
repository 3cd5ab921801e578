//! The command line. A doc comment here is the help text.

mod archive;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dozo_model::{ByteSize, Percent, Period, Span, Tier, Timestamp, VerifyLevel};
use jiff::civil::Date;

pub(crate) use archive::{Archive, ArchiveApply, ArchiveVerb, Engine, KeepRows, Partitions, PartitionsVerb};

/// Backs up Postgres into open formats, proves that it arrived, and gives it back
#[derive(Debug, Parser)]
#[command(name = "dozo", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Configuration file [default: $DOZO_CONFIG, ./dozo.toml, ~/.config/dozo/dozo.toml, /etc/dozo/dozo.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing unless there is something to say
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Append what happens to this file: time, who, where, what; never a secret
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Work on this replica instead of the repository: read and restore from it when that is gone
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) replica: Option<String>,
    /// Tell nobody what became of it
    #[arg(long, global = true)]
    pub(crate) no_notify: bool,
    /// Take this as the current time (RFC 3339)
    #[arg(long, global = true, value_name = "TIME", hide = true)]
    pub(crate) now: Option<Timestamp>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write a configuration file
    Init(Init),
    /// Look at the set-up: can we connect, read, write
    #[command(alias = "doctor")]
    Check(Check),
    /// Back up sources
    Backup(Backup),
    /// List backups
    List(List),
    /// Show one backup in full
    Show(Show),
    /// Sum up every source: newest backup, age, tiers, what was proven, what goes next, what is amiss
    Status(StatusArgs),
    /// Look at stored backups: are they there, intact, and the same rows
    Verify(Verify),
    /// Take a suspect backup for good
    Accept(Accept),
    /// Restore a database, schemas or tables
    Restore(Restore),
    /// Restore for practice: in isolation, compared, timed, recorded
    Drill(Drill),
    /// Write a row into each source, so that a drill can tell from the rows how fresh a restore is
    Canary(Canary),
    /// One page about everything: findings, coverage, growth, recovery times, retention, archives, runs
    Report(Report),
    /// Copy backups to the replicas, and prove that they arrived
    Replicate(Replicate),
    /// Compare two databases, a database and a backup, or two backups: which tables, partitions, keys differ
    Compare(Compare),
    /// Compute fingerprints of live tables in the server
    Fingerprint(Fingerprint),
    /// Ask a backup by SQL: its tables under their names, read where they lie, without a database server
    Sql(Sql),
    /// Cold partitions leave the database for Parquet, proven
    Archive(Archive),
    /// The partitions of a database: where each stands, those to come, those in quarantine
    Partitions(Partitions),
    /// Keep what the tiers promise, let go what they do not
    Retention(Retention),
    /// Compress and delete old files of a file set, once a verified backup holds them
    Rotate(Rotate),
    /// Keep a backup whatever the tiers say; without one, list what is held
    Hold(HoldArgs),
    /// The servers that backups came from
    Source(SourceArgs),
    /// List who is told of what becomes of a job, or tell them
    Notify(NotifyArgs),
    /// Print or install the timers of the night's jobs
    Schedule(ScheduleArgs),
    /// Find what belongs to no backup
    Gc(Gc),
    /// Print shell completions
    #[command(hide = true)]
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    #[command(hide = true)]
    Man,
}

/// `dozo init`
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Look at this database first: env:NAME, file:PATH, or a URL without password
    #[arg(long, value_name = "URL")]
    pub(crate) from: Option<String>,
    /// Name of the source [default: the database's]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Repository to write into the file
    #[arg(long, value_name = "URL", default_value = "file://repository")]
    pub(crate) repository: String,
    /// File to write
    #[arg(value_name = "FILE", default_value = "dozo.toml")]
    pub(crate) file: PathBuf,
}

/// `dozo drill`
#[derive(Debug, Args)]
pub(crate) struct Drill {
    /// Drills of the configuration [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// All drills, one after the other
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
    /// Say what would be restored, where, and whom it would connect to; change nothing
    #[arg(long, conflicts_with = "history")]
    pub(crate) plan: bool,
    /// List the drills so far; exit 3 when a record was edited, removed or moved
    #[arg(long, conflicts_with = "all")]
    pub(crate) history: bool,
    /// The head of the chain, as a notification told it: NUMBER:SHA256 (repeatable)
    #[arg(long, value_name = "HEAD", requires = "history")]
    pub(crate) head: Vec<String>,
}

/// `dozo canary`
#[derive(Debug, Args)]
pub(crate) struct Canary {
    /// Sources [default: all Postgres databases]
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
}

/// Languages of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lang {
    /// English
    En,
    /// 日本語
    Ja,
}

/// `dozo report`
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Write it to this file instead of stdout, replacing it as a whole
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Language [default: that of $LANG]
    #[arg(long, value_enum)]
    pub(crate) lang: Option<Lang>,
    /// Text for a mail instead of a page
    #[arg(long, conflicts_with = "json")]
    pub(crate) text: bool,
    /// The certificate of one drill instead: its number, or latest
    #[arg(long, value_name = "NUMBER")]
    pub(crate) drill: Option<String>,
}

/// `dozo check`
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Sources [default: all]
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
}

/// `dozo backup`
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Sources
    #[arg(value_name = "SOURCE", required_unless_present = "all")]
    pub(crate) sources: Vec<String>,
    /// All sources; one that fails does not stop the others
    #[arg(long, conflicts_with = "sources")]
    pub(crate) all: bool,
    /// Wait this long for another backup of the same source (like 15min)
    #[arg(long, value_name = "SPAN")]
    pub(crate) wait: Option<Span>,
    /// Copy every table, also those that have not changed since the last backup
    #[arg(long)]
    pub(crate) full: bool,
    /// Let the server confirm the rows by its own fingerprint, all of them or a share (10%)
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "100%")]
    pub(crate) prove: Option<Percent>,
    /// Exit 0 when another backup of the same source is running
    #[arg(long)]
    pub(crate) exit_zero_on_lock: bool,
    /// Others may wait this long behind the locks of the backup [default: max-block of the source, 5s]
    #[arg(long, value_name = "SPAN")]
    pub(crate) max_block: Option<Span>,
    /// Read at most this many bytes per second (like 50MB)
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    pub(crate) rate: Option<ByteSize>,
    /// Memory of the run (like 128MB); fewer workers are used where it is too little
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    pub(crate) memory: Option<ByteSize>,
    /// Keep it whatever the tiers say, and write down why (like "before migration 42")
    #[arg(long, value_name = "REASON")]
    pub(crate) hold: Option<String>,
    /// Until when it is held: a date (through that day), a time, or a span from now (like 90d)
    #[arg(long, value_name = "WHEN", requires = "hold")]
    pub(crate) until: Option<Until>,
}

/// The end of something, as people write it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Through this day, by the clock of the configuration.
    Day(Date),
    /// This instant.
    Instant(Timestamp),
    /// So long from now.
    Span(Span),
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let day = text.parse().map(Self::Day).ok().filter(|_| !text.contains(['T', ' ']));
        let instant = || text.parse().map(Self::Instant).ok();
        let span = || text.parse().map(Self::Span).ok();
        let found = day.or_else(instant).or_else(span);
        found.ok_or_else(|| format!("`{text}` is not a date (2027-03-31), a time (2027-03-31T12:00:00Z) or a span (90d)"))
    }
}

fn positive_size(text: &str) -> Result<ByteSize, String> {
    match text.parse() {
        Ok(ByteSize(0)) => Err("it must be above 0".into()),
        Ok(size) => Ok(size),
        Err(e) => Err(e.to_string()),
    }
}

/// `dozo accept`
#[derive(Debug, Args)]
pub(crate) struct Accept {
    /// SOURCE@latest, SOURCE@ID, or a unique prefix of an id
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// `dozo list`
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Source [default: all]
    #[arg(value_name = "SOURCE")]
    pub(crate) source: Option<String>,
}

/// `dozo status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Exit 3 when the newest good backup of a source is older than this, or there is none [default: max-age of the policy]
    #[arg(long, value_name = "SPAN", num_args = 0..=1)]
    pub(crate) max_age: Option<Option<Span>>,
    /// Print metrics in the text format of Prometheus; with a file, replace it as a whole
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "json")]
    pub(crate) prometheus: Option<Option<PathBuf>>,
    /// Tell the configured receivers what is amiss
    #[arg(long)]
    pub(crate) notify: bool,
}

/// `dozo notify`
#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    /// Send a message to every receiver, whatever it wants to hear of
    #[arg(long)]
    pub(crate) test: bool,
    /// Only these receivers
    #[arg(value_name = "NAME")]
    pub(crate) receivers: Vec<String>,
}

/// `dozo schedule`
#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Lines of a crontab instead of systemd timers
    #[arg(long)]
    pub(crate) cron: bool,
    /// Write them where they belong, and start them
    #[arg(long)]
    pub(crate) install: bool,
    /// Stop and remove what was installed
    #[arg(long, conflicts_with = "install")]
    pub(crate) remove: bool,
    /// Units of this user, not of the system
    #[arg(long, conflicts_with = "cron")]
    pub(crate) user: bool,
    /// Write units into this folder instead, and start nothing
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["cron", "user"])]
    pub(crate) into: Option<PathBuf>,
}

/// `dozo show`
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// SOURCE@latest, SOURCE@ID, or a unique prefix of an id
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// What each column became: its Parquet type, how it travelled, values in the exact column
    #[arg(long, conflicts_with = "files")]
    pub(crate) types: bool,
    /// The files of a file set: mode, owner, size, time, sha256
    #[arg(long)]
    pub(crate) files: bool,
}

/// Levels of `verify`, as words.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    /// Every object is there with its size
    Exists,
    /// Every object is read again: size and SHA-256
    Digest,
    /// Every row is decoded and encoded again: counts and fingerprints
    Content,
}

impl From<Level> for VerifyLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Exists => Self::Exists,
            Level::Digest => Self::Digest,
            Level::Content => Self::Content,
        }
    }
}

/// `dozo verify`
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// SOURCE@latest, SOURCE@ID, a unique prefix of an id, or `latest`
    #[arg(value_name = "BACKUP", required_unless_present_any = ["all", "archive"])]
    pub(crate) backup: Option<String>,
    /// What an archive job has published, instead of backups
    #[arg(long, value_name = "ARCHIVE", conflicts_with_all = ["backup", "all"])]
    pub(crate) archive: Option<String>,
    /// All backups; with `latest`, the latest of every source
    #[arg(long)]
    pub(crate) all: bool,
    /// How deep to look
    #[arg(long, value_enum, default_value = "content")]
    pub(crate) level: Level,
    /// Read every object, also those of earlier backups that were read not long ago (only `latest` leaves them out)
    #[arg(long)]
    pub(crate) reread: bool,
}

/// What becomes of tables that are there.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OnExisting {
    /// Nothing: the restore is refused
    Refuse,
    /// Their rows stay, the stored ones are added
    Append,
    /// They hold the stored rows afterwards
    Replace,
}

/// `dozo restore`
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// SOURCE@latest, SOURCE@ID, or a unique prefix of an id; several only of files
    #[arg(value_name = "BACKUP", required_unless_present_any = ["all", "archive"])]
    pub(crate) backups: Vec<String>,
    /// A partition of this archive job, back into its table, or with --as beside it; with --partition
    #[arg(long, value_name = "ARCHIVE", requires = "partition", conflicts_with_all = [
        "backups", "all", "to", "command", "path", "schema", "table", "filter", "existing", "swap", "beside", "schema_only",
        "data_only", "plan", "create_db", "skip_unsupported", "no_owner", "no_privileges", "no_tablespaces", "role", "no_verify",
    ])]
    pub(crate) archive: Option<String>,
    /// The archived partition: its name, or its folder like 2023-01
    #[arg(long, value_name = "PARTITION", requires = "archive")]
    pub(crate) partition: Option<String>,
    /// Move rows of the DEFAULT partition that belong into the archived one
    #[arg(long, requires = "archive")]
    pub(crate) move_default: bool,
    /// The latest backup of every source that is no database server: files of all kinds, into one folder
    #[arg(long, conflicts_with = "backups")]
    pub(crate) all: bool,
    /// Database to restore into: env:NAME, file:PATH, a URL without password, or a source of the configuration; a folder for
    /// backups of files; - for a command's output on stdout
    #[arg(long, value_name = "URL|FOLDER", required_unless_present_any = ["command", "archive"])]
    pub(crate) to: Option<String>,
    /// Give a command's output to the standard input of this command, such as: -- mysql crm
    #[arg(value_name = "COMMAND", last = true, conflicts_with_all = ["to", "all"])]
    pub(crate) command: Vec<String>,
    /// Only these files of a file set, and the folders above them: a pattern as in .gitignore (repeatable)
    #[arg(long, value_name = "PATTERN")]
    pub(crate) path: Vec<String>,
    /// Only this schema (repeatable)
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) schema: Vec<String>,
    /// Only this table, with its partitions (repeatable; * and ? are allowed)
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub(crate) table: Vec<String>,
    /// New name of the one schema, or of the one table ([SCHEMA.]NAME)
    #[arg(long = "as", value_name = "NAME")]
    pub(crate) rename: Option<String>,
    /// Only rows that satisfy this SQL predicate (with --table)
    #[arg(long = "where", value_name = "PREDICATE")]
    pub(crate) filter: Option<String>,
    /// What becomes of tables that are there: refuse, append to them, or replace their rows. Readers see the old rows or the
    /// new ones, never less
    #[arg(long, value_enum, default_value = "refuse")]
    pub(crate) existing: OnExisting,
    /// As --existing replace, and keep the replaced rows in a table beside
    #[arg(long, conflicts_with_all = ["existing", "beside", "schema_only"])]
    pub(crate) swap: bool,
    /// Restore the table as NAME_restored beside the live one, and tell how the live one differs
    #[arg(long)]
    pub(crate) beside: bool,
    /// Only definitions
    #[arg(long, conflicts_with = "data_only")]
    pub(crate) schema_only: bool,
    /// Only rows: the tables must be there
    #[arg(long)]
    pub(crate) data_only: bool,
    /// Say what would be done, what room and time it takes, and what stands in the way; change nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Create the database first, with the encoding and locale of the backup
    #[arg(long)]
    pub(crate) create_db: bool,
    /// Leave out what the server cannot hold (an extension or a type that it lacks) and what needs it, instead of refusing
    #[arg(long)]
    pub(crate) skip_unsupported: bool,
    /// Do not set owners
    #[arg(long)]
    pub(crate) no_owner: bool,
    /// Do not grant privileges
    #[arg(long)]
    pub(crate) no_privileges: bool,
    /// Do not use tablespaces
    #[arg(long)]
    pub(crate) no_tablespaces: bool,
    /// Create everything as this role
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<String>,
    /// Do not compare the restored tables with the manifest
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Connections [default: cores, at most 4]
    #[arg(long, short = 'j', value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

/// `dozo sql`
#[derive(Debug, Args)]
pub(crate) struct Sql {
    /// SOURCE@latest, SOURCE@ID, a unique prefix of an id, or archive:NAME
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// One statement that yields rows, in the SQL of DuckDB
    #[arg(value_name = "QUERY")]
    pub(crate) query: String,
    /// Form of the answer [default: table; json with --json]
    #[arg(long, value_enum)]
    pub(crate) format: Option<AnswerFormat>,
    /// Write the answer to a new file instead of stdout
    #[arg(long, short = 'o', value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Bytes of objects that the query may fetch; those of a remote store lie in a temporary folder meanwhile
    #[arg(long, value_name = "SIZE", default_value = "10GB")]
    pub(crate) cache_max: ByteSize,
    /// Memory of the query
    #[arg(long, value_name = "SIZE", default_value = "1GB")]
    pub(crate) memory: ByteSize,
    /// Threads [default: cores, at most 4]
    #[arg(long, short = 'j', value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerFormat {
    /// For people.
    Table,
    /// Comma-separated, with a line of names.
    Csv,
    /// A list of objects.
    Json,
    /// A Parquet file; needs --output.
    Parquet,
}

/// `dozo replicate`
#[derive(Debug, Args)]
pub(crate) struct Replicate {
    /// Backups: SOURCE@latest, SOURCE@ID, or a unique prefix of an id [default: as each replica is configured]
    #[arg(value_name = "BACKUP")]
    pub(crate) backups: Vec<String>,
    /// Only this replica (repeatable) [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) to: Vec<String>,
    /// Make the replica where there is none: mount its disk first
    #[arg(long)]
    pub(crate) init: bool,
    /// Copy these backups once more, under another id: for copies that are damaged
    #[arg(long, requires = "backups")]
    pub(crate) again: bool,
    /// Every backup that is missing there
    #[arg(long, conflicts_with = "backups")]
    pub(crate) all: bool,
    /// The newest backup of each source
    #[arg(long, conflicts_with_all = ["backups", "all"])]
    pub(crate) latest: bool,
    /// Backups that somebody holds
    #[arg(long, conflicts_with_all = ["backups", "all", "latest"])]
    pub(crate) held: bool,
    /// Backups that serve this tier or a longer one: weekly, monthly, yearly
    #[arg(long, value_name = "TIER", conflicts_with_all = ["backups", "all", "latest", "held"])]
    pub(crate) tier: Option<Tier>,
    /// Send at most this many bytes per second (like 50MB)
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    pub(crate) rate: Option<ByteSize>,
}

/// `dozo compare`
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// SOURCE@latest, SOURCE@ID or an id is a backup; a source, env:NAME, file:PATH or a URL is a database
    #[arg(value_name = "A")]
    pub(crate) a: String,
    /// As A
    #[arg(value_name = "B")]
    pub(crate) b: String,
    /// Only this table, with its partitions (repeatable; * and ? are allowed)
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub(crate) table: Vec<String>,
    /// Differing keys listed for each table
    #[arg(long, value_name = "N", default_value = "20")]
    pub(crate) limit: usize,
    /// Connections to each side [default: cores, at most 4]
    #[arg(long, short = 'j', value_name = "N")]
    pub(crate) jobs: Option<usize>,
}

/// `dozo fingerprint`
#[derive(Debug, Args)]
pub(crate) struct Fingerprint {
    /// A source of the configuration, env:NAME, file:PATH, or a URL without password
    #[arg(value_name = "DATABASE")]
    pub(crate) database: String,
    /// Tables [default: all; a partitioned table stands for its partitions]
    #[arg(value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<String>,
    /// Print the SQL instead of running it
    #[arg(long)]
    pub(crate) sql: bool,
    /// Over the texts of the columns (t1), as tables that are kept as csv.gz or sql.gz have it
    #[arg(long)]
    pub(crate) text: bool,
}

/// `dozo retention`
#[derive(Debug, Args)]
pub(crate) struct Retention {
    /// What to do [default: plan]
    #[command(subcommand)]
    pub(crate) verb: Option<RetentionVerb>,
}

/// `dozo rotate`
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// What to do [default: plan]
    #[command(subcommand)]
    pub(crate) verb: Option<RotateVerb>,
}

/// Verbs of `rotate`.
#[derive(Debug, Subcommand)]
pub(crate) enum RotateVerb {
    /// List the files that are old enough, and what holds them back; change nothing
    Plan {
        /// Only this source (repeatable) [default: all that have a rule]
        #[arg(value_name = "SOURCE")]
        sources: Vec<String>,
    },
    /// Compress and delete them
    Apply {
        /// Only this source (repeatable) [default: all that have a rule]
        #[arg(value_name = "SOURCE")]
        sources: Vec<String>,
    },
}

/// Verbs of `retention`.
#[derive(Debug, Subcommand)]
pub(crate) enum RetentionVerb {
    /// Say what stays, what goes, why, and when; change nothing
    Plan {
        /// Only this source (repeatable)
        #[arg(value_name = "SOURCE")]
        sources: Vec<String>,
    },
    /// Mark what is to go, and delete what was marked long enough ago
    Apply {
        /// Only if the plan in this file (`dozo --json retention plan`) still stands
        #[arg(long, value_name = "FILE")]
        plan: Option<PathBuf>,
        /// Let so many of a source's backups go at once [default: max-delete of the policy, 50%]
        #[arg(long, value_name = "SHARE")]
        max_delete: Option<Percent>,
        /// The clock of this host is right, whatever speaks against it
        #[arg(long)]
        trust_clock: bool,
    },
    /// Play the policy forward: what stands on each day, its size, and the first day on which a promise breaks
    Simulate(Simulate),
    /// Apply the tiers to dumps that other tools have left in a folder; without --apply, say what would go
    Adopt(Adopt),
    /// Take a mark back: the backup stays, and is held
    Undo {
        /// SOURCE@ID, or a unique prefix of an id
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "taken back by retention undo")]
        reason: String,
        /// Until when it is held: a date (through that day), a time, or a span from now (like 90d)
        #[arg(long, value_name = "WHEN")]
        until: Option<Until>,
    },
}

/// `dozo retention simulate`
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// How far
    #[arg(value_name = "SPAN", default_value = "1y")]
    pub(crate) span: Period,
    /// A backup so often [default: as each source has had]
    #[arg(long, value_name = "SPAN")]
    pub(crate) every: Option<Span>,
    /// No backup any more after this
    #[arg(long, value_name = "SPAN")]
    pub(crate) stop_after: Option<Span>,
    /// Draw it into this file (.svg or .html)
    #[arg(long, value_name = "FILE")]
    pub(crate) picture: Option<PathBuf>,
}

/// `dozo retention adopt`
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Folder; what lies in its folders is not looked at
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
    /// How dumps are named, files or folders: crm_{timestamp:%Y%m%d_%H%M%S}.sql.gz, or {name}_{timestamp:%Y%m%d} for several
    /// series (repeatable)
    #[arg(long = "pattern", value_name = "PATTERN", required = true)]
    pub(crate) patterns: Vec<String>,
    /// Move aside what is to go, and delete what was moved aside before the grace
    #[arg(long)]
    pub(crate) apply: bool,
    /// Let so many of a series go at once [default: max-delete of the policy, 50%]
    #[arg(long, value_name = "SHARE", requires = "apply")]
    pub(crate) max_delete: Option<Percent>,
}

/// `dozo hold`
#[derive(Debug, Args)]
pub(crate) struct HoldArgs {
    /// SOURCE@latest, SOURCE@ID, or a unique prefix of an id
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT", requires = "backup")]
    pub(crate) reason: Option<String>,
    /// Until when: a date (through that day), a time, or a span from now (like 90d) [default: until it is released]
    #[arg(long, value_name = "WHEN", requires = "reason")]
    pub(crate) until: Option<Until>,
    /// Release it: the tiers decide about it again
    #[arg(long, requires = "backup", conflicts_with = "until")]
    pub(crate) release: bool,
}

/// `dozo source`
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: SourceVerb,
}

/// Verbs of `source`.
#[derive(Debug, Subcommand)]
pub(crate) enum SourceVerb {
    /// List the servers that the backups of each source came from
    List,
    /// Say that servers of a source continue each other, as after an upgrade by dump and restore: their backups are counted together
    Rebind {
        /// Source
        #[arg(value_name = "SOURCE")]
        source: String,
        /// Only these servers, by their system identifiers [default: all of the source]
        #[arg(value_name = "SERVER")]
        servers: Vec<String>,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "the one continues the other")]
        reason: String,
    },
}

/// `dozo gc`
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Leave alone what is younger, unless its process is known to be dead
    #[arg(long, value_name = "SPAN", default_value = "24h", global = true)]
    pub(crate) grace: Span,
    /// What to do [default: plan]
    #[command(subcommand)]
    pub(crate) verb: Option<GcVerb>,
}

/// Verbs of `gc`.
#[derive(Debug, Subcommand)]
pub(crate) enum GcVerb {
    /// List uncommitted backups and orphans; change nothing
    Plan,
    /// Abort abandoned backups and delete what no backup needs
    Apply,
    /// Give a backup up whose manifest is damaged or lost and cannot be brought back from a copy: while it stands, nothing is deleted.
    /// What it alone needs becomes garbage
    GiveUp {
        /// SOURCE@ID
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Why
        #[arg(long, value_name = "TEXT", default_value = "its manifest is damaged or lost")]
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
