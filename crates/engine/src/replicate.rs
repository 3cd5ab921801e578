//! `replicate`: copies backups to another repository, byte for byte, and proves it on the way.
//!
//! *Protocol*: for the other repository a copy is a backup like any other: lease → intent → parent stands → objects, under keys that this
//! copy alone writes → everything is listed → parent stands → manifest. What it shares with an earlier copy, it shares by naming that
//! copy as its parent. So collectors there need to know nothing of replication. *Proof*: every object is digested while it is read and
//! appears only if it is the one that the manifest names. *Crash behaviour*: a killed copy is an uncommitted backup there; the next
//! run goes on with it, or, once a collector has aborted it, starts over under another id. *Names*: a copy has the id of its backup,
//! except then; its manifest says what it is a copy of.

mod copy;
mod rewrite;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dozo_catalog::{Action, BackupEntry, BackupState, CatalogError, Decision, Facts, Fate, History, Repository, plan};
use dozo_model::{
    Acceptance, BackupId, HoldRecord, Manifest, ManifestForm, ReplicaOf, RetentionPolicy, Sha256Digest, SourceName, Stage, Tier,
    Timestamp,
};
use dozo_store::{Layout, RequestCounts, StoreError};
use serde::Serialize;

use crate::context::{Context, ReplicaSettings};
use crate::error::chain;
use crate::replicate::copy::CopyPlan;
use crate::{EngineError, Result};

/// How often a copy starts over because what it leans on is being deleted.
const ATTEMPTS: usize = 3;

/// Which backups a replica is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaChoice {
    /// All.
    All,
    /// The newest of each source.
    Latest,
    /// Those that somebody holds.
    Held,
    /// Those that serve this tier, or a longer one.
    Tier(Tier),
}

impl ReplicaChoice {
    /// Returns the backups of a source that it chooses; none that is to go.
    #[must_use]
    pub fn of(self, history: &History, policy: &RetentionPolicy, now: Timestamp) -> HashSet<BackupId> {
        let mut all = history.records.iter().map(|r| &r.manifest.id);
        match self {
            Self::All => all.cloned().collect(),
            Self::Latest => all.next_back().into_iter().cloned().collect(),
            Self::Held => history.records.iter().filter(|r| r.hold(now).is_some()).map(|r| r.manifest.id.clone()).collect(),
            Self::Tier(least) => {
                let serves = |v: &dozo_catalog::Verdict| v.tiers.iter().any(|t| *t >= least) && v.action != Action::Marked;
                plan(&Facts::of(history), |_| policy, now).backups.into_iter().filter(serves).map(|v| v.id).collect()
            }
        }
    }
}

/// Which backups are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replicated {
    /// All that are missing there.
    All,
    /// The newest of each source.
    Latest,
    /// These.
    These(Vec<(SourceName, BackupId)>),
}

/// What became of a replica.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplicateReport {
    /// Its name.
    pub replica: String,
    /// Its URL.
    pub url: String,
    /// Copied now, oldest first for each source.
    pub copied: Vec<ReplicatedBackup>,
    /// Were there already.
    pub present: usize,
    /// Could not be copied, and why.
    pub failed: Vec<FailedCopy>,
    /// Requests to the repository.
    pub requests_from: RequestCounts,
    /// Requests to the replica.
    pub requests_to: RequestCounts,
    /// Seconds.
    pub seconds: f64,
}

/// One copy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplicatedBackup {
    /// Source.
    pub source: SourceName,
    /// Id of the backup.
    pub id: BackupId,
    /// Id of the copy.
    pub copy: BackupId,
    /// Objects copied by this run.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that an earlier copy or an interrupted run had brought there.
    pub found: u64,
    /// Their bytes.
    pub found_bytes: u64,
    /// Seconds.
    pub seconds: f64,
}

