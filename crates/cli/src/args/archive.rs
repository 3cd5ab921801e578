//! The arguments of `archive` and `partitions`.

use clap::{Args, Subcommand, ValueEnum};
use dozo_model::{Period, Span};

/// `dozo archive`
#[derive(Debug, Args)]
pub(crate) struct Archive {
    /// What to do [default: plan]
    #[command(subcommand)]
    pub(crate) verb: Option<ArchiveVerb>,
}

/// Verbs of `archive`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArchiveVerb {
    /// Say which partitions leave, in which order, and what stands in the way of the others; change nothing
    Plan {
        /// Only this job (repeatable) [default: all]
        #[arg(value_name = "ARCHIVE")]
        jobs: Vec<String>,
    },
    /// Export, prove, detach, publish; drop what has waited long enough
    Apply(ArchiveApply),
    /// List what is archived
    List {
        /// Only this job (repeatable) [default: all]
        #[arg(value_name = "ARCHIVE")]
        jobs: Vec<String>,
    },
    /// Print the definition with which an engine reads an archive where it lies
    Ddl {
        /// Job
        #[arg(value_name = "ARCHIVE")]
        job: String,
        /// Engine
        #[arg(long, value_enum)]
        engine: Engine,
    },
    /// Say which rows count of a partition that is live and archived at once (after a restore to an earlier point in time)
    Resolve {
        /// Unit, or the beginning of its id
        #[arg(value_name = "UNIT")]
        unit: String,
        /// live = the archive forgets the unit; archived = the partition leaves once more, if it holds the same rows
        #[arg(long, value_enum)]
        keep: KeepRows,
        /// Source of the unit [default: the one that has archive jobs]
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
    },
}

/// `dozo archive apply`
#[derive(Debug, Args)]
pub(crate) struct ArchiveApply {
    /// Only this job (repeatable) [default: all]
    #[arg(value_name = "ARCHIVE")]
    pub(crate) jobs: Vec<String>,
    /// Only this partition: its name, or its folder like 2023-01 (repeatable)
    #[arg(long, value_name = "PARTITION")]
    pub(crate) partition: Vec<String>,
    /// Only if this many percent of the server's data disk are in use
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) if_disk_above: Option<u8>,
    /// Wait this long for a backup of the same source (like 15min)
    #[arg(long, value_name = "SPAN")]
    pub(crate) wait: Option<Span>,
}

/// Engines that read archives.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Engine {
    /// Amazon Athena, with partition projection
    Athena,
    /// Trino, with partition projection
    Trino,
    /// Apache Spark
    Spark,
    /// DuckDB
    Duckdb,
}

/// Which rows count.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KeepRows {
    /// Those of the database
    Live,
    /// Those of the archive
    Archived,
}

/// `dozo partitions`
#[derive(Debug, Args)]
pub(crate) struct Partitions {
    /// What to do [default: list]
    #[command(subcommand)]
    pub(crate) verb: Option<PartitionsVerb>,
}

/// Verbs of `partitions`.
#[derive(Debug, Subcommand)]
pub(crate) enum PartitionsVerb {
    /// List partitions: bound, rows, size, and whether they are live, detaching, quarantined, dropped, archived
    List {
        /// Source [default: the only one of kind postgres]
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Only this partitioned table (repeatable)
        #[arg(value_name = "SCHEMA.TABLE")]
        tables: Vec<String>,
    },
    /// Make partitions to come, as the existing ones are
    Create {
        /// Source [default: the only one of kind postgres]
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Partitioned table (repeatable)
        #[arg(value_name = "SCHEMA.TABLE", required = true)]
        tables: Vec<String>,
        /// So many lie behind the one of now
        #[arg(long, value_name = "N", default_value = "3")]
        ahead: usize,
        /// Calendar of the partitions [default: time-zone of the table's archive job, or of the configuration]
        #[arg(long, value_name = "ZONE")]
        time_zone: Option<String>,
        /// Print the statements instead of running them
        #[arg(long)]
        sql: bool,
    },
    /// Drop partitions in quarantine that are proven to be archived, whatever their job says
    Drop {
        /// Source [default: the only one that has archive jobs]
        #[arg(long, value_name = "SOURCE")]
        source: Option<String>,
        /// Those whose range ended so long ago (like "12 months")
        #[arg(long, value_name = "SPAN")]
        older_than: Period,
    },
}
