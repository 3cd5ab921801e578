//! A deletion from its mark to the last object, on a store in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dozo_catalog::{BackupState, CatalogError, Decision, Fate, GcOptions, Repository, this_process};
use dozo_model::{
    BackupId, Content, FixedClock, Intent, Manifest, ManifestError, ManifestForm, ObjectRef, Operator, Sha256Digest, SourceName,
    Timestamp,
};
use dozo_store::{Intercept, Interference, Operation, Request, Store};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn operator() -> Operator {
    Operator { user: "tester".into(), host: "here".into(), arguments: vec![] }
}

fn options(now: Timestamp) -> GcOptions {
    GcOptions { grace: Duration::from_secs(86_400), now, only_host: None }
}

/// What is marked by hand goes, whatever a policy says.
async fn all_may_go() -> Result<std::collections::HashSet<(SourceName, BackupId)>, CatalogError> {
    Ok(std::collections::HashSet::new())
}

/// A backup of one object of its own and the given ones, committed.
async fn committed(repository: &Repository, n: usize, parent: Option<&Manifest>) -> Manifest {
    let manifest = stored(repository, n, parent).await;
    repository.commit(&manifest).await.unwrap();
    manifest
}

/// As `committed`, but for its manifest.
async fn stored(repository: &Repository, n: usize, parent: Option<&Manifest>) -> Manifest {
    let mut manifest = Manifest::from_bytes(include_bytes!("../../model/golden/manifest_v1.json")).unwrap();
    manifest.id = BackupId::parse(&format!("2026112{n}T020000Z-aaaaa{n}")).unwrap();
    let Content::Postgres(content) = &mut manifest.content else { panic!("the golden manifest is of Postgres") };
    content.datasets.clear();
    let key = format!("data/{}/public/orders/00000-{}-abcdefgh.parquet", manifest.source, manifest.id);
    manifest.objects = vec![ObjectRef { bytes: key.len() as u64, sha256: Sha256Digest::of(key.as_bytes()), key: key.clone() }];
    manifest.parent = parent.map(|p| p.id.clone());
    manifest.objects.extend(parent.into_iter().flat_map(|p| p.objects.clone()));
    let intent = Intent {
        format: manifest.format,
        id: manifest.id.clone(),
        source: manifest.source.clone(),
        parent: manifest.parent.clone(),
        started: manifest.started,
        holder: this_process(),
        replica_of: None,
    };
    repository.begin(&intent).await.unwrap();
    repository.store().put_own(&key, Bytes::from(key.clone())).await.unwrap();
    manifest
}

async fn there(repository: &Repository, manifest: &Manifest, n: usize) -> bool {
    repository.store().size(&manifest.objects[n].key).await.unwrap().is_some()
}

