//! `dozo hold`: somebody wants a backup kept, whatever the tiers say.

use dozo_engine::{BackupSelector, Hold, Repository};
use dozo_model::{BackupId, FORMAT_VERSION, HoldRecord, HoldState, SourceName, Timestamp};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::{Outcome, Session, when};
use crate::args::{HoldArgs, Until};
use crate::error::{CliError, Usage};
use crate::output::table;

/// A backup that somebody holds.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Held {
    source: SourceName,
    id: BackupId,
    started: Timestamp,
    #[serde(flatten)]
    hold: Hold,
    /// It ended by itself.
    ended: bool,
}

pub(super) async fn run(session: &Session, args: HoldArgs) -> Outcome {
    let config = session.config()?;
    let repository = config.repository.open().await?;
    let Some(backup) = args.backup else { return list(session, &repository).await };
    let selector: BackupSelector = backup.parse()?;
    let reason = match (args.reason, args.release) {
        (Some(reason), _) if !reason.trim().is_empty() => reason,
        (None, true) => "released".into(),
        _ => {
            let text = "a hold needs a reason: whoever finds it in a year wants to know".into();
            return Err(CliError::Usage(Usage::Options, text, format!("dozo hold {backup} --reason \"before migration 42\"")));
        }
    };
    let manifest = repository.resolve(&selector).await?;
    let until = args.until.map(|until| until.instant(session.ctx.clock.now(), &config.retention.zone())).transpose()?;
    let state = if args.release { HoldState::Released } else { HoldState::Held };
    let record = record(session, &manifest.id, state, reason, until);
    let taken_back = repository.hold(&manifest.source, &manifest.id, &record).await?;
    let label = format!("{}@{}", manifest.source, manifest.id);
    session.output.result(&record, || {
        if args.release {
            return format!("{label} is not held any more");
        }
        let until = until.map_or_else(|| "somebody releases it".to_owned(), |u| when(Some(u)));
        let back = if taken_back { "; it was marked for deletion, and is not any more" } else { "" };
        format!("{label} is held until {until}: {}{back}", record.reason)
    })?;
    Ok(0)
}

/// Makes a record of what is said about keeping a backup.
pub(super) fn record(session: &Session, id: &BackupId, state: HoldState, reason: String, until: Option<Timestamp>) -> HoldRecord {
    let (at, operator) = (session.ctx.clock.now(), session.ctx.operator.clone());
    HoldRecord { format: FORMAT_VERSION, backup: id.clone(), state, at, until, reason, operator }
}

impl Until {
    /// Returns the instant that is meant, which must lie ahead.
    pub(super) fn instant(self, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, CliError> {
        let wrong = |text: String| CliError::Usage(Usage::Options, text, "name a time that is still to come".into());
        let found = match self {
            Self::Instant(at) => Some(at),
            Self::Span(span) => now.checked_add(span.0).ok(),
            // Through that day.
            Self::Day(day) => day.tomorrow().ok().and_then(|next| next.to_zoned(zone.clone()).ok()).map(|z| z.timestamp()),
        };
        match found {
            Some(at) if at > now => Ok(at),
            Some(at) => Err(wrong(format!("{} is over", when(Some(at))))),
            None => Err(wrong("that is too far away".into())),
        }
    }
}

async fn list(session: &Session, repository: &Repository) -> Outcome {
    let now = session.ctx.clock.now();
    let facts = repository.retention_facts().await?;
    let held = facts.backups.into_iter().filter_map(|b| {
        let hold = b.hold?;
        let ended = !hold.lasts(now);
        Some(Held { source: b.source, id: b.id, started: b.started, hold, ended })
    });
    let mut held: Vec<Held> = held.collect();
    held.sort_by(|a, b| (&a.source, a.started).cmp(&(&b.source, b.started)));
    session.output.result(&held, || {
        if held.is_empty() {
            return "no backup is held".into();
        }
        let rows = held.iter().map(|h| {
            let until = match (h.hold.until, h.ended) {
                (None, _) => "released".to_owned(),
                (until, false) => when(until),
                (until, true) => format!("{} (ended)", when(until)),
            };
            vec![format!("{}@{}", h.source, h.id), when(Some(h.hold.since)), until, h.hold.by.clone(), h.hold.reason.clone()]
        });
        table(&["BACKUP", "SINCE", "UNTIL", "BY", "REASON"], &[], rows.collect())
    })?;
    Ok(0)
}
