//! A plan over many backups, read from a store: how long it takes and how much memory, printed. `DOZO_TEST_NIGHTLY=1`: 1,000 on SeaweedFS, and
//! 10,000 of a million objects in a folder.

use std::time::Instant;

use dozo_engine::{Repository, retention_plan};
use dozo_model::{BackupId, Content, FixedClock, Manifest, ManifestForm, ObjectRef, RetentionPolicy, Sha256Digest, Timestamp};
use dozo_testkit::shared_s3;
use futures::StreamExt;
use jiff::ToSpan;

use crate::world::{Place, fresh, nightly};

const OBJECTS: usize = 100;

/// One night of a source: its manifest names objects of its own, and of the nights before.
fn manifest(source: usize, night: usize, began: Timestamp) -> Manifest {
    let mut m = Manifest::from_bytes(include_bytes!("../../../model/golden/manifest_v1.json")).unwrap();
    let id = |night: usize| {
        let at = began + i64::try_from(24 * night).unwrap().hours();
        format!("{}-{source:03}{:03}", at.strftime("%Y%m%dT%H%M%SZ"), night % 1000)
    };
    m.source = dozo_model::SourceName::parse(&format!("shop{source}")).unwrap();
    m.id = BackupId::parse(&id(night)).unwrap();
    m.started = began + i64::try_from(24 * night).unwrap().hours();
    m.finished = m.started + 5.minutes();
    m.parent = None;
    let Content::Postgres(content) = &mut m.content else { panic!("the golden manifest is of Postgres") };
    content.datasets.clear();
    m.objects = (0..OBJECTS)
        .map(|n| {
            let key = format!("data/{}/public/t{n}/00000-{}-abcdefgh.parquet", m.source, id(night));
            ObjectRef { bytes: 1_000_000, sha256: Sha256Digest::of(key.as_bytes()), key }
        })
        .collect();
    m
}

async fn plan_of(place: &Place, sources: usize, nights: usize) {
    let began: Timestamp = "2024-01-01T02:00:00Z".parse().unwrap();
    let repository = Repository::open_or_init(place.store(), &FixedClock(began)).await.unwrap();
    let all = (0..sources).flat_map(|s| (0..nights).map(move |n| (s, n)));
    let repository = &repository;
    let puts = futures::stream::iter(all).map(|(s, n)| async move { repository.commit(&manifest(s, n, began)).await.unwrap() });
    puts.buffer_unordered(16).for_each(|_| std::future::ready(())).await;
    let started = Instant::now();
    let facts = repository.retention_facts().await.unwrap();
    let read = started.elapsed();
    let policy = RetentionPolicy { require_verified: false, ..RetentionPolicy::default() };
    let plan = retention_plan(&facts, |_| &policy, began + i64::try_from(24 * nights).unwrap().hours());
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = memory.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    println!(
        "{} backups of {} objects in {}: read in {:.2} s, planned in {:.2} s; {peak}",
        plan.backups.len(),
        facts.objects.len(),
        repository.store().url(),
        read.as_secs_f64(),
        (started.elapsed() - read).as_secs_f64()
    );
    assert_eq!((plan.backups.len(), facts.objects.len()), (sources * nights, sources * nights * OBJECTS));
    assert!(plan.unreadable.is_empty(), "{:?}", plan.unreadable);
    // Years of nights: what is older than every tier goes, though nothing was ever verified.
    assert_eq!(plan.marks().count() > 0, nights > 400, "{} go", plan.marks().count());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_on_s3() {
    let place = Place::new(&shared_s3().endpoint, &fresh("many"), std::time::Duration::from_secs(20));
    plan_of(&place, 2, if nightly() { 500 } else { 20 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    plan_of(&Place::local(folder.path()), 10, if nightly() { 1000 } else { 20 }).await;
}
