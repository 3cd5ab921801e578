//! `dozo drill`: exit 0 when every drill passed, 3 when something was found, 6 when something could not be looked at.

use std::path::PathBuf;
use std::time::Duration;

use dozo_engine::{DrillChain, DrillJob, DrillPlan, DrillReport, Repository, drill_history, drill_plan, drill_run};
use dozo_model::{DrillItem, DrillLink, DrillRecord, Sha256Digest, Verdict, human_bytes, human_count, human_duration};
use dozo_notify::state_folder;
use serde_json::json;

use super::{Outcome, Session, when};
use crate::args::Drill;
use crate::config::Config;
use crate::error::{CliError, Usage};
use crate::output::table;
use crate::report;

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;
/// Phases in their order.
pub(crate) const PHASES: [&str; 9] = ["provision", "schema", "fetch", "load", "index", "recover", "verify", "checks", "teardown"];

pub(super) async fn run(session: &Session, args: Drill) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    if args.history {
        return history(session, &config, &repository, &args).await;
    }
    let jobs: Vec<&DrillJob> = match args.names.as_slice() {
        [] => config.drills.iter().collect(),
        names => names.iter().map(|n| config.drill(n).ok_or_else(|| unknown(&config, n))).collect::<Result<_, _>>()?,
    };
    if jobs.is_empty() {
        let text = format!("{} has no drill", config.file.display());
        return Err(CliError::Usage(Usage::UnknownDrill, text, "add [drill.NAME] with sources = [\"…\"]".into()));
    }
    if args.plan {
        let mut plans = Vec::new();
        for job in jobs {
            plans.push(drill_plan(&session.ctx, &repository, job, &config.sources).await?);
        }
        session.output.result(&plans, || plans.iter().map(plan_text).collect::<Vec<_>>().join("\n"))?;
        let stuck = plans.iter().flat_map(|p| &p.items).any(|i| i.not_run.is_some());
        return Ok(if stuck { NOT_RUN } else { 0 });
    }
    // A chain that was cut before it is made longer is told of now, and what this user saw of it stays.
    let before = drill_history(&repository, &remembered(&config).map(own_head).into_iter().collect::<Vec<_>>()).await?;
    for broken in &before.broken {
        session.output.message(&format!("warning: drill record {}: {}", broken.number, broken.reason));
    }
    let mut reports: Vec<DrillReport> = Vec::new();
    for job in jobs {
        let report = drill_run(&session.ctx, &repository, job, &config.sources, &config.contacts).await?;
        let head = DrillLink { number: report.record.number, sha256: report.sha256 };
        if before.broken.is_empty() {
            remember(session, &config, &head);
        }
        let page = report::certificate_page(&report.record, Some(&head), &[], report::language(None));
        if let Err(e) = repository.put_drill_page(report.record.number, page).await {
            session.output.message(&format!("warning: the page of drill {} was not stored: {e}", report.record.number));
        }
        reports.push(report);
    }
    let lines = || reports.iter().map(text).collect::<Vec<_>>().join("\n");
    session.output.result(&reports, lines)?;
    for report in &reports {
        let changes = report.record.items.iter().flat_map(|i| i.changes.iter().map(move |c| format!("{}: {c}", i.source)));
        for warning in report.record.warnings.iter().cloned().chain(changes) {
            session.output.message(&format!("warning: {warning}"));
        }
        if session.output.quiet() && report.record.verdict != Verdict::Passed {
            session.output.message(&text(report));
        }
    }
    Ok(exit(Verdict::of(reports.iter().map(|r| r.record.verdict))))
}

fn exit(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Passed => 0,
        Verdict::Failed => FINDING,
        Verdict::NotRun => NOT_RUN,
    }
}

fn unknown(config: &Config, name: &str) -> CliError {
    let known: Vec<&str> = config.drills.iter().map(|d| d.name.as_str()).collect();
    CliError::Usage(
        Usage::UnknownDrill,
        format!("drill `{name}` is not in {}", config.file.display()),
        if known.is_empty() { "add [drill.NAME]".into() } else { format!("use one of: {}", known.join(", ")) },
    )
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Failed => "FAILED",
        Verdict::NotRun => "NOT RUN",
    }
}

fn restores(n: usize) -> String {
    if n == 1 { "1 restore".into() } else { format!("{n} restores") }
}