/// A backup that was not copied.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailedCopy {
    /// Backup.
    pub backup: String,
    /// Why.
    pub reason: String,
    /// Whether the backup itself is damaged, as opposed to a copy that did not get through.
    pub damaged: bool,
    /// Whether another process is copying backups of this source.
    pub held: bool,
}

/// How far a replica is behind, for one source.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplicaLag {
    /// Its name.
    pub replica: String,
    /// Backups that it should have and has not; none when it could not be asked.
    pub missing: Option<usize>,
    /// Start of the newest backup it holds.
    pub newest: Option<Timestamp>,
    /// Seconds between that and the newest backup.
    pub lag_seconds: Option<i64>,
    /// Why it could not be asked.
    pub unreachable: Option<String>,
}

/// What stands in a replica, of one source.
struct There {
    entries: Vec<BackupEntry>,
}

impl There {
    async fn look(repository: &Repository, source: &SourceName) -> Result<Self> {
        let entries = repository.backups(Some(source)).await?;
        Ok(Self { entries })
    }

    /// Returns the committed copies.
    fn committed(&self) -> impl Iterator<Item = (&BackupEntry, &Manifest)> {
        self.entries.iter().filter_map(|e| match &e.state {
            BackupState::Committed(m) => Some((e, m.as_ref())),
            _ => None,
        })
    }

    /// Returns the copies of a backup: more than one where the first was damaged.
    fn copies_of(&self, repository: &str, id: &BackupId) -> impl Iterator<Item = &Manifest> {
        self.committed().map(|(_, m)| m).filter(|m| m.replica_of.as_ref().is_some_and(|r| r.is(repository, id)))
    }

    /// Tells whether a backup was copied and its copy is there, or was deleted there: what its retention took is not brought back. A
    /// copy that was given up is.
    fn has(&self, repository: &str, id: &BackupId) -> bool {
        let of_it = |r: &ReplicaOf| r.is(repository, id);
        let deleted = |e: &BackupEntry| matches!(&e.fate, Fate::Doomed(record) if record.replica_of.as_ref().is_some_and(of_it));
        self.copies_of(repository, id).next().is_some() || self.entries.iter().any(deleted)
    }

    /// Returns the copy to lean on: that of the backup's own parent, else the newest one that nobody is about to delete.
    fn parent(&self, manifest: &Manifest, replica_of: &ReplicaOf) -> Option<&Manifest> {
        let stands = |e: &BackupEntry| e.fate == Fate::Stands && e.fate_unknown.is_none();
        let own = manifest.parent.as_ref().and_then(|id| self.copies_of(&replica_of.repository, id).next()).map(|m| &m.id);
        let candidates = self.committed().filter(|(e, _)| stands(e)).map(|(_, m)| m);
        candidates.max_by_key(|m| (Some(&m.id) == own, m.started))
    }
}

/// How a replica is filled.
#[derive(Debug, Clone)]
pub struct ReplicateOptions {
    /// What is copied.
    pub which: Replicated,
    /// Only backups of these sources; none = of all.
    pub sources: Option<Vec<SourceName>>,
    /// Make the repository where there is none.
    pub init: bool,
    /// Copy also what was copied before, under another id and without leaning on an earlier copy: for copies that are damaged.
    pub again: bool,
    /// Bytes per second that are sent at most.
    pub rate: Option<u64>,
}

