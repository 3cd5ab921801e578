//! Carrying a plan out, killed at every request: the next run ends where an undisturbed one does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dozo_catalog::{
    CatalogError, ClockDoubts, Decision, Fate, GcOptions, Plan, Repository, RetentionDone, RetentionOptions, plan, this_process,
};
use dozo_model::{
    BackupId, CheckEvent, Content, FixedClock, HoldRecord, HoldState, Intent, Manifest, ManifestForm, ObjectRef, Operator,
    Period, RetentionPolicy, Sha256Digest, SourceName, Timestamp, Verdict, VerifyLevel,
};
use dozo_store::{Intercept, Interference, Request, Store};
use jiff::ToSpan;
use tokio_util::sync::CancellationToken;

use crate::world::at;

const NIGHTS: usize = 14;

fn who() -> Operator {
    Operator { user: "tester".into(), host: "here".into(), arguments: vec![] }
}

fn now() -> Timestamp {
    at("2026-11-21T12:00:00Z")
}

fn policy() -> RetentionPolicy {
    let off = Period::OFF;
    let grace = Duration::from_secs(86_400);
    RetentionPolicy { daily: Period::days(4), weekly: off, monthly: off, min_keep: 1, grace, ..RetentionPolicy::default() }
}

fn options(now: Timestamp) -> RetentionOptions {
    let gc = GcOptions { grace: Duration::from_secs(86_400), now, only_host: None };
    RetentionOptions { gc, max_delete: Some(100), doubts: ClockDoubts::Records, lock: None }
}

fn night(n: usize) -> Timestamp {
    now() - (24 * i64::try_from(NIGHTS - n).unwrap()).hours() + 14.hours()
}

fn manifest(n: usize) -> Manifest {
    let mut manifest = Manifest::from_bytes(include_bytes!("../../../model/golden/manifest_v1.json")).unwrap();
    manifest.started = night(n);
    manifest.finished = night(n) + 1.minute();
    manifest.id = BackupId::parse(&format!("{}-aaaa{n:02}", night(n).strftime("%Y%m%dT%H%M%SZ"))).unwrap();
    manifest.parent = None;
    let Content::Postgres(content) = &mut manifest.content else { panic!("the golden manifest is of Postgres") };
    content.datasets.clear();
    // Its own object, and that of the night before.
    manifest.objects.clear();
    for n in n.saturating_sub(1)..=n {
        let id = format!("{}-aaaa{n:02}", night(n).strftime("%Y%m%dT%H%M%SZ"));
        let key = format!("data/{}/public/orders/00000-{id}-abcdefgh.parquet", manifest.source);
        manifest.objects.push(ObjectRef { bytes: key.len() as u64, sha256: Sha256Digest::of(key.as_bytes()), key });
    }
    manifest
}

/// Two weeks of nights, of which some are marked: two that are due, one that is due and held, one that is to stay.
async fn world(store: Store) -> (Repository, SourceName) {
    let repository = Repository::open_or_init(store, &FixedClock(now())).await.unwrap();
    let who = who();
    for n in 0..NIGHTS {
        let m = manifest(n);
        let intent = Intent {
            format: m.format,
            id: m.id.clone(),
            source: m.source.clone(),
            parent: None,
            started: m.started,
            holder: this_process(),
            replica_of: None,
        };
        repository.begin(&intent).await.unwrap();
        let own = m.objects.last().unwrap();
        repository.store().put_own(&own.key, Bytes::from(own.key.clone())).await.unwrap();
        repository.commit(&m).await.unwrap();
        let check = CheckEvent {
            format: 1,
            backup: m.id.clone(),
            level: VerifyLevel::Content,
            verdict: Verdict::Passed,
            at: m.finished,
            objects: 1,
            bytes: 1,
            rows: 1,
            findings: vec![],
            not_run: vec![],
            skipped: vec![],
            tool: dozo_catalog::tool(),
            operator: who.clone(),
        };
        repository.record_check(&m.source, &check).await.unwrap();
    }
    let source = manifest(0).source;
    for (n, due) in [(0, -24), (1, -1), (2, -1), (3, 5), (NIGHTS - 2, -1)] {
        let by = Decision { operator: &who, at: now() - 48.hours(), reason: "an earlier run" };
        repository.mark(&source, &manifest(n).id, &by, now() + i64::from(due).hours()).await.unwrap();
    }
    // Put beside it by hand: a hold that came while the mark was put.
    let hold = hold("before migration 42");
    let key = format!("backups/{source}/{}/holds/000000.json", manifest(2).id);
    let bytes = serde_json::to_vec(&HoldRecord { backup: manifest(2).id, ..hold }).unwrap();
    repository.store().put_own(&key, bytes.into()).await.unwrap();
    (repository, source)
}

fn hold(reason: &str) -> HoldRecord {
    let (at, reason) = (now() - 1.hour(), reason.to_owned());
    HoldRecord { format: 1, backup: manifest(2).id, state: HoldState::Held, at, until: None, reason, operator: who() }
}

