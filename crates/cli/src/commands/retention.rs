//! `dozo retention`: what stays and what goes. `plan` changes nothing, `apply` marks, and deletes what was marked long enough ago.

use std::collections::HashSet;
use std::path::Path;

use dozo_engine::{
    Action, BackupSelector, CatalogError, GcOptions, Plan, RetentionDone, RetentionOptions, Verdict, retention_plan,
};
use dozo_model::{BackupId, HoldState, Sha256Digest, SourceName, Tier, human_bytes};

use super::{Outcome, Session, hold};
use crate::args::{Retention, RetentionVerb};
use crate::config::Config;
use crate::error::{CliError, Usage};
use crate::output::table;

const FINDING: u8 = 3;
/// What is younger and belongs to no backup may belong to one that is being made.
const UNCOMMITTED_GRACE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) async fn run(session: &Session, args: Retention) -> Outcome {
    let now = session.ctx.clock.now();
    let open = async || {
        let config = session.config()?;
        let repository = config.repository.open().await?;
        Ok::<_, CliError>((config, repository))
    };
    // A bare `retention` plans.
    match args.verb.unwrap_or(RetentionVerb::Plan { sources: Vec::new() }) {
        // Dumps of other tools need no repository.
        RetentionVerb::Adopt(args) => super::adopt::run(session, &args),
        RetentionVerb::Plan { sources } => {
            let (config, repository) = open().await?;
            let facts = repository.retention_facts().await?;
            let mut plan = retention_plan(&facts, |s| config.policy(s), now);
            let names: Vec<SourceName> = sources.iter().map(|s| known(&plan, s)).collect::<Result<_, _>>()?;
            if !names.is_empty() {
                plan.backups.retain(|v| names.contains(&v.source));
                plan.sources.retain(|s| names.contains(&s.source));
            }
            session.output.result(&plan, || plan_text(&plan))?;
            tell(session, &plan);
            Ok(if plan.unreadable.is_empty() { 0 } else { FINDING })
        }
        RetentionVerb::Apply { plan: file, max_delete, trust_clock } => {
            let (config, repository) = open().await?;
            let facts = repository.retention_facts().await?;
            let plan = retention_plan(&facts, |s| config.policy(s), now);
            if let Some(file) = file {
                still_stands(&file, &plan)?;
            }
            let options = RetentionOptions {
                gc: GcOptions { grace: UNCOMMITTED_GRACE, now, only_host: config.repository.only_host.clone() },
                max_delete: max_delete.map(|p| p.0),
                doubts: session.clock_doubts(trust_clock),
                lock: config.repository.lock,
            };
            tell(session, &plan);
            let (policy, latest) = (|s: &SourceName| config.policy(s), facts.latest_record.as_ref());
            let (operator, cancel) = (&session.ctx.operator, &session.ctx.cancel);
            let done = repository.retention_apply(&plan, latest, policy, &options, operator, cancel).await?;
            session.output.result(&done, || done_text(&done, &config))?;
            Ok(0)
        }
        RetentionVerb::Simulate(args) => {
            let (config, repository) = open().await?;
            super::simulate::run(session, &config, &repository, args).await
        }
        RetentionVerb::Undo { backup, reason, until } => {
            let (config, repository) = open().await?;
            let selector: BackupSelector = backup.parse()?;
            let manifest = repository.resolve(&selector).await?;
            let (source, id) = (&manifest.source, &manifest.id);
            let until = until.map(|until| until.instant(now, &config.retention.zone())).transpose()?;
            if repository.fate(source, id).await?.mark().is_none() {
                return Err(CatalogError::NotMarked { source_name: source.clone(), id: id.clone() }.into());
            }
            // Without a hold the next run would mark it again.
            let record = hold::record(session, id, HoldState::Held, reason, until);
            repository.hold(source, id, &record).await?;
            session.output.result(&record, || {
                format!("{source}@{id} stays, and is held: {}\n  next: dozo hold {source}@{id} --release, once the tiers may decide again", record.reason)
            })?;
            Ok(0)
        }
    }
}

fn known(plan: &Plan, name: &str) -> Result<SourceName, CliError> {
    let names: Vec<String> = plan.sources.iter().map(|s| s.source.to_string()).collect();
    let found = plan.sources.iter().find(|s| s.source.as_str() == name).map(|s| s.source.clone());
    found.ok_or_else(|| {
        let next = if names.is_empty() { "dozo list".into() } else { format!("use one of: {}", names.join(", ")) };
        CliError::Usage(Usage::UnknownSource, format!("source `{name}` has no backup in the repository"), next)
    })
}