/// Fills a replica.
///
/// # Errors
/// When the replica cannot be opened, or the work is interrupted. A backup that cannot be copied is in the report.
pub async fn replicate(
    ctx: &Context,
    from: &Repository,
    replica: &ReplicaSettings,
    options: &ReplicateOptions,
) -> Result<ReplicateReport> {
    let began = Instant::now();
    let store = replica.repository.store()?;
    let store = options.rate.map_or(store.clone(), |rate| store.limited(rate));
    let opening = async {
        Ok::<_, EngineError>(if options.init {
            Repository::open_or_init(store, ctx.clock.as_ref()).await?
        } else {
            match Repository::open(store).await {
                Err(CatalogError::NoRepository { url }) => {
                    return Err(EngineError::NoReplica { name: replica.name.clone(), url });
                }
                opened => opened?,
            }
        })
    };
    let to = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
        opened = opening => opened?,
    };
    if to.marker().id == from.marker().id {
        return Err(EngineError::SameRepository { name: replica.name.clone(), url: to.store().url().to_owned() });
    }
    let (from_before, to_before) = (from.store().requests(), to.store().requests());
    let mut filling = Filling {
        ctx,
        from,
        to: &to,
        replica,
        options,
        report: ReplicateReport {
            replica: replica.name.clone(),
            url: to.store().url().to_owned(),
            copied: Vec::new(),
            present: 0,
            failed: Vec::new(),
            requests_from: RequestCounts::default(),
            requests_to: RequestCounts::default(),
            seconds: 0.0,
        },
    };
    let sources = match &options.sources {
        Some(sources) => sources.clone(),
        None => from.sources().await?,
    };
    for source in sources {
        let work = filling.one_source(&source);
        let goes_on = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
            done = work => done?,
        };
        if !goes_on {
            break;
        }
    }
    let mut report = filling.report;
    report.requests_from = from.store().requests().since(&from_before);
    report.requests_to = to.store().requests().since(&to_before);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// A replica that is being filled.
struct Filling<'a> {
    ctx: &'a Context,
    from: &'a Repository,
    to: &'a Repository,
    replica: &'a ReplicaSettings,
    options: &'a ReplicateOptions,
    report: ReplicateReport,
}

