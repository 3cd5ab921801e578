//! The verbs: backup, verify, replicate, restore, drill, fingerprint, check, init, list, status, accept; and the pipeline that carries rows.
//!
//! Place in the flow: connects postgres, encode, store and catalog; the binary is a shell around it. *Data path*:
//! shared-nothing workers, one OS thread and one connection each, from socket to encoded object without a task switch.
//! *Invariants*: the first error cancels every worker, every thread is joined, a panic becomes an internal error; a failure
//! of one object is in the report and fails the run. *Memory*: [`Budget`].

mod adopt;
mod alarms;
mod archive;
mod backup;
mod budget;
mod canary;
mod check;
mod cluster;
mod command;
mod compare;
mod context;
mod drill;
#[cfg(feature = "duckdb")]
mod duckdb;
#[cfg(not(feature = "duckdb"))]
#[path = "without_duckdb.rs"]
mod duckdb;
mod error;
mod files;
mod fingerprint;
mod hooks;
mod init;
mod intact;
mod process;
mod replicate;
mod report;
mod restore;
mod restore_md;
mod select;
mod sql;
mod status;
mod stored;
mod texts;
mod verify;
mod workers;

pub use adopt::{Adopted, Adoption, Dump, NamePattern, Retired, retire_dumps, survey_dumps};
pub use alarms::{Alarm, AlarmRules};
pub use archive::{
    ArchiveJob, ArchiveLine, ArchiveOptions, ArchivePlan, ArchiveReport, ArchivedLine, CreatedPartition, DdlEngine, Granularity,
    JobLine, Keep, Leftover, PartitionLine, Protocol, RestoreUnitOptions, Then, UnitAction, UnitLine, archive_apply, archive_ddl,
    archive_list, archive_manifest, archive_plan, archive_resolve, archive_restore, archive_verify, disk_used, joined_plan,
    partitions_create, partitions_drop, partitions_list,
};
pub use backup::{BackupOptions, BackupReport, Bottleneck, FilesReport, TableReport, backup};
pub use budget::Budget;
pub use canary::{CanaryReport, canary};
pub use check::{CheckLine, CheckStatus, check};
pub use cluster::{Expanded, expand, vanished};
pub use command::{StreamReport, restore_into, restore_stream};
pub use compare::{CompareOptions, CompareReport, CompareSide, PartitionComparison, RowDifference, TableComparison, compare};
pub use context::{
    CommandSettings, Context, DatabaseChoice, DuckdbSettings, FilesSettings, Hook, Hooks, OnBlock, PostgresSettings,
    ReplicaSettings, RepositorySettings, RotateSettings, SourceKind, SourceSettings,
};
pub use drill::{
    BackupPick, CheckKind, DrillJob, DrillPlan, DrillReport, DrillServer, OwnCheck, PartitionPick, PlannedItem, SampleSize,
    drill_history, drill_plan, drill_run,
};
pub use error::EngineError;
pub use files::{RotateAction, RotateLine, RotatePlan, list_files, rotate_apply, rotate_plan};
pub use fingerprint::{FingerprintLine, FingerprintReport, fingerprint, fingerprint_statements};
pub use hooks::run as run_hook;
pub use init::{ArchiveDraft, Draft, inspect_for_init};
pub use replicate::{
    FailedCopy, ReplicaChoice, ReplicaLag, ReplicateOptions, ReplicateReport, Replicated, ReplicatedBackup, replicate,
};
pub use report::{
    Coverage, CoverageDay, DiskForecast, Growth, Report, ReportFinding, Run, SizePoint, SourceReport, TableGrowth, report,
};
pub use restore::{
    Content, Existing, FolderOptions, FolderReport, PreviewTable, RestoreOptions, RestorePreview, RestoreReport, RestoredFile,
    RestoredSet, RestoredTable, preview, restore, restore_folder,
};
pub use select::Patterns;
pub use sql::{SqlForm, SqlOptions, SqlReport, SqlRows, sql};
pub use status::{AcceptReport, BackupLine, Disk, DrillStatus, Going, SourceStatus, Status, accept, list, status};
pub use verify::{VerifyReport, verify, verify_entry};

// What the binary needs from the crates below.
pub use dozo_catalog::{
    Action, BackupEntry, BackupSelector, BackupState, Broken, BrokenLink, CatalogError, ClockDoubts, Day, Decision, DrillChain,
    Facts, GcDone, GcOptions, GcPlan, Hold, Incarnation, LockPolicy, Plan, Repository, RetentionDone, RetentionOptions, Scenario,
    Simulation, SourcePlan, StoredDrill, Uncommitted, Verdict, plan as retention_plan, simulate, this_host, tool,
};
pub use dozo_files::UnseenWriters;
pub use dozo_postgres::{ConnInfo, PgError, ScratchOptions, ToolChoice, UrlRef};
pub use dozo_store::{LockMode, Store, StoreError, StoreOptions};

pub(crate) type Result<T> = std::result::Result<T, EngineError>;
