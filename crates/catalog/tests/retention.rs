//! The planner: golden plans by the calendar, and properties over random catalogs, among them equality with a naive reference.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "retention/apply.rs"]
mod apply;
#[path = "retention/golden.rs"]
mod golden;
#[path = "retention/properties.rs"]
mod properties;
#[path = "retention/reference.rs"]
mod reference;
#[path = "retention/scale.rs"]
mod scale;
#[path = "retention/simulate.rs"]
mod simulate;
#[path = "retention/wal.rs"]
mod wal;
#[path = "retention/world.rs"]
mod world;
