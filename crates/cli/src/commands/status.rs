//! `dozo status`: a line per source, for people; metrics and an exit code for monitors.

use dozo_engine::{ReplicaLag, SourceStatus, Status, status};
use dozo_model::{RetentionPolicy, Severity, SourceName, human_bytes};

use super::list::verified;
use super::{Outcome, Session, age, metrics, when};
use crate::args::StatusArgs;
use crate::output::{Output, replace_file, table};

/// Something is not as it is promised.
const FINDING: u8 = 3;

const HEADER: [&str; 14] = [
    "SOURCE",
    "BACKUPS",
    "NEWEST",
    "AGE",
    "STATE",
    "NEWEST GOOD",
    "VERIFIED",
    "PROVEN",
    "DRILLED",
    "TIERS",
    "NEXT DELETION",
    "REPLICAS",
    "COPIES",
    "SIZE",
];

pub(super) async fn run(session: &Session, args: StatusArgs) -> Outcome {
    let mut config = session.config()?;
    if let Some(Some(age)) = args.max_age {
        let set = |policy: &mut RetentionPolicy| policy.max_age = age.0;
        set(&mut config.retention);
        config.sources.iter_mut().for_each(|s| set(&mut s.retention));
    }
    let repository = config.repository.open().await?;
    let policy = |s: &SourceName| config.policy(s);
    let drills = config.drill_names();
    let found = status(&session.ctx, &repository, &config.repository, &config.sources, policy, &drills).await?;
    match &args.prometheus {
        Some(Some(file)) => replace_file(file, &metrics::render(&found))?,
        Some(None) => Output::print(&metrics::render(&found))?,
        None => {
            session.output.result(&found, || {
                let rows = found.sources.iter().map(row).collect();
                table(&HEADER, &[1, 12, 13], rows)
            })?;
            tell(session, &found);
        }
    }
    if args.notify {
        let worst = found.all_alarms().map(|(_, alarm)| alarm.severity).max();
        session.raise(worst.unwrap_or(Severity::Info));
    }
    Ok(if args.max_age.is_some() && found.sources.iter().any(|s| s.silent) { FINDING } else { 0 })
}

/// What is amiss, once: a replica that is not reached is the same for every source.
fn tell(session: &Session, found: &Status) {
    let mut told: Vec<String> = Vec::new();
    for (source, alarm) in found.all_alarms() {
        let word = if alarm.severity == Severity::Info { "note" } else { "warning" };
        let replica = alarm.text.starts_with("replica ");
        let text = match source {
            Some(source) if !replica => format!("{word}: {source}: {}", alarm.text),
            _ => format!("{word}: {}", alarm.text),
        };
        if !told.contains(&text) {
            session.output.message(&text);
            told.push(text);
        }
    }
}

fn row(s: &SourceStatus) -> Vec<String> {
    let newest = s.newest.as_ref();
    let dash = || "-".to_owned();
    vec![
        s.source.to_string(),
        s.backups.to_string(),
        newest.map_or_else(|| "none".into(), |l| when(l.started)),
        age(newest.and_then(|l| l.age_seconds)),
        newest.map_or("-", |l| l.state).to_owned(),
        s.newest_good.as_ref().map_or_else(|| "none".into(), |l| when(l.started)),
        newest.map_or_else(dash, verified),
        when(newest.and_then(|l| l.proven)),
        when(s.drilled),
        tiers(s),
        s.next_deletion.as_ref().map_or_else(dash, |g| g.at.strftime("%Y-%m-%d").to_string()),
        replicas(&s.replicas),
        s.fewest_copies.as_ref().map_or_else(dash, |(_, n)| n.to_string()),
        human_bytes(s.bytes),
    ]
}

/// `31d 9w 12m`, and how many are held.
fn tiers(s: &SourceStatus) -> String {
    let mut all: Vec<String> = dozo_model::Tier::ALL
        .into_iter()
        .filter_map(|tier| Some(format!("{}{}", s.tiers.get(tier.as_str())?, &tier.as_str()[..1])))
        .collect();
    if s.held > 0 {
        all.push(format!("{} held", s.held));
    }
    if all.is_empty() { "-".into() } else { all.join(" ") }
}

/// The worst of all replicas.
fn replicas(lags: &[ReplicaLag]) -> String {
    if lags.is_empty() {
        return "-".into();
    }
    let unreachable: Vec<&str> = lags.iter().filter(|l| l.unreachable.is_some()).map(|l| l.replica.as_str()).collect();
    if !unreachable.is_empty() {
        return format!("{} not reached", unreachable.join(", "));
    }
    match lags.iter().filter_map(|l| Some((l.missing?, l))).max_by_key(|(missing, _)| *missing) {
        Some((0, _)) | None => "complete".into(),
        Some((missing, lag)) => format!("{} lacks {missing}, {} behind", lag.replica, age(lag.lag_seconds)),
    }
}
