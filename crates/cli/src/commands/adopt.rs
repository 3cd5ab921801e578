//! `dozo retention adopt`: the tiers over dumps that other tools have left in a folder.

use std::collections::HashMap;

use dozo_engine::{Adoption, NamePattern, retire_dumps, survey_dumps};
use dozo_model::{BackupId, RetentionPolicy, human_bytes};

use super::retention::decision;
use super::{Outcome, Session, when};
use crate::args::Adopt;
use crate::config::{Config, ConfigError};
use crate::error::CliError;
use crate::output::table;

pub(super) fn run(session: &Session, args: &Adopt) -> Outcome {
    let policy = policy(session)?;
    let patterns: Vec<NamePattern> = args.patterns.iter().map(|p| NamePattern::parse(p)).collect::<Result<_, _>>()?;
    let now = session.ctx.clock.now();
    let adoption = survey_dumps(&args.folder, &patterns, &policy, now)?;
    for warning in adoption.plan.warnings.iter().filter(|w| w.contains("dated in the future")) {
        session.output.message(&format!("warning: {warning}"));
    }
    if !args.apply {
        session.output.result(&adoption, || plan_text(&adoption))?;
        return Ok(0);
    }
    let done = retire_dumps(&adoption, args.max_delete.map(|p| p.0), now)?;
    session.output.result(&done, || {
        let mut lines: Vec<String> = done.deleted.iter().map(|p| format!("{}  deleted for good", p.display())).collect();
        lines.extend(done.retired.iter().map(|name| format!("{name}  moved aside")));
        if let Some(to) = &done.to {
            let grace = dozo_model::human_duration(policy.grace);
            lines.push(format!(
                "what was moved aside is deleted by a run after {grace}; to take it back: mv {}/NAME {}",
                to.display(),
                args.folder.display()
            ));
        }
        if lines.is_empty() { "nothing to do".into() } else { lines.join("\n") }
    })?;
    Ok(0)
}

/// The policy of the configuration; without a configuration the usual one, by this host's clock.
fn policy(session: &Session) -> Result<RetentionPolicy, CliError> {
    match Config::load(session.global.config.as_deref()) {
        Ok(config) => Ok(config.retention),
        Err(ConfigError::Missing(_)) => {
            let time_zone = jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
            Ok(RetentionPolicy { time_zone, ..RetentionPolicy::default() })
        }
        Err(e) => Err(CliError::Config(e)),
    }
}

fn plan_text(adoption: &Adoption) -> String {
    let names: HashMap<&BackupId, (&str, u64)> = adoption.dumps.iter().map(|d| (&d.id, (d.name.as_str(), d.bytes))).collect();
    let rows = adoption.plan.backups.iter().map(|v| {
        let (name, bytes) = names.get(&v.id).copied().unwrap_or(("", 0));
        vec![
            name.to_owned(),
            v.state.to_owned(),
            decision(v.action).to_owned(),
            when(Some(v.started)),
            human_bytes(bytes),
            v.reasons.join("; "),
        ]
    });
    let mut text = table(&["DUMP", "STATE", "DECISION", "TIME", "SIZE", "WHY"], &[4], rows.collect());
    for s in &adoption.plan.sources {
        text.push_str(&format!("\n{}: {} of {} go", s.source, s.deletes, s.standing));
        if s.too_many {
            text.push_str(&format!(
                ", which is more than max-delete = \"{}%\": --apply asks for --max-delete",
                s.policy.max_delete
            ));
        }
    }
    if !adoption.strangers.is_empty() {
        text.push_str(&format!("\nleft alone, as no pattern matches: {}", adoption.strangers.join(", ")));
    }
    for retired in &adoption.retired {
        text.push_str(&format!("\n{}  moved aside, deleted after {}", retired.path.display(), when(Some(retired.due))));
    }
    format!("{text}\n{} would go\n  next: the same with --apply", human_bytes(adoption.plan.frees))
}
