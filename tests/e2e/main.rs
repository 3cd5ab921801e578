//! Whole-binary flows against real servers, in a hermetic environment.
//!
//! `DOZO_TEST_NIGHTLY=1` (set by `scripts/test --nightly`) raises the counts to those of the nightly tier. One server of each
//! version is started once and shared, a database per test; only tests that kill their server have their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod archive;
mod archive_lab;
mod archive_refusals;
mod archive_ways;
mod chaos;
mod command;
mod commands;
mod compare;
mod cron;
mod damage;
mod drill;
mod drill_ways;
mod duckdb;
mod errors;
mod files;
mod gc;
mod grants;
mod harness;
mod into;
mod kill;
mod lock;
mod network;
mod notify;
mod parts;
mod protocol;
mod random;
mod readers;
mod readme;
mod replicate;
mod report;
mod retention;
mod reuse;
mod rotate;
mod roundtrip;
mod runbooks;
mod schedule;
mod sql;
mod status;
mod suspect;
mod texts;
mod tls;
mod tpch;
mod types;

/// Every file of this folder is a module of this binary.
#[test]
fn no_test_file_is_forgotten() {
    let folder = dozo_testkit::root().join("tests/e2e");
    let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "rs") && path.file_stem().is_some_and(|s| s != "main") {
            let module = format!("mod {};", path.file_stem().unwrap().to_string_lossy());
            assert!(main.contains(&module), "{module} is missing");
        }
    }
}
