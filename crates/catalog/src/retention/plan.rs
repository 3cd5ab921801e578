//! The planner: a pure function.
//!
//! *Order of decisions* for the backups of one source and server: the newest good one is found, ages are counted back from its start → each
//! tier picks the first good one of each of its weeks, months, years → what is to stay collects its reasons → what a kept one needs
//! stays → the rest goes.

use std::collections::{BTreeMap, HashMap, HashSet};

use dozo_model::{BackupId, Period, RetentionPolicy, Sha256Digest, SourceName, Tier, Timestamp, human_duration};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::calendar::CalendarPeriod;
use super::facts::{BackupFacts, Facts};
use super::reasons::{Kept, day, goes};
use super::wal::{WalPlan, wal_plans};

/// Clocks of servers and hosts differ by less than this.
const SKEW: std::time::Duration = std::time::Duration::from_secs(600);

/// What is to be done about a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing.
    Keep,
    /// It is marked, and would be kept: the mark is taken back.
    TakeBack,
    /// It is marked for deletion now.
    Mark,
    /// It is marked already.
    Marked,
}

/// What is decided about a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// Source.
    pub source: SourceName,
    /// Id.
    pub id: BackupId,
    /// Server.
    pub incarnation: Option<String>,
    /// Start.
    pub started: Timestamp,
    /// What it is.
    pub state: &'static str,
    /// Whether it may be relied on.
    pub good: bool,
    /// Whether its content was verified.
    pub verified: bool,
    /// What is to be done.
    pub action: Action,
    /// Tiers that it serves.
    pub tiers: Vec<Tier>,
    /// Why it stays; empty = it goes.
    pub kept: Vec<Kept>,
    /// The same, or why it goes, in words.
    pub reasons: Vec<String>,
    /// When it will go, if backups go on; none = that depends on others, or never.
    pub goes: Option<Timestamp>,
    /// Bytes that no other backup names.
    pub only_bytes: u64,
    /// Until when all its objects are locked at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<Timestamp>,
}

/// What is decided about a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourcePlan {
    /// Source.
    pub source: SourceName,
    /// Policy.
    pub policy: RetentionPolicy,
    /// Committed backups that are not marked.
    pub standing: usize,
    /// How many of them are to be marked.
    pub deletes: usize,
    /// Start of the newest good one.
    pub newest_good: Option<Timestamp>,
    /// Whether that is more than the policy lets go at once.
    pub too_many: bool,
}

impl SourcePlan {
    /// Tells whether more than so many percent are to be marked at once.
    #[must_use]
    pub fn exceeds(&self, percent: u8) -> bool {
        self.deletes * 100 > self.standing * usize::from(percent)
    }
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// When it was made.
    pub at: Timestamp,
    /// Tells the facts and policies that it was made of.
    pub facts: Sha256Digest,
    /// Sources.
    pub sources: Vec<SourcePlan>,
    /// Backups, by source, oldest first.
    pub backups: Vec<Verdict>,
    /// WAL.
    pub wal: Vec<WalPlan>,
    /// Bytes that no backup needs once everything that is to go is gone.
    pub frees: u64,
    /// What somebody should know.
    pub warnings: Vec<String>,
    /// What could not be read: nothing is deleted while there is any.
    pub unreadable: Vec<String>,
}

impl Plan {
    /// Returns the backups that are to be marked.
    pub fn marks(&self) -> impl Iterator<Item = &Verdict> {
        self.backups.iter().filter(|v| v.action == Action::Mark)
    }

    /// Returns the backups of which the mark is to be taken back.
    pub fn takes_back(&self) -> impl Iterator<Item = &Verdict> {
        self.backups.iter().filter(|v| v.action == Action::TakeBack)
    }

    /// Returns what is decided about a source.
    #[must_use]
    pub fn source(&self, name: &SourceName) -> Option<&SourcePlan> {
        self.sources.iter().find(|s| &s.source == name)
    }
}

