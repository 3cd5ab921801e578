//! `dozo list`: the backups of one source or of all.

use dozo_engine::{BackupLine, list};
use dozo_model::{SourceName, Verdict, human_bytes, human_count};

use super::{Outcome, Session, age, when};
use crate::args::List;
use crate::error::{CliError, Usage};
use crate::output::table;

pub(super) async fn run(session: &Session, args: List) -> Outcome {
    let config = session.config()?;
    let source = args
        .source
        .as_deref()
        .map(SourceName::parse)
        .transpose()
        .map_err(|e| CliError::Usage(Usage::UnknownSource, e.to_string(), "dozo list".into()))?;
    let repository = config.repository.open().await?;
    let lines = list(&session.ctx, &repository, source.as_ref()).await?;
    session.output.result(&lines, || {
        if lines.is_empty() {
            return "no backups yet\n  next: dozo backup --all".into();
        }
        let rows = lines
            .iter()
            .map(|l| {
                vec![
                    format!("{}@{}", l.source, l.id),
                    l.state.to_owned(),
                    when(l.started),
                    age(l.age_seconds),
                    l.tables.to_string(),
                    human_count(l.rows),
                    human_bytes(l.bytes),
                    verified(l),
                    when(l.proven),
                    when(l.drilled),
                    kept(l),
                ]
            })
            .collect();
        table(
            &["BACKUP", "STATE", "STARTED", "AGE", "TABLES", "ROWS", "SIZE", "VERIFIED", "PROVEN", "DRILLED", "KEPT"],
            &[4, 5, 6],
            rows,
        )
    })?;
    Ok(0)
}

/// Shows who holds it, or until when it can be taken back.
fn kept(l: &BackupLine) -> String {
    match (&l.hold, l.marked_until) {
        (_, Some(until)) => format!("goes after {}", when(Some(until))),
        (Some(hold), None) => format!("held: {}", hold.reason),
        (None, None) => "-".into(),
    }
}

/// Shows when the content was last checked, or that it was found bad.
pub(super) fn verified(l: &BackupLine) -> String {
    match &l.verified {
        _ if l.findings > 0 => format!("FAILED ({} findings)", l.findings),
        Some((at, Verdict::Passed)) => when(Some(*at)),
        _ => "-".into(),
    }
}
