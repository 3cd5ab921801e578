//! What holds for every catalog: never the newest good one, nothing that is needed, the same twice, time deletes nothing, order does not
//! matter, longer keeps more, every promise is kept, and equality with the naive reference.

use std::collections::BTreeSet;
use std::time::Duration;

use dozo_catalog::{BackupFacts, Facts, Hold, Kept, Mark};
use dozo_model::{BackupId, Period, RetentionPolicy, Tier, Timestamp};
use jiff::ToSpan;
use proptest::prelude::*;

use crate::reference::stays;
use crate::world::{at, backup, facts, gone, kept, planned};

/// Tier 2 runs 100,000.
fn cases() -> u32 {
    if std::env::var_os("DOZO_TEST_NIGHTLY").is_some() { 100_000 } else { 2_000 }
}

const ZONES: [(&str, i64); 3] = [("UTC", 0), ("Asia/Tokyo", 9 * 3600), ("America/Phoenix", -7 * 3600)];

#[derive(Debug, Clone)]
struct Sketch {
    /// Minutes since the beginning.
    start: u32,
    state: u8,
    verified: bool,
    held: u8,
    server: u8,
    needs: u8,
}

#[derive(Debug, Clone)]
struct Case {
    backups: Vec<BackupFacts>,
    policy: RetentionPolicy,
    offset: i64,
    now: Timestamp,
}

fn period() -> impl Strategy<Value = Period> {
    prop_oneof![
        1 => Just(Period::OFF),
        4 => (1_u64..60).prop_map(Period::days),
        4 => (1_u32..15).prop_map(Period::Months),
        1 => Just(Period::Forever),
    ]
}

fn policy() -> impl Strategy<Value = (RetentionPolicy, i64)> {
    let counts = (0_usize..4, 0_usize..5, any::<bool>(), 0..ZONES.len());
    (period(), period(), period(), period(), counts).prop_map(|(daily, weekly, monthly, yearly, counts)| {
        let (keep_last, min_keep, require_verified, zone) = counts;
        let time_zone = ZONES[zone].0.to_owned();
        let policy = RetentionPolicy {
            daily,
            weekly,
            monthly,
            yearly,
            keep_last,
            min_keep,
            require_verified,
            time_zone,
            ..RetentionPolicy::default()
        };
        (policy, ZONES[zone].1)
    })
}

fn sketch() -> impl Strategy<Value = Sketch> {
    // Up to two years, often at the same minute of the night.
    let start = prop_oneof![3 => (0_u32..730).prop_map(|d| d * 1440 + 1020), 1 => 0_u32..730 * 1440];
    (start, 0_u8..8, 0_u8..4, 0_u8..30, 0_u8..12, 0_u8..20).prop_map(|(start, state, verified, held, server, needs)| Sketch {
        start,
        state,
        verified: verified > 0,
        held,
        server,
        needs,
    })
}

/// A catalog of one source; with `simple`, one server, no holds, no needs.
fn case(simple: bool) -> impl Strategy<Value = Case> {
    (prop::collection::vec(sketch(), 0..60), policy()).prop_map(move |(sketches, (policy, offset))| {
        let zero = at("2024-12-20T00:00:00Z");
        let mut backups: Vec<BackupFacts> = Vec::new();
        for (n, s) in sketches.iter().enumerate() {
            let mut b = backup(n, zero + i64::from(s.start).minutes());
            (b.good, b.state) = match s.state {
                0 => (false, "partial"),
                1 => (false, "suspect"),
                _ => (true, "complete"),
            };
            b.verified = b.good && s.verified;
            if !simple {
                b.incarnation = [Some("7001"), Some("7002"), None][usize::from(s.server.saturating_sub(9))].map(str::to_owned);
                if s.held == 0 {
                    let (reason, by) = ("why".into(), "who".into());
                    b.hold = Some(Hold { reason, by, since: b.started, until: None });
                }
                if s.needs < 4 && n > 0 {
                    b.needs.push(backups[usize::from(s.needs) % n].id.clone());
                }
                if s.needs == 5 {
                    b.mark = Some(Mark { due: b.started, reason: "before".into() });
                }
            }
            backups.push(b);
        }
        let newest = backups.iter().map(|b| b.started).max().unwrap_or(zero);
        Case { backups, policy, offset, now: newest + 1.hour() }
    })
}