#[tokio::test]
async fn marked_taken_back_marked_again_doomed_and_gone() {
    let now = at("2026-11-25T00:00:00Z");
    let repository = Repository::open_or_init(Store::memory(), &FixedClock(now)).await.unwrap();
    let old = committed(&repository, 1, None).await;
    let new = committed(&repository, 2, Some(&old)).await;
    let (source, who) = (&old.source, operator());
    let by = Decision { operator: &who, at: now, reason: "monthly tier is full" };
    assert!(matches!(repository.undo(source, &old.id, &by).await, Err(CatalogError::NotMarked { .. })));

    let mark = repository.mark(source, &old.id, &by, at("2026-11-26T00:00:00Z")).await.unwrap();
    assert_eq!(repository.mark(source, &old.id, &by, now).await.unwrap(), mark, "the first mark counts");
    assert!(matches!(repository.parent_stands(source, &old.id).await, Err(CatalogError::ParentGone { .. })));
    assert!(!repository.doom(source, &old.id, &by).await.unwrap(), "a mark that is not due stays");
    // Not due: nothing happens. It can still be restored, and taken back.
    let done = repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
    assert_eq!((done.doomed.len(), done.objects), (0, 0));
    assert_eq!(repository.gc_plan(&options(now)).await.unwrap().marked.len(), 1);
    assert!(repository.manifest(source, &old.id).await.is_ok());
    repository.undo(source, &old.id, &by).await.unwrap();
    assert_eq!(repository.fate(source, &old.id).await.unwrap(), Fate::Stands);
    repository.parent_stands(source, &old.id).await.unwrap();

    repository.mark(source, &old.id, &by, now).await.unwrap();
    let done = repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
    assert_eq!(done.doomed, [format!("{source}@{}", old.id)]);
    assert!(matches!(repository.undo(source, &old.id, &by).await, Err(CatalogError::Doomed { .. })), "a doom is final");
    // The object that the child names stays; the child still verifies and may be shared.
    assert!(there(&repository, &old, 0).await && there(&repository, &new, 0).await);
    repository.parent_stands(source, &new.id).await.unwrap();
    assert!(matches!(repository.manifest(source, &old.id).await, Err(CatalogError::Doomed { .. })));
    let latest = repository.resolve(&"latest".parse().unwrap()).await.unwrap();
    assert_eq!(latest.id, new.id);

    // A commit that was repeated while its process slept brings nothing back to life.
    assert!(matches!(repository.commit(&old).await, Err(CatalogError::Doomed { .. })));
    assert!(matches!(repository.manifest(source, &old.id).await, Err(CatalogError::Doomed { .. })));
    let states = repository.backups(None).await.unwrap();
    assert!(matches!(states[0].state, BackupState::Doomed(_)) && matches!(states[1].state, BackupState::Committed(_)));

    // With the child, everything goes.
    repository.mark(source, &new.id, &by, now).await.unwrap();
    let done = repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
    assert!(done.objects >= 3, "{done:?}");
    assert!(repository.store().list("data").await.unwrap().is_empty());
    let left = repository.store().list("backups").await.unwrap();
    assert!(left.iter().all(|o| o.key.contains("/fate-")), "{left:?}");
}

#[tokio::test]
async fn what_asks_for_a_newer_deleter_stops_every_deletion() {
    let now = at("2026-11-25T00:00:00Z");
    let repository = Repository::open_or_init(Store::memory(), &FixedClock(now)).await.unwrap();
    let old = committed(&repository, 1, None).await;
    let mut newer = committed(&repository, 2, None).await;
    newer.id = BackupId::parse("20261123T020000Z-aaaaa3").unwrap();
    newer.min_deleter = 99;
    repository.commit(&newer).await.unwrap();
    let who = operator();
    let by = Decision { operator: &who, at: now, reason: "test" };
    repository.mark(&old.source, &old.id, &by, now).await.unwrap();
    assert!(matches!(
        repository.gc_apply(&options(now), &who, all_may_go).await,
        Err(CatalogError::UnknownNeeds { count: 1, .. })
    ));
    assert_eq!(repository.gc_plan(&options(now)).await.unwrap().unreadable.len(), 1);
    assert!(there(&repository, &old, 0).await);
    assert!(matches!(repository.fate(&old.source, &old.id).await.unwrap(), Fate::Marked(_)), "nothing was doomed either");
}

/// Acknowledges data and loses it.
#[derive(Debug)]
struct Liar;

#[async_trait::async_trait]
impl Intercept for Liar {
    async fn before(&self, request: Request) -> Interference {
        let data = request.operation == Operation::Put && request.path.starts_with("data/");
        if data { Interference::LoseWrite } else { Interference::Pass }
    }
}

#[tokio::test]
async fn a_store_that_loses_what_it_acknowledged_is_found_out() {
    let now = at("2026-11-25T00:00:00Z");
    let honest = Store::memory();
    let repository = Repository::open_or_init(honest.intercepted(Arc::new(Liar)), &FixedClock(now)).await.unwrap();
    let lost = stored(&repository, 1, None).await;
    let error = repository.everything_stands(&lost).await.unwrap_err();
    assert!(matches!(&error, CatalogError::NotStored { count: 1, found: None, .. }), "{error}");
    let kept = committed(&Repository::open(honest).await.unwrap(), 2, None).await;
    repository.everything_stands(&kept).await.unwrap();
}

