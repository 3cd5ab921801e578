//! Explores interleavings of backups, a deletion, its undo and garbage collections, with a pause between any two requests to the
//! store: no committed backup may ever name a missing object.
//!
//! The catalog's own code runs on a store in memory. Each process of the model stops before every request until the explorer
//! lets one request through, so a run is a sequence of choices. Two explorers: all runs with at most so many preemptions
//! (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007), and random ones. A run is named by its choices.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use dozo_catalog::{BackupState, CatalogError, Decision, GcOptions, Repository};
use dozo_model::{
    BackupId, Content, FORMAT_VERSION, FixedClock, Intent, LeaseHolder, Manifest, ManifestForm, ObjectRef, Operator,
    Sha256Digest, SourceName, Timestamp,
};
use dozo_store::{Intercept, Interference, Operation, Request, Store};
use futures::FutureExt;
use rand::{Rng, SeedableRng};

const NOW: &str = "2026-11-21T02:00:00Z";
/// The one copy of the model.
const COPY: usize = 9;
/// Runs longer than this are stuck.
const STEPS_MAX: usize = 2_000;

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn operator() -> Operator {
    Operator { user: "model".into(), host: "model".into(), arguments: vec![] }
}

/// Lets one request through for each permit.
#[derive(Debug, Default)]
struct Pace {
    state: Mutex<PaceState>,
}

#[derive(Debug, Default)]
struct PaceState {
    permits: u32,
    waiting: Vec<Waker>,
    /// The request that went through last.
    last: Option<Request>,
}

#[async_trait::async_trait]
impl Intercept for Pace {
    async fn before(&self, request: Request) -> Interference {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap();
            if state.permits == 0 {
                state.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
            state.permits -= 1;
            Poll::Ready(())
        })
        .await;
        self.state.lock().unwrap().last = Some(request);
        Interference::Pass
    }
}

/// What a backup of the model does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mistake {
    None,
    /// It never looks at its parent's fate.
    NoFateCheck,
    /// It looks first, and announces itself then.
    IntentAfterCheck,
}

/// A process of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A backup of its own objects only.
    Full,
    /// A backup that shares the parent's objects.
    Sharing(Mistake),
    /// A copy from another repository, which shares the parent's objects. All of them are the same copy: they have one id and one key, and go
    /// on where another one ended.
    Copy,
    /// Marks the parent for deletion, due at once.
    Delete,
    /// Takes the mark back.
    Undo,
    /// Takes the mark back and marks the parent again, due tomorrow.
    Later,
    /// Collects garbage; whatever is not committed counts as abandoned.
    Gc,
    /// Collects garbage; whatever is not committed is young, so it is waited for.
    PatientGc,
}

/// What is marked by hand goes, whatever a policy says.
async fn all_may_go() -> Result<std::collections::HashSet<(SourceName, BackupId)>, CatalogError> {
    Ok(std::collections::HashSet::new())
}

struct World {
    raw: Repository,
    store: Store,
    source: SourceName,
    parent: Manifest,
}

fn done<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store in memory never waits")
}

fn id(n: usize) -> BackupId {
    BackupId::parse(&format!("20261121T01000{n}Z-aaaaa{n}")).unwrap()
}

fn manifest(n: usize, keys: &[String]) -> Manifest {
    let mut manifest = Manifest::from_bytes(include_bytes!("../../model/golden/manifest_v1.json")).unwrap();
    manifest.id = id(n);
    manifest.parent = None;
    let Content::Postgres(content) = &mut manifest.content else { panic!("the golden manifest is of Postgres") };
    content.datasets.clear();
    manifest.objects = keys.iter().map(|key| object(key)).collect();
    manifest
}

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: key.to_owned(), bytes: key.len() as u64, sha256: Sha256Digest::of(key.as_bytes()) }
}

fn key(source: &SourceName, n: usize) -> String {
    format!("data/{source}/public/orders/00000-{}-abcdefgh.parquet", id(n))
}

impl World {
    fn new() -> Self {
        let store = Store::memory();
        let raw = done(Repository::open_or_init(store.clone(), &FixedClock(now()))).unwrap();
        let source = manifest(0, &[]).source;
        let shared = key(&source, 0);
        let parent = manifest(0, std::slice::from_ref(&shared));
        done(raw.begin(&intent(&parent))).unwrap();
        done(store.put_new(&shared, Bytes::from(shared.clone()))).unwrap();
        done(raw.commit(&parent)).unwrap();
        Self { raw, store, source, parent }
    }

