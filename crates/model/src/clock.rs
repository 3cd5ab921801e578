//! Time as an argument: everything that asks for "now" takes a [`Clock`], so plans can be rehearsed.

/// An instant, serialized as RFC 3339 in UTC.
pub type Timestamp = jiff::Timestamp;

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
