//! `dozo rotate`: old files of file sets.

use dozo_engine::{EngineError, RotateAction, RotatePlan, SourceKind, SourceSettings, rotate_apply, rotate_plan};
use dozo_model::human_bytes;

use super::{Outcome, Session, age, unknown_source};
use crate::args::{Rotate, RotateVerb};
use crate::error::{CliError, Usage};
use crate::output::table;

/// Exit code for work that is partly done.
const PARTIAL: u8 = 4;

pub(super) async fn run(session: &Session, args: Rotate) -> Outcome {
    let config = session.config()?;
    let (names, apply) = match args.verb {
        None => (Vec::new(), false),
        Some(RotateVerb::Plan { sources }) => (sources, false),
        Some(RotateVerb::Apply { sources }) => (sources, true),
    };
    if let Some(unknown) = names.iter().find(|n| config.source(n).is_none()) {
        return Err(unknown_source(&config, unknown));
    }
    let with_rule = |s: &&SourceSettings| matches!(&s.kind, SourceKind::Files(files) if files.rotate.is_some());
    let named = |s: &&SourceSettings| names.iter().any(|n| n == s.name.as_str());
    let chosen: Vec<&SourceSettings> =
        config.sources.iter().filter(|s| if names.is_empty() { with_rule(s) } else { named(s) }).collect();
    if chosen.is_empty() {
        let text = format!("no source of {} has a rule for its old files", config.file.display());
        let next = "add rotate = { compress-after = \"1d\", delete-after = \"30d\" } to one of kind files".into();
        return Err(CliError::Usage(Usage::NoSource, text, next));
    }
    // Before anything is done to the first.
    let mut sets = Vec::new();
    for source in chosen {
        match &source.kind {
            SourceKind::Files(settings) if settings.rotate.is_some() => sets.push((source, settings)),
            _ => {
                let text = format!("source {} has no rule for old files", source.name);
                let next = "it needs kind = \"files\" and rotate = { compress-after = \"1d\", delete-after = \"30d\" }".into();
                return Err(CliError::Usage(Usage::Options, text, next));
            }
        }
    }
    let repository = config.repository.open().await?;
    let (mut plans, mut first_error): (Vec<RotatePlan>, Option<CliError>) = (Vec::new(), None);
    for (source, settings) in sets {
        let done = async {
            let plan = rotate_plan(&session.ctx, &repository, &config.repository, source, settings).await?;
            if apply { rotate_apply(&session.ctx, plan).await } else { Ok::<_, EngineError>(plan) }
        };
        match done.await {
            Ok(plan) => {
                let stopped = plan.stopped;
                plans.push(plan);
                if stopped {
                    break;
                }
            }
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled.into()),
            // One that fails does not stop the others.
            Err(e) => {
                let error = CliError::from(e);
                session.output.message(&format!("source {}: {}", source.name, error.text()));
                first_error.get_or_insert(error);
            }
        }
    }
    if let (true, Some(error)) = (plans.is_empty(), &first_error) {
        return Ok(error.exit_code());
    }
    session.output.result(&plans, || plans.iter().map(text).collect::<Vec<_>>().join("\n"))?;
    if plans.iter().any(|p| p.stopped) {
        return Err(EngineError::Cancelled.into());
    }
    let partial = first_error.is_some() || plans.iter().any(|p| p.failed > 0);
    Ok(if partial { PARTIAL } else { 0 })
}

fn text(plan: &RotatePlan) -> String {
    let count = |action| plan.lines.iter().filter(|l| l.action == action && l.held_back.is_none()).count();
    let (compressed, deleted) = (count(RotateAction::Compress), count(RotateAction::Delete));
    let held = plan.lines.len() - compressed - deleted;
    let freed = human_bytes(plan.freed);
    let sum = match plan.applied {
        true => format!("{compressed} compressed, {deleted} deleted, {held} held back, {freed} freed"),
        false => format!("{compressed} to compress, {deleted} to delete ({freed}), {held} held back"),
    };
    let mut out = format!("{} ({}): {sum}", plan.source, plan.root.display());
    let rows: Vec<Vec<String>> = plan
        .lines
        .iter()
        .map(|l| {
            let action = match l.action {
                RotateAction::Compress => "compress",
                RotateAction::Delete => "delete",
            };
            let why = l.held_back.clone().or_else(|| l.backup.clone()).unwrap_or_default();
            let what = if l.held_back.is_some() { "held back" } else { action };
            let seconds = i64::try_from(l.age_seconds).ok();
            vec![what.to_owned(), age(seconds), human_bytes(l.bytes), l.path.to_string(), why]
        })
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        out.push_str(&table(&["WHAT", "NOT WRITTEN FOR", "SIZE", "PATH", "BACKUP, OR WHY NOT"], &[2], rows));
    }
    if !plan.applied && compressed + deleted > 0 {
        out.push_str("\n  next: dozo rotate apply");
    }
    out
}
