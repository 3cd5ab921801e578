//! Every verb that writes, run twice: what exists is not changed by the second run.

use std::time::Duration;

use dozo_engine::EngineError;
use dozo_testkit::{shared, shared_s3};

use crate::world::{Place, Verbs, fresh, small_database};

/// What both listings have in common must be equal, and nothing may be missing but leases.
fn unchanged(before: &[(String, String)], after: &[(String, String)], what: &str) {
    for object in before.iter().filter(|o| !o.0.starts_with("leases/")) {
        assert!(after.contains(object), "{what}: {} was changed or removed", object.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_exists_is_changed() {
    let (cluster, s3) = (shared(15), shared_s3());
    let database = small_database(cluster, "twice");
    let verbs = Verbs::new(&database);
    let place = |name: &str| Place::new(&s3.endpoint, &fresh(name), Duration::from_secs(20));
    let (repository, copy) = (place("twice"), place("twice_copy"));
    let url = cluster.url("postgres", &fresh("twice_restored"));
    let (mut here, mut there) = (repository.content().await, copy.content().await);
    let mut verbs_run = 0;
    for verb in ["backup", "verify", "replicate", "gc", "gc of the copy", "restore"] {
        for round in 1..=2 {
            match verb {
                "backup" => drop(verbs.backup(&repository).await.unwrap()),
                "verify" => drop(verbs.verify(&repository).await.unwrap()),
                "replicate" => {
                    let report = verbs.replicate(&repository, &copy).await.unwrap();
                    assert_eq!(report.copied.len(), if round == 1 { 2 } else { 0 });
                }
                "gc" => assert_eq!(verbs.gc(&repository, Duration::ZERO).await.unwrap().objects, 0),
                "gc of the copy" => assert_eq!(verbs.gc(&copy, Duration::ZERO).await.unwrap().objects, 0),
                _ => match (round, verbs.restore(&repository, &url).await) {
                    (1, restored) => drop(restored.unwrap()),
                    // The second is refused, and touches nothing.
                    (_, Err(EngineError::TargetOccupied { .. })) => {}
                    (_, other) => panic!("{other:?}"),
                },
            }
            let (now_here, now_there) = (repository.content().await, copy.content().await);
            unchanged(&here, &now_here, verb);
            unchanged(&there, &now_there, verb);
            let writes_nothing = verb == "restore" || verb.starts_with("gc") || verb == "replicate" && round == 2;
            let data = |all: &[(String, String)]| all.iter().filter(|o| !o.0.starts_with("leases/")).count();
            assert!(!writes_nothing || data(&here) == data(&now_here) && data(&there) == data(&now_there), "{verb}");
            (here, there) = (now_here, now_there);
            verbs_run += 1;
        }
    }
    println!("{verbs_run} runs, {} and {} objects, none changed", here.len(), there.len());
    assert_eq!(verbs.verify_all(&copy).await, 2);
}