fn seconds(s: f64) -> String {
    human_duration(Duration::from_secs_f64(s.max(0.0)))
}

/// The phases that an item went through.
fn phases(item: &DrillItem) -> String {
    let of = |phase: &&str| Some(format!("{phase} {}", seconds(*item.seconds.get(*phase)?)));
    PHASES.iter().filter_map(of).collect::<Vec<_>>().join(", ")
}

fn item_text(item: &DrillItem) -> String {
    let what = match item.chosen.len() {
        0 => item.scope.as_str().to_owned(),
        1..=3 => format!("{} {}", item.scope.as_str(), item.chosen.join(", ")),
        n => format!("{} of {n} tables", item.scope.as_str()),
    };
    let mut lines = vec![format!(
        "  {} {}: {what}, into a {}: {} of {} equal, {} rows, {}",
        word(item.verdict),
        item.label(),
        item.place,
        human_count(item.equal),
        human_count(item.restored),
        human_count(item.rows),
        human_bytes(item.bytes),
    )];
    if let Some(rto) = item.rto_seconds {
        lines.push(format!("    RTO {} ({})", seconds(rto), phases(item)));
    }
    if let Some(e) = &item.estimate {
        let share = e.share * 100.0;
        lines.push(format!(
            "    full RTO about {} ({} to {}), from {share:.0} % of its bytes",
            seconds(e.seconds),
            seconds(e.low),
            seconds(e.high)
        ));
    }
    let backup = item.backup_age_seconds.map(|s| format!("the backup is {} old", seconds(s)));
    match (&item.rpo, backup) {
        (Some(rpo), backup) => {
            let newest = when(Some(rpo.newest));
            let backup = backup.map(|b| format!("; {b}")).unwrap_or_default();
            lines.push(format!("    RPO {} (newest row by {}: {newest}{backup})", seconds(rpo.seconds), rpo.from));
        }
        (_, Some(backup)) => lines.push(format!("    {backup}")),
        (_, None) => {}
    }
    for check in &item.checks {
        lines.push(format!("    {} {}: {}", word(check.verdict), check.name, check.detail));
    }
    let told = |finding: &&String| !item.checks.iter().any(|c| **finding == format!("{}: {}", c.name, c.detail));
    lines.extend(item.findings.iter().filter(told).map(|f| format!("    FAILED {f}")));
    let listed = |line: &&String| !item.checks.iter().any(|c| **line == format!("{}: {}", c.name, c.detail));
    lines.extend(item.not_checked.iter().filter(listed).map(|n| format!("    not checked: {n}")));
    lines.join("\n")
}

/// What came of a drill; its first line holds the head of the chain, which whoever is notified remembers.
pub(crate) fn text(report: &DrillReport) -> String {
    let r = &report.record;
    let mut lines = vec![record_line(r, Some(report.sha256))];
    lines.extend(r.findings.iter().map(|f| format!("  FAILED {f}")));
    lines.extend(r.items.iter().map(item_text));
    lines.join("\n")
}

fn record_line(r: &DrillRecord, sha256: Option<Sha256Digest>) -> String {
    let measured = |value: Option<f64>| value.map_or_else(|| "-".into(), seconds);
    #[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
    let (rto, rpo) = (r.objectives.rto_seconds as f64, r.objectives.rpo_seconds as f64);
    let head = sha256.map(|s| format!(", head {}:{s}", r.number)).unwrap_or_default();
    format!(
        "drill {} ({}) {}: {}, RTO {} of {}, RPO {} of {}, {} in all{head}",
        r.drill,
        r.number,
        word(r.verdict),
        restores(r.items.len()),
        measured(r.measured.rto_seconds),
        seconds(rto),
        measured(r.measured.rpo_seconds),
        seconds(rpo),
        seconds(r.measured.wall_seconds),
    )
}

