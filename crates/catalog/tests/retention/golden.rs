//! Plans that were worked out by hand, on a calendar.

use dozo_catalog::{Action, Facts, Hold, Kept, plan};
use dozo_model::{Period, RetentionPolicy, Tier};
use jiff::ToSpan;

use crate::world::{at, backup, days_kept, facts, gone, kept, nights, partial, planned, source, suspect};

fn tokyo() -> RetentionPolicy {
    RetentionPolicy { time_zone: "Asia/Tokyo".into(), ..RetentionPolicy::default() }
}

/// 30 nights and the newest; Mondays back to 21 August; firsts of months back to 21 November of the year before.
#[test]
fn two_years_of_nights() {
    let facts = facts(nights("2024-11-22", "2026-11-21", "Asia/Tokyo"));
    let plan = planned(&facts, &tokyo(), at("2026-11-21T00:00:00Z"));
    let days = days_kept(&plan, "Asia/Tokyo");
    let monthly = ["12-01", "01-01", "02-01", "03-01", "04-01", "05-01", "06-01", "07-01", "08-01", "09-01", "10-01", "11-01"];
    for (i, first) in monthly.iter().enumerate() {
        let day = format!("{}-{first}", if i == 0 { 2025 } else { 2026 });
        assert!(days.contains(&day), "{day}: {days:?}");
    }
    let mondays = [
        "2026-08-24",
        "2026-08-31",
        "2026-09-07",
        "2026-09-14",
        "2026-09-21",
        "2026-09-28",
        "2026-10-05",
        "2026-10-12",
        "2026-10-19",
    ];
    for monday in mondays {
        assert!(days.contains(&monday.to_owned()), "{monday}: {days:?}");
    }
    // The Monday before is more than three months older than the newest.
    assert!(!days.contains(&"2026-08-17".to_owned()));
    assert!(days.contains(&"2026-10-22".to_owned()) && !days.contains(&"2026-10-21".to_owned()), "30 days: {days:?}");
    // 31 nights (ages 0 to 30 days), 9 Mondays and 11 firsts of months before them.
    assert_eq!(days.len(), 31 + 9 + 11, "{days:?}");
    let november = plan.backups.iter().find(|v| v.started == at("2026-10-31T17:00:00Z")).unwrap();
    assert_eq!(november.tiers, [Tier::Daily, Tier::Monthly]);
    assert_eq!(november.reasons, ["daily: kept 30 days", "monthly: first good one of 2026-11, kept 1 year"]);
    assert_eq!(november.goes, Some(at("2027-10-31T17:00:00Z")));
    let gone = plan.backups.iter().find(|v| v.started == at("2026-10-20T17:00:00Z")).unwrap();
    assert_eq!(gone.action, Action::Mark);
    let (week, month) = ("20261018T170000Z-000696", "20260930T170000Z-000678");
    assert_eq!(gone.reasons, [format!("older than 30 days; 2026-W43 is served by {week}, 2026-10 is served by {month}")]);
}

/// What is not there keeps nothing, and takes nothing with it.
#[test]
fn a_missing_week() {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    all.retain(|b| !(at("2026-10-05T00:00:00Z")..at("2026-10-12T00:00:00Z")).contains(&b.started));
    let days = days_kept(&planned(&facts(all.clone()), &RetentionPolicy::default(), at("2026-11-21T12:00:00Z")), "UTC");
    assert!(days.contains(&"2026-10-12".to_owned()) && days.contains(&"2026-09-28".to_owned()));
    // Where only the end of a week is missing its beginning, the first that is there serves.
    all.retain(|b| b.started < at("2026-10-12T00:00:00Z") || b.started > at("2026-10-15T00:00:00Z"));
    let days = days_kept(&planned(&facts(all), &RetentionPolicy::default(), at("2026-11-21T12:00:00Z")), "UTC");
    assert!(days.contains(&"2026-10-15".to_owned()), "{days:?}");
}

