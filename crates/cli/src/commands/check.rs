//! `dozo check`: the doctor.

use dozo_engine::{CheckLine, CheckStatus, check};

use super::{Outcome, Session, unknown_source};
use crate::args::Check;

pub(super) async fn run(session: &Session, args: Check) -> Outcome {
    let config = session.config()?;
    if let Some(unknown) = args.sources.iter().find(|s| config.source(s).is_none()) {
        return Err(unknown_source(&config, unknown));
    }
    let chosen: Vec<_> = config
        .sources
        .iter()
        .filter(|s| args.sources.is_empty() || args.sources.iter().any(|n| n == s.name.as_str()))
        .cloned()
        .collect();
    let mut lines = vec![CheckLine {
        about: "configuration".into(),
        question: "file",
        status: CheckStatus::Ok,
        detail: config.file.display().to_string(),
        next: None,
    }];
    lines.extend(check(&session.ctx, &config.repository, &chosen).await?);
    let failed = lines.iter().any(|l| l.status == CheckStatus::Fail);
    session.output.result(&lines, || lines.iter().map(line).collect::<Vec<_>>().join("\n"))?;
    if session.output.quiet() {
        for bad in lines.iter().filter(|l| l.status != CheckStatus::Ok) {
            session.output.message(&line(bad));
        }
    }
    Ok(u8::from(failed))
}

fn line(l: &CheckLine) -> String {
    let word = match l.status {
        CheckStatus::Ok => "ok  ",
        CheckStatus::Warn => "warn",
        CheckStatus::Fail => "fail",
    };
    let next = l.next.as_ref().map(|n| format!("\n      next: {}", n.replace('\n', "\n            "))).unwrap_or_default();
    format!("{word}  {} {}: {}{next}", l.about, l.question, l.detail)
}
