//! `dozo archive`: exit 3 when stored or live rows are not what they must be, 4 when a partition was refused or failed.

use std::collections::BTreeMap;
use std::time::Duration;

use dozo_engine::{
    ArchiveJob, ArchiveLine, ArchiveOptions, ArchivePlan, ArchiveReport, ArchivedLine, CatalogError, DdlEngine, EngineError,
    Keep, Repository, RestoreUnitOptions, SourceSettings, UnitAction, archive_apply, archive_ddl, archive_list, archive_plan,
    archive_resolve, archive_restore, disk_used, joined_plan,
};
use dozo_model::{human_bytes, human_count};

use super::{Outcome, Session, when};
use crate::args::{Archive, ArchiveApply, ArchiveVerb, Engine, KeepRows, Restore};
use crate::config::{Config, default_workers};
use crate::error::{CliError, Usage};
use crate::output::{Output, table};

const FINDING: u8 = 3;
const PARTIAL: u8 = 4;
const FAILED: u8 = 1;

pub(super) async fn run(session: &Session, args: Archive) -> Outcome {
    let config = session.config()?;
    match args.verb {
        None => plan(session, &config, &[]).await,
        Some(ArchiveVerb::Plan { jobs }) => plan(session, &config, &jobs).await,
        Some(ArchiveVerb::Apply(args)) => apply(session, &config, args).await,
        Some(ArchiveVerb::List { jobs }) => list(session, &config, &jobs).await,
        Some(ArchiveVerb::Ddl { job, engine }) => {
            let job = config.archive(&job).ok_or_else(|| unknown_archive(&config, &job))?;
            let repository = config.repository.open().await?;
            let engine = match engine {
                Engine::Athena => DdlEngine::Athena,
                Engine::Trino => DdlEngine::Trino,
                Engine::Spark => DdlEngine::Spark,
                Engine::Duckdb => DdlEngine::Duckdb,
            };
            let text = archive_ddl(&repository, &job.source, job, engine).await?;
            if session.global.json {
                session.output.result(&text, String::new)?;
            } else {
                Output::print(&text)?;
            }
            Ok(0)
        }
        Some(ArchiveVerb::Resolve { unit, keep, source }) => {
            let source = source_of(&config, source.as_deref())?;
            let jobs: Vec<&ArchiveJob> = config.archives.iter().filter(|j| j.source == source.name).collect();
            let keep = match keep {
                KeepRows::Live => Keep::Live,
                KeepRows::Archived => Keep::Archived,
            };
            let repository = config.repository.open().await?;
            let line = archive_resolve(&session.ctx, &repository, &config.repository, source, &jobs, &unit, keep).await?;
            lines(session, &[line])
        }
    }
}

/// Says which archives there are.
pub(super) fn unknown_archive(config: &Config, name: &str) -> CliError {
    let known: Vec<&str> = config.archives.iter().map(|a| a.name.as_str()).collect();
    CliError::Usage(
        Usage::UnknownArchive,
        format!("archive `{name}` is not in {}", config.file.display()),
        if known.is_empty() { "add [archive.NAME]".into() } else { format!("use one of: {}", known.join(", ")) },
    )
}

/// Returns the source that is meant: the named one, or the only one with archive jobs.
pub(super) fn source_of<'c>(config: &'c Config, name: Option<&str>) -> Result<&'c SourceSettings, CliError> {
    if let Some(name) = name {
        return config.source(name).ok_or_else(|| super::unknown_source(config, name));
    }
    let with_jobs = |s: &&SourceSettings| config.archives.iter().any(|a| a.source == s.name);
    let mut found: Vec<&SourceSettings> = config.sources.iter().filter(with_jobs).collect();
    if found.is_empty() {
        found = config.sources.iter().filter(|s| s.postgres().is_some()).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        _ => {
            let text = format!("{} sources could be meant", found.len());
            Err(CliError::Usage(Usage::Options, text, "name it with --source".into()))
        }
    }
}

/// Returns the chosen jobs by their source, in the file's order.
fn by_source<'c>(config: &'c Config, names: &[String]) -> Result<Vec<(&'c SourceSettings, Vec<&'c ArchiveJob>)>, CliError> {
    if config.archives.is_empty() {
        let text = format!("{} has no [archive.NAME]", config.file.display());
        return Err(CliError::Usage(
            Usage::UnknownArchive,
            text,
            "dozo init --from proposes some; docs/config.toml shows every key".into(),
        ));
    }
    if let Some(unknown) = names.iter().find(|n| config.archive(n).is_none()) {
        return Err(unknown_archive(config, unknown));
    }
    let wanted = |job: &&ArchiveJob| names.is_empty() || names.contains(&job.name);
    let mut jobs: BTreeMap<usize, Vec<&ArchiveJob>> = BTreeMap::new();
    for job in config.archives.iter().filter(wanted) {
        if let Some(place) = config.sources.iter().position(|s| s.name == job.source) {
            jobs.entry(place).or_default().push(job);
        }
    }
    Ok(jobs.into_iter().map(|(place, jobs)| (&config.sources[place], jobs)).collect())
}

