//! What every store must do, asked of memory, a local folder and a real S3 server by the same function.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dozo_model::{Ability, Sha256Digest};
use dozo_store::{
    Intercept, Interference, ObjectData, Operation, PutOutcome, Request, Store, StoreError, StoreOptions, UploadPart,
};
use dozo_testkit::{S3Server, shared_s3};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longer than any server here takes to answer.
const PATIENT: Duration = Duration::from_secs(20);

struct Place {
    name: &'static str,
    store: Store,
    /// Kept until the test ends.
    _folder: Option<tempfile::TempDir>,
}

/// How the S3 server is reached; its credentials are put into the folder.
fn options(folder: &Path, retry_for: Duration) -> StoreOptions {
    let s3 = shared_s3();
    let text = format!("[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n", S3Server::KEY, S3Server::SECRET);
    std::fs::write(folder.join("credentials"), text).unwrap();
    StoreOptions {
        endpoint: Some(s3.endpoint.clone()),
        region: Some("us-east-1".into()),
        credentials_file: Some("credentials".into()),
        retry_for: Some(retry_for),
        ..StoreOptions::default()
    }
}

/// A store of each kind, empty; the remote one tries again for so long.
fn places(test: &str, retry_for: Duration) -> Vec<Place> {
    let local = tempfile::tempdir().unwrap();
    let folder = Store::open("file://repo", &StoreOptions::default(), local.path()).unwrap();
    let keys = tempfile::tempdir().unwrap();
    let options = StoreOptions { storage_class: Some("STANDARD_IA".into()), ..options(keys.path(), retry_for) };
    let url = format!("s3://{}/conformance/{test}-{}", S3Server::BUCKET, std::process::id());
    let remote = Store::open(&url, &options, keys.path()).unwrap();
    vec![
        Place { name: "memory", store: Store::memory(), _folder: None },
        Place { name: "local", store: folder, _folder: Some(local) },
        Place { name: "s3", store: remote, _folder: Some(keys) },
    ]
}

fn noise(len: usize) -> Bytes {
    let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0];
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