fn check<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, test: impl Fn(T) -> Result<(), TestCaseError>) {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config).run(&strategy, test).unwrap();
}

fn all(case: &Case) -> Facts {
    facts(case.backups.clone())
}

fn is_good(case: &Case, b: &BackupFacts) -> bool {
    b.good && (b.verified || !case.policy.require_verified)
}

#[test]
fn the_newest_good_one_of_each_server_stays() {
    check(case(false), |case| {
        let kept = kept(&planned(&all(&case), &case.policy, case.now));
        for server in [Some("7001".to_owned()), Some("7002".to_owned()), None] {
            let own: Vec<&BackupFacts> = case.backups.iter().filter(|b| b.incarnation == server).collect();
            let newest = |good: bool| {
                own.iter().filter(|b| !good || is_good(&case, b)).max_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)))
            };
            for b in [newest(true), newest(false)].into_iter().flatten() {
                prop_assert!(kept.contains(&b.id), "{}", b.id);
            }
            let mut good: Vec<&&BackupFacts> = own.iter().filter(|b| is_good(&case, b)).collect();
            good.sort_by(|a, b| (b.started, &b.id).cmp(&(a.started, &a.id)));
            for b in good.iter().take(case.policy.min_keep) {
                prop_assert!(kept.contains(&b.id), "{} is among the newest", b.id);
            }
        }
        for b in case.backups.iter().filter(|b| b.hold.is_some()) {
            prop_assert!(kept.contains(&b.id), "{} is held", b.id);
        }
        Ok(())
    });
}

#[test]
fn what_a_kept_one_needs_stays() {
    check(case(false), |case| {
        let kept = kept(&planned(&all(&case), &case.policy, case.now));
        for b in case.backups.iter().filter(|b| kept.contains(&b.id)) {
            for needed in &b.needs {
                prop_assert!(kept.contains(needed), "{} needs {needed}", b.id);
            }
        }
        Ok(())
    });
}

#[test]
fn twice_is_once() {
    check(case(false), |case| {
        let first = planned(&all(&case), &case.policy, case.now);
        let goes = gone(&first);
        // Marked, and not yet gone.
        let marked: Vec<BackupFacts> = case
            .backups
            .iter()
            .cloned()
            .map(|mut b| {
                b.mark = goes.contains(&b.id).then(|| Mark { due: case.now, reason: "planned".into() });
                b
            })
            .collect();
        let second = planned(&facts(marked), &case.policy, case.now);
        prop_assert_eq!(second.marks().count() + second.takes_back().count(), 0);
        prop_assert_eq!(&gone(&second), &goes);
        // Gone.
        let left: Vec<BackupFacts> = case.backups.iter().filter(|b| !goes.contains(&b.id)).cloned().collect();
        let third = planned(&facts(left), &case.policy, case.now);
        prop_assert_eq!(gone(&third), BTreeSet::new());
        Ok(())
    });
}

#[test]
fn time_alone_deletes_nothing() {
    check((case(false), 0_i64..4000), |(case, days)| {
        let before = planned(&all(&case), &case.policy, case.now);
        let later = planned(&all(&case), &case.policy, case.now + (days * 24).hours());
        prop_assert_eq!(gone(&before), gone(&later));
        Ok(())
    });
}

#[test]
fn the_order_of_the_catalog_does_not_matter() {
    check((case(false), any::<u64>()), |(case, seed)| {
        let mut shuffled = case.backups.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, usize::try_from(state >> 33).unwrap() % (i + 1));
        }
        let (one, other) = (all(&case), facts(shuffled));
        prop_assert_eq!(planned(&one, &case.policy, case.now), planned(&other, &case.policy, case.now));
        Ok(())
    });
}

