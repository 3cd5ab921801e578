//! Catalogs for tests of the planner.

use std::collections::BTreeSet;

use dozo_catalog::{Action, BackupFacts, Facts, Plan, plan};
use dozo_model::{BackupId, RetentionPolicy, SourceName, Timestamp};
use jiff::ToSpan;

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn source(name: &str) -> SourceName {
    SourceName::parse(name).unwrap()
}

/// A good, verified backup of `shop`, numbered.
pub(crate) fn backup(n: usize, started: Timestamp) -> BackupFacts {
    let id = format!("{}-{n:06}", started.strftime("%Y%m%dT%H%M%SZ"));
    let good = BackupFacts::good(source("shop"), BackupId::parse(&id).unwrap(), started);
    BackupFacts { incarnation: Some("7001".into()), finished: started + 5.minutes(), ..good }
}

pub(crate) fn partial(backup: BackupFacts) -> BackupFacts {
    BackupFacts { good: false, state: "partial", ..backup }
}

pub(crate) fn suspect(backup: BackupFacts) -> BackupFacts {
    BackupFacts { good: false, state: "suspect", ..backup }
}

/// One backup each night at 02:00 by the clock of a zone, from one day through another.
pub(crate) fn nights(from: &str, to: &str, zone: &str) -> Vec<BackupFacts> {
    let (mut day, last): (jiff::civil::Date, jiff::civil::Date) = (from.parse().unwrap(), to.parse().unwrap());
    let mut all = Vec::new();
    while day <= last {
        let started = day.at(2, 0, 0, 0).in_tz(zone).unwrap().timestamp();
        all.push(backup(all.len(), started));
        day = day.tomorrow().unwrap();
    }
    all
}

pub(crate) fn facts(backups: Vec<BackupFacts>) -> Facts {
    Facts { backups, ..Facts::default() }
}

/// Plans with one policy for all.
pub(crate) fn planned(facts: &Facts, policy: &RetentionPolicy, now: Timestamp) -> Plan {
    plan(facts, |_| policy, now)
}

/// The days in a zone on which the backups that stay were made.
pub(crate) fn days_kept(plan: &Plan, zone: &str) -> Vec<String> {
    let kept = plan.backups.iter().filter(|v| !v.kept.is_empty());
    kept.map(|v| v.started.in_tz(zone).unwrap().strftime("%Y-%m-%d").to_string()).collect()
}

pub(crate) fn ids(plan: &Plan, wanted: impl Fn(Action) -> bool) -> BTreeSet<BackupId> {
    plan.backups.iter().filter(|v| wanted(v.action)).map(|v| v.id.clone()).collect()
}

pub(crate) fn kept(plan: &Plan) -> BTreeSet<BackupId> {
    ids(plan, |a| matches!(a, Action::Keep | Action::TakeBack))
}

pub(crate) fn gone(plan: &Plan) -> BTreeSet<BackupId> {
    ids(plan, |a| matches!(a, Action::Mark | Action::Marked))
}