    /// Returns the first committed backup with a missing object.
    fn damaged(&self) -> Option<String> {
        for entry in done(self.raw.backups(Some(&self.source))).unwrap() {
            let BackupState::Committed(manifest) = entry.state else { continue };
            if let Some(o) = manifest.objects.iter().find(|o| done(self.store.size(&o.key)).unwrap() != Some(o.bytes)) {
                return Some(format!("{} names {}, which is gone", entry.id, o.key));
            }
        }
        None
    }

    fn process(&self, n: usize, role: Role) -> Process {
        let pace = Arc::new(Pace::default());
        let store = self.store.intercepted(Arc::clone(&pace) as Arc<dyn Intercept>);
        let (source, parent) = (self.source.clone(), self.parent.clone());
        let work = async move {
            let repository = Repository::open(store).await.unwrap();
            let operator = operator();
            let decision = Decision { operator: &operator, at: now(), reason: "model" };
            match role {
                Role::Full => drop(backup(&repository, n, None, Mistake::None).await),
                Role::Sharing(mistake) => drop(backup(&repository, n, Some(&parent), mistake).await),
                Role::Copy => drop(copy(&repository, &parent).await),
                Role::Delete => drop(repository.mark(&source, &parent.id, &decision, now()).await),
                Role::Undo => drop(repository.undo(&source, &parent.id, &decision).await),
                Role::Later => {
                    drop(repository.undo(&source, &parent.id, &decision).await);
                    drop(repository.mark(&source, &parent.id, &decision, now() + Duration::from_secs(86_400)).await);
                }
                Role::Gc | Role::PatientGc => {
                    let grace = if role == Role::Gc { Duration::ZERO } else { Duration::from_secs(86_400) };
                    let options = GcOptions { grace, now: now(), only_host: None };
                    drop(repository.gc_apply(&options, &operator, all_may_go).await);
                }
            }
        };
        Process { pace, work: Some(Box::pin(work)) }
    }
}

fn intent(manifest: &Manifest) -> Intent {
    Intent {
        format: FORMAT_VERSION,
        id: manifest.id.clone(),
        source: manifest.source.clone(),
        parent: manifest.parent.clone(),
        started: now(),
        holder: LeaseHolder {
            host: "elsewhere".into(),
            boot_id: String::new(),
            pid_namespace: String::new(),
            pid: 1,
            pid_start: 1,
        },
        replica_of: None,
    }
}

/// The steps of a backup, as the engine takes them.
async fn backup(
    repository: &Repository,
    n: usize,
    parent: Option<&Manifest>,
    mistake: Mistake,
) -> Result<(), dozo_catalog::CatalogError> {
    let own = key(&manifest(n, &[]).source, n);
    let mut made = manifest(n, std::slice::from_ref(&own));
    if let Some(parent) = parent {
        made.parent = Some(parent.id.clone());
        made.objects.extend(parent.objects.iter().cloned());
    }
    let stands = async || match parent {
        Some(parent) if mistake != Mistake::NoFateCheck => repository.parent_stands(&parent.source, &parent.id).await,
        _ => Ok(()),
    };
    if mistake == Mistake::IntentAfterCheck {
        stands().await?;
    }
    repository.begin(&intent(&made)).await?;
    if mistake != Mistake::IntentAfterCheck {
        stands().await?;
    }
    repository.store().put_own(&own, Bytes::from(own.clone())).await?;
    if mistake != Mistake::IntentAfterCheck {
        stands().await?;
    }
    repository.commit(&made).await?;
    // A request that was repeated because its answer was lost arrives at any later time.
    repository.commit(&made).await?;
    Ok(())
}

/// The steps of a copy, as `replicate` takes them.
async fn copy(repository: &Repository, parent: &Manifest) -> Result<(), dozo_catalog::CatalogError> {
    let own = key(&parent.source, COPY);
    let mut made = manifest(COPY, std::slice::from_ref(&own));
    made.parent = Some(parent.id.clone());
    made.objects.extend(parent.objects.iter().cloned());
    let entries = repository.backups(Some(&parent.source)).await?;
    match entries.iter().find(|e| e.id == made.id).map(|e| &e.state) {
        Some(BackupState::Uncommitted(Some(_))) => {}
        Some(_) => return Ok(()),
        None => repository.begin(&intent(&made)).await?,
    }
    repository.parent_stands(&parent.source, &parent.id).await?;
    // Whatever stands under its key, an earlier run of this copy has put there.
    let listed = repository.store().list("data").await?;
    if listed.iter().all(|o| o.key != own) {
        repository.store().put_own(&own, Bytes::from(own.clone())).await?;
    }
    repository.everything_stands(&made).await?;
    repository.parent_stands(&parent.source, &parent.id).await?;
    repository.commit(&made).await?;
    Ok(())
}

