//! `dozo gc`: what belongs to no backup. `plan` changes nothing, `apply` deletes.

use dozo_engine::{CatalogError, Decision, GcDone, GcOptions, GcPlan, Uncommitted};
use dozo_model::{BackupId, SourceName, human_bytes};

use super::{Outcome, Session, when};
use crate::args::{Gc, GcVerb};

pub(super) async fn run(session: &Session, args: Gc) -> Outcome {
    let config = session.config()?;
    let options = GcOptions { grace: args.grace.0, now: session.ctx.clock.now(), only_host: config.repository.only_host.clone() };
    let repository = config.repository.open().await?;
    // A bare `gc` plans.
    match args.verb.unwrap_or(GcVerb::Plan) {
        GcVerb::Plan => {
            let plan = repository.gc_plan(&options).await?;
            session.output.result(&plan, || {
                let lines = plan_lines(&plan);
                if lines.is_empty() { "nothing: every object belongs to a backup".into() } else { lines.join("\n") }
            })?;
        }
        GcVerb::Apply => {
            if !repository.marker().create_only {
                session
                    .ctx
                    .progress
                    .warn("the store has no create-only puts: another host that writes to it may lose its backup");
            }
            let policy = |s: &SourceName| config.policy(s);
            let done = repository.gc_apply_by(&options, &session.ctx.operator, session.clock_doubts(false), policy).await?;
            session.output.result(&done, || done_lines(&done).join("\n"))?;
        }
        GcVerb::GiveUp { backup, reason } => {
            let whole = backup.split_once('@').and_then(|(s, id)| Some((SourceName::parse(s).ok()?, BackupId::parse(id).ok()?)));
            let (source, id) = whole.ok_or_else(|| CatalogError::BadSelector(backup.clone()))?;
            let by = Decision { operator: &session.ctx.operator, at: options.now, reason: &reason };
            repository.give_up(&source, &id, &by).await?;
            let text = || format!("{source}@{id} is given up; next: dozo gc apply");
            session.output.result(&serde_json::json!({ "given-up": format!("{source}@{id}") }), text)?;
        }
    }
    Ok(0)
}

fn plan_lines(plan: &GcPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for b in &plan.uncommitted {
        let state = match b.state {
            Uncommitted::Running => "running, or not older than the grace",
            Uncommitted::Abandoned => "never committed",
            Uncommitted::Aborted => "aborted",
        };
        let (started, size) = (when(b.started), human_bytes(b.bytes));
        lines.push(format!("{}@{}  {state}, started {started}, {} objects, {size}", b.source, b.id, b.objects));
    }
    for b in &plan.marked {
        let state = match b.due {
            Some(_) => format!("marked for deletion, can be taken back until {}", when(b.due)),
            None => "deleted, but not yet all of it".into(),
        };
        lines.push(format!("{}@{}  {state}", b.source, b.id));
    }
    lines.extend(plan.orphans.iter().map(|key| format!("{key}  named by no manifest")));
    lines.extend(plan.unfinished.iter().map(|key| format!("{key}  left by a killed upload")));
    lines.extend(plan.foreign.iter().map(|key| format!("{key}  not written by dozo, left alone")));
    lines.extend(plan.not_looked_at.iter().map(|what| format!("not looked at: {what}")));
    lines.extend(plan.unreadable.iter().map(|why| format!("unreadable: {why}; nothing may be deleted while this is so")));
    lines
}

pub(super) fn done_lines(done: &GcDone) -> Vec<String> {
    let mut lines: Vec<String> = done.doomed.iter().map(|b| format!("{b}  deleted for good")).collect();
    lines.extend(done.aborted.iter().map(|b| format!("{b}  aborted: it was never committed")));
    lines.push(format!("{} objects deleted, {}", done.objects, human_bytes(done.bytes)));
    if done.retained > 0 {
        lines.push(format!(
            "{} objects are retained by their locks, the first until {}",
            done.retained,
            when(done.retained_until)
        ));
    }
    lines.extend(done.postponed.iter().map(|b| format!("{b}  may still be running: nothing of its source was deleted")));
    lines
}
