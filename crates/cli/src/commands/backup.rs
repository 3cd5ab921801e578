//! `dozo backup`: one source, several, or all; a source may be a whole server.

use std::time::Duration;

use dozo_engine::{
    BackupOptions, BackupReport, CatalogError, EngineError, Expanded, PostgresSettings, ReplicateOptions, ReplicateReport,
    Repository, SourceKind, SourceSettings, backup, expand, replicate, run_hook, vanished,
};
use dozo_model::{HoldState, Severity, SourceName, human_bytes, human_count, human_duration};
use serde::Serialize;
use serde_json::json;

use super::{Outcome, Session, unknown_source};
use crate::args::Backup;
use crate::config::Config;
use crate::error::{CliError, Usage};

/// Exit code for work that is partly done, or suspect.
const PARTIAL: u8 = 4;
const CONFLICT: u8 = 5;

/// What came of all sources.
#[derive(Default)]
struct Done {
    reports: Vec<BackupReport>,
    errors: Vec<(String, CliError)>,
    /// Sources that another run is backing up.
    held: Vec<String>,
    /// Something was asked for and is not there, although each backup by itself is fine.
    missing: bool,
    /// What the replicas got.
    replicas: Vec<ReplicateReport>,
}

pub(super) async fn run(session: &Session, args: Backup) -> Outcome {
    let config = session.config()?;
    if let Some(replica) = &session.global.replica {
        let text = format!("`{replica}` is a replica: it holds copies of the repository's backups");
        let next = "leave out --replica; if the repository is lost, put the replica's url in its place".into();
        return Err(CliError::Usage(Usage::BackupToReplica, text, next));
    }
    if let Some(unknown) = args.sources.iter().find(|s| config.source(s).is_none()) {
        return Err(unknown_source(&config, unknown));
    }
    let chosen: Vec<SourceSettings> = config
        .sources
        .iter()
        .filter(|s| args.all || args.sources.iter().any(|n| n == s.name.as_str()))
        .map(|s| SourceSettings {
            kind: match &s.kind {
                SourceKind::Postgres(pg) => SourceKind::Postgres(PostgresSettings {
                    max_block: args.max_block.map_or(pg.max_block, |m| m.0),
                    ..pg.clone()
                }),
                kind => kind.clone(),
            },
            rate: args.rate.or(s.rate),
            memory: args.memory.unwrap_or(s.memory),
            ..s.clone()
        })
        .collect();
    if chosen.is_empty() {
        return Err(CliError::Usage(
            Usage::NoSource,
            format!("{} has no source", config.file.display()),
            "add [source.NAME]".into(),
        ));
    }
    let options = BackupOptions {
        wait: args.wait.map_or(Duration::ZERO, |w| w.0),
        full: args.full,
        prove: args.prove.map(|p| p.0).filter(|p| *p > 0),
    };
    let repository = Repository::open_or_init(config.repository.store()?, session.ctx.clock.as_ref()).await?;
    let single = chosen.len() == 1 && chosen[0].databases().is_none();
    let mut done = Done::default();
    for source in &chosen {
        one(session, &config, &repository, source, &options, &args, single, &mut done).await?;
    }
    for report in &done.reports {
        tell_losses(session, report);
    }
    let interrupted = fill_replicas(session, &config, &repository, &mut done).await;
    let failed: Vec<_> = done.errors.iter().map(|(source, e)| json!({ "source": source, "failed": e.json()["error"] })).collect();
    let replicas = || done.replicas.iter().map(super::replicate::text);
    let text = || done.reports.iter().map(text).chain(replicas()).collect::<Vec<_>>().join("\n");
    match done.reports.as_slice() {
        [] if single => {}
        [report] if single => {
            #[derive(Serialize)]
            struct One<'a> {
                #[serde(flatten)]
                report: &'a BackupReport,
                replicas: &'a [ReplicateReport],
            }
            session.output.result(&One { report, replicas: &done.replicas }, text)?;
        }
        reports => {
            let (held, replicas) = (&done.held, &done.replicas);
            let all = json!({ "backups": reports, "failed": failed, "running-elsewhere": held, "replicas": replicas });
            session.output.result(&all, text)?;
        }
    }
    if interrupted {
        return Err(EngineError::Cancelled.into());
    }
    if done.reports.is_empty() && !done.errors.is_empty() {
        return Ok(done.errors.iter().map(|(_, e)| e.exit_code()).max().unwrap_or(1));
    }
    let partial = !done.errors.is_empty() || done.missing || done.reports.iter().any(|r| r.outcome != "done");
    Ok(match (partial, done.held.is_empty(), args.exit_zero_on_lock) {
        (false, false, false) if done.reports.is_empty() => CONFLICT,
        (true, ..) | (false, false, false) => PARTIAL,
        _ => 0,
    })
}