/// Ages are counted from the newest good one: failed nights push nothing out, but go themselves.
#[test]
fn failures_in_a_row() {
    let all = nights("2026-09-01", "2026-11-21", "UTC");
    let broken = at("2026-11-01T00:00:00Z");
    let failed: Vec<_> = all.iter().cloned().map(|b| if b.started > broken { partial(b) } else { b }).collect();
    let plan = planned(&facts(failed), &RetentionPolicy::default(), at("2026-11-21T12:00:00Z"));
    let days = days_kept(&plan, "UTC");
    // Thirty days back from 31 October, not from 21 November.
    assert!(days.contains(&"2026-10-01".to_owned()) && days.contains(&"2026-10-02".to_owned()));
    assert!(days.contains(&"2026-11-21".to_owned()) && days.contains(&"2026-11-02".to_owned()));
    assert!(plan.warnings.iter().any(|w| w.contains("the newest good backup is 21 d")), "{:?}", plan.warnings);
    // Good again: what failed goes after 30 days like any other, and stood for no week.
    let mut later = nights("2026-09-01", "2026-12-20", "UTC");
    for b in later.iter_mut().filter(|b| (broken..at("2026-11-22T00:00:00Z")).contains(&b.started)) {
        *b = partial(b.clone());
    }
    let plan = planned(&facts(later), &RetentionPolicy::default(), at("2026-12-20T12:00:00Z"));
    let days = days_kept(&plan, "UTC");
    assert!(!days.contains(&"2026-11-16".to_owned()) && !days.contains(&"2026-11-02".to_owned()), "{days:?}");
    let went = plan.backups.iter().find(|v| v.started == at("2026-11-16T02:00:00Z")).unwrap();
    assert_eq!(went.reasons, ["partial, and older than 30 days"]);
}

/// Both of a day are daily ones; of a week the first counts, by its recorded start.
#[test]
fn two_a_day_and_a_deliberate_one() {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    let noon: Vec<_> = all.iter().map(|b| backup(1000 + all.len(), b.started + 12.hours())).collect();
    all.extend(noon.into_iter().enumerate().map(|(n, b)| backup(1000 + n, b.started)));
    let deliberate = backup(5000, at("2026-10-28T15:00:00Z"));
    all.push(deliberate.clone());
    let held = backup(5001, at("2026-09-09T15:00:00Z"));
    let reason = "before migration 42".to_owned();
    let hold = Hold { reason, by: "kim@db1".into(), since: held.started, until: Some(at("2027-01-01T00:00:00Z")) };
    all.push(dozo_catalog::BackupFacts { hold: Some(hold), ..held.clone() });
    let plan = planned(&facts(all.clone()), &RetentionPolicy::default(), at("2026-11-21T20:00:00Z"));
    let kept = kept(&plan);
    assert!(kept.contains(&deliberate.id) && kept.contains(&held.id));
    let reason = &plan.backups.iter().find(|v| v.id == held.id).unwrap().reasons;
    assert_eq!(*reason, ["held by kim@db1 until 2027-01-01: before migration 42"]);
    let per_day =
        |day: &str| plan.backups.iter().filter(|v| !v.kept.is_empty() && v.started.to_string().starts_with(day)).count();
    assert_eq!((per_day("2026-11-10"), per_day("2026-10-28"), per_day("2026-10-05")), (2, 3, 1));
    // A hold that ended holds no more, and that is said.
    let plan = planned(&facts(all), &RetentionPolicy::default(), at("2027-01-02T00:00:00Z"));
    let verdict = plan.backups.iter().find(|v| v.id == held.id).unwrap();
    assert_eq!(verdict.action, Action::Mark);
    assert!(
        verdict.reasons[0].ends_with("the hold `before migration 42` of kim@db1 ended on 2027-01-01"),
        "{:?}",
        verdict.reasons
    );
    assert!(plan.warnings.iter().any(|w| w.contains("the hold `before migration 42` of kim@db1 ended on 2027-01-01")));
}

#[test]
fn a_silent_source_stays_for_ever() {
    let facts = facts(nights("2026-01-01", "2026-02-20", "UTC"));
    let then = gone(&planned(&facts, &RetentionPolicy::default(), at("2026-02-20T12:00:00Z")));
    for now in ["2026-11-21T00:00:00Z", "2036-11-21T00:00:00Z"] {
        let plan = planned(&facts, &RetentionPolicy::default(), at(now));
        assert_eq!(gone(&plan), then);
        assert!(plan.warnings[0].starts_with("shop: the newest good backup is "), "{:?}", plan.warnings);
    }
}

