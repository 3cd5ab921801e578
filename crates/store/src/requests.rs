//! What a store was asked, and how fast it may be fed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::Mutex;

use crate::Operation;

/// Counts requests while they are made.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    by_operation: [AtomicU64; Operation::ALL.len()],
    repeated: AtomicU64,
    /// Something has answered.
    reached: AtomicBool,
}

impl Requests {
    pub(crate) fn reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, operation: Operation) {
        self.by_operation[operation as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn repeat(&self) {
        self.repeated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn so_far(&self) -> RequestCounts {
        let count = |o: Operation| self.by_operation[o as usize].load(Ordering::Relaxed);
        RequestCounts {
            by_operation: Operation::ALL.into_iter().map(|o| (o, count(o))).filter(|(_, n)| *n > 0).collect(),
            repeated: self.repeated.load(Ordering::Relaxed),
        }
    }
}

/// How many requests a store was sent. A listing counts once, however many pages it has; what the HTTP client repeats by itself is not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// By what they do.
    #[serde(flatten)]
    pub by_operation: BTreeMap<Operation, u64>,
    /// Of these, those that were sent again after a failure.
    pub repeated: u64,
}

impl RequestCounts {
    /// Returns how many there were in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_operation.values().sum()
    }

    /// Returns what was counted since an earlier count.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |o: &Operation| earlier.by_operation.get(o).copied().unwrap_or(0);
        let counts = self.by_operation.iter().map(|(o, n)| (*o, n.saturating_sub(before(o))));
        Self { by_operation: counts.filter(|(_, n)| *n > 0).collect(), repeated: self.repeated.saturating_sub(earlier.repeated) }
    }
}

/// Lets so many bytes per second through.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_per_second: u64,
    /// When all that was let through will have had its time.
    free: Mutex<Instant>,
}

impl Limiter {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), free: Mutex::new(Instant::now()) }
    }

    /// Waits until `bytes` may go.
    pub(crate) async fn pass(&self, bytes: usize) {
        let wait_until = {
            let mut free = self.free.lock().await;
            let from = (*free).max(Instant::now());
            let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
            *free = from + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            from
        };
        tokio::time::sleep_until(wait_until.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_subtracted() {
        let requests = Requests::default();
        requests.count(Operation::Put);
        let before = requests.so_far();
        requests.count(Operation::Put);
        requests.count(Operation::List);
        requests.repeat();
        let since = requests.so_far().since(&before);
        assert_eq!(since.by_operation, BTreeMap::from([(Operation::Put, 1), (Operation::List, 1)]));
        assert_eq!((since.total(), since.repeated), (2, 1));
        assert_eq!(serde_json::to_value(&since).unwrap(), serde_json::json!({"put": 1, "list": 1, "repeated": 1}));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let limiter = Limiter { bytes_per_second: 1000, free: Mutex::new(tokio::time::Instant::now().into_std()) };
        let began = tokio::time::Instant::now();
        for _ in 0..3 {
            limiter.pass(2000).await;
        }
        // The third waits for the two before it.
        assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    }
}