async fn plan(session: &Session, config: &Config, names: &[String]) -> Outcome {
    let chosen = by_source(config, names)?;
    let repository = match config.repository.open().await {
        Ok(repository) => Some(repository),
        // The first run makes it.
        Err(EngineError::Catalog(CatalogError::NoRepository { .. })) => None,
        Err(e) => return Err(e.into()),
    };
    let mut plans = Vec::new();
    for (source, jobs) in chosen {
        plans.push(archive_plan(&session.ctx, repository.as_ref(), source, &jobs).await?);
    }
    let Some(plan) = joined_plan(plans) else { return Ok(0) };
    session.output.result(&plan, || plan_text(&plan))?;
    Ok(0)
}

fn plan_text(plan: &ArchivePlan) -> String {
    let mut out = String::new();
    for job in &plan.jobs {
        for refusal in &job.refusals {
            out.push_str(&format!("archive.{} ({}): refused: {refusal}\n", job.job, job.table));
        }
        for note in &job.notes {
            out.push_str(&format!("archive.{} ({}): {note}\n", job.job, job.table));
        }
    }
    let action = |action: UnitAction| match action {
        UnitAction::Archive => "archive",
        UnitAction::Copy => "copy",
        UnitAction::Publish => "publish",
        UnitAction::Drop => "drop",
        UnitAction::Wait => "wait",
        UnitAction::Stay => "stay",
        UnitAction::Refused => "refused",
    };
    let rows: Vec<Vec<String>> = plan
        .units
        .iter()
        .map(|u| {
            vec![
                u.order.map(|n| n.to_string()).unwrap_or_default(),
                action(u.action).to_owned(),
                u.partition.to_string(),
                u.label.clone().unwrap_or_default(),
                human_count(u.rows),
                human_bytes(u.bytes),
                u.reasons.join("; "),
            ]
        })
        .collect();
    let count = |wanted: &[UnitAction]| plan.units.iter().filter(|u| wanted.contains(&u.action)).count();
    let leaving: Vec<_> = plan.units.iter().filter(|u| u.action == UnitAction::Archive).collect();
    out.push_str(&table(&["#", "WHAT", "PARTITION", "FOLDER", "ROWS, ABOUT", "SIZE", "WHY"], &[0, 4, 5], rows));
    out.push_str(&format!(
        "\n{} to archive (about {} rows, {}), {} to copy, {} to publish, {} to drop, {} in quarantine, {} stay, {} refused",
        leaving.len(),
        human_count(leaving.iter().map(|u| u.rows).sum()),
        human_bytes(leaving.iter().map(|u| u.bytes).sum()),
        count(&[UnitAction::Copy]),
        count(&[UnitAction::Publish]),
        count(&[UnitAction::Drop]),
        count(&[UnitAction::Wait]),
        count(&[UnitAction::Stay]),
        count(&[UnitAction::Refused]),
    ));
    if plan.units.iter().any(|u| u.order.is_some()) {
        out.push_str("\n  next: dozo archive apply");
    }
    out
}

async fn apply(session: &Session, config: &Config, args: ArchiveApply) -> Outcome {
    let chosen = by_source(config, &args.jobs)?;
    if let Some(limit) = args.if_disk_above {
        let mut above = false;
        for (source, jobs) in &chosen {
            if let Some(job) = jobs.first() {
                let used = disk_used(source, job).await?;
                above |= used > limit;
                session.ctx.progress.warn(&format!("{}: {used}% of the data disk are in use", source.name));
            }
        }
        if !above {
            let report = ArchiveReport::default();
            session.output.result(&report, || format!("nothing to do: no data disk is above {limit}%"))?;
            return Ok(0);
        }
    }
    let repository = Repository::open_or_init(config.repository.store()?, session.ctx.clock.as_ref()).await?;
    let options = ArchiveOptions { wait: args.wait.map_or(Duration::ZERO, |s| s.0), partitions: args.partition };
    let mut whole = ArchiveReport::default();
    for (source, jobs) in chosen {
        let report = archive_apply(&session.ctx, &repository, &config.repository, source, &jobs, &options).await?;
        whole.units.extend(report.units);
        whole.reconciled.extend(report.reconciled);
        whole.refused.extend(report.refused);
        whole.warnings.extend(report.warnings);
        whole.freed += report.freed;
        whole.quarantined += report.quarantined;
        whole.disk_used = whole.disk_used.max(report.disk_used);
    }
    session.output.result(&whole, || report_text(&whole))?;
    if session.output.quiet() {
        whole.refused.iter().for_each(|r| session.output.message(&format!("refused {r}")));
        for line in whole.units.iter().filter(|u| matches!(u.outcome, "refused" | "failed" | "finding")) {
            session.output.message(&format!("{} {}: {}", line.outcome, line.partition, line.reasons.join("; ")));
        }
    }
    Ok(if whole.findings() {
        FINDING
    } else if whole.partial() {
        PARTIAL
    } else {
        0
    })
}

