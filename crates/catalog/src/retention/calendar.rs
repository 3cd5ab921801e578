//! Weeks, months and years, by the policy's clock.

use dozo_model::{RetentionPolicy, Tier, Timestamp};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan};

/// A week, month or year of a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CalendarPeriod {
    tier: Tier,
    /// Its first day.
    first: Date,
    iso: bool,
}

impl CalendarPeriod {
    /// Returns the one that an instant lies in; none for the daily tier, which keeps all.
    pub(crate) fn of(tier: Tier, at: Timestamp, policy: &RetentionPolicy, zone: &TimeZone) -> Option<Self> {
        let date = at.to_zoned(zone.clone()).date();
        let iso = policy.week_start == jiff::civil::Weekday::Monday;
        let back: Span = match tier {
            Tier::Daily => return None,
            Tier::Weekly => i64::from(date.weekday().since(policy.week_start)).days(),
            Tier::Monthly => (i64::from(date.day()) - 1).days(),
            Tier::Yearly => (i64::from(date.day_of_year()) - 1).days(),
        };
        Some(Self { tier, first: date.checked_sub(back).unwrap_or(date), iso })
    }

    pub(crate) fn name(self) -> String {
        match self.tier {
            Tier::Daily => self.first.to_string(),
            Tier::Weekly if self.iso => {
                let week = self.first.iso_week_date();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Tier::Weekly => format!("the week of {}", self.first),
            Tier::Monthly => format!("{}-{:02}", self.first.year(), self.first.month()),
            Tier::Yearly => self.first.year().to_string(),
        }
    }
}