/// Copies what was just made, and what else is missing of these sources, to the replicas. The backups stand, whatever comes of it. Tells
/// whether that was interrupted.
async fn fill_replicas(session: &Session, config: &Config, repository: &Repository, done: &mut Done) -> bool {
    let mut sources: Vec<SourceName> = done.reports.iter().filter_map(|r| SourceName::parse(&r.source).ok()).collect();
    sources.dedup();
    for replica in config.repository.replicas.iter().filter(|r| r.after_backup && !sources.is_empty()) {
        let which = match super::replicate::which(session, config, repository, replica.choice).await {
            Ok(which) => which,
            Err(e) => {
                session.output.message(&format!("warning: replica {} was not filled: {}", replica.name, e.text()));
                done.missing = true;
                continue;
            }
        };
        // A replica is made by `dozo replicate --init` alone: a disk that is not mounted is an empty folder.
        let options = ReplicateOptions { which, sources: Some(sources.clone()), init: false, again: false, rate: None };
        match replicate(&session.ctx, repository, replica, &options).await {
            Ok(report) => {
                super::replicate::tell_failures(session, &report);
                // Whoever holds the lease copies it.
                done.missing |= report.failed.iter().any(|f| !f.held);
                done.replicas.push(report);
            }
            Err(EngineError::Cancelled) => return true,
            Err(e) => {
                let error = CliError::from(e);
                session.output.message(&format!("warning: replica {} was not filled: {}", replica.name, error.text()));
                done.missing = true;
            }
        }
    }
    false
}

async fn one(
    session: &Session,
    config: &Config,
    repository: &Repository,
    source: &SourceSettings,
    options: &BackupOptions,
    args: &Backup,
    single: bool,
    done: &mut Done,
) -> Result<(), CliError> {
    let fail = |error: CliError, name: String, done: &mut Done| -> Result<(), CliError> {
        if single || error.exit_code() == 130 {
            return Err(error);
        }
        session.output.message(&format!("source {name}: {}", error.text()));
        done.errors.push((name, error));
        Ok(())
    };
    let cluster = source.databases().is_some();
    let facts = [("SOURCE", source.name.to_string())];
    if let Some(hook) = source.hooks.before.as_ref().filter(|_| cluster)
        && let Err(e) = run_hook("before", hook, &facts).await
    {
        return fail(e.into(), source.name.to_string(), done);
    }
    let expanded = match expand(source, &config.names()).await {
        Ok(expanded) => expanded,
        Err(e) => {
            after(session, source, cluster, &facts).await;
            return fail(e.into(), source.name.to_string(), done);
        }
    };
    for database in &expanded.sources {
        match backup(&session.ctx, repository, &config.repository, database, options).await {
            Ok(report) => {
                // It is committed, but not held: whoever wanted that must hear of it.
                if let Err(e) = hold(session, config, repository, &report, args).await {
                    let text = e.text();
                    session.output.message(&format!("warning: {}@{} is not held: {text}", report.source, report.id));
                    done.missing = true;
                }
                done.reports.push(report);
            }
            Err(EngineError::Catalog(held @ CatalogError::LeaseHeld { .. })) if args.exit_zero_on_lock || !single => {
                if !session.output.quiet() {
                    session.output.message(&format!("{held}: left alone"));
                }
                done.held.push(database.name.to_string());
            }
            Err(e) => {
                if let Err(e) = fail(e.into(), database.name.to_string(), done) {
                    after(session, source, cluster, &facts).await;
                    return Err(e);
                }
            }
        }
    }
    after(session, source, cluster, &facts).await;
    if cluster {
        tell_missing(session, config, repository, source, &expanded, done).await?;
    }
    Ok(())
}

