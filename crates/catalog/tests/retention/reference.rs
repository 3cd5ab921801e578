//! The rules once more, naively: day by day, by arithmetic of its own on days since 1970, in a zone of a fixed offset.

use std::collections::BTreeSet;

use dozo_catalog::BackupFacts;
use dozo_model::{BackupId, Period, RetentionPolicy, Timestamp};

/// Days since 1970-01-01 to year, month, day (H. Hinnant, chrono-compatible low-level date algorithms).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y.rem_euclid(400);
    let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn month_length(year: i64, month: i64) -> i64 {
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_of(next.0, next.1, 1) - days_of(year, month, 1)
}

/// The instant so many months before `second`, in a zone `offset` seconds east.
fn months_back(second: i64, months: i64, offset: i64) -> i64 {
    let local = second + offset;
    let (year, month, day) = civil(local.div_euclid(86_400));
    let count = year * 12 + month - 1 - months;
    let (y, m) = (count.div_euclid(12), count.rem_euclid(12) + 1);
    days_of(y, m, day.min(month_length(y, m))) * 86_400 + local.rem_euclid(86_400) - offset
}

fn limit(period: Period, anchor: i64, offset: i64) -> Option<i64> {
    match period {
        Period::Time(t) if t.is_zero() => None,
        Period::Time(t) => Some(anchor - i64::try_from(t.as_secs()).unwrap()),
        Period::Months(0) => None,
        Period::Months(n) => Some(months_back(anchor, i64::from(n), offset)),
        Period::Forever => Some(i64::MIN),
    }
}

/// What stays of one source and server, without needs, holds and WAL. `offset` is that of the policy's zone.
pub(crate) fn stays(all: &[BackupFacts], policy: &RetentionPolicy, now: Timestamp, offset: i64) -> BTreeSet<BackupId> {
    let is_good = |b: &BackupFacts| b.good && (b.verified || !policy.require_verified);
    let second = |b: &BackupFacts| b.started.as_second();
    let mut past: Vec<&BackupFacts> = all.iter().filter(|b| second(b) <= now.as_second() + 600).collect();
    past.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
    let mut stays: BTreeSet<BackupId> = all.iter().filter(|b| second(b) > now.as_second() + 600).map(|b| b.id.clone()).collect();
    stays.extend(past.last().map(|b| b.id.clone()));
    let good: Vec<&BackupFacts> = past.iter().copied().filter(|b| is_good(b)).collect();
    let Some(newest) = good.last() else {
        stays.extend(past.iter().map(|b| b.id.clone()));
        return stays;
    };
    let anchor = second(newest);
    for b in good.iter().rev().take(policy.min_keep.max(policy.keep_last).max(1)) {
        stays.insert(b.id.clone());
    }
    for b in &past {
        if limit(policy.daily, anchor, offset).is_some_and(|l| second(b) >= l) {
            stays.insert(b.id.clone());
        }
    }
    // Every day from the first backup to the newest; on the first day of a week, month or year another one begins.
    let (Some(first), day) = (good.first(), |b: &BackupFacts| (second(b) + offset).div_euclid(86_400)) else { return stays };
    type Begins = fn(i64) -> bool;
    let starts: [(Period, Begins); 3] = [
        // 1970-01-01 was a Thursday.
        (policy.weekly, |d| (d + 3).rem_euclid(7) == 0),
        (policy.monthly, |d| civil(d).2 == 1),
        (policy.yearly, |d| civil(d).1 == 1 && civil(d).2 == 1),
    ];
    for (period, begins) in starts {
        let Some(limit) = limit(period, anchor, offset) else { continue };
        let mut chosen: Option<&BackupFacts> = None;
        for d in day(first)..=day(newest) {
            if begins(d) {
                chosen = None;
            }
            for b in good.iter().filter(|b| day(b) == d) {
                let representative = *chosen.get_or_insert(b);
                let serves = representative.id == b.id || !representative.verified;
                if second(representative) >= limit && serves {
                    stays.insert(b.id.clone());
                }
            }
        }
    }
    stays
}

#[test]
fn its_own_calendar_is_right() {
    for (days, date) in [(0, (1970, 1, 1)), (19_782, (2024, 2, 29)), (-1, (1969, 12, 31)), (20_778, (2026, 11, 21))] {
        assert_eq!(civil(days), date);
        assert_eq!(days_of(date.0, date.1, date.2), days);
    }
    let at = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
    assert_eq!(months_back(at("2026-03-31T02:00:00Z"), 1, 0), at("2026-02-28T02:00:00Z"));
    assert_eq!(months_back(at("2026-03-31T17:00:00Z"), 3, 9 * 3600), at("2025-12-31T17:00:00Z"));
}