/// A period at least as long.
fn longer(period: Period, by: u32) -> Period {
    match period {
        Period::Time(t) => Period::Time(t + Duration::from_secs(u64::from(by) * 86_400)),
        Period::Months(n) => Period::Months(n + by),
        Period::Forever => Period::Forever,
    }
}

#[test]
fn a_longer_policy_keeps_a_superset() {
    check((case(false), prop::array::uniform6(0_u32..5)), |(case, by)| {
        let p = &case.policy;
        let more = RetentionPolicy {
            daily: longer(p.daily, by[0]),
            weekly: longer(p.weekly, by[1]),
            monthly: longer(p.monthly, by[2]),
            yearly: longer(p.yearly, by[3]),
            keep_last: p.keep_last + by[4] as usize,
            min_keep: p.min_keep + by[5] as usize,
            ..p.clone()
        };
        let (less, more) = (kept(&planned(&all(&case), p, case.now)), kept(&planned(&all(&case), &more, case.now)));
        prop_assert!(more.is_superset(&less), "{:?}", less.difference(&more).collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn every_promised_interval_keeps_a_good_one() {
    check(case(true), |case| {
        let plan = planned(&all(&case), &case.policy, case.now);
        let kept = kept(&plan);
        let zone = case.policy.zone();
        let good: Vec<&BackupFacts> = case.backups.iter().filter(|b| is_good(&case, b)).collect();
        let Some(anchor) = good.iter().map(|b| b.started).max() else { return Ok(()) };
        for tier in [Tier::Weekly, Tier::Monthly, Tier::Yearly] {
            let Some(limit) =
                case.policy.period(tier).limit(anchor, &zone).or((!case.policy.period(tier).is_off()).then_some(Timestamp::MIN))
            else {
                continue;
            };
            if case.policy.period(tier).is_off() {
                continue;
            }
            let interval = |b: &BackupFacts| {
                let date = b.started.to_zoned(zone.clone()).date();
                match tier {
                    Tier::Monthly => (i32::from(date.year()), i32::from(date.month())),
                    Tier::Yearly => (i32::from(date.year()), 0),
                    _ => (i32::from(date.iso_week_date().year()), i32::from(date.iso_week_date().week())),
                }
            };
            // An interval is promised while its first good one is within the period.
            for b in &good {
                let first = good.iter().filter(|o| interval(o) == interval(b)).map(|o| o.started).min().unwrap();
                let served = good.iter().any(|o| interval(o) == interval(b) && kept.contains(&o.id));
                prop_assert!(first < limit || served, "{tier} {:?}", interval(b));
            }
        }
        Ok(())
    });
}

#[test]
fn it_equals_the_naive_reference() {
    check(case(true), |case| {
        let expected: BTreeSet<BackupId> = stays(&case.backups, &case.policy, case.now, case.offset);
        prop_assert_eq!(kept(&planned(&all(&case), &case.policy, case.now)), expected);
        Ok(())
    });
}

/// What is dated in the future neither evicts anything nor goes.
#[test]
fn future_dates_count_for_nothing() {
    check((case(true), 1_i64..3000), |(mut case, days)| {
        let plan = planned(&all(&case), &case.policy, case.now);
        let mut ahead = backup(99, case.now + (days * 24).hours());
        ahead.verified = true;
        case.backups.push(ahead.clone());
        let with = planned(&all(&case), &case.policy, case.now);
        prop_assert_eq!(gone(&with), gone(&plan));
        let verdict = with.backups.iter().find(|v| v.id == ahead.id).unwrap();
        prop_assert_eq!(&verdict.kept, &vec![Kept::Future]);
        prop_assert!(with.warnings.iter().any(|w| w.contains("dated in the future")));
        Ok(())
    });
}
