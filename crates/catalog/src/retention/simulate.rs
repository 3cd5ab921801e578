//! The policy played forward: what stands on each day to come, how much room it takes, and when a promise breaks.
//!
//! *Model*: each source goes on as it has: backups at the distance of the last ones, each with as many new bytes as they had; the first of each
//! month copies everything; the whole grows as it has grown. Every night is good and verified. What the planner marks is gone after
//! its grace. *Bounds*: sizes are estimates, counts and dates are those of the planner itself.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use dozo_model::{BackupId, RetentionPolicy, SourceName, Tier, Timestamp};
use jiff::SignedDuration;
use jiff::civil::Date;
use serde::Serialize;

use super::calendar::CalendarPeriod;
use super::facts::{BackupFacts, Facts, Mark};
use super::plan::{Action, object_sizes, plan};

/// Backups of which the pace is taken.
const RECENT: usize = 14;

/// What is played.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The first day is that of this instant.
    pub from: Timestamp,
    /// How far.
    pub days: u32,
    /// Distance of backups; none = as each source has had.
    pub every: Option<Duration>,
    /// After this, no backup is made any more.
    pub stop_after: Option<Duration>,
    /// Bytes of the repository's disk in all, those in use by others, and the percentage that it may be filled to.
    pub disk: Option<(u64, u64, u8)>,
}

/// What stands at the end of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Day {
    /// Day, by the policy's clock.
    pub date: Date,
    /// Backups, marked ones too.
    pub backups: usize,
    /// Backups that serve each tier.
    pub tiers: BTreeMap<Tier, usize>,
    /// Backups by the longest tier that they serve: each counts once.
    pub longest: BTreeMap<Tier, usize>,
    /// Bytes that all of them need.
    pub bytes: u64,
    /// Backups that went for good on this day.
    pub gone: usize,
}

/// A promise that is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Broken {
    /// The first day on which it is not.
    pub date: Date,
    /// Source; none = the repository.
    pub source: Option<SourceName>,
    /// What was promised.
    pub promise: String,
}

/// What a source is taken to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pace {
    /// Source.
    pub source: SourceName,
    /// Seconds between backups.
    pub every_seconds: u64,
    /// Bytes that each adds.
    pub new_bytes: u64,
    /// Bytes of a backup that copies everything.
    pub full_bytes: u64,
    /// Bytes by which that grows each day.
    pub growth_bytes: u64,
}

/// What was played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Simulation {
    /// What each source was taken to do.
    pub paces: Vec<Pace>,
    /// Day by day.
    pub days: Vec<Day>,
    /// Promises that break, each on its first day.
    pub broken: Vec<Broken>,
}

