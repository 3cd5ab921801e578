//! WAL: any second of the window can be recovered, and every kept base is consistent.

use dozo_catalog::{BackupFacts, BackupKind, Facts, Kept, Plan, SegmentRange, WalRun};
use dozo_model::{RetentionPolicy, Timestamp};
use jiff::ToSpan;
use proptest::prelude::*;

use crate::world::{at, backup, planned, source};

/// One segment a minute since this.
fn segment(at_: Timestamp) -> u64 {
    u64::try_from(at_.duration_since(at("2026-01-01T00:00:00Z")).as_secs() / 60).unwrap()
}

fn base(n: usize, started: Timestamp, timeline: u32) -> BackupFacts {
    let finished = started + 20.minutes();
    let kind = BackupKind::Base { timeline, first_segment: segment(started), last_segment: segment(finished) };
    BackupFacts { kind, finished, ..backup(n, started) }
}

fn wal(from: Timestamp, to: Timestamp, timeline: u32) -> WalRun {
    WalRun {
        source: source("shop"),
        incarnation: Some("7001".into()),
        timeline,
        from: segment(from),
        to: segment(to),
        newest: to,
    }
}

fn kept_segments(plan: &Plan, timeline: u32) -> Vec<SegmentRange> {
    plan.wal.iter().find(|w| w.timeline == timeline).map(|w| w.keep.clone()).unwrap_or_default()
}

fn has(ranges: &[SegmentRange], from: u64, to: u64) -> bool {
    ranges.iter().any(|r| r.from <= from && to <= r.to)
}

#[test]
fn the_window_starts_from_the_base_before_it() {
    let bases: Vec<BackupFacts> =
        (0..16).map(|n| base(n, at("2026-08-01T02:00:00Z") + i64::try_from(n * 7 * 24).unwrap().hours(), 1)).collect();
    let (first, last) = (bases[0].started, at("2026-11-21T02:00:00Z"));
    let facts = Facts { backups: bases.clone(), wal: vec![wal(first, last, 1)], ..Facts::default() };
    let plan = planned(&facts, &RetentionPolicy::default(), last);
    // Thirty days before 21 November is 22 October; the last base that ended before that is of 17 October.
    let start = &bases[11];
    assert_eq!(start.started, at("2026-10-17T02:00:00Z"));
    let verdict = |b: &BackupFacts| plan.backups.iter().find(|v| v.id == b.id).unwrap();
    assert!(verdict(start).kept.contains(&Kept::Window));
    let keep = kept_segments(&plan, 1);
    assert!(has(&keep, segment(start.started), segment(last)), "{keep:?}");
    // An older one that a month keeps, keeps what makes it consistent and no more.
    let september = bases.iter().find(|b| b.started == at("2026-09-05T02:00:00Z")).unwrap();
    assert!(!verdict(september).kept.is_empty());
    assert!(has(&keep, segment(september.started), segment(september.finished)));
    assert!(!has(&keep, segment(september.finished) + 1, segment(september.finished) + 1), "{keep:?}");
    assert_eq!(plan.wal[0].reachable_from, Some(start.finished));
    // A silent source loses nothing.
    let later = planned(&facts, &RetentionPolicy::default(), at("2036-01-01T00:00:00Z"));
    assert_eq!(later.wal, plan.wal);
}

#[test]
fn without_an_old_base_everything_since_the_oldest_stays() {
    let bases = vec![base(0, at("2026-11-10T02:00:00Z"), 1), base(1, at("2026-11-20T02:00:00Z"), 1)];
    let run = wal(at("2026-11-01T00:00:00Z"), at("2026-11-21T00:00:00Z"), 1);
    let facts = Facts { backups: bases, wal: vec![run], ..Facts::default() };
    let plan = planned(&facts, &RetentionPolicy::default(), at("2026-11-21T00:00:00Z"));
    let keep = kept_segments(&plan, 1);
    assert_eq!(keep, [SegmentRange { from: segment(at("2026-11-10T02:00:00Z")), to: segment(at("2026-11-21T00:00:00Z")) }]);
    // What lies before every base recovers nothing.
    assert_eq!(plan.wal[0].delete, [SegmentRange { from: segment(at("2026-11-01T00:00:00Z")), to: keep[0].from - 1 }]);
}

