//! What holds workers back: a limit on bytes per second, and a pause while replicas lag.
//!
//! Workers pass the gate between blocks of rows, so a pause takes effect within a block; the connection's own flow control
//! stops the server.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::{EngineError, Result};

/// How often a waiting worker looks whether it was cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Shared by all workers of a run.
#[derive(Debug)]
pub(crate) struct Gate {
    rate: Option<u64>,
    /// When the next byte may pass.
    free_at: Mutex<Instant>,
    paused: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self { rate, free_at: Mutex::new(Instant::now()), paused: Mutex::new(false), changed: Condvar::new() }
    }

    /// Holds all workers, or lets them go on.
    pub(crate) fn pause(&self, paused: bool) {
        if let Ok(mut state) = self.paused.lock() {
            *state = paused;
            self.changed.notify_all();
        }
    }

    /// Books `bytes`, and returns how long they have to wait.
    pub(crate) fn cost(&self, bytes: u64) -> Duration {
        let (Some(rate), Ok(mut free_at)) = (self.rate, self.free_at.lock()) else { return Duration::ZERO };
        #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        *free_at = (*free_at).max(Instant::now()) + cost;
        free_at.saturating_duration_since(Instant::now())
    }

    /// Waits until `bytes` may pass.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`].
    pub(crate) fn pass(&self, bytes: u64, cancel: &CancellationToken) -> Result<()> {
        let broken = || EngineError::Internal("a worker panicked".into());
        let mut paused = self.paused.lock().map_err(|_| broken())?;
        while *paused {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            paused = self.changed.wait_timeout(paused, LOOK).map_err(|_| broken())?.0;
        }
        drop(paused);
        let until = Instant::now() + self.cost(bytes);
        while Instant::now() < until {
            if cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nobody_passes_while_it_is_closed_and_a_cancelled_one_gives_up() {
        let gate = Arc::new(Gate::new(None));
        gate.pause(true);
        let cancel = CancellationToken::new();
        let worker = {
            let (gate, cancel) = (Arc::clone(&gate), cancel.clone());
            std::thread::spawn(move || gate.pass(1, &cancel))
        };
        std::thread::sleep(Duration::from_millis(20));
        assert!(!worker.is_finished());
        cancel.cancel();
        assert!(matches!(worker.join().unwrap(), Err(EngineError::Cancelled)));
        gate.pause(false);
        assert!(gate.pass(1, &CancellationToken::new()).is_ok());
    }

    #[test]
    fn the_rate_is_shared() {
        let gate = Gate::new(Some(1_000_000));
        let cancel = CancellationToken::new();
        let began = Instant::now();
        (0..4).for_each(|_| gate.pass(25_000, &cancel).unwrap());
        assert!(began.elapsed() >= Duration::from_millis(95));
    }
}