/// Answers one request, counted from 0, in its own way.
#[derive(Debug)]
struct Nth {
    nth: usize,
    seen: AtomicUsize,
    interference: Interference,
}

#[async_trait::async_trait]
impl Intercept for Nth {
    async fn before(&self, _: Request) -> Interference {
        if self.seen.fetch_add(1, Ordering::SeqCst) == self.nth { self.interference } else { Interference::Pass }
    }
}

/// Whichever request of a collection fails, or loses its answer: an error, nothing lost that is needed, and the next run ends
/// where one without a fault ends.
#[tokio::test]
async fn a_collection_fails_at_any_request_and_goes_on() {
    let now = at("2026-11-25T00:00:00Z");
    let (who, mut swept) = (operator(), 0);
    for interference in [Interference::Fail, Interference::LoseAnswer] {
        for nth in 0.. {
            let store = Store::memory();
            let repository = Repository::open_or_init(store.clone(), &FixedClock(now)).await.unwrap();
            let old = committed(&repository, 1, None).await;
            let lone = committed(&repository, 2, None).await;
            let kept = committed(&repository, 3, Some(&old)).await;
            let by = Decision { operator: &who, at: now, reason: "test" };
            for gone in [&old, &lone] {
                repository.mark(&gone.source, &gone.id, &by, now).await.unwrap();
            }
            let fault = Arc::new(Nth { nth, seen: AtomicUsize::new(0), interference });
            let faulty = Repository::open(store.intercepted(Arc::clone(&fault) as Arc<dyn Intercept>)).await;
            let failed = match &faulty {
                Ok(faulty) => faulty.gc_apply(&options(now), &who, all_may_go).await.is_err(),
                Err(_) => true,
            };
            repository.everything_stands(&kept).await.unwrap();
            if fault.seen.load(Ordering::SeqCst) <= nth {
                assert!(!failed, "no fault, no failure");
                break;
            }
            assert!(failed, "request {nth}, {interference:?}: a failure is told");
            swept += 1;
            repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
            repository.everything_stands(&kept).await.unwrap();
            let data: Vec<String> = store.list("data").await.unwrap().into_iter().map(|o| o.key).collect();
            let mut needed: Vec<String> = kept.objects.iter().map(|o| o.key.clone()).collect();
            needed.sort();
            assert_eq!(data, needed, "request {nth}, {interference:?}");
        }
    }
    println!("{swept} requests of a collection failed, one in each run");
    assert!(swept >= 60, "{swept}");
}

/// A fate that is lost hides no doom; one that is damaged leaves the backup readable, and stops every deletion until it is given up.
#[tokio::test]
async fn lost_and_damaged_fates() {
    let now = at("2026-11-25T00:00:00Z");
    let repository = Repository::open_or_init(Store::memory(), &FixedClock(now)).await.unwrap();
    let (kept, doomed) = (committed(&repository, 1, None).await, committed(&repository, 2, None).await);
    let (source, who) = (&kept.source, operator());
    let by = Decision { operator: &who, at: now, reason: "test" };
    let lose = async |id: &BackupId, n: u32| {
        repository.store().delete(&format!("backups/{source}/{id}/fate-{n}.json")).await.unwrap();
    };
    for _ in 0..2 {
        repository.mark(source, &kept.id, &by, at("2026-12-25T00:00:00Z")).await.unwrap();
        repository.undo(source, &kept.id, &by).await.unwrap();
    }
    repository.mark(source, &doomed.id, &by, now).await.unwrap();
    assert!(repository.doom(source, &doomed.id, &by).await.unwrap());
    lose(&kept.id, 0).await;
    lose(&doomed.id, 0).await;
    assert_eq!(repository.fate(source, &kept.id).await.unwrap(), Fate::Stands, "the mark was taken back");
    assert!(matches!(repository.fate(source, &doomed.id).await, Ok(Fate::Doomed(_))), "a doom needs no mark to count");
    // The newest record is damaged: was it an undo, or a doom?
    lose(&kept.id, 3).await;
    repository.store().put_own(&format!("backups/{source}/{}/fate-3.json", kept.id), Bytes::from_static(b"{")).await.unwrap();
    assert!(repository.manifest(source, &kept.id).await.is_ok(), "it can be restored");
    assert!(matches!(repository.fate(source, &kept.id).await, Err(CatalogError::Record { .. })));
    assert!(matches!(repository.parent_stands(source, &kept.id).await, Err(CatalogError::Record { .. })));
    assert!(matches!(
        repository.gc_apply(&options(now), &who, all_may_go).await,
        Err(CatalogError::UnknownNeeds { count: 1, .. })
    ));
    assert!(there(&repository, &doomed, 0).await, "nothing goes while one fate is not known");
    repository.give_up(source, &kept.id, &by).await.unwrap();
    repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
    assert!(!there(&repository, &kept, 0).await && !there(&repository, &doomed, 0).await);
}

