//! Retention: which backups stay, which go, and why.
//!
//! Place in the flow: repository → [`Facts`] (`load.rs`) → [`plan()`] → tombstones and the sweeper (`apply.rs`). *Invariants*: the plan is a pure
//! function of facts, policies and the time of day; `now` decides about dates in the future and the end of holds, and about nothing
//! else, so time alone deletes nothing. What is not good evicts nothing. *Crash behaviour*: marks are put one after the other, each final
//! for itself; the next run computes the same plan and goes on.

mod apply;
mod calendar;
mod facts;
mod hold;
mod load;
mod lock;
mod plan;
mod reasons;
mod rebind;
mod simulate;
mod wal;

pub use apply::{ClockDoubts, RetentionDone, RetentionOptions};
pub use facts::{BackupFacts, BackupKind, Facts, Hold, Mark, WalRun};
pub(crate) use hold::longest_hold;
pub use lock::LockPolicy;
pub use plan::{Action, Plan, SourcePlan, Verdict, plan};
pub use reasons::Kept;
pub use rebind::Incarnation;
pub use simulate::{Broken, Day, Pace, Scenario, Simulation, simulate};
pub use wal::{SegmentRange, WalPlan};