/// Plays the policies forward.
#[must_use]
pub fn simulate<'p>(facts: &Facts, policy: impl Fn(&SourceName) -> &'p RetentionPolicy, scenario: &Scenario) -> Simulation {
    let mut state = facts.clone();
    state.unreadable.clear();
    let sources: Vec<SourceName> = {
        let mut names: Vec<SourceName> = facts.backups.iter().map(|b| b.source.clone()).collect();
        names.sort();
        names.dedup();
        names
    };
    let mut players: Vec<Player<'p>> = sources.iter().filter_map(|s| Player::new(facts, s, policy(s), scenario)).collect();
    let mut simulation = Simulation { paces: players.iter().map(|p| p.pace.clone()).collect(), days: vec![], broken: vec![] };
    let stop = scenario.stop_after.and_then(|after| scenario.from.checked_add(after).ok());
    for n in 0..scenario.days {
        let now = scenario.from.checked_add(SignedDuration::from_hours(24 * i64::from(n))).unwrap_or(Timestamp::MAX);
        for player in &mut players {
            player.play(&mut state, now, stop);
        }
        let before = state.backups.len();
        state.backups.retain(|b| b.mark.as_ref().is_none_or(|m| m.due > now));
        let gone = before - state.backups.len();
        let plan = plan(&state, &policy, now);
        let actions: BTreeMap<(&SourceName, &BackupId), Action> =
            plan.backups.iter().map(|v| ((&v.source, &v.id), v.action)).collect();
        for b in &mut state.backups {
            match actions.get(&(&b.source, &b.id)) {
                Some(Action::Mark) => {
                    let due = now.checked_add(policy(&b.source).grace).unwrap_or(Timestamp::MAX);
                    b.mark = Some(Mark { due, reason: String::new() });
                }
                Some(Action::TakeBack) => b.mark = None,
                _ => {}
            }
        }
        let mut tiers: BTreeMap<Tier, usize> = BTreeMap::new();
        for tier in plan.backups.iter().flat_map(|v| &v.tiers) {
            *tiers.entry(*tier).or_default() += 1;
        }
        let mut longest: BTreeMap<Tier, usize> = BTreeMap::new();
        for tier in plan.backups.iter().filter_map(|v| v.tiers.iter().max()) {
            *longest.entry(*tier).or_default() += 1;
        }
        let zone = sources.first().map_or(jiff::tz::TimeZone::UTC, |s| policy(s).zone());
        let date = now.to_zoned(zone).date();
        let day = Day { date, backups: state.backups.len(), tiers, longest, bytes: object_sizes(&state, |_| true), gone };
        for player in &players {
            player.promises(&state, now, date, &mut simulation.broken);
        }
        if let Some((total, others, level)) = scenario.disk.filter(|(.., level)| *level > 0) {
            let used = u128::from(others) + u128::from(day.bytes);
            if used * 100 >= u128::from(total) * u128::from(level) {
                promise(&mut simulation.broken, date, None, format!("the repository's disk is less than {level} % full"));
            }
        }
        simulation.days.push(day);
    }
    simulation
}

fn promise(broken: &mut Vec<Broken>, date: Date, source: Option<&SourceName>, promise: String) {
    if !broken.iter().any(|b| b.source.as_ref() == source && b.promise == promise) {
        broken.push(Broken { date, source: source.cloned(), promise });
    }
}

/// A source that goes on.
struct Player<'p> {
    pace: Pace,
    policy: &'p RetentionPolicy,
    incarnation: Option<String>,
    next: Timestamp,
    made: u32,
    /// The object that the backups of this month share, and its month.
    full: Option<(u32, CalendarPeriod)>,
    began: Timestamp,
}

impl<'p> Player<'p> {
    fn new(facts: &Facts, source: &SourceName, policy: &'p RetentionPolicy, scenario: &Scenario) -> Option<Self> {
        let mut own: Vec<&BackupFacts> =
            facts.backups.iter().filter(|b| &b.source == source && b.started <= scenario.from).collect();
        own.sort_by_key(|b| b.started);
        let (first, newest) = (own.first()?, own.last()?);
        let recent = &own[own.len().saturating_sub(RECENT)..];
        let gaps: Vec<u64> =
            recent.windows(2).map(|w| w[1].started.duration_since(w[0].started).unsigned_abs().as_secs()).collect();
        let every = scenario.every.map_or_else(|| median(gaps).unwrap_or(86_400), |every| every.as_secs()).max(3600);
        let size = |b: &BackupFacts| b.objects.iter().map(|o| facts.objects[*o as usize]).sum::<u64>();
        // Of the oldest that is looked at, nobody knows what it added.
        let mut seen: HashSet<u32> = HashSet::new();
        let mut added = Vec::new();
        for b in &own {
            let new: u64 = b.objects.iter().filter(|o| seen.insert(**o)).map(|o| facts.objects[*o as usize]).sum();
            added.push(new);
        }
        let recent_added = added.split_off(added.len().saturating_sub(RECENT).max(1).min(added.len()));
        let full_bytes = size(newest);
        let days = newest.started.duration_since(first.started).unsigned_abs().as_secs() / 86_400;
        let growth_bytes = full_bytes.saturating_sub(size(first)).checked_div(days).unwrap_or(0);
        let pace = Pace {
            source: source.clone(),
            every_seconds: every,
            new_bytes: median(recent_added).unwrap_or(full_bytes).min(full_bytes),
            full_bytes,
            growth_bytes,
        };
        let step = SignedDuration::from_secs(i64::try_from(every).unwrap_or(i64::MAX));
        // A source that was silent goes on tomorrow.
        let mut next = newest.started.checked_add(step).ok()?;
        while next <= scenario.from {
            next = next.checked_add(step).ok()?;
        }
        let incarnation = newest.incarnation.clone();
        Some(Self { pace, policy, incarnation, next, made: 0, full: None, began: first.started })
    }

