//! The repository: open or make it, begin and commit backups, load them, leases, checks, retention, garbage.
//!
//! Place in the flow: store → **catalog** → engine. *Layout*: `docs/format.md`. *Ordering*: an intent before the first
//! object, the manifest after the last one; what no manifest names does not exist. *Invariants*: every put is
//! create-only; whoever creates a manifest's key decides the backup's fate. *Crash behaviour*: a killed backup leaves an
//! intent and objects that `gc plan` lists; its lease is broken at once on the same host.

mod archive;
mod drills;
mod error;
mod fate;
mod gc;
mod history;
mod holder;
mod lease;
mod repository;
mod resolve;
mod retention;
mod survey;

pub use archive::ArchivedUnit;
pub use drills::{BrokenLink, DrillChain, StoredDrill};
pub use error::CatalogError;
pub use fate::{Decision, Fate};
pub use gc::{GcDone, GcOptions, GcPlan, MarkedBackup, Uncommitted, UncommittedBackup};
pub use history::{BackupRecord, History};
pub use holder::{lives, this_host, this_process};
pub use lease::{BrokenLease, Lease, LeaseTimes};
pub use repository::{BackupEntry, BackupState, Repository, tool};
pub use resolve::BackupSelector;
pub use retention::{
    Action, BackupFacts, BackupKind, Broken, ClockDoubts, Day, Facts, Hold, Incarnation, Kept, LockPolicy, Mark, Pace, Plan,
    RetentionDone, RetentionOptions, Scenario, SegmentRange, Simulation, SourcePlan, Verdict, WalPlan, WalRun, plan, simulate,
};

type Result<T> = std::result::Result<T, CatalogError>;
