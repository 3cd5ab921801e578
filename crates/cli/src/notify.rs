//! Who is told what became of a job. Nothing here changes the job's exit code, and whoever does not answer holds it up no longer than the
//! receiver's timeout.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use dozo_model::{Severity, Timestamp};
use dozo_notify::{Delivered, Delivery, Message, Receiver, deliver, state_folder};

use crate::args::{ArchiveVerb, GcVerb, RetentionVerb, RotateVerb, Verb};
use crate::commands::Session;
use crate::config::Config;
use crate::log::{self, Level};

/// Jobs that somebody may want to hear of.
pub(crate) const JOBS: [&str; 9] = ["backup", "verify", "replicate", "archive", "drill", "retention", "rotate", "gc", "status"];
/// A supervisor has asked this process to end.
pub(crate) static TERMINATED: AtomicBool = AtomicBool::new(false);
/// How far this run is in telling somebody.
pub(crate) static PHASE: AtomicU8 = AtomicU8::new(0);
/// Its job may have to be told of.
pub(crate) const MAY_TELL: u8 = 1;
/// Somebody is being told.
pub(crate) const TELLING: u8 = 2;
/// That is done: the process ends by itself.
pub(crate) const TOLD: u8 = 3;
/// Lines of a message.
const LINES: usize = 60;

/// Returns the job that a verb is; none for what people do by hand.
pub(crate) fn job(verb: &Verb) -> Option<&'static str> {
    match verb {
        Verb::Backup(_) => Some("backup"),
        Verb::Verify(_) => Some("verify"),
        Verb::Replicate(_) => Some("replicate"),
        Verb::Archive(args) => matches!(args.verb, Some(ArchiveVerb::Apply(_))).then_some("archive"),
        Verb::Drill(args) => (!args.plan && !args.history).then_some("drill"),
        Verb::Retention(args) => matches!(args.verb, Some(RetentionVerb::Apply { .. })).then_some("retention"),
        Verb::Rotate(args) => matches!(args.verb, Some(RotateVerb::Apply { .. })).then_some("rotate"),
        Verb::Gc(args) => matches!(args.verb, Some(GcVerb::Apply)).then_some("gc"),
        Verb::Status(args) => args.notify.then_some("status"),
        _ => None,
    }
}

/// Returns how bad an exit code is, where nothing else was said.
fn severity(exit: u8) -> Severity {
    match exit {
        0 => Severity::Info,
        // Partly done, or another run held the lease.
        4 | 5 => Severity::Warning,
        _ => Severity::Critical,
    }
}

/// Tells everybody who wants to hear of it what became of a job.
pub(crate) async fn tell(session: &Session, job: &'static str, exit: u8) {
    // Whoever interrupted it knows, unless that was a supervisor; a configuration that cannot be read names nobody.
    let Ok(config) = session.config() else { return };
    let terminated = TERMINATED.load(Ordering::Relaxed);
    if (exit == 130 && !terminated) || session.global.no_notify || config.receivers.is_empty() {
        return;
    }
    let warned = log::said().iter().any(|(level, text)| *level == Level::Warning || text.starts_with("warning: "));
    let least = session.severity().max(if warned { Severity::Warning } else { Severity::Info });
    let message = message(session, &config, job, exit, severity(exit).max(least));
    let wanting: Vec<&Receiver> = config.receivers.iter().filter(|r| r.wants(&message)).collect();
    for delivery in deliver(&wanting, &message, Some(state_folder()), Timestamp::now()).await {
        if let Delivered::Failed { attempts, reason } = &delivery.delivered {
            session.output.message(&failed(&delivery.receiver, *attempts, reason));
        }
    }
}

/// Sends a message for a test, whatever the receivers want to hear of.
pub(crate) async fn test(session: &Session, config: &Config, receivers: &[&Receiver]) -> Vec<Delivery> {
    let mut message = message(session, config, "test", 0, Severity::Critical);
    message.summary = "this is a test: dozo reaches you".into();
    message.details.clear();
    deliver(receivers, &message, None, Timestamp::now()).await
}

/// Says that a receiver was not reached.
pub(crate) fn failed(receiver: &str, attempts: u32, reason: &str) -> String {
    format!("warning: {receiver} was not told ({attempts} attempts): {reason}; next: dozo notify --test {receiver}")
}

fn message(session: &Session, config: &Config, job: &str, exit: u8, severity: Severity) -> Message {
    let said = log::said();
    let is_result = |level: Level| level == Level::Result;
    let is_told = |level: Level| matches!(level, Level::Message | Level::Warning);
    let lines =
        |wanted: fn(Level) -> bool| said.iter().filter(move |(level, _)| wanted(*level)).flat_map(|(_, text)| text.lines());
    // What went wrong first, then what came of it.
    let told: Vec<&str> = lines(is_told).chain(lines(is_result)).collect();
    let first = |start: &str| told.iter().find(|line| line.starts_with(start)).copied();
    let summary = first("error").or_else(|| first("warning: ")).or(told.first().copied()).unwrap_or("done");
    let mut details: Vec<String> = told.iter().take(LINES).map(|line| (*line).to_owned()).collect();
    if told.len() > LINES {
        details.push(format!("… and {} more lines", told.len() - LINES));
    }
    Message {
        format: 1,
        severity,
        job: job.to_owned(),
        exit,
        summary: summary.to_owned(),
        details,
        host: session.ctx.operator.host.clone(),
        user: session.ctx.operator.user.clone(),
        command: session.ctx.operator.arguments.clone(),
        at: session.ctx.clock.now(),
        contacts: config.contacts.clone(),
    }
}