/// A table was emptied on 1 October: every night since is suspect, and none of them evicts anything, for however long nobody looks.
#[test]
fn suspect_nights_evict_nothing() {
    let all = nights("2026-08-01", "2026-11-21", "UTC");
    let emptied = at("2026-10-01T00:00:00Z");
    let until = |end: &str| {
        let end = at(end);
        let nights = all.iter().filter(|b| b.started < end).cloned();
        let marked = nights.map(|b| if b.started > emptied { suspect(b) } else { b });
        planned(&facts(marked.collect()), &RetentionPolicy::default(), end)
    };
    let good_ones = |plan: &dozo_catalog::Plan| -> Vec<String> {
        days_kept(plan, "UTC").into_iter().filter(|d| d.as_str() < "2026-10-01").collect()
    };
    let before = good_ones(&until("2026-10-01T00:00:00Z"));
    assert_eq!(before.len(), 31 + 5, "August's Mondays but the last, and its first: {before:?}");
    for day in ["2026-10-02T00:00:00Z", "2026-10-31T00:00:00Z", "2026-11-21T12:00:00Z"] {
        assert_eq!(good_ones(&until(day)), before, "{day}");
    }
}

/// The Monday of a week is found damaged when it is 40 days old: whoever of that week is still there takes its place, and marks are taken back.
#[test]
fn a_damaged_representative_is_replaced() {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    let monday = at("2026-10-12T02:00:00Z");
    let policy = RetentionPolicy::default();
    let now = at("2026-11-21T12:00:00Z");
    let whole = planned(&facts(all.clone()), &policy, now);
    let week = |b: &dozo_catalog::BackupFacts| (monday..at("2026-10-19T00:00:00Z")).contains(&b.started);
    // What a night before had doomed is gone; the last three days of that week are marked, and within their grace.
    all.retain(|b| !week(b) || b.started == monday || b.started > at("2026-10-15T12:00:00Z"));
    let went = gone(&whole);
    for b in &mut all {
        b.mark = went.contains(&b.id).then(|| dozo_catalog::Mark { due: b.started + (38 * 24).hours(), reason: "old".into() });
        if b.started == monday {
            (b.good, b.verified, b.state) = (false, false, "damaged");
        }
    }
    let plan = planned(&facts(all.clone()), &policy, now);
    let friday = plan.backups.iter().find(|v| v.started == at("2026-10-16T02:00:00Z")).unwrap();
    assert_eq!((friday.action, friday.tiers.as_slice()), (Action::TakeBack, [Tier::Weekly].as_slice()));
    let saturday = plan.backups.iter().find(|v| v.started == at("2026-10-17T02:00:00Z")).unwrap();
    assert_eq!(saturday.action, Action::Marked);
    let first = plan.backups.iter().find(|v| v.started == monday).unwrap();
    assert_eq!((first.action, first.reasons[0].as_str()), (Action::Mark, "damaged, and older than 30 days"));
}

/// The others of a week stay until its first one was verified.
#[test]
fn alternates_wait_for_a_verification() {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    let policy = RetentionPolicy { monthly: Period::OFF, ..RetentionPolicy::default() };
    let now = at("2026-11-21T12:00:00Z");
    let monday = at("2026-09-28T02:00:00Z");
    for b in all.iter_mut().filter(|b| b.started == monday) {
        b.verified = false;
    }
    let plan = planned(&facts(all), &policy, now);
    let days = days_kept(&plan, "UTC");
    for day in 28..=30 {
        assert!(days.contains(&format!("2026-09-{day}")));
    }
    assert!(days.contains(&"2026-10-04".to_owned()) && !days.contains(&"2026-10-06".to_owned()), "{days:?}");
    let sunday = plan.backups.iter().find(|v| v.started == at("2026-10-04T02:00:00Z")).unwrap();
    assert!(matches!(&sunday.kept[0], Kept::Stands { period, .. } if period == "2026-W40"));
    assert_eq!(sunday.goes, None);
}