fn plan_text(plan: &DrillPlan) -> String {
    #[expect(clippy::cast_precision_loss, reason = "seconds of objectives")]
    let (rto, rpo) = (plan.rto_seconds as f64, plan.rpo_seconds as f64);
    let mut lines = vec![format!(
        "drill {}: {}, incident {}, RTO {}, RPO {}",
        plan.drill,
        restores(plan.items.len()),
        plan.incident.as_str(),
        seconds(rto),
        seconds(rpo)
    )];
    for item in &plan.items {
        let backup = item.backup.as_ref().map(|id| format!("@{id}")).unwrap_or_default();
        let what = match item.chosen.len() {
            0 => item.scope.as_str().to_owned(),
            1..=5 => format!("{} {}", item.scope.as_str(), item.chosen.join(", ")),
            n => format!("{} of {n} tables", item.scope.as_str()),
        };
        let room = human_bytes(item.bytes);
        lines.push(format!("  {}{backup}: {what}, into {}, {room} there", item.source, item.place));
        lines.extend(item.not_run.iter().map(|why| format!("    NOT RUN {why}")));
    }
    lines.push(match plan.connections.as_slice() {
        [] => "  connects to the repository alone: no source hears of it".into(),
        all => format!("  connects to {}, and to no source", all.join(", ")),
    });
    lines.join("\n")
}

async fn history(session: &Session, config: &Config, repository: &Repository, args: &Drill) -> Outcome {
    let mut heads: Vec<(DrillLink, String)> = Vec::new();
    for text in &args.head {
        let parsed = text.split_once(':').and_then(|(n, sha)| {
            let sha256: Sha256Digest = serde_json::from_value(json!(sha)).ok()?;
            Some(DrillLink { number: n.parse().ok()?, sha256 })
        });
        let wrong =
            || CliError::Usage(Usage::Options, format!("`{text}` is not NUMBER:SHA256"), "take it from a notification".into());
        heads.push((parsed.ok_or_else(wrong)?, "the given head".into()));
    }
    heads.extend(remembered(config).map(own_head));
    let chain: DrillChain = drill_history(repository, &heads).await?;
    let wanted = |r: &&dozo_engine::StoredDrill| args.names.is_empty() || args.names.contains(&r.record.drill);
    let records: Vec<_> = chain.records.iter().filter(wanted).collect();
    let all: Vec<_> = records.iter().map(|r| json!({ "sha256": r.link.sha256, "record": r.record })).collect();
    session.output.result(&json!({ "drills": all, "broken": chain.broken, "head": chain.head() }), || {
        let rows = records.iter().map(|r| {
            let (m, d) = (&r.record.measured, &r.record);
            let measured = |value: Option<f64>| value.map_or_else(|| "-".into(), seconds);
            vec![
                d.number.to_string(),
                when(Some(d.started)),
                d.drill.clone(),
                word(d.verdict).to_owned(),
                d.items.len().to_string(),
                measured(m.rto_seconds),
                measured(m.rpo_seconds),
                d.all_findings().count().to_string(),
                r.link.sha256.to_string()[..16].to_owned(),
            ]
        });
        let mut text = table(
            &["NO", "STARTED", "DRILL", "VERDICT", "ITEMS", "RTO", "RPO", "FINDINGS", "SHA256"],
            &[0, 4, 7],
            rows.collect(),
        );
        if let Some(head) = chain.head() {
            text.push_str(&format!("\nhead {}:{}", head.number, head.sha256));
        }
        text
    })?;
    for broken in &chain.broken {
        session.output.message(&format!("drill record {}: {}", broken.number, broken.reason));
    }
    if !chain.broken.is_empty() {
        session.output.message(
            "  next: compare with the notifications of these drills, and with a replica or an older version of the bucket",
        );
        return Ok(FINDING);
    }
    if let Some(head) = chain.head() {
        remember(session, config, head);
    }
    Ok(0)
}

pub(super) fn own_head(head: DrillLink) -> (DrillLink, String) {
    (head, "what this user last saw".into())
}

/// File with the head that this user has seen last, of each repository.
fn head_file(config: &Config) -> PathBuf {
    let name = Sha256Digest::of(config.repository.url.as_bytes()).to_string();
    state_folder().join(format!("drill-head-{}.json", &name[..16]))
}

pub(super) fn remembered(config: &Config) -> Option<DrillLink> {
    serde_json::from_slice(&std::fs::read(head_file(config)).ok()?).ok()
}

/// Writes down what was seen last. It is one witness of several: where it cannot be written, the others remain.
fn remember(session: &Session, config: &Config, head: &DrillLink) {
    let file = head_file(config);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(state_folder())?;
        let beside = file.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&beside, serde_json::to_vec(head)?)?;
        std::fs::rename(&beside, &file)
    };
    if let Err(e) = write() {
        session.output.message(&format!("note: the head of the drills was not written to {}: {e}", file.display()));
    }
}