/// Makes sure that a plan that somebody looked at is the one that would be made now.
fn still_stands(file: &Path, plan: &Plan) -> Result<(), CliError> {
    let wrong = |reason: String| {
        let text = format!("{} cannot be used: {reason}", file.display());
        CliError::Usage(Usage::PlanFile, text, "dozo --json retention plan > plan.json".into())
    };
    let text = std::fs::read_to_string(file).map_err(|e| wrong(e.to_string()))?;
    #[derive(serde::Deserialize)]
    struct Seen {
        facts: Sha256Digest,
        backups: Vec<SeenBackup>,
    }
    #[derive(serde::Deserialize)]
    struct SeenBackup {
        source: SourceName,
        id: BackupId,
        action: Action,
    }
    let seen: Seen = serde_json::from_str(&text).map_err(|e| wrong(format!("it is not a plan of this program: {e}")))?;
    let changed = |reason: &str| Err(CatalogError::PlanChanged { reason: reason.to_owned() }.into());
    if seen.facts != plan.facts {
        return changed("backups, checks, holds or the policy have changed");
    }
    if seen.backups.len() != plan.backups.len() {
        return Err(wrong("it is a plan of some sources only".into()));
    }
    let decided: HashSet<(&SourceName, &BackupId, Action)> = seen.backups.iter().map(|b| (&b.source, &b.id, b.action)).collect();
    if !plan.backups.iter().all(|v| decided.contains(&(&v.source, &v.id, v.action))) {
        return changed("a hold has ended, or a date is not in the future any more");
    }
    Ok(())
}

/// What must be seen also with `--quiet`.
fn tell(session: &Session, plan: &Plan) {
    for warning in &plan.warnings {
        session.output.message(&format!("warning: {warning}"));
    }
    for unreadable in &plan.unreadable {
        session.output.message(&format!("warning: nothing is deleted: {unreadable}"));
    }
}

/// Says what is decided.
pub(super) fn decision(action: Action) -> &'static str {
    match action {
        Action::Keep => "stays",
        Action::TakeBack => "stays (unmarked)",
        Action::Mark => "goes",
        Action::Marked => "goes (marked)",
    }
}

fn plan_text(plan: &Plan) -> String {
    if plan.backups.is_empty() {
        return "no backups yet\n  next: dozo backup --all".into();
    }
    let rows = plan.backups.iter().map(|v| {
        let tiers: Vec<&str> = v.tiers.iter().map(|t| t.as_str()).collect();
        vec![
            format!("{}@{}", v.source, v.id),
            v.state.to_owned(),
            decision(v.action).to_owned(),
            if tiers.is_empty() { "-".into() } else { tiers.join(" ") },
            v.goes.map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d").to_string()),
            human_bytes(v.only_bytes),
            v.reasons.join("; "),
        ]
    });
    let mut text = table(&["BACKUP", "STATE", "DECISION", "TIERS", "UNTIL", "ONLY IT", "WHY"], &[5], rows.collect());
    for s in &plan.sources {
        let own: Vec<&Verdict> = plan.backups.iter().filter(|v| v.source == s.source).collect();
        let stays = own.iter().filter(|v| !v.kept.is_empty()).count();
        let tiers: Vec<String> = Tier::ALL
            .into_iter()
            .filter(|t| !s.policy.period(*t).is_off())
            .map(|t| format!("{t} {}", s.policy.period(t)))
            .collect();
        text.push_str(&format!(
            "\n{}: {stays} of {} stay, {} to be marked ({}, at least {})",
            s.source,
            own.len(),
            s.deletes,
            tiers.join(", "),
            s.policy.min_keep
        ));
        if s.too_many {
            text.push_str(&format!(
                "\n  that is more than max-delete = \"{}%\": apply asks for --max-delete",
                s.policy.max_delete
            ));
        }
    }
    if plan.frees > 0 {
        text.push_str(&format!("\n{} are free once all of that is gone", human_bytes(plan.frees)));
    }
    text
}

fn done_text(done: &RetentionDone, config: &Config) -> String {
    let mut lines = Vec::new();
    lines.extend(done.taken_back.iter().map(|b| format!("{b} stays after all")));
    lines.extend(done.marked.iter().map(|b| format!("{b} is marked: dozo retention undo {b}, within {}", grace(b, config))));
    lines.extend(done.locked.iter().map(|b| format!("{b} serves a longer tier than before, and is locked for it")));
    let idle = lines.is_empty() && done.gc == dozo_engine::GcDone::default();
    lines.extend(super::gc::done_lines(&done.gc));
    if idle { "nothing to do".into() } else { lines.join("\n") }
}

fn grace(backup: &str, config: &Config) -> String {
    let source = backup.split('@').next().and_then(|s| SourceName::parse(s).ok());
    let policy = source.map_or(&config.retention, |s| config.policy(&s));
    dozo_model::human_duration(policy.grace)
}