/// Decides about every backup. The order of the facts does not matter.
#[must_use]
pub fn plan<'p>(facts: &Facts, policy: impl Fn(&SourceName) -> &'p RetentionPolicy, now: Timestamp) -> Plan {
    let mut order: Vec<usize> = (0..facts.backups.len()).collect();
    // The recorded start tells which is older, never an id or a file's time.
    let sort_key = |i: usize| {
        let b = &facts.backups[i];
        (&b.source, b.started, &b.id)
    };
    order.sort_by(|a, b| sort_key(*a).cmp(&sort_key(*b)));
    let mut groups: BTreeMap<(&SourceName, Option<&str>), Vec<usize>> = BTreeMap::new();
    for i in &order {
        let b = &facts.backups[*i];
        groups.entry((&b.source, incarnation(facts, b))).or_default().push(*i);
    }
    let mut decided = Decided { kept: vec![Vec::new(); facts.backups.len()], lost_to: HashMap::new(), warnings: Vec::new() };
    let wal = wal_plans(facts, &groups, &policy, now, &mut decided.kept);
    for ((source, _), members) in &groups {
        let group: Vec<(usize, &BackupFacts)> = members.iter().map(|i| (*i, &facts.backups[*i])).collect();
        decided.group(&group, policy(source), now);
    }
    decided.needs(facts);
    let only = only_bytes(facts);
    let backups: Vec<Verdict> =
        order.iter().map(|i| decided.verdict(&facts.backups[*i], *i, policy(&facts.backups[*i].source), only[*i])).collect();
    let stays: Vec<bool> = decided.kept.iter().map(|k| !k.is_empty()).collect();
    let needed: u64 = object_sizes(facts, |i| stays[i]);
    let frees = object_sizes(facts, |_| true) - needed;
    let mut sources: Vec<SourcePlan> = Vec::new();
    for (i, verdict) in order.iter().zip(&backups) {
        let b = &facts.backups[*i];
        if sources.last().is_none_or(|s| s.source != b.source) {
            let (policy, source) = (policy(&b.source).clone(), b.source.clone());
            sources.push(SourcePlan { source, policy, standing: 0, deletes: 0, newest_good: None, too_many: false });
        }
        let Some(source) = sources.last_mut() else { continue };
        source.standing += usize::from(b.mark.is_none());
        source.deletes += usize::from(verdict.action == Action::Mark);
        if b.is_good(&source.policy) && !future(b, now) {
            source.newest_good = source.newest_good.max(Some(b.started));
        }
    }
    for source in &mut sources {
        source.too_many = source.exceeds(source.policy.max_delete);
    }
    decided.warnings.extend(too_old(&sources, now));
    Plan {
        at: now,
        facts: facts.digest(&policy),
        sources,
        backups,
        wal,
        frees,
        warnings: decided.warnings,
        unreadable: facts.unreadable.clone(),
    }
}

/// Returns the server of a backup, or the name of those that it continues.
fn incarnation<'f>(facts: &'f Facts, backup: &'f BackupFacts) -> Option<&'f str> {
    let own = backup.incarnation.as_deref()?;
    let joined = facts.joined.get(&backup.source).into_iter().flatten().find(|set| set.iter().any(|s| s == own));
    joined.and_then(|set| set.first()).map(String::as_str).or(Some(own))
}

fn too_old(sources: &[SourcePlan], now: Timestamp) -> Vec<String> {
    let late = sources.iter().filter(|s| s.policy.late(s.newest_good, now));
    let words = late.map(|s| match s.newest_good.map(|at| now.duration_since(at).unsigned_abs()) {
        None => format!("{}: there is no good backup", s.source),
        Some(age) => format!("{}: the newest good backup is {} old", s.source, human_duration(age)),
    });
    words.collect()
}

fn future(backup: &BackupFacts, now: Timestamp) -> bool {
    now.checked_add(SKEW).is_ok_and(|limit| backup.started > limit)
}

impl BackupFacts {
    pub(super) fn is_good(&self, policy: &RetentionPolicy) -> bool {
        self.good && (self.verified || !policy.require_verified)
    }
}

/// What is known so far.
struct Decided {
    kept: Vec<Vec<Kept>>,
    /// Which one serves the week, month or year of one that goes.
    lost_to: HashMap<usize, Vec<(CalendarPeriod, BackupId)>>,
    warnings: Vec<String>,
}

