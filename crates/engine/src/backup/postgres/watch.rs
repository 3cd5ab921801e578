//! Looks around while a backup runs: who waits behind its locks, how far replicas lag, how full the repository's disk is.
//!
//! One task with a connection of its own, from the first lock to the manifest. It pauses the workers through the [`Gate`] and
//! ends the run through its error. *Invariant*: nobody waits unnoticed behind our locks for longer than `max-block` and a
//! look. *Crash behaviour*: it changes nothing; a watch that cannot look is a warning.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dozo_model::human_duration;
use dozo_postgres::{ConnInfo, Replica, Session, Waiting, replicas, waiting_behind};
use dozo_store::Store;

use crate::backup::gate::Gate;
use crate::backup::warnings::Warnings;
use crate::context::{OnBlock, PostgresSettings, RepositorySettings};
use crate::{EngineError, Result};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);
/// While workers are paused.
const EVERY_PAUSED: Duration = Duration::from_millis(100);
/// Between two looks at the disk.
const EVERY_DISK: Duration = Duration::from_secs(2);

/// Backends that hold locks of this run.
#[derive(Debug, Clone, Default)]
pub(crate) struct OurBackends(Arc<Mutex<Vec<i32>>>);

impl OurBackends {
    pub(crate) fn add(&self, pid: i32) {
        if let Ok(mut pids) = self.0.lock() {
            pids.push(pid);
        }
    }

    fn all(&self) -> Vec<i32> {
        self.0.lock().map(|pids| pids.clone()).unwrap_or_default()
    }
}

/// What the task needs.
pub(crate) struct Watch<'a> {
    pub(crate) info: &'a ConnInfo,
    pub(crate) source: &'a PostgresSettings,
    pub(crate) repository: &'a RepositorySettings,
    pub(crate) store: &'a Store,
    pub(crate) gate: &'a Gate,
    pub(crate) ours: &'a OurBackends,
    pub(crate) warnings: &'a Warnings,
}

impl Watch<'_> {
    /// Looks until it is dropped, or until the run must end.
    ///
    /// # Errors
    /// [`EngineError::Blocking`], [`EngineError::LowSpace`].
    pub(crate) async fn run(self) -> Result<()> {
        let mut told: HashSet<i32> = HashSet::new();
        let mut lag = self.source.max_replication_lag.map(LagTracker::new);
        let mut disk = Instant::now();
        let mut session = Session::connect_as(self.info, "dozo watch").await;
        loop {
            let looked = match &session {
                Ok(session) => self.look(session, &mut told, &mut lag).await?,
                Err(e) => Err(e.to_string()),
            };
            if let Err(why) = looked {
                session = Session::connect_as(self.info, "dozo watch").await;
                if session.is_err() {
                    self.warnings
                        .add(format!("nobody watches who waits behind the locks of this backup, nor the replicas: {why}"));
                    // A pause that nobody can end would be worse.
                    self.gate.pause(false);
                    return std::future::pending().await;
                }
            }
            if disk.elapsed() >= EVERY_DISK {
                disk = Instant::now();
                self.repository.check_space(self.store)?;
            }
            let paused = lag.as_ref().is_some_and(|l| l.paused);
            tokio::time::sleep(if paused { EVERY_PAUSED } else { EVERY }).await;
        }
    }

    /// Looks once; the inner error says why nothing could be seen.
    async fn look(
        &self,
        session: &Session,
        told: &mut HashSet<i32>,
        lag: &mut Option<LagTracker>,
    ) -> Result<std::result::Result<(), String>> {
        match waiting_behind(session, &self.ours.all()).await {
            Ok(waiting) => self.judge(waiting, told)?,
            Err(e) => return Ok(Err(e.to_string())),
        }
        let Some(tracker) = lag else { return Ok(Ok(())) };
        match replicas(session).await {
            Ok(Some((position, replicas))) if replicas.iter().all(|r| r.visible) => {
                if let Some(change) = tracker.look(Instant::now(), position, &replicas) {
                    if let Some(said) = change.said {
                        self.warnings.add(said);
                    }
                    self.gate.pause(change.paused);
                }
            }
            Ok(seen) => {
                if seen.is_some() {
                    self.warnings
                        .add("the lag of replicas cannot be seen (GRANT pg_monitor): this run does not wait for them".into());
                }
                // A standby has nobody to wait for; what cannot be seen cannot be waited for.
                *lag = None;
                self.gate.pause(false);
            }
            Err(e) => return Ok(Err(e.to_string())),
        }
        Ok(Ok(()))
    }

    fn judge(&self, waiting: Vec<Waiting>, told: &mut HashSet<i32>) -> Result<()> {
        let limit = self.source.max_block;
        for Waiting { pid, user, target, .. } in waiting.into_iter().filter(|w| w.seconds >= limit.as_secs_f64()) {
            let waiting = format!("pid {pid} ({user}) for {target}");
            match self.source.on_block {
                OnBlock::Warn if told.insert(pid) => {
                    self.warnings.add(format!(
                        "{waiting} has waited longer than {} behind the locks of this backup",
                        human_duration(limit)
                    ));
                }
                OnBlock::Warn => {}
                OnBlock::Release | OnBlock::Abort => {
                    return Err(EngineError::Blocking { waiting, limit: human_duration(limit) });
                }
            }
        }
        Ok(())
    }
}