async fn upload(store: &Store, key: &str, parts: &[Bytes], end: bool) -> Result<u64, StoreError> {
    let (sender, receiver) = mpsc::channel(1);
    let feed = async {
        for part in parts {
            if sender.send(UploadPart::Data(part.clone())).await.is_err() {
                return;
            }
        }
        if end {
            let _ = sender.send(UploadPart::End).await;
        }
        drop(sender);
    };
    let never = CancellationToken::new();
    futures::join!(feed, store.upload(key, receiver, &never)).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_written_once() {
    for Place { name, store, _folder } in places("once", PATIENT) {
        assert_eq!(store.put_new("a/one", Bytes::from_static(b"1")).await.unwrap(), PutOutcome::Created, "{name}");
        // The same request once more: its answer may have been lost.
        assert_eq!(store.put_new("a/one", Bytes::from_static(b"1")).await.unwrap(), PutOutcome::Created, "{name}");
        assert_eq!(store.put_new("a/one", Bytes::from_static(b"2")).await.unwrap(), PutOutcome::Exists, "{name}");
        assert!(matches!(store.put_own("a/one", Bytes::from_static(b"2")).await, Err(StoreError::Conflict { .. })), "{name}");
        assert_eq!(store.get("a/one").await.unwrap(), "1", "{name}");
        // A race: many writers, one winner, whose bytes stand.
        for round in 0..3 {
            let key = format!("race/{round}");
            let writers = (0..8).map(|n| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move { (n, store.put_new(&key, Bytes::from(format!("writer {n}"))).await.unwrap()) })
            });
            let done = futures::future::join_all(writers).await.into_iter().map(Result::unwrap);
            let won: Vec<i32> = done.filter(|(_, o)| *o == PutOutcome::Created).map(|(n, _)| n).collect();
            assert_eq!(won.len(), 1, "{name}: {won:?}");
            assert_eq!(store.get(&key).await.unwrap(), format!("writer {}", won[0]), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_listed_at_once_and_gone_when_deleted() {
    for Place { name, store, _folder } in places("list", PATIENT) {
        assert!(store.list("data").await.unwrap().is_empty(), "{name}");
        assert_eq!(store.get_opt("data/none").await.unwrap(), None, "{name}");
        assert_eq!(store.size("data/none").await.unwrap(), None, "{name}");
        let keys = ["data/a/-4frders/1", "data/a/orders/1", "data/a/orders/2", "data/b/x", "database/y"];
        for (n, key) in keys.iter().enumerate() {
            store.put_own(key, noise(n + 1)).await.unwrap();
            let folder = key.split('/').next().unwrap();
            assert!(store.list(folder).await.unwrap().iter().any(|o| o.key == *key), "{name}: {key}");
        }
        let listed = store.list("data").await.unwrap();
        assert_eq!(listed.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), keys[..4], "{name}");
        assert_eq!(listed.iter().map(|o| o.bytes).collect::<Vec<_>>(), [1, 2, 3, 4], "{name}");
        assert_eq!(store.folders("data").await.unwrap(), ["a", "b"], "{name}");
        assert_eq!(store.size(keys[1]).await.unwrap(), Some(2), "{name}");
        store.delete(keys[1]).await.unwrap();
        store.delete(keys[1]).await.unwrap();
        assert_eq!(store.list("data").await.unwrap().len(), 3, "{name}");
        assert!(matches!(store.get(keys[1]).await, Err(StoreError::NotFound { .. })), "{name}");
        for key in ["../x", "a/../x", "a//b"] {
            assert!(matches!(store.put_new(key, Bytes::new()).await, Err(StoreError::BadKey { .. })), "{name}: {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_appear_whole_or_not_at_all() {
    for Place { name, store, _folder } in places("upload", PATIENT) {
        let (full, rest) = (noise(store.parts().bytes), noise(12_345));
        for (key, parts) in [
            ("data/empty", vec![]),
            ("data/one", vec![rest.clone()]),
            ("data/many", vec![full.clone(), full.clone(), full.clone(), rest.clone()]),
        ] {
            let whole: Vec<u8> = parts.concat();
            assert_eq!(upload(&store, key, &parts, true).await.unwrap(), whole.len() as u64, "{name}: {key}");
            let fetched = store.fetch(key).await.unwrap();
            assert_eq!((fetched.bytes, fetched.sha256), (whole.len() as u64, Sha256Digest::of(&whole)), "{name}: {key}");
            if let ObjectData::Memory(bytes) = fetched.data {
                assert_eq!(bytes, whole, "{name}: {key}");
            }
        }
        // Stopped in the middle: no object, and nothing staged.
        for parts in [vec![], vec![rest.clone()], vec![full.clone(), full.clone()]] {
            assert!(matches!(upload(&store, "data/stopped", &parts, false).await, Err(StoreError::Cancelled { .. })), "{name}");
            assert_eq!(store.size("data/stopped").await.unwrap(), None, "{name}");
        }
        assert!(store.unfinished().await.unwrap().is_empty(), "{name}");
        assert_eq!(store.list("data").await.unwrap().len(), 3, "{name}");
    }
}

/// Answers one request of an operation, counted from 0, in its own way.
#[derive(Debug)]
struct Nth {
    operation: Operation,
    nth: usize,
    seen: AtomicUsize,
    interference: Interference,
}

impl Nth {
    fn new(operation: Operation, nth: usize, interference: Interference) -> Arc<Self> {
        Arc::new(Self { operation, nth, seen: AtomicUsize::new(0), interference })
    }
}

#[async_trait::async_trait]
impl Intercept for Nth {
    async fn before(&self, request: Request) -> Interference {
        let hit = request.operation == self.operation && self.seen.fetch_add(1, Ordering::SeqCst) == self.nth;
        if hit { self.interference } else { Interference::Pass }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_lost_answers_and_short_reads_are_seen() {
    for Place { name, store, _folder } in places("faults", Duration::ZERO) {
        let (full, rest) = (noise(store.parts().bytes), noise(777));
        let parts = [full, rest.clone()];
        // Whichever request fails: an error, no object, nothing staged, and the next attempt under another key goes through.
        for (operation, nth) in [(Operation::Begin, 0), (Operation::Part, 0), (Operation::Part, 1), (Operation::Complete, 0)] {
            let key = format!("data/{operation:?}-{nth}").to_lowercase();
            let failing = store.intercepted(Nth::new(operation, nth, Interference::Fail));
            assert!(matches!(upload(&failing, &key, &parts, true).await, Err(StoreError::Failed { .. })), "{name}: {key}");
            assert_eq!(store.size(&key).await.unwrap(), None, "{name}: {key}");
            assert!(upload(&failing, &format!("{key}-again"), &parts, true).await.is_ok(), "{name}: {key}");
        }
        assert!(store.unfinished().await.unwrap().is_empty(), "{name}");
        // The answer to a put is lost: the request made again finds its own bytes.
        let losing = store.intercepted(Nth::new(Operation::Put, 0, Interference::LoseAnswer));
        assert!(losing.put_own("fate", Bytes::from_static(b"doom")).await.is_err(), "{name}");
        losing.put_own("fate", Bytes::from_static(b"doom")).await.unwrap();
        // A put that is acknowledged and lost is not there when somebody looks.
        let lying = store.intercepted(Nth::new(Operation::Put, 0, Interference::LoseWrite));
        lying.put_own("data/lost", rest.clone()).await.unwrap();
        assert_eq!(store.size("data/lost").await.unwrap(), None, "{name}");
        // A read that ends early has another length and digest.
        store.put_own("data/whole", rest.clone()).await.unwrap();
        let short = store.intercepted(Nth::new(Operation::Get, 0, Interference::Truncate(7)));
        let fetched = short.fetch("data/whole").await.unwrap();
        assert_eq!(fetched.bytes, 770, "{name}");
        assert_ne!(fetched.sha256, Sha256Digest::of(&rest), "{name}");
        assert_eq!(short.fetch("data/whole").await.unwrap().sha256, Sha256Digest::of(&rest), "{name}");
    }
}

/// What a server does not answer is asked again; what it refuses is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_requests_are_sent_again() {
    let s3 = places("again", PATIENT).pop().unwrap();
    let store = s3.store;
    for interference in [Interference::Fail, Interference::LoseAnswer] {
        let key = format!("data/{interference:?}").to_lowercase();
        for operation in [Operation::Put, Operation::Get, Operation::List, Operation::Delete] {
            let once = store.intercepted(Nth::new(operation, 0, interference));
            let before = once.requests();
            once.put_own(&key, Bytes::from_static(b"x")).await.unwrap();
            assert_eq!(once.get(&key).await.unwrap(), "x");
            assert_eq!(once.list("data").await.unwrap().len(), 1);
            once.delete(&key).await.unwrap();
            assert_eq!(once.requests().since(&before).repeated, 1, "{operation:?}, {interference:?}");
        }
    }
    let before = store.requests();
    assert!(matches!(store.get("data/nothing").await, Err(StoreError::NotFound { .. })));
    assert_eq!(store.requests().since(&before).total(), 1, "what is not there is not asked for again");
}

/// What stores say of themselves, found out by doing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capabilities_are_found_out() {
    for Place { name, store, _folder } in places("probe", PATIENT) {
        let found = store.probe("abcdefghijkl").await.unwrap();
        let everywhere = [found.create_only, found.multipart, found.list_after_write, found.delete];
        assert_eq!(everywhere, [Ability::Yes; 4], "{name}: {found:?}");
        let remote = if name == "s3" { Ability::Yes } else { Ability::Unknown };
        assert_eq!([found.checksums, found.storage_class], [remote; 2], "{name}: {found:?}");
        assert_eq!(found.if_match == Ability::Yes, name != "local", "{name}: {found:?}");
        // A store that lets the second writer win is found out.
        assert!(store.list("").await.unwrap().is_empty(), "{name}: nothing is left");
        let forgetful = store.intercepted(Nth::new(Operation::Put, 1, Interference::LoseWrite));
        assert_eq!(forgetful.probe("abcdefghijkl").await.unwrap().create_only, Ability::No, "{name}");
    }
    // Versions and locks of a bucket that has them.
    let s3 = shared_s3();
    s3.make_bucket("dozo-lock", true);
    let keys = tempfile::tempdir().unwrap();
    let locked = Store::open("s3://dozo-lock/x", &options(keys.path(), PATIENT), keys.path()).unwrap();
    let found = locked.probe("abcdefghijkl").await.unwrap();
    assert_eq!([found.versioning, found.object_lock], [Ability::Yes; 2], "{found:?}");
}

/// Uploads that were begun and not ended are listed and removed, by whoever finds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_uploads_are_found() {
    for Place { name, store, _folder } in places("unfinished", Duration::ZERO) {
        let full = noise(store.parts().bytes);
        // Its process dies: nothing is completed and nothing is aborted.
        if let Some(folder) = store.folder() {
            // As a killed process leaves it: in a living one the file goes when the upload is dropped, some time later.
            std::fs::create_dir_all(folder.join("data")).unwrap();
            std::fs::write(folder.join("data/dead#1"), &full).unwrap();
        } else {
            let dies = Arc::new(Dies(Nth::new(Operation::Part, 1, Interference::Fail)));
            let dying = store.intercepted(dies);
            assert!(upload(&dying, "data/dead", &[full.clone(), full.clone()], true).await.is_err(), "{name}");
        }
        let left = store.unfinished().await.unwrap();
        match name {
            // In memory nothing outlives its process.
            "memory" => assert!(left.is_empty(), "{name}: {left:?}"),
            _ => assert!(left.len() == 1 && left[0].key.starts_with("data/dead#"), "{name}: {left:?}"),
        }
        assert_eq!(store.size("data/dead").await.unwrap(), None, "{name}");
        for object in left {
            store.remove_unfinished(&object.key).await.unwrap();
            store.remove_unfinished(&object.key).await.unwrap();
        }
        assert!(store.unfinished().await.unwrap().is_empty(), "{name}");
    }
}

/// Fails one request, and every abort.
#[derive(Debug)]
struct Dies(Arc<Nth>);

#[async_trait::async_trait]
impl Intercept for Dies {
    async fn before(&self, request: Request) -> Interference {
        if request.operation == Operation::Abort { Interference::Fail } else { self.0.before(request).await }
    }
}

/// Lets every put replace what stands there.
#[derive(Debug)]
struct Careless;

#[async_trait::async_trait]
impl Intercept for Careless {
    async fn before(&self, _: Request) -> Interference {
        Interference::Overwrite
    }
}

/// A server without create-only puts is found out; the processes of one host take turns there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_puts_replace_a_host_takes_turns() {
    for Place { name, store, _folder } in places("careless", PATIENT) {
        let careless = store.intercepted(Arc::new(Careless));
        assert_eq!(careless.probe("abcdefghijkl").await.unwrap().create_only, Ability::No, "{name}");
        let turns = careless.one_at_a_time(&format!("test-{}", std::process::id()));
        let writers = (0..8).map(|n| {
            let store = turns.clone();
            tokio::spawn(async move { store.put_new("race", Bytes::from(vec![n])).await.unwrap() })
        });
        let outcomes: Vec<PutOutcome> = futures::future::join_all(writers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(outcomes.iter().filter(|o| **o == PutOutcome::Created).count(), 1, "{name}: {outcomes:?}");
    }
}
