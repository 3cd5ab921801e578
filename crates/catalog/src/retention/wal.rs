//! Which WAL stays: what recovers any second of the window, and what makes each kept base consistent.
//!
//! *Rule*: for each timeline the newest base that ended before the window is kept, with all WAL since its start; without one, the oldest
//! base is. A base that is kept for another reason keeps the WAL from its start to its end. The window is counted back from the newest
//! WAL or base, or from now, whichever is earlier: a silent source loses nothing.

use std::collections::{BTreeMap, HashSet};

use dozo_model::{RetentionPolicy, SourceName, Timestamp};
use serde::Serialize;

use super::facts::{BackupFacts, BackupKind, Facts, WalRun};
use super::reasons::Kept;

/// Segments, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SegmentRange {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
}

/// What is decided about the WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WalPlan {
    /// Source.
    pub source: SourceName,
    /// Server.
    pub incarnation: Option<String>,
    /// Timeline.
    pub timeline: u32,
    /// What stays.
    pub keep: Vec<SegmentRange>,
    /// What goes.
    pub delete: Vec<SegmentRange>,
    /// The oldest second that can be recovered.
    pub reachable_from: Option<Timestamp>,
}

/// A base with its WAL.
struct Base<'f> {
    place: usize,
    facts: &'f BackupFacts,
    timeline: u32,
    range: SegmentRange,
}

fn base((place, facts): (usize, &BackupFacts)) -> Option<Base<'_>> {
    match facts.kind {
        BackupKind::Base { timeline, first_segment: from, last_segment: to } => {
            Some(Base { place, facts, timeline, range: SegmentRange { from, to } })
        }
        BackupKind::Logical => None,
    }
}

/// Marks the bases that windows start from as kept, and decides about WAL. Bases that tiers keep are not known yet: every base that is there
/// keeps the WAL of its own making, and loses it with its deletion.
pub(super) fn wal_plans<'p>(
    facts: &Facts,
    groups: &BTreeMap<(&SourceName, Option<&str>), Vec<usize>>,
    policy: impl Fn(&SourceName) -> &'p RetentionPolicy,
    now: Timestamp,
    kept: &mut [Vec<Kept>],
) -> Vec<WalPlan> {
    let mut plans = Vec::new();
    for ((source, _), members) in groups {
        let policy = policy(source);
        let bases: Vec<Base<'_>> = members.iter().filter_map(|i| base((*i, &facts.backups[*i]))).collect();
        let servers: HashSet<Option<&str>> = members.iter().map(|i| facts.backups[*i].incarnation.as_deref()).collect();
        let runs: Vec<&WalRun> =
            facts.wal.iter().filter(|w| &&w.source == source && servers.contains(&w.incarnation.as_deref())).collect();
        let good = |b: &&Base<'_>| b.facts.is_good(policy);
        let newest = runs.iter().map(|r| r.newest).chain(bases.iter().filter(good).map(|b| b.facts.finished)).max();
        let Some(reference) = newest.map(|n| n.min(now)) else { continue };
        let window = reference.checked_sub(policy.wal).unwrap_or(Timestamp::MIN);
        let timelines: std::collections::BTreeSet<u32> =
            runs.iter().map(|r| r.timeline).chain(bases.iter().map(|b| b.timeline)).collect();
        let mut lower_base = false;
        for timeline in timelines {
            let here: Vec<&Base<'_>> = bases.iter().filter(|b| b.timeline == timeline).collect();
            let before = here.iter().filter(|b| good(b) && b.facts.finished <= window).max_by_key(|b| b.facts.finished);
            let start = before.or_else(|| here.iter().filter(|b| good(b)).min_by_key(|b| b.facts.finished));
            if let Some(start) = start {
                kept[start.place].push(Kept::Window);
            }
            let since = start.map(|s| s.range.from);
            let ranges = runs.iter().filter(|r| r.timeline == timeline).map(|r| SegmentRange { from: r.from, to: r.to });
            let (mut keep, mut delete) = (Vec::new(), Vec::new());
            for range in ranges {
                let own = here.iter().map(|b| b.range);
                // Where no base of its own covers the window, a timeline is the end of an older one; without any base it recovers nothing, but
                // a base may come.
                let whole = (before.is_none() && lower_base) || (since.is_none() && here.is_empty());
                let floor = if whole { 0 } else { since.unwrap_or(u64::MAX) };
                split(range, floor, own, &mut keep, &mut delete);
            }
            lower_base |= start.is_some();
            plans.push(WalPlan {
                source: (*source).clone(),
                incarnation: here.first().map_or_else(
                    || runs.iter().find(|r| r.timeline == timeline).and_then(|r| r.incarnation.clone()),
                    |b| b.facts.incarnation.clone(),
                ),
                timeline,
                keep,
                delete,
                reachable_from: start.map(|s| s.facts.finished),
            });
        }
    }
    plans
}

/// Splits a range into what stays (from `floor` on, and what overlaps with one of `own`) and the rest.
fn split(
    range: SegmentRange,
    floor: u64,
    own: impl Iterator<Item = SegmentRange>,
    keep: &mut Vec<SegmentRange>,
    delete: &mut Vec<SegmentRange>,
) {
    let mut wanted: Vec<SegmentRange> =
        own.chain((floor <= range.to).then_some(SegmentRange { from: floor, to: range.to })).collect();
    wanted.sort_unstable();
    let mut next = range.from;
    for want in wanted {
        let (from, to) = (want.from.max(next), want.to.min(range.to));
        if from > to {
            continue;
        }
        if from > next {
            delete.push(SegmentRange { from: next, to: from - 1 });
        }
        match keep.last_mut() {
            Some(last) if last.to.checked_add(1) == Some(from) => last.to = to,
            _ => keep.push(SegmentRange { from, to }),
        }
        next = to.saturating_add(1);
    }
    if next <= range.to {
        delete.push(SegmentRange { from: next, to: range.to });
    }
}
