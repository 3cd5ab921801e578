//! How long backups are kept: tiers, periods, and the calendar that they are counted by.
//!
//! Place in the flow: configuration → **policy** → planner (catalog). *Invariants*: a period is counted back from the start of a source's
//! newest good backup, never from the clock; months are calendar months in the policy's time zone, cut to the last day where a month
//! is shorter.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use serde::{Serialize, Serializer};

use crate::units::{Span, UnitError};
use crate::{Timestamp, human_duration};

/// For how long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// So long; zero = not at all.
    Time(Duration),
    /// So many calendar months; a year has twelve.
    Months(u32),
    /// For ever.
    Forever,
}

impl Period {
    /// Not at all.
    pub const OFF: Self = Self::Time(Duration::ZERO);

    /// Returns a period of days of 24 hours.
    #[must_use]
    pub const fn days(days: u64) -> Self {
        Self::Time(Duration::from_secs(days * 86400))
    }

    /// Tells whether it keeps nothing.
    #[must_use]
    pub fn is_off(self) -> bool {
        matches!(self, Self::Time(Duration::ZERO) | Self::Months(0))
    }

    /// Tells whether what began at `start` is kept when the newest began at `anchor`.
    #[must_use]
    pub fn keeps(self, start: Timestamp, anchor: Timestamp, zone: &TimeZone) -> bool {
        if self.is_off() {
            return false;
        }
        // What lies before the first representable instant is before nothing.
        self.limit(anchor, zone).is_none_or(|limit| start >= limit)
    }

    /// Returns the earliest start that is kept when the newest began at `anchor`; none = every one.
    #[must_use]
    pub fn limit(self, anchor: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Time(time) => anchor.checked_sub(time).ok(),
            Self::Months(months) => {
                let back = anchor.to_zoned(zone.clone()).checked_sub(i64::from(months).months());
                back.ok().map(|z: Zoned| z.timestamp())
            }
            Self::Forever => None,
        }
    }

    /// Returns the last instant, to the day where it is counted in months, at which a newest one keeps what began at `start`; none = always
    /// or never.
    #[must_use]
    pub fn until(self, start: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            _ if self.is_off() => None,
            Self::Time(time) => start.checked_add(time).ok(),
            Self::Months(months) => {
                let mut last = start.to_zoned(zone.clone()).checked_add(i64::from(months).months()).ok()?;
                // Months of different lengths: from a 31st, more than one day counts back to it.
                while let Ok(next) = last.checked_add(1.day())
                    && self.keeps(start, next.timestamp(), zone)
                {
                    last = next;
                }
                Some(last.timestamp())
            }
            Self::Forever => None,
        }
    }

    /// Tells whether it is surely shorter than another one.
    #[must_use]
    pub fn shorter_than(self, other: Self) -> bool {
        let days = |period, month: u64| match period {
            Self::Time(time) => time,
            Self::Months(months) => Duration::from_secs(u64::from(months) * month * 86400),
            Self::Forever => Duration::MAX,
        };
        match (self, other) {
            (Self::Months(one), Self::Months(other)) => one < other,
            // Months have 28 to 31 days.
            _ => days(self, 31) < days(other, 28),
        }
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        if trimmed == "forever" {
            return Ok(Self::Forever);
        }
        let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let months = match trimmed[end..].trim_start() {
            "mo" | "month" | "months" => 1,
            "y" | "year" | "years" => 12,
            _ => {
                return text.parse().map(|Span(time)| Self::Time(time)).map_err(|e| match e {
                    UnitError::Span(text) => UnitError::Period(text),
                    other => other,
                });
            }
        };
        let number: u32 = trimmed[..end].parse().map_err(|_| UnitError::Period(text.to_owned()))?;
        // A thousand years and more are a slip.
        let months = number.checked_mul(months).filter(|m| *m <= 12_000);
        months.map(Self::Months).ok_or_else(|| UnitError::Period(text.to_owned()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
        match self {
            _ if self.is_off() => f.write_str("0 days"),
            Self::Time(time) if time.as_secs() % 86400 == 0 && time.subsec_nanos() == 0 => {
                f.write_str(&plural(time.as_secs() / 86400, "day"))
            }
            Self::Time(time) => f.write_str(&human_duration(*time)),
            Self::Months(n) if n % 12 == 0 => f.write_str(&plural(u64::from(n / 12), "year")),
            Self::Months(n) => f.write_str(&plural(u64::from(*n), "month")),
            Self::Forever => f.write_str("forever"),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A tier of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Every good backup.
    Daily,
    /// The first good one of each week.
    Weekly,
    /// The first good one of each month.
    Monthly,
    /// The first good one of each year.
    Yearly,
}

impl Tier {
    /// All of them, the shortest first.
    pub const ALL: [Self; 4] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    /// Returns the word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|t| t.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is not daily, weekly, monthly or yearly"))
    }
}

/// What is kept of a source, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RetentionPolicy {
    /// Every good backup.
    pub daily: Period,
    /// The first good one of each week.
    pub weekly: Period,
    /// The first good one of each month.
    pub monthly: Period,
    /// The first good one of each year.
    pub yearly: Period,
    /// So many of the newest good ones, whatever their age.
    pub keep_last: usize,
    /// Fewer good ones than this are never left.
    pub min_keep: usize,
    /// Window of point-in-time recovery.
    #[serde(serialize_with = "seconds")]
    pub wal: Duration,
    /// A backup is good only once its content was verified.
    pub require_verified: bool,
    /// A source whose newest good backup is older than this raises an alarm.
    #[serde(serialize_with = "seconds")]
    pub max_age: Duration,
    /// Percent of a source's backups that one plan may delete without being confirmed.
    pub max_delete: u8,
    /// A marked backup can be taken back for so long.
    #[serde(serialize_with = "seconds")]
    pub grace: Duration,
    /// Calendar of weeks, months and years (IANA name).
    pub time_zone: String,
    /// First day of a week.
    #[serde(serialize_with = "weekday")]
    pub week_start: Weekday,
}

fn seconds<S: Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(time.as_secs())
}