    /// Makes the backups that are due.
    fn play(&mut self, state: &mut Facts, now: Timestamp, stop: Option<Timestamp>) {
        while self.next <= now && stop.is_none_or(|stop| self.next <= stop) {
            let started = self.next;
            let month = CalendarPeriod::of(Tier::Monthly, started, self.policy, &self.policy.zone());
            let days = started.duration_since(self.began).unsigned_abs().as_secs() / 86_400;
            let full = self.pace.full_bytes.saturating_add(self.pace.growth_bytes.saturating_mul(days));
            let mut object = |bytes: u64| {
                state.objects.push(bytes);
                u32::try_from(state.objects.len() - 1).unwrap_or(u32::MAX)
            };
            let objects = match (self.full, month) {
                (Some((shared, of)), Some(month)) if of == month => vec![shared, object(self.pace.new_bytes)],
                (_, month) => {
                    let (shared, own) = (object(full.saturating_sub(self.pace.new_bytes)), object(self.pace.new_bytes));
                    self.full = month.map(|month| (shared, month));
                    vec![shared, own]
                }
            };
            self.made += 1;
            let id = format!("{}-{:06}", started.strftime("%Y%m%dT%H%M%SZ"), self.made % 1_000_000);
            if let Ok(id) = BackupId::parse(&id) {
                let good = BackupFacts::good(self.pace.source.clone(), id, started);
                state.backups.push(BackupFacts { incarnation: self.incarnation.clone(), objects, ..good });
            }
            let step = SignedDuration::from_secs(i64::try_from(self.pace.every_seconds).unwrap_or(i64::MAX));
            match started.checked_add(step) {
                Ok(next) => self.next = next,
                Err(_) => return,
            }
        }
    }

    /// Looks at what the policy promises.
    fn promises(&self, state: &Facts, now: Timestamp, date: Date, broken: &mut Vec<Broken>) {
        let (source, policy) = (&self.pace.source, self.policy);
        let mut good: Vec<&BackupFacts> = state.backups.iter().filter(|b| &b.source == source && b.is_good(policy)).collect();
        good.retain(|b| b.mark.is_none() && b.started <= now);
        let newest = good.iter().map(|b| b.started).max();
        if policy.late(newest, now) {
            let age = dozo_model::human_duration(policy.max_age);
            promise(broken, date, Some(source), format!("the newest good backup is younger than {age}"));
        }
        let zone = policy.zone();
        for tier in Tier::ALL {
            let period = policy.period(tier);
            if period.is_off() {
                continue;
            }
            // Each day, week, month and year of the period, since the first backup, but for the one that is not over and the first, of which
            // only a part is within.
            let mut at = period.limit(now, &zone).map_or(self.began, |limit| limit.max(self.began));
            let interval = |at: Timestamp| match CalendarPeriod::of(tier, at, policy, &zone) {
                Some(period) => period.name(),
                None => at.to_zoned(zone.clone()).date().to_string(),
            };
            let (first, last) = (interval(at), interval(now));
            let covered: HashSet<String> = good.iter().map(|b| interval(b.started)).collect();
            while at < now {
                let name = interval(at);
                if name != first && name != last && !covered.contains(&name) {
                    let every = match tier {
                        Tier::Daily => "day",
                        Tier::Weekly => "week",
                        Tier::Monthly => "month",
                        Tier::Yearly => "year",
                    };
                    promise(broken, date, Some(source), format!("{tier}: each {every} of {period} has a good backup"));
                    break;
                }
                at = at.checked_add(SignedDuration::from_hours(24)).unwrap_or(now);
            }
        }
    }
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