/// Puts the hold that was asked for on a new backup.
async fn hold(
    session: &Session,
    config: &Config,
    repository: &Repository,
    report: &BackupReport,
    args: &Backup,
) -> Result<(), CliError> {
    let Some(reason) = &args.hold else { return Ok(()) };
    let (source, id) = (SourceName::parse(&report.source).map_err(EngineError::from)?, &report.id);
    let until = args.until.map(|until| until.instant(session.ctx.clock.now(), &config.retention.zone())).transpose()?;
    let record = super::hold::record(session, id, HoldState::Held, reason.clone(), until);
    repository.hold(&source, id, &record).await?;
    Ok(())
}

/// The hook after a whole server; that of a single database is run with it.
async fn after(session: &Session, source: &SourceSettings, cluster: bool, facts: &[(&str, String)]) {
    if let Some(hook) = source.hooks.after.as_ref().filter(|_| cluster)
        && let Err(e) = run_hook("after", hook, facts).await
    {
        session.output.message(&format!("warning: {}: {e}", source.name));
    }
}

/// Databases that cannot be read, and those that are gone.
async fn tell_missing(
    session: &Session,
    config: &Config,
    repository: &Repository,
    source: &SourceSettings,
    expanded: &Expanded,
    done: &mut Done,
) -> Result<(), CliError> {
    for (database, why) in &expanded.refused {
        done.missing = true;
        session.output.message(&format!(
            "warning: {}: database {database} is not backed up: {why}; next: correct databases, or GRANT CONNECT",
            source.name
        ));
    }
    for gone in vanished(repository, source, expanded, &config.names()).await? {
        done.missing = true;
        session.output.message(&format!(
            "warning: {}: the database behind {gone} is gone, its backups are kept; next: exclude-databases, if that is meant",
            source.name
        ));
    }
    Ok(())
}

/// What must be seen also with `--quiet`: one line each.
fn tell_losses(session: &Session, report: &BackupReport) {
    if let Some(first) = report.losses.first() {
        session.raise(Severity::Critical);
        let more = if report.losses.len() > 1 { format!(" and {} more", report.losses.len() - 1) } else { String::new() };
        session.output.message(&format!(
            "warning: {}: backup {} is suspect: {first}{more}; next: dozo accept {}@{}, if that is meant",
            report.source, report.id, report.source, report.id
        ));
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
    let took = human_duration(Duration::from_secs_f64(seconds));
    let stored = human_bytes(r.bytes_written);
    if let Some(files) = &r.files {
        let parent = r.parent.as_ref().map_or("an earlier backup", |p| p.as_str());
        let what = match &r.full_because {
            Some(why) => format!("all stored ({why})"),
            None => format!("{} stored and {} unchanged since {parent}", human_count(files.stored), human_count(files.unchanged)),
        };
        let (count, size) = (human_count(files.files), human_bytes(files.bytes));
        return format!("{}@{} {}: {count} files ({size}), {what}, {stored} written, {took}", r.source, r.id, r.outcome);
    }
    if r.kind == "command" {
        let read = human_bytes(r.bytes_read);
        return format!("{}@{} {}: {read} printed, {stored} written, {took}", r.source, r.id, r.outcome);
    }
    let data = r.seconds.get("data").copied().unwrap_or(0.0).max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let rate = r.bytes_read as f64 / data / 1e6;
    let left = r.left_out.iter().filter(|l| !l.error).count();
    let excluded = if left > 0 { format!(", {left} not asked for") } else { String::new() };
    let reused = match (&r.full_because, r.reused) {
        (Some(why), _) => format!(", all copied ({why})"),
        (None, 0) => String::from(", all copied"),
        (None, n) => format!(", {} copied and {n} unchanged since {}", r.copied, r.parent.as_ref().map_or("", |p| p.as_str())),
    };
    // Of short runs nobody asks.
    let bound = match r.bottleneck.filter(|_| data >= 5.0) {
        Some(b) => {
            let by = match b.what {
                "server" => "the server's reading",
                "changes" => "the server's search for changes",
                "prove" => "the server's fingerprints",
                "upload" => "the upload",
                _ => "this machine's encoding",
            };
            format!(", bound by {by} ({:.0} %)", b.share * 100.0)
        }
        None => String::new(),
    };
    format!(
        "{}@{} {}: {} rows of {} tables{excluded}{reused}, {} read ({rate:.1} MB/s), {stored} stored, {took}{bound}",
        r.source,
        r.id,
        r.outcome,
        human_count(r.rows),
        r.tables.len(),
        human_bytes(r.bytes_read),
    )
}