fn weekday<S: Serializer>(day: &Weekday, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(weekday_name(*day))
}

/// Returns the name of a day of the week.
#[must_use]
pub fn weekday_name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            daily: Period::days(30),
            weekly: Period::Months(3),
            monthly: Period::Months(12),
            yearly: Period::OFF,
            keep_last: 0,
            min_keep: 3,
            wal: Duration::from_secs(30 * 86400),
            require_verified: false,
            max_age: Duration::from_secs(26 * 3600),
            max_delete: 50,
            grace: Duration::from_secs(7 * 86400),
            time_zone: "UTC".into(),
            week_start: Weekday::Monday,
        }
    }
}

impl RetentionPolicy {
    /// Returns the period of a tier.
    #[must_use]
    pub fn period(&self, tier: Tier) -> Period {
        match tier {
            Tier::Daily => self.daily,
            Tier::Weekly => self.weekly,
            Tier::Monthly => self.monthly,
            Tier::Yearly => self.yearly,
        }
    }

    /// Tells whether a source has no good backup that is young enough.
    #[must_use]
    pub fn late(&self, newest_good: Option<Timestamp>, now: Timestamp) -> bool {
        let limit = jiff::SignedDuration::try_from(self.max_age).unwrap_or(jiff::SignedDuration::MAX);
        newest_good.is_none_or(|at| now.duration_since(at) > limit)
    }

    /// Returns the calendar; UTC where the name is not known.
    #[must_use]
    pub fn zone(&self) -> TimeZone {
        TimeZone::get(&self.time_zone).unwrap_or(TimeZone::UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn periods_are_read_and_written() {
        for (text, period, shown) in [
            ("30d", Period::days(30), "30 days"),
            ("2w", Period::days(14), "14 days"),
            ("1 day", Period::days(1), "1 day"),
            ("36h", Period::Time(Duration::from_secs(129_600)), "1 d 12 h"),
            ("3 months", Period::Months(3), "3 months"),
            ("12mo", Period::Months(12), "1 year"),
            ("1 year", Period::Months(12), "1 year"),
            ("7y", Period::Months(84), "7 years"),
            ("0d", Period::OFF, "0 days"),
            ("forever", Period::Forever, "forever"),
        ] {
            assert_eq!(text.parse(), Ok(period), "{text}");
            assert_eq!(period.to_string(), shown);
        }
        assert_eq!("3m".parse::<Period>(), Err(UnitError::Ambiguous("3m".into())));
        for bad in ["", "months", "-1 month", "3 moons", "1.5 years", "99999999999 years", "5000 years"] {
            assert!(matches!(bad.parse::<Period>(), Err(UnitError::Period(_))), "{bad}");
        }
    }

    #[test]
    fn the_end_of_a_period_still_counts() {
        let utc = TimeZone::UTC;
        let start = at("2026-01-01T02:00:00Z");
        let day = Period::days(30);
        assert!(day.keeps(start, at("2026-01-31T02:00:00Z"), &utc) && !day.keeps(start, at("2026-01-31T02:00:01Z"), &utc));
        assert_eq!(day.until(start, &utc), Some(at("2026-01-31T02:00:00Z")));
        let months = Period::Months(3);
        assert!(months.keeps(start, at("2026-04-01T02:00:00Z"), &utc) && !months.keeps(start, at("2026-04-01T02:00:01Z"), &utc));
        assert!(!Period::OFF.keeps(start, start, &utc) && Period::Forever.keeps(start, at("2999-01-01T00:00:00Z"), &utc));
        assert_eq!(Period::Forever.until(start, &utc), None);
    }

    #[test]
    fn months_end_where_a_month_is_shorter() {
        let utc = TimeZone::UTC;
        // One month back from 31 March is 28 February, from 29 March also.
        let (start, month) = (at("2026-02-28T02:00:00Z"), Period::Months(1));
        assert!(month.keeps(start, at("2026-03-31T02:00:00Z"), &utc) && !month.keeps(start, at("2026-04-01T02:00:00Z"), &utc));
        assert_eq!(month.until(start, &utc), Some(at("2026-03-31T02:00:00Z")));
        let (leap, year) = (at("2028-02-29T02:00:00Z"), Period::Months(12));
        assert!(year.keeps(leap, at("2029-02-28T02:00:00Z"), &utc) && !year.keeps(leap, at("2029-03-01T02:00:00Z"), &utc));
    }

    #[test]
    fn months_are_those_of_the_time_zone() {
        let tokyo = TimeZone::get("Asia/Tokyo").unwrap();
        // 02:00 on 1 April in Tokyo is 31 March in UTC, and 1 January is one month further back than 31 December.
        let anchor = at("2026-03-31T17:00:00Z");
        assert_eq!(Period::Months(3).limit(anchor, &tokyo), Some(at("2025-12-31T17:00:00Z")));
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        // Summer time begins on 29 March: the same hour of the clock.
        assert_eq!(Period::Months(1).limit(at("2026-04-15T00:00:00Z"), &berlin), Some(at("2026-03-15T01:00:00Z")));
    }
}
