//! `dozo report`: the page, its data, or its text; and the certificate of one drill.

use dozo_engine::{StoredDrill, report as gather};
use dozo_model::SourceName;

use super::{Outcome, Session};
use crate::args::Report;
use crate::error::{CliError, Usage};
use crate::output::{Output, replace_file};
use crate::report;

pub(super) async fn run(session: &Session, args: Report) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let language = report::language(args.lang);
    let write = |text: String| match &args.output {
        Some(file) => replace_file(file, &text),
        None => Output::print(&text),
    };
    if let Some(which) = &args.drill {
        let chain = repository.drills().await?;
        let found = match which.as_str() {
            "latest" => chain.records.last(),
            number => chain.records.iter().find(|r| number.parse() == Ok(r.link.number)),
        };
        let Some(StoredDrill { link, record }) = found else {
            let text = format!("there is no drill `{which}`");
            return Err(CliError::Usage(Usage::UnknownDrill, text, "dozo drill --history".into()));
        };
        if session.global.json {
            session.output.result(record, String::new)?;
        } else if args.text {
            write(report::certificate_text(record, Some(link), language))?;
        } else {
            write(report::certificate_page(record, Some(link), language))?;
        }
        return Ok(0);
    }
    let policy = |s: &SourceName| config.policy(s);
    let (settings, zone, contacts) = (&config.repository, &config.time_zone, &config.contacts);
    let found = gather(&session.ctx, &repository, settings, &config.sources, policy, zone, contacts).await?;
    if session.global.json {
        session.output.result(&found, String::new)?;
    } else if args.text {
        write(report::text(&found, language))?;
    } else {
        write(report::page(&found, language))?;
    }
    Ok(0)
}