async fn planned(repository: &Repository, policy: &RetentionPolicy, now: Timestamp) -> (Plan, Option<(Timestamp, String)>) {
    let facts = repository.retention_facts().await.unwrap();
    (plan(&facts, |_| policy, now), facts.latest_record)
}

async fn apply_at(repository: &Repository, now: Timestamp) -> Result<RetentionDone, CatalogError> {
    let policy = policy();
    let facts = repository.retention_facts().await?;
    let plan = plan(&facts, |_| &policy, now);
    let cancel = CancellationToken::new();
    repository.retention_apply(&plan, facts.latest_record.as_ref(), |_| &policy, &options(now), &who(), &cancel).await
}

/// Every key, with what it decides for those that hold a random number.
async fn content(repository: &Repository) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for object in repository.store().list("").await.unwrap() {
        let bytes = repository.store().get(&object.key).await.unwrap();
        let said = match serde_json::from_slice::<serde_json::Value>(&bytes) {
            Ok(json) if object.key.contains("/fate-") => format!("{} {}", json["state"], json["reason"]),
            _ => Sha256Digest::of(&bytes).to_string(),
        };
        all.insert(object.key, said);
    }
    all
}

#[tokio::test]
async fn marked_gone_and_taken_back() {
    let (repository, source) = world(Store::memory()).await;
    let done = apply_at(&repository, now()).await.unwrap();
    let label = |n: usize| format!("{source}@{}", manifest(n).id);
    // The held one was marked and due, and the one of yesterday is young: neither goes.
    assert_eq!(done.taken_back, [label(2), label(NIGHTS - 2)]);
    assert_eq!(done.gc.doomed, [label(0), label(1)]);
    assert_eq!(done.marked, (4..NIGHTS - 5).map(label).collect::<Vec<_>>());
    // The object that the second named with the first is gone with them; that of the third is named by the fourth.
    assert!(done.gc.objects >= 2);
    // Nothing changes any more, until the grace is over.
    let before = content(&repository).await;
    let again = apply_at(&repository, now()).await.unwrap();
    assert_eq!((again.taken_back.len(), again.marked.len(), again.gc.objects), (0, 0, 0));
    assert_eq!(content(&repository).await, before);
    let later = apply_at(&repository, now() + 25.hours()).await.unwrap();
    assert_eq!(later.gc.doomed, (3..NIGHTS - 5).map(label).collect::<Vec<_>>());
    // It is the policy's: the held one, and four days.
    let left = repository.backups(Some(&source)).await.unwrap();
    let left: Vec<String> = left.iter().filter(|e| e.fate == Fate::Stands).map(|e| format!("{source}@{}", e.id)).collect();
    let expected: Vec<String> = [2].into_iter().chain(NIGHTS - 5..NIGHTS).map(label).collect();
    assert_eq!(left, expected);
    for n in [2].into_iter().chain(NIGHTS - 5..NIGHTS) {
        for object in &manifest(n).objects {
            assert!(repository.store().size(&object.key).await.unwrap().is_some(), "{} of a kept backup", object.key);
        }
    }
}

/// From the `nth` request on nothing reaches the store any more, as when the process is killed; that one may still be carried out.
#[derive(Debug)]
struct Killed {
    nth: usize,
    carried_out: bool,
    seen: AtomicUsize,
}

#[async_trait::async_trait]
impl Intercept for Killed {
    async fn before(&self, _: Request) -> Interference {
        match self.seen.fetch_add(1, Ordering::SeqCst) + 1 {
            n if n < self.nth => Interference::Pass,
            n if n == self.nth && self.carried_out => Interference::LoseAnswer,
            _ => Interference::Fail,
        }
    }
}

#[tokio::test]
async fn killed_at_every_request_the_next_run_ends_where_an_undisturbed_one_does() {
    let undisturbed = {
        let (repository, _) = world(Store::memory()).await;
        apply_at(&repository, now()).await.unwrap();
        content(&repository).await
    };
    let mut killed = 0;
    for nth in 1.. {
        let mut reached = false;
        for carried_out in [false, true] {
            let store = Store::memory();
            let (repository, _) = world(store.clone()).await;
            let by = Arc::new(Killed { nth, carried_out, seen: AtomicUsize::new(0) });
            // Opening is the first request.
            let outcome = async {
                let victim = Repository::open(store.intercepted(by.clone())).await?;
                apply_at(&victim, now()).await
            };
            reached |= outcome.await.is_err();
            // What every kept backup needs is there at any time.
            for entry in repository.backups(None).await.unwrap() {
                if let dozo_catalog::BackupState::Committed(m) = entry.state {
                    for object in &m.objects {
                        assert!(repository.store().size(&object.key).await.unwrap().is_some(), "request {nth}: {}", object.key);
                    }
                }
            }
            apply_at(&repository, now()).await.unwrap();
            let mut found = content(&repository).await;
            let marker = "dozo-repository.json";
            found.insert(marker.into(), undisturbed[marker].clone());
            assert_eq!(found, undisturbed, "killed at request {nth}, carried out: {carried_out}");
        }
        killed = nth;
        if !reached {
            break;
        }
    }
    println!("killed at {killed} requests, before and after each was carried out");
    assert!(killed > 60, "{killed}");
}

