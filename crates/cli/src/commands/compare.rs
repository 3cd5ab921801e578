//! `dozo compare`: exit 3 when the sides differ, 6 when something could not be compared.

use std::time::Duration;

use dozo_engine::{
    BackupSelector, CompareOptions, CompareReport, CompareSide, Repository, RowDifference, TableComparison, compare,
};
use dozo_model::{BackupId, Fingerprint, human_count};

use super::{Outcome, Session, database};
use crate::args::Compare;
use crate::config::default_workers;
use crate::error::CliError;

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;
/// As a backup's default.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(session: &Session, args: Compare) -> Outcome {
    let mut repository = None;
    let a = side(session, &args.a, &mut repository).await?;
    let b = side(session, &args.b, &mut repository).await?;
    let options = CompareOptions {
        tables: args.table,
        limit: args.limit,
        workers: args.jobs.unwrap_or_else(default_workers).max(1),
        lock_timeout: LOCK_TIMEOUT,
    };
    let report = compare(&session.ctx, repository.as_ref(), &a, &b, &options).await?;
    session.output.result(&report, || text(&report))?;
    if session.output.quiet() && report.outcome != "equal" {
        session.output.message(&summary(&report));
    }
    Ok(match report.outcome {
        "equal" => 0,
        "differ" => FINDING,
        _ => NOT_RUN,
    })
}

/// A backup has an `@`, or is an id; everything else is a database.
async fn side(session: &Session, text: &str, repository: &mut Option<Repository>) -> Result<CompareSide, CliError> {
    let url = text.contains("://") || text.starts_with("env:") || text.starts_with("file:") || text.contains('=');
    if url || !text.contains('@') && BackupId::parse(text).is_err() {
        return Ok(CompareSide::Database(database(session, text)?));
    }
    let selector: BackupSelector = text.parse()?;
    if repository.is_none() {
        *repository = Some(session.config()?.repository.open().await?);
    }
    match repository {
        Some(repository) => Ok(CompareSide::Backup(Box::new(repository.resolve(&selector).await?))),
        None => Err(CliError::Engine(dozo_engine::EngineError::Internal("no repository".into()))),
    }
}

fn summary(r: &CompareReport) -> String {
    let count = |verdict: &str| r.tables.iter().filter(|t| t.verdict == verdict).count();
    let mut text = format!("{} and {}: {} tables equal", r.a, r.b, count("equal"));
    for (n, words) in [
        (count("differs"), "differ"),
        (r.only_in_a.len(), "only in the first"),
        (r.only_in_b.len(), "only in the second"),
        (count("not run") + r.unreadable.len(), "NOT compared"),
    ] {
        if n > 0 {
            text.push_str(&format!(", {n} {words}"));
        }
    }
    text
}

fn text(r: &CompareReport) -> String {
    let mut text = summary(r);
    for (names, word) in [(&r.only_in_a, "first"), (&r.only_in_b, "second")] {
        names.iter().for_each(|n| text.push_str(&format!("\n{n} is only in the {word}")));
    }
    r.unreadable.iter().for_each(|why| text.push_str(&format!("\nnot compared: {why}")));
    for table in r.tables.iter().filter(|t| t.verdict != "equal") {
        text.push_str(&table_text(table));
    }
    text
}

fn rows(f: Option<Fingerprint>) -> String {
    f.map_or_else(|| "none".into(), |f| human_count(f.rows))
}

pub(super) fn table_text(t: &TableComparison) -> String {
    let because = t.because.as_ref().map(|b| format!(": {b}")).unwrap_or_default();
    let mut text = format!("\n{} {}{because}, {} rows / {} rows", t.table, t.verdict, rows(t.a), rows(t.b));
    t.columns.iter().for_each(|c| text.push_str(&format!("\n  column {c}")));
    for p in &t.partitions {
        text.push_str(&format!("\n  partition {}: {} rows / {} rows", p.partition, rows(p.a), rows(p.b)));
    }
    if let Some((from, to)) = &t.key_range {
        text.push_str(&format!("\n  differing keys ({}) from {from} to {to}", t.key.join(", ")));
    }
    let without_key = if t.key.is_empty() { " row with digest" } else { "" };
    let mut list = |word: &str, all: &[RowDifference]| {
        all.iter().for_each(|d| text.push_str(&format!("\n  {word}{without_key} {d}")));
    };
    list("only in the first:", &t.missing);
    list("only in the second:", &t.extra);
    list("changed:", &t.changed);
    if t.more {
        text.push_str("\n  and more (--limit shows them)");
    }
    text
}
