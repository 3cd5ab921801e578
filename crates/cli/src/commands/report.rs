//! `dozo report`: the page, its data, or its text; and the certificate of one drill.

use dozo_engine::{drill_history, report as gather};
use dozo_model::SourceName;
use serde::Serialize;

use super::{Outcome, Session};
use crate::args::Report;
use crate::config::Config;
use crate::error::{CliError, Usage};
use crate::output::{Output, replace_file};
use crate::report;

/// The record contradicts its chain.
const FINDING: u8 = 3;

pub(super) async fn run(session: &Session, args: Report) -> Outcome {
    let config = session.config()?;
    if let Some(which) = &args.drill {
        return certificate(session, &config, &args, which).await;
    }
    let repository = config.repository.open().await?;
    let policy = |s: &SourceName| config.policy(s);
    let (settings, zone, contacts, drills) = (&config.repository, &config.time_zone, &config.contacts, config.drill_names());
    let found = gather(&session.ctx, &repository, settings, &config.sources, policy, &drills, zone, contacts).await?;
    let language = report::language(args.lang);
    let text = if session.global.json {
        json(&found)?
    } else if args.text {
        report::text(&found, language)
    } else {
        report::page(&found, language)
    };
    write(&args, &text)?;
    Ok(0)
}

/// Prints the certificate of a drill. What speaks against its record stands in it.
async fn certificate(session: &Session, config: &Config, args: &Report, which: &str) -> Outcome {
    let repository = config.repository.open().await?;
    let heads: Vec<_> = super::drill::remembered(config).map(super::drill::own_head).into_iter().collect();
    let chain = drill_history(&repository, &heads).await?;
    let number = match which {
        "latest" => chain.records.last().map(|r| r.link.number),
        number => number.parse().ok(),
    };
    let found = chain.records.iter().find(|r| Some(r.link.number) == number);
    let broken: Vec<String> = chain.broken.iter().filter(|b| Some(b.number) == number).map(|b| b.reason.clone()).collect();
    let Some(found) = found else {
        let text = match broken.first() {
            Some(reason) => format!("the record of drill {which} cannot be believed: {reason}"),
            None => format!("there is no drill `{which}`"),
        };
        return Err(CliError::Usage(Usage::UnknownDrill, text, "dozo drill --history".into()));
    };
    let language = report::language(args.lang);
    let text = if session.global.json {
        json(&found.record)?
    } else if args.text {
        report::certificate_text(&found.record, Some(&found.link), &broken, language)
    } else {
        report::certificate_page(&found.record, Some(&found.link), &broken, language)
    };
    write(args, &text)?;
    for reason in &broken {
        session.output.message(&format!("drill record {which}: {reason}"));
    }
    Ok(if broken.is_empty() { 0 } else { FINDING })
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|e| CliError::Output(e.into()))
}

fn write(args: &Report, text: &str) -> Result<(), CliError> {
    match &args.output {
        Some(file) => replace_file(file, text),
        None => Output::print(text),
    }
}