struct Process {
    pace: Arc<Pace>,
    work: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Process {
    /// Lets one request through. Returns it; `None` when the process has ended without one.
    fn step(&mut self) -> Option<Request> {
        let waiting = {
            let mut state = self.pace.state.lock().unwrap();
            (state.permits, state.last) = (1, None);
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
        let work = self.work.as_mut()?;
        while work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            let state = self.pace.state.lock().unwrap();
            if state.permits == 0 && !state.waiting.is_empty() {
                return state.last.clone();
            }
        }
        self.work = None;
        self.pace.state.lock().unwrap().last.clone()
    }
}

/// Picks one of so many.
trait Chooser {
    /// `current` says whether the first one is the process that ran last and could go on.
    fn choose(&mut self, options: usize, current: bool) -> usize;
}

/// What came of runs, summed up: a model in which nothing happens proves nothing.
#[derive(Debug, Default)]
struct Outcomes {
    committed: usize,
    doomed: usize,
    aborted: usize,
    deletes: usize,
}

/// Runs one interleaving. Returns what is damaged, and the processes in the order in which they were let through.
fn run(roles: &[Role], chooser: &mut dyn Chooser, outcomes: &mut Outcomes) -> (Option<String>, Vec<usize>) {
    let world = World::new();
    let mut processes: Vec<Process> = roles.iter().enumerate().map(|(n, role)| world.process(n + 1, *role)).collect();
    let mut trace = Vec::new();
    let mut current: Option<usize> = None;
    loop {
        let mut enabled: Vec<usize> = (0..processes.len()).filter(|n| processes[*n].work.is_some()).collect();
        if enabled.is_empty() {
            for entry in done(world.raw.backups(Some(&world.source))).unwrap() {
                match entry.state {
                    BackupState::Committed(m) => outcomes.committed += usize::from(m.id != world.parent.id),
                    BackupState::Doomed(_) => outcomes.doomed += 1,
                    BackupState::Aborted => outcomes.aborted += 1,
                    _ => {}
                }
            }
            return (world.damaged(), trace);
        }
        let goes_on = current.is_some_and(|c| enabled.contains(&c));
        if let Some(at) = enabled.iter().position(|n| Some(*n) == current) {
            enabled.swap(0, at);
        }
        let next = enabled[if enabled.len() == 1 { 0 } else { chooser.choose(enabled.len(), goes_on) }];
        current = Some(next);
        trace.push(next);
        assert!(trace.len() < STEPS_MAX, "stuck: {trace:?}");
        let request = processes[next].step();
        outcomes.deletes += usize::from(request.as_ref().is_some_and(|r| r.operation == Operation::Delete));
        let matters =
            |r: Request| r.operation == Operation::Delete || r.path.ends_with("/manifest.json") && r.operation == Operation::Put;
        if request.is_some_and(matters)
            && let Some(damage) = world.damaged()
        {
            return (Some(damage), trace);
        }
    }
}

/// All runs with at most `bound` preemptions, one after the other.
struct Bounded {
    bound: usize,
    used: usize,
    /// Choice and number of options at each step of this run; the prefix is replayed.
    path: Vec<(usize, usize)>,
    at: usize,
}

impl Chooser for Bounded {
    fn choose(&mut self, options: usize, current: bool) -> usize {
        let options = if current && self.used >= self.bound { 1 } else { options };
        if self.at == self.path.len() {
            self.path.push((0, options));
        }
        let (choice, seen) = self.path[self.at];
        assert_eq!(seen, options, "a run must be repeatable");
        self.at += 1;
        self.used += usize::from(current && choice > 0);
        choice
    }
}

impl Bounded {
    /// Goes on to the next run; false when there is none.
    fn advance(&mut self) -> bool {
        (self.at, self.used) = (0, 0);
        while let Some((choice, options)) = self.path.pop() {
            if choice + 1 < options {
                self.path.push((choice + 1, options));
                return true;
            }
        }
        false
    }
}

struct Random<R>(R);

impl<R: Rng> Chooser for Random<R> {
    fn choose(&mut self, options: usize, current: bool) -> usize {
        if current && self.0.random_bool(0.6) { 0 } else { self.0.random_range(0..options) }
    }
}

/// What was explored.
#[derive(Debug, Default)]
struct Explored {
    runs: usize,
    /// All runs with so few preemptions were made; else only the first ones.
    all: bool,
    outcomes: Outcomes,
    damage: Option<String>,
}

/// Explores all runs with at most `bound` preemptions, up to `runs` of them, and then random ones, until one damages a backup.
fn explore(roles: &[Role], bound: usize, runs: usize, random: usize) -> Explored {
    let mut chooser = Bounded { bound, used: 0, path: vec![], at: 0 };
    let mut explored = Explored::default();
    loop {
        explored.runs += 1;
        if let (Some(damage), trace) = run(roles, &mut chooser, &mut explored.outcomes) {
            explored.damage = Some(format!("{roles:?}: {damage}; let through: {trace:?}"));
            return explored;
        }
        explored.all = !chooser.advance();
        if explored.all || explored.runs >= runs {
            break;
        }
    }
    for seed in 0..random {
        explored.runs += 1;
        let mut chooser = Random(rand::rngs::StdRng::seed_from_u64(seed as u64));
        if let (Some(damage), trace) = run(roles, &mut chooser, &mut explored.outcomes) {
            explored.damage = Some(format!("{roles:?}, seed {seed}: {damage}; let through: {trace:?}"));
            return explored;
        }
    }
    explored
}

const SHARING: Role = Role::Sharing(Mistake::None);

/// How much is explored: more at night.
fn share(runs: usize) -> usize {
    if std::env::var_os("DOZO_TEST_NIGHTLY").is_some() { runs * 30 } else { runs }
}

#[test]
fn no_committed_backup_ever_names_a_missing_object() {
    let mut total = 0;
    for (roles, bound, runs, random) in [
        (&[SHARING, Role::Delete, Role::Gc][..], 2, 4_000, 1_000),
        (&[SHARING, Role::Delete, Role::PatientGc], 2, 4_000, 1_000),
        (&[Role::Full, Role::Gc, Role::Gc], 2, 2_000, 500),
        (&[Role::Delete, Role::Undo, Role::Gc], 2, 2_000, 500),
        (&[SHARING, Role::Delete, Role::Later, Role::Gc], 2, 2_000, 1_000),
        (&[Role::Copy, Role::Copy, Role::Gc], 2, 3_000, 1_000),
        (&[Role::Copy, Role::Copy, Role::Delete, Role::Gc, Role::Gc], 1, 2_000, 2_000),
        (&[SHARING, SHARING, Role::Delete, Role::Undo, Role::Gc], 1, 2_000, 2_000),
        (&[SHARING, Role::Full, Role::Delete, Role::Undo, Role::Gc, Role::PatientGc], 1, 1_000, 2_000),
    ] {
        let explored = explore(roles, bound, share(runs), share(random));
        assert_eq!(explored.damage, None);
        let extent = if explored.all { "all" } else { "not all" };
        println!(
            "{} interleavings of {roles:?}, {extent} with up to {bound} preemptions: {:?}",
            explored.runs, explored.outcomes
        );
        let (happened, backs_up) =
            (&explored.outcomes, roles.iter().any(|r| matches!(r, Role::Full | Role::Sharing(_) | Role::Copy)));
        assert!(happened.committed > 0 || !backs_up, "{happened:?}");
        assert!(happened.doomed > 0 || !roles.contains(&Role::Delete), "{happened:?}");
        assert!(happened.deletes > 0, "{happened:?}");
        total += explored.runs;
    }
    println!("{total} interleavings, no committed backup damaged");
    assert!(total >= 10_000);
}

/// A model that finds nothing proves nothing: planted mistakes are found.
#[test]
fn planted_mistakes_are_found() {
    for mistake in [Mistake::NoFateCheck, Mistake::IntentAfterCheck] {
        let explored = explore(&[Role::Sharing(mistake), Role::Delete, Role::Gc], 2, share(20_000), share(2_000));
        let damage = explored.damage.unwrap_or_else(|| panic!("{mistake:?} was not found in {} interleavings", explored.runs));
        println!("{mistake:?} found after {} interleavings: {damage}", explored.runs);
    }
}