#[tokio::test]
async fn what_speaks_against_it_stops_it() {
    let (repository, source) = world(Store::memory()).await;
    let before = content(&repository).await;
    let who = who();
    let cancel = CancellationToken::new();
    // More than half of a source.
    let policy = policy();
    let (plan, latest) = planned(&repository, &policy, now()).await;
    let few = RetentionOptions { max_delete: None, ..options(now()) };
    let error = repository.retention_apply(&plan, latest.as_ref(), |_| &policy, &few, &who, &cancel).await.unwrap_err();
    assert!(matches!(error, CatalogError::TooMany { deletes: 5, standing: 9, max_delete: 50, .. }), "{error}");
    // A clock that runs behind what was written, or years ahead of it.
    for wrong in ["2026-11-19T12:00:00Z", "2029-01-01T00:00:00Z"] {
        let error = apply_at(&repository, at(wrong)).await.unwrap_err();
        assert!(matches!(error, CatalogError::Clock { .. }), "{wrong}: {error}");
    }
    // Stopped by a signal.
    let stopped = CancellationToken::new();
    stopped.cancel();
    let error =
        repository.retention_apply(&plan, latest.as_ref(), |_| &policy, &options(now()), &who, &stopped).await.unwrap_err();
    assert!(matches!(error, CatalogError::Cancelled));
    assert_eq!(content(&repository).await, before);
    // A manifest that cannot be read.
    let key = format!("backups/{source}/{}/manifest.json", manifest(8).id);
    repository.store().delete(&key).await.unwrap();
    repository.store().put_own(&key, Bytes::from_static(b"damaged")).await.unwrap();
    let before = content(&repository).await;
    let error = apply_at(&repository, now()).await.unwrap_err();
    assert!(matches!(error, CatalogError::UnknownNeeds { .. }), "{error}");
    assert_eq!(content(&repository).await, before);
}

/// A mark that is due is not carried out when a plan made now would not make it again: by then it may be the last good one.
#[tokio::test]
async fn a_due_mark_is_judged_again() {
    let (repository, source) = world(Store::memory()).await;
    let (who, newest) = (who(), manifest(NIGHTS - 1).id);
    let by = Decision { operator: &who, at: now() - 48.hours(), reason: "by mistake" };
    repository.mark(&source, &newest, &by, now() - 1.hour()).await.unwrap();
    let (policy, gc) = (policy(), options(now()).gc);
    let done = repository.gc_apply_by(&gc, &who, ClockDoubts::Records, |_| &policy).await.unwrap();
    assert_eq!(done.doomed, [0, 1].map(|n| format!("{source}@{}", manifest(n).id)));
    assert!(repository.fate(&source, &newest).await.unwrap().mark().is_some());
    let done = apply_at(&repository, now()).await.unwrap();
    assert!(done.taken_back.iter().any(|b| b.ends_with(newest.as_str())), "{done:?}");
}

/// What stands beside a backup and cannot be read may be a hold.
#[tokio::test]
async fn damaged_holds_hold() {
    let (repository, source) = world(Store::memory()).await;
    let key = format!("backups/{source}/{}/holds/000000.json", manifest(4).id);
    repository.store().put_own(&key, Bytes::from_static(b"damaged")).await.unwrap();
    let (plan, _) = planned(&repository, &policy(), now()).await;
    let verdict = plan.backups.iter().find(|v| v.id == manifest(4).id).unwrap();
    assert_eq!(verdict.reasons, ["what stands beside it cannot be read"]);
    assert!(plan.warnings.iter().any(|w| w.contains("holds/000000.json")), "{:?}", plan.warnings);
}

/// A hold on a marked backup takes the mark back; released, the tiers decide again.
#[tokio::test]
async fn held_and_released() {
    let (repository, source) = world(Store::memory()).await;
    let id = manifest(3).id;
    let record = HoldRecord { backup: id.clone(), ..hold("kim asked for it") };
    assert!(repository.hold(&source, &id, &record).await.unwrap(), "it was marked");
    assert_eq!(repository.fate(&source, &id).await.unwrap(), Fate::Stands);
    let done = apply_at(&repository, now()).await.unwrap();
    assert!(!done.marked.iter().any(|b| b.ends_with(id.as_str())));
    let release = HoldRecord { state: HoldState::Released, reason: "done".into(), ..record.clone() };
    repository.hold(&source, &id, &release).await.unwrap();
    assert!(matches!(repository.hold(&source, &id, &release).await, Err(CatalogError::NotHeld { .. })));
    let done = apply_at(&repository, now()).await.unwrap();
    assert_eq!(done.marked, [format!("{source}@{id}")]);
    let late = HoldRecord { backup: manifest(0).id, ..record };
    assert!(matches!(repository.hold(&source, &manifest(0).id, &late).await, Err(CatalogError::Doomed { .. })));
}
