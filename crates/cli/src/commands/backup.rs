//! `dozo backup`: one source, several, or all.

use std::time::Duration;

use dozo_engine::{BackupReport, Repository, backup};
use dozo_model::{Span, human_bytes, human_count, human_duration};
use serde_json::json;

use super::{Outcome, Session, unknown_source};
use crate::args::Backup;
use crate::error::CliError;

/// Exit code for work that is partly done.
const PARTIAL: u8 = 4;

pub(super) async fn run(session: &Session, args: Backup) -> Outcome {
    let config = session.config()?;
    let wait = match &args.wait {
        Some(text) => {
            text.parse::<Span>().map_err(|e| CliError::Usage("DOZO-E1006", format!("--wait: {e}"), "dozo help backup".into()))?.0
        }
        None => Duration::ZERO,
    };
    if let Some(unknown) = args.sources.iter().find(|s| config.source(s).is_none()) {
        return Err(unknown_source(&config, unknown));
    }
    let chosen: Vec<_> =
        config.sources.iter().filter(|s| args.all || args.sources.iter().any(|n| n == s.name.as_str())).collect();
    if chosen.is_empty() {
        return Err(CliError::Usage(
            "DOZO-E1007",
            format!("{} has no source", config.file.display()),
            "add [source.NAME]".into(),
        ));
    }
    let repository = Repository::open_or_init(config.repository.store()?, session.ctx.clock.as_ref()).await?;
    let mut reports = Vec::new();
    let mut errors: Vec<(String, CliError)> = Vec::new();
    for source in &chosen {
        match backup(&session.ctx, &repository, source, wait).await {
            Ok(report) => reports.push(report),
            Err(e) => {
                let error = CliError::from(e);
                if chosen.len() == 1 || error.exit_code() == 130 {
                    return Err(error);
                }
                session.output.message(&format!("source {}: {}", source.name, error.text()));
                errors.push((source.name.to_string(), error));
            }
        }
    }
    for report in &reports {
        tell_losses(session, report);
    }
    let failed: Vec<_> = errors.iter().map(|(source, e)| json!({ "source": source, "failed": e.json()["error"] })).collect();
    let text = || reports.iter().map(text).collect::<Vec<_>>().join("\n");
    if chosen.len() == 1 {
        session.output.result(&reports[0], text)?;
    } else {
        session.output.result(&json!({ "backups": reports, "failed": failed }), text)?;
    }
    if reports.is_empty() {
        return Ok(errors.iter().map(|(_, e)| e.exit_code()).max().unwrap_or(1));
    }
    let partial = !errors.is_empty() || reports.iter().any(|r| r.outcome == "partial");
    Ok(if partial { PARTIAL } else { 0 })
}

/// What must be seen also with `--quiet`: one line each.
fn tell_losses(session: &Session, report: &BackupReport) {
    for warning in &report.warnings {
        session.output.message(&format!("warning: {}: {warning}", report.source));
    }
    let lost: Vec<_> = report.left_out.iter().filter(|l| l.error).collect();
    if let Some(first) = lost.first() {
        let more = if lost.len() > 1 { format!(" and {} more", lost.len() - 1) } else { String::new() };
        let needed =
            if first.needed_by.is_empty() { String::new() } else { format!("; needed by {}", first.needed_by.join(", ")) };
        session.output.message(&format!(
            "warning: {}: backup {} is partial: {} was left out ({}{needed}){more}; next: dozo check {}",
            report.source, report.id, first.name, first.reason, report.source
        ));
    }
}

fn text(r: &BackupReport) -> String {
    let seconds = r.seconds.get("total").copied().unwrap_or(0.0);
    let data = r.seconds.get("data").copied().unwrap_or(0.0).max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let rate = r.bytes_read as f64 / data / 1e6;
    let left = r.left_out.iter().filter(|l| !l.error).count();
    let excluded = if left > 0 { format!(", {left} not asked for") } else { String::new() };
    format!(
        "{}@{} {}: {} rows of {} tables{excluded}, {} read ({rate:.1} MB/s), {} stored, {}",
        r.source,
        r.id,
        r.outcome,
        human_count(r.rows),
        r.tables.len(),
        human_bytes(r.bytes_read),
        human_bytes(r.bytes_written),
        human_duration(Duration::from_secs_f64(seconds)),
    )
}