/// What a look at the replicas changes.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    paused: bool,
    said: Option<String>,
}

/// Measures how long ago the primary was where a replica is now. `replay_lag` of the server's view is empty or old while a
/// replica stands still, so positions are compared with what was seen before.
struct LagTracker {
    limit: Duration,
    seen: VecDeque<(Instant, u64)>,
    /// Where the primary was at the first look: replicas must have come this far before the first row is read.
    start: Option<(Instant, u64)>,
    paused: bool,
    told: bool,
}

impl LagTracker {
    fn new(limit: Duration) -> Self {
        Self { limit, seen: VecDeque::new(), start: None, paused: true, told: false }
    }

    fn look(&mut self, now: Instant, position: u64, replicas: &[Replica]) -> Option<Change> {
        let start = *self.start.get_or_insert((now, position));
        if self.seen.back().is_none_or(|(_, last)| *last < position) {
            self.seen.push_back((now, position));
        }
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) > self.limit * 2) {
            self.seen.pop_front();
        }
        let lag = |r: &Replica| {
            let replayed = r.replayed.unwrap_or(u64::MAX);
            self.seen.iter().find(|(_, position)| *position > replayed).map_or(Duration::ZERO, |(at, _)| now.duration_since(*at))
        };
        let worst = replicas.iter().map(|r| (lag(r), &r.name)).max();
        let behind_start = replicas.iter().any(|r| r.replayed.is_some_and(|p| p < start.1));
        let too_late = worst.as_ref().filter(|(lag, _)| *lag > self.limit);
        // Until the first row is read a replica that is behind may be late already: nobody knows since when.
        let pause = too_late.is_some() || self.paused && behind_start;
        let mut said = None;
        if let Some((_, name)) = too_late.filter(|_| !self.told) {
            self.told = true;
            said = Some(format!("paused: replica {name} lags more than {} (max-replication-lag)", human_duration(self.limit)));
        }
        if !pause {
            self.told = false;
            // The start counts only once.
            self.start = Some((start.0, 0));
        }
        let changed = pause != self.paused;
        self.paused = pause;
        (changed || said.is_some()).then_some(Change { paused: pause, said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: &str, replayed: u64) -> Vec<Replica> {
        vec![Replica { name: name.into(), replayed: Some(replayed), visible: true }]
    }

    #[test]
    fn a_replica_that_keeps_up_lets_workers_go() {
        let (mut t, zero) = (LagTracker::new(Duration::from_secs(10)), Instant::now());
        assert_eq!(t.look(zero, 100, &at("a", 100)), Some(Change { paused: false, said: None }));
        assert_eq!(t.look(zero + Duration::from_secs(5), 200, &at("a", 100)), None);
        assert_eq!(t.look(zero + Duration::from_secs(6), 200, &at("a", 200)), None);
        assert_eq!(t.look(zero + Duration::from_secs(60), 200, &at("a", 200)), None, "an idle server has no lag");
        assert_eq!(t.look(zero + Duration::from_secs(61), 200, &[]), None);
    }

    #[test]
    fn one_that_stands_still_pauses_them_and_is_named_once() {
        let (mut t, zero) = (LagTracker::new(Duration::from_secs(10)), Instant::now());
        let seconds = |n| zero + Duration::from_secs(n);
        let _ = t.look(zero, 100, &at("a", 100));
        assert_eq!(t.look(seconds(1), 200, &at("a", 100)), None);
        assert_eq!(t.look(seconds(11), 300, &at("a", 100)), None);
        let change = t.look(seconds(12), 300, &at("a", 100)).unwrap();
        assert!(change.paused && change.said.unwrap().starts_with("paused: replica a lags more than 10.0 s"));
        assert_eq!(t.look(seconds(13), 400, &at("a", 100)), None);
        assert_eq!(t.look(seconds(14), 400, &at("a", 400)), Some(Change { paused: false, said: None }));
    }

    #[test]
    fn one_that_is_behind_at_the_start_is_waited_for() {
        let (mut t, zero) = (LagTracker::new(Duration::from_secs(10)), Instant::now());
        let seconds = |n| zero + Duration::from_secs(n);
        assert_eq!(t.look(zero, 100, &at("a", 50)), None, "workers begin paused");
        assert!(t.look(seconds(11), 100, &at("a", 50)).unwrap().said.is_some());
        assert_eq!(t.look(seconds(12), 100, &at("a", 100)), Some(Change { paused: false, said: None }));
    }
}