impl Filling<'_> {
    /// Returns what is to be there: committed backups, oldest first, and those whose manifests cannot be read.
    async fn wanted(&self, source: &SourceName) -> Result<(Vec<Wanted>, Vec<(BackupId, String)>)> {
        let (mut wanted, mut unreadable) = (Vec::new(), Vec::new());
        if let Replicated::These(these) = &self.options.which {
            for (_, id) in these.iter().filter(|(s, _)| s == source) {
                match self.from.manifest(source, id).await {
                    Ok(manifest) => wanted.push(Wanted { manifest, spoken_of: true }),
                    // It was deleted since it was chosen.
                    Err(CatalogError::Doomed { .. } | CatalogError::NoBackup { .. }) => {}
                    Err(e @ CatalogError::Store(_)) => return Err(e.into()),
                    Err(e) => unreadable.push((id.clone(), chain(&e))),
                }
            }
        } else {
            for entry in self.from.backups(Some(source)).await? {
                let spoken_of = entry.spoken_of();
                match entry.state {
                    BackupState::Committed(m) => wanted.push(Wanted { manifest: *m, spoken_of }),
                    BackupState::Unreadable(reason) => unreadable.push((entry.id, reason)),
                    _ => {}
                }
            }
        }
        wanted.sort_by_key(|w| w.manifest.started);
        if self.options.which == Replicated::Latest && !wanted.is_empty() {
            wanted.drain(..wanted.len() - 1);
            unreadable.retain(|(id, _)| wanted.last().is_none_or(|w| id > &w.manifest.id));
        }
        Ok((wanted, unreadable))
    }

    /// Copies what is missing of a source. Tells whether it makes sense to go on with others.
    async fn one_source(&mut self, source: &SourceName) -> Result<bool> {
        let own = self.from.marker().id.clone();
        let (wanted, unreadable) = self.wanted(source).await?;
        let mut there = There::look(self.to, source).await?;
        for (id, reason) in unreadable {
            if there.has(&own, &id) {
                self.report.present += 1;
            } else {
                let backup = format!("{source}@{id}");
                self.report.failed.push(FailedCopy { backup, reason, damaged: true, held: false });
            }
        }
        for Wanted { manifest, spoken_of } in &wanted {
            if !self.options.again && there.has(&own, &manifest.id) {
                self.report.present += 1;
                // It may have been accepted or held since.
                if *spoken_of {
                    let copies: Vec<BackupId> = there.copies_of(&own, &manifest.id).map(|m| m.id.clone()).collect();
                    let said = async {
                        let said = Said::about(self.from, manifest).await?;
                        for copy in &copies {
                            said.say(self.to, source, copy).await?;
                        }
                        Ok::<_, EngineError>(())
                    };
                    if let Err(e) = said.await {
                        self.report.failed.push(failed(manifest, &e));
                    }
                }
                continue;
            }
            match self.one_backup(&mut there, manifest, *spoken_of).await {
                Ok(Some(copied)) => self.report.copied.push(copied),
                Ok(None) => self.report.present += 1,
                Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
                // It was deleted since it was listed.
                Err(_) if matches!(self.from.manifest(source, &manifest.id).await, Err(CatalogError::Doomed { .. })) => {}
                Err(e) => {
                    self.report.failed.push(failed(manifest, &e));
                    if !worth_going_on(&e) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Copies one backup, under a lease. Returns nothing when somebody else has done it.
    async fn one_backup(&self, there: &mut There, manifest: &Manifest, spoken_of: bool) -> Result<Option<ReplicatedBackup>> {
        let began = Instant::now();
        self.replica.repository.check_space(self.to.store())?;
        let source = &manifest.source;
        let bytes = self.from.store().get(&Layout::file(source, &manifest.id, "manifest.json")).await?;
        let (repository, id) = (self.from.marker().id.clone(), manifest.id.clone());
        let replica_of = ReplicaOf { repository, id, manifest: Sha256Digest::of(&bytes) };
        let said = if spoken_of { Said::about(self.from, manifest).await? } else { Said::default() };
        self.ctx.progress.stage(Stage::Data, 0, manifest.stored_bytes());
        for attempt in 1.. {
            let plan = CopyPlan::new(self.ctx, there, manifest, &replica_of, self.options.again);
            let clock = Arc::clone(&self.ctx.clock);
            let lease = self.to.lease(source, &plan.intent.id, clock, Duration::ZERO).await?;
            let done = plan.carry_out(self.ctx, self.from, self.to, manifest, &bytes).await;
            // A lease that cannot be given back is found dead by the next run.
            let _ = lease.release().await;
            let error = match done {
                Ok((copied, copy)) => {
                    // The next one leans on it.
                    there.entries.push(BackupEntry::committed(copy));
                    said.say(self.to, source, &plan.intent.id).await?;
                    return Ok(Some(ReplicatedBackup { seconds: began.elapsed().as_secs_f64(), ..copied }));
                }
                Err(error) => error,
            };
            *there = There::look(self.to, source).await?;
            let taken_away = matches!(
                error,
                EngineError::Catalog(CatalogError::ParentGone { .. } | CatalogError::Fate { .. })
                    | EngineError::Store(StoreError::Conflict { .. })
                    | EngineError::Catalog(CatalogError::Store(StoreError::Conflict { .. }))
            );
            if !taken_away || attempt == ATTEMPTS {
                return Err(error);
            }
            // Given up for good: its objects are a collector's, and the next attempt has other keys.
            let by = Decision { operator: &self.ctx.operator, at: self.ctx.clock.now(), reason: "the copy starts over" };
            let given_up = self.to.abort(source, &plan.intent.id, &by).await?;
            *there = There::look(self.to, source).await?;
            if matches!(given_up, BackupState::Committed(_))
                || !self.options.again && there.has(&replica_of.repository, &replica_of.id)
            {
                return Ok(None);
            }
        }
        Err(EngineError::Internal("attempts are counted".into()))
    }
}

/// Tells whether the next backup may fare better: not when it is the replica's store that fails.
fn worth_going_on(error: &EngineError) -> bool {
    let store = match error {
        EngineError::Store(e) | EngineError::Catalog(CatalogError::Store(e)) => e,
        EngineError::LowSpace { .. } => return false,
        _ => return true,
    };
    matches!(store, StoreError::NotFound { .. } | StoreError::Conflict { .. })
}

fn failed(manifest: &Manifest, error: &EngineError) -> FailedCopy {
    FailedCopy {
        backup: format!("{}@{}", manifest.source, manifest.id),
        reason: chain(error),
        damaged: matches!(error, EngineError::Damaged { .. } | EngineError::Store(StoreError::NotFound { .. })),
        held: matches!(error, EngineError::Catalog(CatalogError::LeaseHeld { .. })),
    }
}

/// A backup that a replica is to have.
struct Wanted {
    manifest: Manifest,
    /// Somebody has accepted or held it, as far as is known.
    spoken_of: bool,
}

/// What people have said about a backup: it is said about its copy, too.
#[derive(Default)]
struct Said {
    accepted: Option<Acceptance>,
    holds: Vec<HoldRecord>,
}

impl Said {
    /// Reads it. Comes before the copy, so that what cannot be read fails before anything is committed.
    async fn about(from: &Repository, manifest: &Manifest) -> Result<Self> {
        let holds = from.holds(&manifest.source, &manifest.id).await?;
        let suspect = manifest.suspect();
        let accepted = if suspect { from.record(Box::new(manifest.clone())).await?.accepted } else { None };
        Ok(Self { accepted, holds })
    }

    async fn say(&self, to: &Repository, source: &SourceName, copy: &BackupId) -> Result<()> {
        if let Some(accepted) = &self.accepted {
            to.accept(source, copy, accepted).await?;
        }
        Ok(to.say_holds(source, copy, &self.holds).await?)
    }
}

/// Replicas, as they could be opened.
pub(crate) struct Replicas<'a>(Vec<(&'a ReplicaSettings, std::result::Result<Repository, String>)>);

impl<'a> Replicas<'a> {
    /// Opens each one, once.
    pub(crate) async fn open(replicas: &'a [ReplicaSettings]) -> Self {
        let opened = replicas.iter().map(|r| async move { (r, r.repository.open().await.map_err(|e| e.to_string())) });
        Self(futures::future::join_all(opened).await)
    }

    /// Tells how far they are behind, for one source. One that cannot be asked is in the answer.
    pub(crate) async fn lags(
        &self,
        from: &Repository,
        source: &SourceName,
        history: &History,
        policy: &RetentionPolicy,
        now: Timestamp,
    ) -> Vec<ReplicaLag> {
        let mut found = Vec::new();
        for (replica, repository) in &self.0 {
            let mut lag =
                ReplicaLag { replica: replica.name.clone(), missing: None, newest: None, lag_seconds: None, unreachable: None };
            let there = match repository {
                Ok(repository) => There::look(repository, source).await.map_err(|e| e.to_string()),
                Err(e) => Err(e.clone()),
            };
            match there {
                Ok(there) => {
                    let own = &from.marker().id;
                    let wanted = replica.choice.of(history, policy, now);
                    let every = history.records.iter().map(|r| r.manifest.as_ref());
                    let all = || history.records.iter().map(|r| r.manifest.as_ref()).filter(|m| wanted.contains(&m.id));
                    let missing: Vec<Timestamp> = all().filter(|m| !there.has(own, &m.id)).map(|m| m.started).collect();
                    lag.missing = Some(missing.len());
                    let held = every.filter(|m| there.copies_of(own, &m.id).next().is_some()).map(|m| m.started).max();
                    lag.newest = held;
                    let last = all().map(|m| m.started).max();
                    lag.lag_seconds = match (held, last, missing.iter().min()) {
                        (Some(held), Some(last), _) => Some(last.duration_since(held).as_secs().max(0)),
                        // Nothing has come there at all.
                        (None, _, Some(oldest)) => Some(now.duration_since(*oldest).as_secs()),
                        _ => None,
                    };
                }
                Err(e) => lag.unreachable = Some(e),
            }
            found.push(lag);
        }
        found
    }
}
