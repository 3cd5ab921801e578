//! `dozo verify`: exit 3 when something is wrong, 6 when something could not be looked at.

use std::time::Duration;

use dozo_engine::{BackupSelector, VerifyReport, archive_verify, verify, verify_entry};
use dozo_model::{Manifest, Verdict, VerifyLevel, human_bytes, human_count, human_duration};

use super::{Outcome, Session};
use crate::args::Verify;
use crate::config::Config;
use crate::error::{CliError, Usage};

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;

pub(super) async fn run(session: &Session, args: Verify) -> Outcome {
    let config = session.config()?;
    let level = args.level.into();
    if let Some(name) = &args.archive {
        return archive(session, &config, name, level).await;
    }
    let selector: Option<BackupSelector> = args.backup.as_deref().map(str::parse).transpose()?;
    let repository = config.repository.open().await?;
    let mut reports = Vec::new();
    let mut worst = 0;
    match selector {
        Some(selector) if !args.all => {
            let manifest = repository.resolve(&selector).await?;
            let latest = selector.prefix.is_none();
            let not_again = not_again(&config, &manifest, latest && !args.reread);
            reports.push(verify(&session.ctx, &repository, &manifest, level, not_again).await?);
        }
        Some(BackupSelector { source: None, prefix: None }) => {
            // One source that cannot be verified does not stop the others.
            for source in repository.sources().await? {
                let latest = BackupSelector { source: Some(source.clone()), prefix: None };
                match repository.resolve(&latest).await {
                    Ok(manifest) => {
                        let not_again = not_again(&config, &manifest, !args.reread);
                        reports.push(verify(&session.ctx, &repository, &manifest, level, not_again).await?);
                    }
                    Err(e) => {
                        let error = CliError::from(e);
                        session.output.message(&format!("source {source}: {}", error.text()));
                        worst = worst.max(if error.exit_code() == FINDING { FINDING } else { NOT_RUN });
                    }
                }
            }
        }
        Some(_) => {
            return Err(CliError::Usage(
                Usage::Options,
                "--all goes with `latest` or with no backup".into(),
                "dozo help verify".into(),
            ));
        }
        None => {
            for entry in repository.backups(None).await? {
                reports.extend(verify_entry(&session.ctx, &repository, &entry, level).await?);
            }
        }
    }
    session.output.result(&reports, || {
        if reports.is_empty() {
            "there is no backup to verify".into()
        } else {
            reports.iter().map(text).collect::<Vec<_>>().join("\n")
        }
    })?;
    if session.output.quiet() {
        for report in reports.iter().filter(|r| r.check.verdict != Verdict::Passed) {
            session.output.message(&text(report));
        }
    }
    let any = |verdict| reports.iter().any(|r| r.check.verdict == verdict);
    Ok(if any(Verdict::Failed) || worst == FINDING {
        FINDING
    } else if any(Verdict::NotRun) || worst == NOT_RUN || reports.is_empty() {
        NOT_RUN
    } else {
        0
    })
}

/// The nightly verification reads what has no content check younger than half of the age up to which objects are shared.
fn not_again(config: &Config, manifest: &Manifest, latest: bool) -> Option<Duration> {
    let age = config.owner(&manifest.source).map(|s| s.reuse_max_age)?;
    latest.then_some(age / 2)
}

fn text(r: &VerifyReport) -> String {
    let c = &r.check;
    let verdict = match c.verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotRun => "NOT RUN",
    };
    let mut text = format!(
        "{}@{} {} ({}): {} objects, {} read, {} rows, {}",
        r.source,
        c.backup,
        verdict,
        c.level.as_str(),
        c.objects,
        human_bytes(c.bytes),
        human_count(c.rows),
        human_duration(Duration::from_secs_f64(r.seconds)),
    );
    if !c.skipped.is_empty() {
        text.push_str(&format!(", {} objects of earlier backups not read again", c.skipped.len()));
    }
    for f in &c.findings {
        let kind = serde_json::to_value(f.kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        let tables = if f.tables.len() > 3 {
            format!("{} and {} more", f.tables[..3].join(", "), f.tables.len() - 3)
        } else {
            f.tables.join(", ")
        };
        text.push_str(&format!("\n  {kind}: {} (table {tables}): {}", f.object, f.detail));
    }
    for line in &c.not_run {
        text.push_str(&format!("\n  not run: {line}"));
    }
    if c.verdict == Verdict::Failed {
        text.push_str("\n  next: restore from another backup, and make a new one now");
    }
    text
}

/// Reads what an archive job has published.
async fn archive(session: &Session, config: &Config, name: &str, level: VerifyLevel) -> Outcome {
    let job = config.archive(name).ok_or_else(|| super::archive::unknown_archive(config, name))?;
    let repository = config.repository.open().await?;
    let found = archive_verify(&session.ctx, &repository, job, level).await?;
    session.output.result(&found, || {
        let line = |(partition, check): &(dozo_model::QualifiedName, dozo_model::CheckEvent)| {
            let wrong = check
                .findings
                .iter()
                .map(|f| format!("\n  {}: {}", f.object, f.detail))
                .chain(check.not_run.iter().map(|n| format!("\n  not run: {n}")));
            let rows = human_count(check.rows);
            format!(
                "{partition}: {}, {rows} rows, {}{}",
                word(check.verdict),
                human_bytes(check.bytes),
                wrong.collect::<String>()
            )
        };
        found.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    let verdicts: Vec<Verdict> = found.iter().map(|(_, check)| check.verdict).collect();
    Ok(match () {
        () if verdicts.contains(&Verdict::Failed) => FINDING,
        () if verdicts.contains(&Verdict::NotRun) => NOT_RUN,
        () => 0,
    })
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "failed",
        Verdict::NotRun => "not run",
    }
}