/// After a promotion WAL goes on in another timeline, which has no base at first: it is the end of the old one.
#[test]
fn a_timeline_without_a_base_is_kept_whole() {
    let (promoted, now) = (at("2026-11-15T00:00:00Z"), at("2026-11-21T00:00:00Z"));
    let facts = Facts {
        backups: vec![base(0, at("2026-09-01T02:00:00Z"), 1)],
        wal: vec![wal(at("2026-09-01T02:00:00Z"), promoted, 1), wal(promoted, now, 2)],
        ..Facts::default()
    };
    let plan = planned(&facts, &RetentionPolicy::default(), now);
    assert_eq!(kept_segments(&plan, 2), [SegmentRange { from: segment(promoted), to: segment(now) }]);
    assert!(plan.wal.iter().all(|w| w.delete.is_empty()));
}

/// The new timeline's own bases are all within the window: the seconds between the promotion and the first of them are recovered from the
/// old timeline's base.
#[test]
fn a_timeline_with_young_bases_keeps_its_beginning() {
    let (promoted, now) = (at("2026-11-05T00:00:00Z"), at("2026-11-21T00:00:00Z"));
    let facts = Facts {
        backups: vec![base(0, at("2026-09-01T02:00:00Z"), 1), base(1, at("2026-11-15T02:00:00Z"), 2)],
        wal: vec![wal(at("2026-09-01T02:00:00Z"), promoted, 1), wal(promoted, now, 2)],
        ..Facts::default()
    };
    let plan = planned(&facts, &RetentionPolicy::default(), now);
    assert_eq!(kept_segments(&plan, 2), [SegmentRange { from: segment(promoted), to: segment(now) }]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bases there are: what stays and what goes is all there was; every base is consistent; from the window's base on nothing is
    /// missing; a longer window keeps more.
    #[test]
    fn windows_have_no_gaps(starts in prop::collection::vec((0_i64..200_000, 0_u8..6), 1..30), days in 1_u64..60) {
        let zero = at("2026-01-01T00:00:00Z");
        let bases: Vec<BackupFacts> = starts.iter().enumerate().map(|(n, (minute, state))| {
            let mut b = base(n, zero + minute.minutes(), 1);
            b.good = *state > 0;
            b
        }).collect();
        let end = bases.iter().map(|b| b.finished).max().unwrap() + 1.hour();
        let run = wal(zero, end, 1);
        let facts = Facts { backups: bases.clone(), wal: vec![run.clone()], ..Facts::default() };
        let policy = |days: u64| RetentionPolicy { wal: std::time::Duration::from_secs(days * 86_400), ..RetentionPolicy::default() };
        let plan = planned(&facts, &policy(days), end);
        let one = &plan.wal[0];
        let mut all: Vec<SegmentRange> = one.keep.iter().chain(&one.delete).copied().collect();
        all.sort();
        prop_assert_eq!((all[0].from, all.last().unwrap().to), (run.from, run.to));
        prop_assert!(all.windows(2).all(|w| w[0].to + 1 == w[1].from), "{:?}", all);
        for b in &bases {
            prop_assert!(has(&one.keep, segment(b.started), segment(b.finished)), "{} is not consistent", b.id);
        }
        let window = end - (i64::try_from(days).unwrap() * 24).hours();
        let good = || bases.iter().filter(|b| b.good);
        if let Some(start) = good().filter(|b| b.finished <= window).max_by_key(|b| b.finished).or(good().min_by_key(|b| b.finished)) {
            prop_assert!(has(&one.keep, segment(start.started), run.to));
            prop_assert!(!plan.backups.iter().find(|v| v.id == start.id).unwrap().kept.is_empty());
        }
        let longer = planned(&facts, &policy(days + 9), end);
        let bytes = |p: &Plan| p.wal[0].keep.iter().map(|r| r.to - r.from + 1).sum::<u64>();
        prop_assert!(bytes(&longer) >= bytes(&plan));
    }
}
