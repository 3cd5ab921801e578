//! `dozo canary`: a row a minute, by cron; silent when it went well and `--quiet` is given.

use dozo_engine::{EngineError, SourceSettings, canary, expand};

use super::{Outcome, Session, unknown_source, when};
use crate::args::Canary;
use crate::error::{CliError, Usage};

/// Exit code for work that is partly done.
const PARTIAL: u8 = 4;

pub(super) async fn run(session: &Session, args: Canary) -> Outcome {
    let config = session.config()?;
    if let Some(unknown) = args.sources.iter().find(|s| config.source(s).is_none()) {
        return Err(unknown_source(&config, unknown));
    }
    let wanted = |s: &&SourceSettings| match args.sources.is_empty() {
        true => s.postgres().is_some(),
        false => args.sources.iter().any(|n| n == s.name.as_str()),
    };
    let chosen: Vec<&SourceSettings> = config.sources.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let text = format!("{} has no source of kind postgres", config.file.display());
        return Err(CliError::Usage(Usage::NoSource, text, "add [source.NAME]".into()));
    }
    let (mut reports, mut errors) = (Vec::new(), Vec::new());
    for source in &chosen {
        let databases = match expand(source, &config.names()).await {
            Ok(expanded) => expanded.sources,
            Err(e) => {
                errors.push((source.name.to_string(), CliError::from(e)));
                continue;
            }
        };
        for database in &databases {
            match canary(&session.ctx, database).await {
                Ok(report) => reports.push(report),
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled.into()),
                Err(e) => errors.push((database.name.to_string(), CliError::from(e))),
            }
        }
    }
    if let ([], [(_, _)]) = (reports.as_slice(), errors.as_slice())
        && let Some((_, error)) = errors.pop()
    {
        return Err(error);
    }
    for (source, error) in &errors {
        session.output.message(&format!("{source}: {}", error.text()));
    }
    session.output.result(&reports, || {
        reports.iter().map(|r| format!("{}: {}", r.source, when(Some(r.at)))).collect::<Vec<_>>().join("\n")
    })?;
    Ok(match (errors.is_empty(), reports.is_empty()) {
        (true, _) => 0,
        (false, true) => errors.iter().map(|(_, e)| e.exit_code()).max().unwrap_or(1),
        (false, false) => PARTIAL,
    })
}
