//! `dozo replicate`: exit 0 when every replica has what it should, 3 when a backup is damaged, 4 when something is missing, 5 when another
//! process is at it.

use std::time::Duration;

use dozo_engine::{
    BackupSelector, ReplicaChoice, ReplicaSettings, ReplicateOptions, ReplicateReport, Replicated, Repository, replicate,
};
use dozo_model::{human_bytes, human_duration};
use serde_json::json;

use super::{Outcome, Session, unknown_replica};
use crate::args::Replicate;
use crate::config::Config;
use crate::error::{CliError, Usage};

const FINDING: u8 = 3;
const PARTIAL: u8 = 4;
const CONFLICT: u8 = 5;

pub(super) async fn run(session: &Session, args: Replicate) -> Outcome {
    let config = session.config()?;
    let replicas = &config.repository.replicas;
    if let Some(unknown) = args.to.iter().find(|name| replicas.iter().all(|r| &r.name != *name)) {
        return Err(unknown_replica(&config, unknown));
    }
    let chosen: Vec<&ReplicaSettings> =
        replicas.iter().filter(|r| args.to.is_empty() || args.to.iter().any(|name| name == &r.name)).collect();
    if chosen.is_empty() {
        let text = format!("{} has no replica", config.file.display());
        return Err(CliError::Usage(Usage::UnknownReplica, text, "add [[repository.replica]] with its url".into()));
    }
    let repository = config.repository.open().await?;
    let mut these = Vec::new();
    for backup in &args.backups {
        let manifest = repository.resolve(&backup.parse::<BackupSelector>()?).await?;
        these.push((manifest.source, manifest.id));
    }
    these.sort();
    let single = chosen.len() == 1;
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    for replica in chosen {
        let choice = match (args.all, args.latest, args.held, args.tier) {
            (true, ..) => ReplicaChoice::All,
            (_, true, ..) => ReplicaChoice::Latest,
            (_, _, true, _) => ReplicaChoice::Held,
            (.., Some(tier)) => ReplicaChoice::Tier(tier),
            _ => replica.choice,
        };
        let which =
            if these.is_empty() { which(session, &config, &repository, choice).await? } else { Replicated::These(these.clone()) };
        let options = ReplicateOptions { which, sources: None, init: args.init, again: args.again, rate: args.rate.map(|r| r.0) };
        match replicate(&session.ctx, &repository, replica, &options).await {
            Ok(report) => reports.push(report),
            Err(e) => {
                let error = CliError::from(e);
                if error.exit_code() == 130 || single {
                    return Err(error);
                }
                session.output.message(&format!("replica {}: {}", replica.name, error.text()));
                errors.push((replica.name.clone(), error));
            }
        }
    }
    let failed: Vec<_> = errors.iter().map(|(name, e)| json!({ "replica": name, "failed": e.json()["error"] })).collect();
    session
        .output
        .result(&json!({ "replicas": reports, "failed": failed }), || reports.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    for report in &reports {
        tell_failures(session, report);
    }
    let failures: Vec<_> = reports.iter().flat_map(|r| &r.failed).collect();
    Ok(match (reports.is_empty(), errors.is_empty(), failures.as_slice()) {
        (true, ..) => errors.iter().map(|(_, e)| e.exit_code()).max().unwrap_or(1),
        (.., failures) if failures.iter().any(|f| f.damaged) => FINDING,
        (_, true, []) => 0,
        (_, true, failures) if failures.iter().all(|f| f.held) => CONFLICT,
        (_, true, failures) if reports.iter().all(|r| r.copied.is_empty() && r.present == 0) && !failures.is_empty() => 1,
        _ => PARTIAL,
    })
}

/// Finds the backups that a replica is to have.
pub(super) async fn which(
    session: &Session,
    config: &Config,
    repository: &Repository,
    choice: ReplicaChoice,
) -> Result<Replicated, CliError> {
    if matches!(choice, ReplicaChoice::All) {
        return Ok(Replicated::All);
    }
    if matches!(choice, ReplicaChoice::Latest) {
        return Ok(Replicated::Latest);
    }
    let mut these = Vec::new();
    for source in repository.sources().await? {
        let history = repository.history(&source).await?;
        let chosen = choice.of(&history, config.policy(&source), session.ctx.clock.now());
        these.extend(chosen.into_iter().map(|id| (source.clone(), id)));
    }
    these.sort();
    Ok(Replicated::These(these))
}

/// What must be seen also with `--quiet`.
pub(super) fn tell_failures(session: &Session, report: &ReplicateReport) {
    for f in &report.failed {
        let next = match (f.damaged, f.held) {
            (true, _) => format!("dozo verify {}", f.backup),
            (_, true) => "wait for it, or run `dozo replicate` later".into(),
            _ => "dozo replicate goes on where this ended".into(),
        };
        session
            .output
            .message(&format!("warning: replica {}: {} was not copied: {}; next: {next}", report.replica, f.backup, f.reason));
    }
}

pub(super) fn text(r: &ReplicateReport) -> String {
    let mut lines: Vec<String> = r
        .copied
        .iter()
        .map(|c| {
            let (size, time) = (human_bytes(c.bytes), human_duration(Duration::from_secs_f64(c.seconds)));
            let found = match c.found {
                0 => String::new(),
                n => format!(", {n} ({}) were there", human_bytes(c.found_bytes)),
            };
            let renamed = if c.id == c.copy { String::new() } else { format!(" as {}", c.copy) };
            format!("{}@{}{renamed} copied to {}: {} objects, {size}{found}, {time}", c.source, c.id, r.replica, c.objects)
        })
        .collect();
    lines.push(format!(
        "replica {}: {} copied, {} there before, {} failed, {} requests, {}",
        r.replica,
        r.copied.len(),
        r.present,
        r.failed.len(),
        r.requests_to.total(),
        human_duration(Duration::from_secs_f64(r.seconds)),
    ));
    lines.join("\n")
}