impl Decided {
    /// Decides about the backups of one source and server, oldest first.
    fn group(&mut self, group: &[(usize, &BackupFacts)], policy: &RetentionPolicy, now: Timestamp) {
        let zone = policy.zone();
        for (i, b) in group {
            match &b.hold {
                Some(hold) if hold.lasts(now) => {
                    let (reason, by, until) = (hold.reason.clone(), hold.by.clone(), hold.until);
                    self.kept[*i].push(Kept::Held { reason, by, until });
                }
                Some(hold) => self.warnings.push(format!(
                    "{}@{}: the hold `{}` of {} ended on {}",
                    b.source,
                    b.id,
                    hold.reason,
                    hold.by,
                    day(hold.until.unwrap_or(now), &zone)
                )),
                None => {}
            }
            if let Some(why) = &b.unknown {
                self.kept[*i].push(Kept::Unknown);
                self.warnings.push(format!("{}@{}: {why}", b.source, b.id));
            }
            if future(b, now) {
                self.kept[*i].push(Kept::Future);
                self.warnings.push(format!(
                    "{}@{} is dated in the future ({}): it is kept, and counts for nothing",
                    b.source,
                    b.id,
                    b.started.strftime("%Y-%m-%d %H:%M:%SZ")
                ));
            }
        }
        let past: Vec<(usize, &BackupFacts)> = group.iter().filter(|(_, b)| !future(b, now)).copied().collect();
        let good: Vec<(usize, &BackupFacts)> = past.iter().filter(|(_, b)| b.is_good(policy)).copied().collect();
        if let Some((newest, _)) = past.last() {
            self.kept[*newest].push(Kept::Newest);
        }
        let Some((newest_good, anchor)) = good.last() else {
            for (i, _) in &past {
                self.kept[*i].push(Kept::NoGood);
            }
            return;
        };
        let anchor = anchor.started;
        self.kept[*newest_good].retain(|k| *k != Kept::Newest);
        self.kept[*newest_good].push(Kept::NewestGood);
        let least = policy.min_keep.max(policy.keep_last);
        for (i, _) in good.iter().rev().take(least) {
            self.kept[*i].push(Kept::Least { least });
        }
        let limits: Vec<(Tier, Period, Option<Timestamp>)> = Tier::ALL
            .into_iter()
            .map(|tier| (tier, policy.period(tier), policy.period(tier).limit(anchor, &zone)))
            .filter(|(_, period, _)| !period.is_off())
            .collect();
        let within = |b: &BackupFacts, limit: Option<Timestamp>| limit.is_none_or(|limit| b.started >= limit);
        // The first good one of each week, month, year.
        let mut first: HashMap<CalendarPeriod, (usize, &BackupFacts)> = HashMap::new();
        let periods = |b: &BackupFacts| {
            let all = limits.iter().filter_map(|(tier, ..)| CalendarPeriod::of(*tier, b.started, policy, &zone));
            all.collect::<Vec<_>>()
        };
        for (i, b) in &good {
            for period in periods(b) {
                first.entry(period).or_insert((*i, b));
            }
        }
        for (i, b) in &good {
            for (tier, kept, limit) in &limits {
                let (tier, kept) = (*tier, *kept);
                let Some(period) = CalendarPeriod::of(tier, b.started, policy, &zone) else {
                    if within(b, *limit) {
                        self.kept[*i].push(Kept::Tier { tier, period: None, kept });
                    }
                    continue;
                };
                let (chosen, representative) = first[&period];
                if !within(representative, *limit) {
                    continue;
                }
                if chosen == *i {
                    self.kept[*i].push(Kept::Tier { tier, period: Some(period.name()), kept });
                } else if !representative.verified {
                    self.kept[*i].push(Kept::Stands { representative: representative.id.clone(), period: period.name() });
                } else {
                    self.lost_to.entry(*i).or_default().push((period, representative.id.clone()));
                }
            }
        }
        for (i, b) in past.iter().filter(|(_, b)| !b.is_good(policy)) {
            if policy.daily.keeps(b.started, anchor, &zone) {
                self.kept[*i].push(Kept::Young { kept: policy.daily });
            }
        }
    }

