//! `dozo notify`: who is told of what; `--test` tells them something.

use dozo_model::human_duration;
use dozo_notify::{Channel, Delivered, Receiver};

use super::{Outcome, Session};
use crate::args::NotifyArgs;
use crate::error::{CliError, Usage};
use crate::notify::{failed, test};
use crate::output::table;

pub(super) async fn run(session: &Session, args: NotifyArgs) -> Outcome {
    let config = session.config()?;
    if let Some(unknown) = args.receivers.iter().find(|name| !config.receivers.iter().any(|r| &r.name == *name)) {
        let known: Vec<&str> = config.receivers.iter().map(|r| r.name.as_str()).collect();
        let next = if known.is_empty() { "add [notify.NAME]".into() } else { format!("use one of: {}", known.join(", ")) };
        return Err(CliError::Usage(
            Usage::UnknownReceiver,
            format!("[notify.{unknown}] is not in {}", config.file.display()),
            next,
        ));
    }
    let chosen: Vec<&Receiver> =
        config.receivers.iter().filter(|r| args.receivers.is_empty() || args.receivers.contains(&r.name)).collect();
    if !args.test {
        let value: Vec<_> =
            chosen.iter().map(|r| serde_json::json!({ "name": r.name, "by": way(r), "on": r.on, "jobs": r.jobs })).collect();
        session.output.result(&value, || {
            if chosen.is_empty() {
                return "nobody is told of anything\n  next: add [notify.NAME], see docs/config.toml".into();
            }
            let rows = chosen.iter().map(|r| {
                let on: Vec<&str> = r.on.iter().map(|s| s.as_str()).collect();
                let jobs = if r.jobs.is_empty() { "all".into() } else { r.jobs.join(" ") };
                vec![r.name.clone(), way(r).to_owned(), on.join(" "), jobs, human_duration(r.timeout)]
            });
            table(&["NAME", "BY", "ON", "JOBS", "TIMEOUT"], &[], rows.collect())
        })?;
        return Ok(0);
    }
    let deliveries = test(session, &config, &chosen).await;
    session.output.result(&deliveries, || {
        let told = deliveries.iter().filter(|d| matches!(d.delivered, Delivered::Sent { .. }));
        told.map(|d| format!("{} was told", d.receiver)).collect::<Vec<_>>().join("\n")
    })?;
    let mut all = true;
    for delivery in &deliveries {
        if let Delivered::Failed { attempts, reason } = &delivery.delivered {
            session.output.message(&failed(&delivery.receiver, *attempts, reason));
            all = false;
        }
    }
    Ok(u8::from(!all))
}

fn way(receiver: &Receiver) -> &'static str {
    match receiver.channel {
        Channel::Slack { .. } => "webhook",
        Channel::Signed { .. } => "signed post",
        Channel::Mail(_) => "mail",
        Channel::Command(_) => "command",
        Channel::Heartbeat { .. } => "heartbeat",
    }
}