fn report_text(report: &ArchiveReport) -> String {
    let mut out: Vec<String> = report.reconciled.iter().map(|r| format!("reconciled {r}")).collect();
    out.extend(report.refused.iter().map(|r| format!("refused {r}")));
    if !report.units.is_empty() {
        out.push(unit_table(&report.units));
    }
    let count = |outcome: &str| report.units.iter().filter(|u| u.outcome == outcome).count();
    let left = report.units.iter().filter(|u| matches!(u.outcome, "quarantined" | "dropped" | "copied"));
    let rows: u64 = left.filter_map(|u| u.fingerprint).map(|f| f.rows).sum();
    let disk = report.disk_used.map(|used| format!(", {used}% of the data disk in use")).unwrap_or_default();
    out.push(format!(
        "{} dropped, {} quarantined ({}), {} copied, {} stay, {} refused, {} failed; {} rows; {} freed{disk}",
        count("dropped"),
        count("quarantined"),
        human_bytes(report.quarantined),
        count("copied"),
        count("stays"),
        count("refused"),
        count("failed") + count("finding"),
        human_count(rows),
        human_bytes(report.freed),
    ));
    out.join("\n")
}

fn unit_table(units: &[ArchivedLine]) -> String {
    let rows = units.iter().map(|u| {
        vec![
            u.outcome.to_owned(),
            u.partition.to_string(),
            u.label.clone(),
            u.fingerprint.map(|f| f.to_string()).unwrap_or_default(),
            u.reasons.join("; "),
        ]
    });
    table(&["WHAT", "PARTITION", "FOLDER", "FINGERPRINT", "WHY"], &[], rows.collect())
}

/// Prints what became of units, and returns the exit code.
pub(super) fn lines(session: &Session, units: &[ArchivedLine]) -> Outcome {
    session.output.result(&units, || if units.is_empty() { "nothing to do".into() } else { unit_table(units) })?;
    let worst = |u: &ArchivedLine| match u.outcome {
        "finding" => FINDING,
        "refused" | "failed" => FAILED,
        _ => 0,
    };
    let codes: Vec<u8> = units.iter().map(worst).collect();
    if session.output.quiet() {
        for line in units.iter().filter(|u| worst(u) > 0) {
            session.output.message(&format!("{} {}: {}", line.outcome, line.partition, line.reasons.join("; ")));
        }
    }
    Ok(match codes.iter().max().copied().unwrap_or(0) {
        FAILED if codes.contains(&0) => PARTIAL,
        code => code,
    })
}

async fn list(session: &Session, config: &Config, names: &[String]) -> Outcome {
    if let Some(unknown) = names.iter().find(|n| config.archive(n).is_none()) {
        return Err(unknown_archive(config, unknown));
    }
    let repository = config.repository.open().await?;
    let mut units: Vec<ArchiveLine> = Vec::new();
    for source in config.sources.iter().filter(|s| s.postgres().is_some()) {
        let found = archive_list(&repository, &source.name).await?;
        units.extend(found.into_iter().filter(|u| names.is_empty() || names.contains(&u.job)));
    }
    session.output.result(&units, || {
        let rows = units.iter().map(|u| {
            vec![
                u.job.clone(),
                u.partition.to_string(),
                u.label.clone(),
                u.unit.clone(),
                format!("{}{}", u.state, if u.published { ", published" } else { "" }),
                u.fingerprint.map(|f| human_count(f.rows)).unwrap_or_default(),
                human_bytes(u.bytes),
                when(Some(u.at)),
            ]
        });
        table(&["ARCHIVE", "PARTITION", "FOLDER", "UNIT", "STATE", "ROWS", "SIZE", "SINCE"], &[5, 6], rows.collect())
    })?;
    Ok(0)
}

/// `dozo restore --archive`
pub(super) async fn restore(session: &Session, config: &Config, archive: &str, partition: &str, args: &Restore) -> Outcome {
    let job = config.archive(archive).ok_or_else(|| unknown_archive(config, archive))?;
    let source = source_of(config, Some(job.source.as_str()))?;
    let options = RestoreUnitOptions {
        partition: partition.to_owned(),
        rename: args.rename.clone(),
        move_default: args.move_default,
        wait: Duration::ZERO,
        workers: args.jobs.unwrap_or_else(default_workers).max(1),
    };
    let repository = config.repository.open().await?;
    let units = archive_restore(&session.ctx, &repository, &config.repository, source, job, &options).await?;
    lines(session, &units)
}