    /// Keeps what a kept one needs, and what that needs.
    fn needs(&mut self, facts: &Facts) {
        let place: HashMap<(&SourceName, &BackupId), usize> =
            facts.backups.iter().enumerate().map(|(i, b)| ((&b.source, &b.id), i)).collect();
        let mut open: Vec<usize> = (0..facts.backups.len()).filter(|i| !self.kept[*i].is_empty()).collect();
        while let Some(i) = open.pop() {
            let b = &facts.backups[i];
            for needed in b.needs.iter().filter_map(|id| place.get(&(&b.source, id))) {
                if self.kept[*needed].is_empty() {
                    open.push(*needed);
                }
                self.kept[*needed].push(Kept::NeededBy { id: b.id.clone() });
            }
        }
        for kept in &mut self.kept {
            // In which order they were found depends on the order of the facts.
            kept.sort_by_key(|k| match k {
                Kept::NeededBy { id } => Some(id.clone()),
                _ => None,
            });
        }
    }

    fn verdict(&self, b: &BackupFacts, i: usize, policy: &RetentionPolicy, only_bytes: u64) -> Verdict {
        let (kept, zone) = (&self.kept[i], policy.zone());
        let action = match (kept.is_empty(), &b.mark) {
            (false, None) => Action::Keep,
            (false, Some(_)) => Action::TakeBack,
            (true, None) => Action::Mark,
            (true, Some(_)) => Action::Marked,
        };
        let tiers = kept.iter().filter_map(|k| match k {
            Kept::Tier { tier, .. } => Some(*tier),
            _ => None,
        });
        let mut reasons: Vec<String> = kept.iter().map(|k| k.words(b, &zone)).collect();
        if kept.is_empty() {
            reasons.push(self.why_it_goes(b, i, policy, &zone));
        }
        Verdict {
            source: b.source.clone(),
            id: b.id.clone(),
            incarnation: b.incarnation.clone(),
            started: b.started,
            state: b.state,
            good: b.is_good(policy),
            verified: b.verified,
            action,
            tiers: tiers.collect(),
            reasons,
            goes: match &b.mark {
                Some(mark) if kept.is_empty() => Some(mark.due),
                _ if kept.is_empty() => None,
                _ => goes(kept, b, &zone),
            },
            kept: kept.clone(),
            only_bytes,
            locked_until: b.locked_until,
        }
    }

    fn why_it_goes(&self, b: &BackupFacts, i: usize, policy: &RetentionPolicy, zone: &TimeZone) -> String {
        let old = format!("older than {}", policy.daily);
        let mut why = if b.is_good(policy) {
            let others: Vec<String> =
                self.lost_to.get(&i).into_iter().flatten().map(|(p, id)| format!("{} is served by {id}", p.name())).collect();
            if others.is_empty() { format!("{old}, and no tier keeps it") } else { format!("{old}; {}", others.join(", ")) }
        } else {
            let state = if b.good { "not verified" } else { b.state };
            format!("{state}, and {old}")
        };
        if let Some(hold) = &b.hold {
            let ended = hold.until.map(|until| format!(" on {}", day(until, zone))).unwrap_or_default();
            why = format!("{why}; the hold `{}` of {} ended{ended}", hold.reason, hold.by);
        }
        why
    }
}

/// Returns, for each backup, the bytes of objects that no other one names.
fn only_bytes(facts: &Facts) -> Vec<u64> {
    let mut named = vec![0_u32; facts.objects.len()];
    for object in facts.backups.iter().flat_map(|b| &b.objects) {
        named[*object as usize] += 1;
    }
    let only = |b: &BackupFacts| b.objects.iter().filter(|o| named[**o as usize] == 1).map(|o| facts.objects[*o as usize]).sum();
    facts.backups.iter().map(only).collect()
}

/// Returns the bytes of all objects that some backups name, each counted once.
pub(crate) fn object_sizes(facts: &Facts, counts: impl Fn(usize) -> bool) -> u64 {
    let named = facts.backups.iter().enumerate().filter(|(i, _)| counts(*i)).flat_map(|(_, b)| &b.objects);
    let named: HashSet<u32> = named.copied().collect();
    named.iter().map(|o| facts.objects[*o as usize]).sum()
}
