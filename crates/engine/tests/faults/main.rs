//! Faults on the way to the repository: every request of every verb fails once and for good, a store and a network at their worst, two hosts
//! that know nothing of each other. Real SeaweedFS, real Postgres, the verbs in-process.
//!
//! `DOZO_TEST_NIGHTLY=1` raises the counts to those of the nightly tier; `DOZO_TEST_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it counted")]

mod hosts;
mod lying;
mod many;
mod quarter;
mod sweep;
mod twice;
mod world;