/// 02:00 in Tokyo is the evening before in UTC: months and weeks are those of the policy's clock.
#[test]
fn midnight_and_month_ends_in_tokyo_and_utc() {
    let all = facts(nights("2026-03-01", "2026-11-21", "Asia/Tokyo"));
    let now = at("2026-11-21T12:00:00Z");
    let monthly = |policy: RetentionPolicy| {
        let plan = planned(&all, &RetentionPolicy { daily: Period::OFF, weekly: Period::OFF, min_keep: 0, ..policy }, now);
        days_kept(&plan, "Asia/Tokyo")
    };
    let tokyo_days = monthly(tokyo());
    assert_eq!(tokyo_days[..3], ["2026-03-01", "2026-04-01", "2026-05-01"]);
    // By UTC the night of 1 April belongs to 31 March: the first one of April was made on the 2nd in Tokyo.
    let utc_days = monthly(RetentionPolicy::default());
    assert_eq!(utc_days[..3], ["2026-03-01", "2026-03-02", "2026-04-02"]);
    // The same with weeks: Monday 02:00 in Tokyo is Sunday in UTC.
    let weekly = |policy: RetentionPolicy| {
        let off = RetentionPolicy { daily: Period::OFF, monthly: Period::OFF, min_keep: 0, ..policy };
        days_kept(&planned(&all, &off, now), "Asia/Tokyo")
    };
    assert!(weekly(tokyo()).contains(&"2026-11-16".to_owned()));
    assert!(weekly(RetentionPolicy::default()).contains(&"2026-11-17".to_owned()));
    // Weeks that begin on Sunday.
    let sunday = RetentionPolicy { week_start: jiff::civil::Weekday::Sunday, ..tokyo() };
    assert!(weekly(sunday).contains(&"2026-11-15".to_owned()));
}

/// The hour that is there twice or not at all moves nothing: days have 24 hours, months end at the same hour of the clock.
#[test]
fn daylight_saving_time() {
    let zone = "America/New_York";
    let policy = RetentionPolicy { time_zone: zone.into(), weekly: Period::OFF, min_keep: 0, ..RetentionPolicy::default() };
    // Clocks went back on 1 November 2026; the 02:00 of 8 March was skipped, its backup was made at 03:00.
    let all = nights("2025-11-01", "2026-11-15", zone);
    assert!(all.iter().any(|b| b.started == at("2026-03-08T07:00:00Z")));
    let plan = planned(&facts(all.clone()), &policy, at("2026-11-15T12:00:00Z"));
    let days = days_kept(&plan, zone);
    // Thirty days of 24 hours before 02:00 EST are 03:00 EDT: the backup of 16 October at 02:00 is an hour too old.
    assert!(days.contains(&"2026-10-17".to_owned()) && !days.contains(&"2026-10-16".to_owned()), "{days:?}");
    assert_eq!(days.iter().filter(|d| d.ends_with("-01")).count(), 12, "{days:?}");
    assert!(days.contains(&"2025-12-01".to_owned()) && !days.contains(&"2025-11-01".to_owned()));
    // A year back from noon of 1 November, at the same hour of the clock, whatever the offset was.
    let all = nights("2025-11-01", "2026-11-01", zone);
    let days = days_kept(&planned(&facts(all), &policy, at("2026-11-01T12:00:00Z")), zone);
    assert!(days.contains(&"2025-11-01".to_owned()), "{days:?}");
}

#[test]
fn the_29th_of_february() {
    let policy =
        RetentionPolicy { daily: Period::days(7), weekly: Period::OFF, monthly: Period::Months(1), ..RetentionPolicy::default() };
    let all = nights("2028-01-25", "2028-02-29", "UTC");
    // One month back from 29 February is 29 January: the first of February is within, that of January (the 25th) is not.
    let days = days_kept(&planned(&facts(all), &policy, at("2028-02-29T12:00:00Z")), "UTC");
    assert!(days.contains(&"2028-02-01".to_owned()) && !days.contains(&"2028-01-25".to_owned()), "{days:?}");
    let yearly = RetentionPolicy { monthly: Period::OFF, yearly: Period::Months(12), ..policy };
    let mut some = vec![backup(0, at("2028-02-29T02:00:00Z"))];
    some.extend(nights("2029-02-25", "2029-02-28", "UTC").into_iter().map(|b| backup(7, b.started)));
    // A year after 29 February is 28 February, and the end of a period still counts.
    let days = days_kept(&planned(&facts(some), &yearly, at("2029-02-28T12:00:00Z")), "UTC");
    assert!(days.contains(&"2028-02-29".to_owned()), "{days:?}");
}