/// A backup whose manifest is damaged, or lost with its folder, stops every deletion until it is given up.
#[tokio::test]
async fn what_is_given_up_stops_nothing() {
    let now = at("2026-11-25T00:00:00Z");
    let repository = Repository::open_or_init(Store::memory(), &FixedClock(now)).await.unwrap();
    let (damaged, lost) = (committed(&repository, 1, None).await, committed(&repository, 2, None).await);
    let kept = committed(&repository, 3, Some(&damaged)).await;
    let (source, who) = (&kept.source, operator());
    let by = Decision { operator: &who, at: now, reason: "no copy of it is left" };
    let key = |id: &BackupId, name: &str| format!("backups/{source}/{id}/{name}");
    repository.store().delete(&key(&damaged.id, "manifest.json")).await.unwrap();
    repository.store().put_own(&key(&damaged.id, "manifest.json"), Bytes::from_static(b"{}")).await.unwrap();
    for name in ["manifest.json", "intent.json"] {
        repository.store().delete(&key(&lost.id, name)).await.unwrap();
    }
    assert!(matches!(
        repository.gc_apply(&options(now), &who, all_may_go).await,
        Err(CatalogError::UnknownNeeds { count: 2, .. })
    ));
    assert!(matches!(repository.give_up(source, &kept.id, &by).await, Err(CatalogError::Readable { .. })));
    // A newer dozo can read it: that one may decide.
    let mut newer = stored(&repository, 4, None).await;
    newer.min_reader = 99;
    repository.commit(&newer).await.unwrap();
    let refused = repository.give_up(source, &newer.id, &by).await;
    assert!(matches!(refused, Err(CatalogError::Manifest { source: ManifestError::TooNew { .. }, .. })), "{refused:?}");
    repository.store().delete(&key(&newer.id, "manifest.json")).await.unwrap();
    repository.store().delete(&key(&newer.id, "intent.json")).await.unwrap();
    repository.store().delete(&newer.objects[0].key).await.unwrap();
    let nothing = BackupId::parse("20261101T020000Z-nobody").unwrap();
    assert!(matches!(repository.give_up(source, &nothing, &by).await, Err(CatalogError::NoBackup { .. })));
    for id in [&damaged.id, &lost.id] {
        repository.give_up(source, id, &by).await.unwrap();
        repository.give_up(source, id, &by).await.unwrap();
        assert!(matches!(repository.fate(source, id).await, Ok(Fate::Doomed(_))));
    }
    repository.gc_apply(&options(now), &who, all_may_go).await.unwrap();
    assert!(there(&repository, &kept, 0).await && there(&repository, &kept, 1).await, "what another backup names stays");
    assert!(!there(&repository, &lost, 0).await);
    repository.parent_stands(source, &kept.id).await.unwrap();
}
