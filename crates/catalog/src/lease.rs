//! Courtesy leases: one backup of a source at a time, so that work is not done twice.
//!
//! A lease is a row of create-only records `leases/<source>/<n>.json`; the greatest `n` counts, and whoever creates
//! `n + 1` has it. A holder lets its counter grow every [`LeaseTimes::heartbeat`]. *Crash behaviour*: a holder that ran on this
//! host and is dead is replaced at once; any other only when its counter stood still for [`LeaseTimes::dead_after`] by the
//! reader's own monotonic clock. A record that is old by its date is watched for that long even by a run that was not to wait. Safety does not rest on it: fates are decided by the manifest's key.

use std::sync::Arc;
use std::time::Duration;

use dozo_model::{BackupId, Clock, FORMAT_VERSION, LeaseRecord, LeaseState, SourceName};
use dozo_store::{Layout, PutOutcome, Store};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::holder::{surely_dead, this_process};
use crate::repository::{Repository, from_json, to_json};
use crate::{CatalogError, Result};

/// The clockwork of leases. Every host of a repository has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTimes {
    /// How often a holder lets its counter grow.
    pub heartbeat: Duration,
    /// A counter that stood still for this long belongs to a dead holder.
    pub dead_after: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(30), dead_after: Duration::from_secs(600) }
    }
}

/// A lease that was taken from a dead holder: to be reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenLease {
    /// Host of the dead process.
    pub host: String,
    /// Its pid.
    pub pid: u32,
    /// Its backup, never committed.
    pub backup: BackupId,
}

/// A held lease. Dropped without [`Lease::release`], it stays until it is found dead.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    folder: String,
    current: Arc<Mutex<(u64, LeaseRecord)>>,
    stop: CancellationToken,
    /// The dead holder it was taken from.
    pub broken: Option<BrokenLease>,
}

impl Repository {
    /// Takes the lease of a source for a backup, waiting up to `wait` for another holder.
    ///
    /// # Errors
    /// [`CatalogError::LeaseHeld`], or what the store says.
    pub async fn lease(&self, source: &SourceName, backup: &BackupId, clock: Arc<dyn Clock>, wait: Duration) -> Result<Lease> {
        let started = Instant::now();
        let mut seen: Option<(u64, u64, Instant)> = None;
        loop {
            let (n, held) = self.newest_lease(source).await?;
            let dead = match &held {
                None => None,
                Some(r) if surely_dead(&r.holder) => Some(r),
                Some(r) => {
                    let since = match seen {
                        Some((n_then, counter, since)) if (n_then, counter) == (n, r.counter) => since,
                        _ => Instant::now(),
                    };
                    seen = Some((n, r.counter, since));
                    let times = self.lease_times();
                    // A record that nobody has renewed for long is watched to its end, however little was to be waited for: whoever
                    // runs once a night would find it held for ever.
                    let old = clock.now().duration_since(r.written).unsigned_abs() > 3 * times.dead_after;
                    let patience = if old { wait.max(2 * times.dead_after) } else { wait };
                    if since.elapsed() < times.dead_after {
                        if started.elapsed() >= patience {
                            return Err(CatalogError::LeaseHeld {
                                source_name: source.clone(),
                                host: r.holder.host.clone(),
                                pid: r.holder.pid,
                                backup: r.backup.clone(),
                            });
                        }
                        tokio::time::sleep(Duration::from_secs(1).min(patience)).await;
                        continue;
                    }
                    Some(r)
                }
            };
            let broken = dead.map(|r| BrokenLease { host: r.holder.host.clone(), pid: r.holder.pid, backup: r.backup.clone() });
            let record = LeaseRecord {
                format: FORMAT_VERSION,
                backup: backup.clone(),
                state: LeaseState::Held,
                counter: 0,
                holder: this_process(),
                written: clock.now(),
            };
            let folder = Layout::lease(source);
            if put(self.store(), &folder, n + 1, &record).await? {
                let lease = Lease {
                    store: self.store().clone(),
                    folder,
                    current: Arc::new(Mutex::new((n + 1, record))),
                    stop: CancellationToken::new(),
                    broken,
                };
                lease.forget_before(n + 1).await;
                lease.start_heartbeat(clock, self.lease_times().heartbeat);
                return Ok(lease);
            }
        }
    }

    /// Returns the number of the newest lease record of a source, and the record if it is held.
    pub(crate) async fn newest_lease(&self, source: &SourceName) -> Result<(u64, Option<LeaseRecord>)> {
        loop {
            let newest =
                self.store().list(&Layout::lease(source)).await?.into_iter().filter_map(|o| Some((number(&o.key)?, o.key))).max();
            let Some((n, key)) = newest else { return Ok((0, None)) };
            // It may have been replaced and removed since the listing: look again.
            if let Some(bytes) = self.store().get_opt(&key).await? {
                let record: LeaseRecord = from_json(&key, &bytes)?;
                return Ok((n, (record.state == LeaseState::Held).then_some(record)));
            }
        }
    }
}

impl Lease {
    fn start_heartbeat(&self, clock: Arc<dyn Clock>, every: Duration) {
        let (store, folder, current, stop) =
            (self.store.clone(), self.folder.clone(), Arc::clone(&self.current), self.stop.clone());
        tokio::spawn(async move {
            while tokio::time::timeout(every, stop.cancelled()).await.is_err() {
                let mut slot = current.lock().await;
                let mut next = slot.1.clone();
                next.counter += 1;
                next.written = clock.now();
                // A beat that fails is tried again by the next one; a lost lease costs work, never safety.
                let Ok(created) = put(&store, &folder, slot.0 + 1, &next).await else { continue };
                // The answer to an earlier beat may have been lost: then the record is our own.
                if created || is_ours(&store, &folder, slot.0 + 1, &next).await {
                    let old = slot.0;
                    *slot = (old + 1, next);
                    let _ = store.delete(&format!("{folder}/{old:012}.json")).await;
                }
            }
        });
    }

    async fn forget_before(&self, n: u64) {
        if let Ok(all) = self.store.list(&self.folder).await {
            for object in all.iter().filter(|o| number(&o.key).is_some_and(|k| k < n)) {
                // A host that may not delete leaves them; asking for each would change nothing.
                if self.store.delete(&object.key).await.is_err() {
                    break;
                }
            }
        }
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// What the store says; then the lease ends when it is found dead.
    pub async fn release(self) -> Result<()> {
        self.stop.cancel();
        let (n, mut record) = self.current.lock().await.clone();
        record.state = LeaseState::Released;
        // A beat whose answer was lost may have taken the next number: it is ours as well, and the one behind it free.
        for next in [n + 1, n + 2] {
            if put(&self.store, &self.folder, next, &record).await? {
                self.forget_before(next).await;
                break;
            }
            if !is_ours(&self.store, &self.folder, next, &record).await {
                break;
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn put(store: &Store, folder: &str, n: u64, record: &LeaseRecord) -> Result<bool> {
    let key = format!("{folder}/{n:012}.json");
    Ok(store.put_new(&key, to_json(&key, record)?).await? == PutOutcome::Created)
}

async fn is_ours(store: &Store, folder: &str, n: u64, record: &LeaseRecord) -> bool {
    let key = format!("{folder}/{n:012}.json");
    let Ok(Some(bytes)) = store.get_opt(&key).await else { return false };
    from_json::<LeaseRecord>(&key, &bytes).is_ok_and(|found| found.backup == record.backup)
}

fn number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}