#[test]
fn a_source_with_seven_days() {
    let mut all = nights("2026-09-01", "2026-11-21", "UTC");
    all.extend(
        nights("2026-09-01", "2026-11-21", "UTC").into_iter().map(|b| dozo_catalog::BackupFacts { source: source("crm"), ..b }),
    );
    let (usual, short) = (RetentionPolicy::default(), RetentionPolicy { daily: Period::days(7), ..RetentionPolicy::default() });
    let plan = plan(&facts(all), |s| if s.as_str() == "crm" { &short } else { &usual }, at("2026-11-21T12:00:00Z"));
    let daily = |name: &str| plan.backups.iter().filter(|v| v.source.as_str() == name && v.tiers.contains(&Tier::Daily)).count();
    assert_eq!((daily("shop"), daily("crm")), (31, 8));
    let crm = plan.source(&source("crm")).unwrap();
    assert!(crm.too_many && crm.deletes == 61 && crm.standing == 82);
}

/// After an upgrade to another cluster the old backups keep their newest, until somebody says that the new ones continue them.
#[test]
fn a_server_upgrade_and_rebind() {
    let mut all = nights("2026-08-01", "2026-11-21", "UTC");
    for b in all.iter_mut().filter(|b| b.started > at("2026-10-01T00:00:00Z")) {
        b.incarnation = Some("7002".into());
    }
    let (policy, now) = (RetentionPolicy::default(), at("2026-11-21T12:00:00Z"));
    let mut facts = facts(all);
    let days = days_kept(&planned(&facts, &policy, now), "UTC");
    assert!(
        (1..=30).all(|d| days.contains(&format!("2026-09-{d:02}"))),
        "the old server's nights are as young as its newest: {days:?}"
    );
    facts.joined.insert(source("shop"), vec![vec!["7001".into(), "7002".into()]]);
    let days = days_kept(&planned(&facts, &policy, now), "UTC");
    assert!(!days.contains(&"2026-09-30".to_owned()) && days.contains(&"2026-09-28".to_owned()), "{days:?}");
    let whole = planned(&Facts { backups: nights("2026-08-01", "2026-11-21", "UTC"), ..Facts::default() }, &policy, now);
    assert_eq!(days, days_kept(&whole, "UTC"));
    let servers = facts.incarnations(&source("shop"));
    assert_eq!(
        servers.iter().map(|s| (s.server.as_deref().unwrap(), s.backups)).collect::<Vec<_>>(),
        [("7001", 61), ("7002", 52)]
    );
}

/// The first of a month is a daily one, then a weekly one, and in the end it stands for its month.
#[test]
fn promotion_to_monthly() {
    let policy = RetentionPolicy::default();
    let first = at("2026-06-01T02:00:00Z");
    let tiers = |last: &str| {
        let plan = planned(&facts(nights("2026-05-01", last, "UTC")), &policy, at(&format!("{last}T12:00:00Z")));
        plan.backups.iter().find(|v| v.started == first).map(|v| (v.action, v.tiers.clone())).unwrap()
    };
    use Tier::{Daily, Monthly, Weekly};
    assert_eq!(tiers("2026-07-01"), (Action::Keep, vec![Daily, Weekly, Monthly]));
    assert_eq!(tiers("2026-07-02"), (Action::Keep, vec![Weekly, Monthly]));
    assert_eq!(tiers("2026-09-02"), (Action::Keep, vec![Monthly]));
    assert_eq!(tiers("2027-06-01"), (Action::Keep, vec![Monthly]));
    assert_eq!(tiers("2027-06-02"), (Action::Mark, vec![]));
}

/// What only it holds, and what a plan frees.
#[test]
fn bytes_are_counted_once() {
    let mut all = nights("2026-10-01", "2026-11-21", "UTC");
    let last = all.len() as u32;
    for (n, b) in all.iter_mut().enumerate() {
        // Each names its own object of 10 bytes, one of 1000 that the whole month shares, and one of 1 that all share.
        b.objects = vec![n as u32, last + u32::from(n >= 31), last + 2];
    }
    let mut objects = vec![10; last as usize];
    objects.extend([1000, 1000, 1]);
    let facts = Facts { objects, ..facts(all) };
    let plan = planned(&facts, &RetentionPolicy::default(), at("2026-11-21T12:00:00Z"));
    let gone = gone(&plan).len() as u64;
    assert!(plan.backups.iter().all(|v| v.only_bytes == 10));
    assert_eq!((plan.frees, gone), (10 * gone, 17));
}
