//! Time as an argument: everything that asks for "now" takes a [`Clock`], so plans can be rehearsed.

/// An instant, serialized as RFC 3339 in UTC.
pub type Timestamp = jiff::Timestamp;

/// Returns year (0 = 1 BC), month and day of a day counted from 1970-01-01, proleptic Gregorian. Source: Howard Hinnant,
/// `civil_from_days` (<https://howardhinnant.github.io/date_algorithms.html>), in 64 bits.
#[must_use]
#[inline]
pub fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// Tells the current time.
pub trait Clock: Send + Sync {
    /// Returns the current instant.
    fn now(&self) -> Timestamp;
    /// Returns the instant that everything is to be dated with, where somebody named one; then no other clock is asked.
    fn fixed(&self) -> Option<Timestamp> {
        None
    }
}

/// The clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that stands still: `--now`, and tests.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn fixed(&self) -> Option<Timestamp> {
        Some(self.0)
    }
}
