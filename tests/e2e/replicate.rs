//! Copies in other repositories: complete, proven, shared, resumed, and good to restore from.

use std::fs;

use dozo_testkit::{Cluster, Database, S3Server, shared, shared_s3};
use serde_json::Value;

use crate::harness::{Dozo, Place, files, fingerprints, fresh};

const TABLES: &str = "CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 3000) i; CREATE TABLE b AS SELECT i FROM generate_series(1, 10) i; \
     CREATE TABLE p (k int, v text) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); \
     CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200); INSERT INTO p SELECT i, 'v' || i FROM generate_series(0, 199) i";

/// Adds replicas to the configuration: one beside a folder, one beside S3.
fn with_replicas(dozo: &mut Dozo, more: &str) {
    let s3 = shared_s3();
    let replicas = format!(
        "[[repository.replica]]\nurl = \"file://safe\"\nname = \"safe\"\n{more}\n[[repository.replica]]\nurl = \"s3://{}/replica/{}\"\nname = \"second\"\n\
         endpoint = \"{}\"\nregion = \"us-east-1\"\nbackups = \"latest\"\n{more}",
        S3Server::BUCKET,
        fresh(),
        s3.endpoint
    );
    dozo.add_to_repository(&replicas);
    dozo.set("AWS_ACCESS_KEY_ID", S3Server::KEY);
    dozo.set("AWS_SECRET_ACCESS_KEY", S3Server::SECRET);
}

/// A backup, and replicas that hold nothing yet.
fn backed_up<'c>(cluster: &'c Cluster, name: &str) -> (Dozo, Database<'c>, String) {
    let database = cluster.database(name);
    database.psql(TABLES);
    let mut dozo = Dozo::new(&database, Place::Local);
    with_replicas(&mut dozo, "after-backup = false");
    let id = dozo.backup();
    (dozo, database, id)
}

fn reports(run: &Value) -> Vec<(String, usize, u64)> {
    let report = |r: &Value| {
        let copied = r["copied"].as_array().unwrap();
        let bytes = copied.iter().map(|c| c["bytes"].as_u64().unwrap()).sum();
        (r["replica"].as_str().unwrap().to_owned(), copied.len(), bytes)
    };
    run["replicas"].as_array().unwrap().iter().map(report).collect()
}

/// Everything that a restore from a replica gives back is what the repository gives back.
fn restores_from(dozo: &mut Dozo, cluster: &Cluster, replica: &str, database: &Database<'_>) {
    let target = format!("from_{}", fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let _ = dozo.run(&["--replica", replica, "restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(0);
    assert_eq!(fingerprints(dozo, cluster, &target), fingerprints(dozo, cluster, &database.name), "{replica}");
}

#[test]
fn filled_after_each_backup_and_good_to_restore_from() {
    let cluster = shared(15);
    for place in [Place::Local, Place::S3] {
        let database = cluster.database("replicas");
        database.psql(TABLES);
        let mut dozo = Dozo::new(&database, place);
        with_replicas(&mut dozo, "");
        // A replica is made by `replicate` alone; a backup does not fill what may be an unmounted folder.
        let run = dozo.run(&["backup", "shop"]).exits(4);
        let next = "next: mount its disk, or make it: dozo replicate --init --to safe";
        assert!(run.stderr.contains("replica safe was not filled") && run.stderr.contains(next), "{}", run.stderr);
        let run = dozo.run(&["replicate"]).exits(1);
        assert!(run.stderr.contains("DOZO-E6023") && run.stderr.contains(next), "{}", run.stderr);
        let _ = dozo.run(&["check"]);
        assert!(!dozo.folder.path().join("safe").exists());
        let status = dozo.run(&["status"]).exits(0).stdout;
        assert!(status.contains("safe, second not reached"), "{status}");

        let first = dozo.run(&["--json", "replicate", "--init"]).exits(0).json();
        let sizes = reports(&first);
        assert_eq!(
            sizes.iter().map(|(name, n, _)| (name.as_str(), *n)).collect::<Vec<_>>(),
            [("safe", 1), ("second", 1)],
            "{first}"
        );
        assert!(first["replicas"][0]["requests-to"]["put"].as_u64().unwrap() > 5, "{first}");
        let _ = dozo.run(&["verify", "latest"]).exits(0);
        database.psql("UPDATE b SET i = i + 1");
        // The second backup shares objects with the first; so do its copies.
        let second = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
        assert_eq!(second["reused"], 3, "{second}");
        for ((name, copied, bytes), (_, _, before)) in reports(&second).iter().zip(&sizes) {
            assert_eq!(*copied, 1, "{name}");
            assert!(bytes < before, "{name}: {bytes} of {before}");
        }
        let status = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
        for lag in status[0]["replicas"].as_array().unwrap() {
            assert_eq!((lag["missing"].as_u64(), lag["lag-seconds"].as_i64()), (Some(0), Some(0)), "{lag}");
        }
        for (name, count) in [("safe", 2), ("second", 2)] {
            let verified = dozo.run(&["--json", "--replica", name, "verify", "--all"]).exits(0).json();
            assert_eq!(verified.as_array().unwrap().len(), count, "{name}");
            restores_from(&mut dozo, cluster, name, &database);
            // Its garbage collector finds nothing to do.
            let plan = dozo.run(&["--json", "--replica", name, "gc", "plan", "--grace", "0s"]).exits(0).json();
            assert!(["uncommitted", "orphans", "unreadable"].iter().all(|k| plan[k].as_array().unwrap().is_empty()), "{plan}");
        }
        // Once more: nothing is written.
        let before = files(&dozo.folder.path().join("safe")).len();
        let again = dozo.run(&["--json", "replicate", "--all"]).exits(0).json();
        assert!(
            again["replicas"].as_array().unwrap().iter().all(|r| r["copied"].as_array().unwrap().is_empty() && r["present"] == 2),
            "{again}"
        );
        assert_eq!(files(&dozo.folder.path().join("safe")).len(), before);
    }
}

#[test]
fn an_interrupted_copy_goes_on_and_an_aborted_one_starts_over() {
    let cluster = shared(15);
    let (mut dozo, database, id) = backed_up(cluster, "resumed");
    let _ = dozo.run(&["replicate", "--init", "--to", "safe"]).exits(0);
    let safe = dozo.folder.path().join("safe");
    let folder = safe.join(format!("backups/shop/{id}"));
    // As a killed process leaves it: everything but the manifest, and one object less.
    let interrupt = || {
        fs::remove_file(folder.join("manifest.json")).unwrap();
        let _ = fs::remove_dir_all(folder.join("checks"));
        let object = files(&safe.join("data")).into_iter().max_by_key(|f| fs::metadata(f).unwrap().len()).unwrap();
        fs::remove_file(object).unwrap();
    };
    interrupt();
    let resumed = dozo.run(&["--json", "replicate", "shop@latest", "--to", "safe"]).exits(0).json();
    let copied = &resumed["replicas"][0]["copied"][0];
    assert_eq!(copied["copy"], id.as_str());
    assert!(copied["found"].as_u64().unwrap() >= 2, "{copied}");
    let _ = dozo.run(&["--replica", "safe", "verify", "--all"]).exits(0);
    // A collector there came in between: the copy gets another id, and no object of the first is relied upon.
    interrupt();
    let done = dozo.run(&["--json", "--replica", "safe", "gc", "apply", "--grace", "0s"]).exits(0).json();
    assert_eq!(done["aborted"], serde_json::json!([format!("shop@{id}")]));
    assert!(files(&safe.join("data")).is_empty());
    let anew = dozo.run(&["--json", "replicate", "--to", "safe"]).exits(0).json();
    let copy = anew["replicas"][0]["copied"][0]["copy"].as_str().unwrap().to_owned();
    assert!(copy != id && copy[..16] == id[..16], "{anew}");
    let _ = dozo.run(&["--replica", "safe", "verify", &format!("shop@{copy}")]).exits(0);
    restores_from(&mut dozo, cluster, "safe", &database);
    let text = fs::read_to_string(safe.join(format!("backups/shop/{copy}/RESTORE.md"))).unwrap();
    assert!(text.contains(&copy) && !text.contains(&id) && text.contains(&format!("{}", safe.display())), "{text}");
}

#[test]
fn damaged_objects_and_wrong_replicas_are_told() {
    let cluster = shared(15);
    let (dozo, _database, id) = backed_up(cluster, "refused");
    let object = files(&dozo.repository().join("data")).remove(0);
    let bytes = fs::read(&object).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    fs::write(&object, &damaged).unwrap();
    let run = dozo.run(&["replicate", "--init", "--to", "safe"]).exits(3);
    assert!(
        run.stderr.contains("was not copied") && run.stderr.contains(&format!("next: dozo verify shop@{id}")),
        "{}",
        run.stderr
    );
    let listed = dozo.run(&["--json", "--replica", "safe", "list"]).exits(0).json();
    assert_eq!(listed[0]["state"], "uncommitted", "{listed}");
    fs::write(&object, &bytes).unwrap();
    let _ = dozo.run(&["replicate", "--to", "safe"]).exits(0);
    let run = dozo.run(&["replicate", "--to", "elsewhere"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1011") && run.stderr.contains("use one of: safe, second"), "{}", run.stderr);
    // A copy of the whole repository is the repository, not a replica.
    crate::harness::copy_folder(&dozo.repository(), &dozo.folder.path().join("twin"));
    dozo.reconfigure(|text| text.replace("file://safe", "file://twin"));
    let run = dozo.run(&["replicate", "--to", "safe"]).exits(2);
    assert!(run.stderr.contains("is the repository itself"), "{}", run.stderr);
}

/// Copies that were given up are made again; damaged ones on demand; deleted ones are not. A marked copy is not leaned on.
#[test]
fn copies_are_made_again_only_when_that_is_wanted() {
    let cluster = shared(15);
    let (mut dozo, database, id) = backed_up(cluster, "anew");
    let _ = dozo.run(&["replicate", "--init", "--to", "safe"]).exits(0);
    let safe = dozo.folder.path().join("safe");
    // A damaged object there: verify finds it, and a copy that shares nothing with it is made on demand.
    let object = files(&safe.join("data")).remove(0);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let _ = dozo.run(&["--replica", "safe", "verify", "--all"]).exits(3);
    let present = dozo.run(&["--json", "replicate", "--to", "safe"]).exits(0).json();
    assert_eq!(present["replicas"][0]["present"], 1);
    let again = dozo.run(&["--json", "replicate", "shop@latest", "--again", "--to", "safe"]).exits(0).json();
    let copy = again["replicas"][0]["copied"][0]["copy"].as_str().unwrap().to_owned();
    assert!(copy != id && again["replicas"][0]["copied"][0]["found"] == 0, "{again}");
    let _ = dozo.run(&["--replica", "safe", "verify", &format!("shop@{copy}")]).exits(0);
    // Both manifests there are damaged, and the copies given up: the next run copies the backup anew.
    for id in [&id, &copy] {
        let manifest = safe.join(format!("backups/shop/{id}/manifest.json"));
        fs::write(&manifest, "{}").unwrap();
        let _ = dozo.run(&["--replica", "safe", "gc", "give-up", &format!("shop@{id}")]).exits(0);
    }
    let _ = dozo.run(&["--replica", "safe", "gc", "apply", "--grace", "0s"]).exits(0);
    let anew = dozo.run(&["--json", "replicate", "--to", "safe"]).exits(0).json();
    assert_eq!(anew["replicas"][0]["copied"].as_array().unwrap().len(), 1, "{anew}");
    let _ = dozo.run(&["--replica", "safe", "verify", "latest"]).exits(0);
    restores_from(&mut dozo, cluster, "safe", &database);
    // Two at the same time: one of them copies, the other one waits for another night.
    database.psql("UPDATE b SET i = i + 1");
    let _ = dozo.backup();
    let two = [
        dozo.command(&["replicate", "--to", "safe"]).spawn().unwrap(),
        dozo.command(&["replicate", "--to", "safe"]).spawn().unwrap(),
    ];
    let codes: Vec<i32> = two.into_iter().map(|child| child.wait_with_output().unwrap().status.code().unwrap()).collect();
    assert!(codes.contains(&0) && codes.iter().all(|c| [0, 4, 5].contains(c)), "{codes:?}");
    let copies = dozo.run(&["--json", "--replica", "safe", "verify", "--all"]).exits(0).json();
    assert_eq!(copies.as_array().unwrap().len(), 2);
}

/// A replica that is to have what somebody holds, or what serves a tier; holds travel with the copies, also later ones.
#[test]
fn held_backups_and_tiers() {
    let (dozo, database, first) = backed_up(shared(15), "replicate_held");
    let second = dozo.backup();
    database.psql("UPDATE b SET i = i + 1");
    let _ = dozo.backup();
    let _ = dozo.run(&["hold", &second, "--reason", "the auditors asked"]).exits(0);
    let copies = || {
        let listed = dozo.run(&["--replica", "safe", "--json", "list"]).exits(0).json();
        listed.as_array().unwrap().iter().map(|b| (b["started"].clone(), b["hold"]["reason"].clone())).collect::<Vec<_>>()
    };
    let started = |id: &str| dozo.run(&["--json", "show", id]).exits(0).json()["manifest"]["started"].clone();
    let _ = dozo.run(&["replicate", "--to", "safe", "--init", "--held"]).exits(0);
    assert_eq!(copies(), [(started(&second), "the auditors asked".into())]);
    // The first one of its week and month serves all tiers.
    dozo.reconfigure(|text| text.replace("name = \"safe\"", "name = \"safe\"\nbackups = \"monthly\""));
    let status = dozo.run(&["--json", "status"]).exits(0).json();
    assert_eq!(status["sources"][0]["replicas"][0]["missing"], 1, "{status}");
    let _ = dozo.run(&["replicate", "--to", "safe"]).exits(0);
    assert_eq!(copies().iter().map(|c| c.0.clone()).collect::<Vec<_>>(), [started(&first), started(&second)]);
    let status = dozo.run(&["--json", "status"]).exits(0).json();
    assert_eq!(status["sources"][0]["replicas"][0]["missing"], 0, "{status}");
    // What is said later travels with the next run.
    let _ = dozo.run(&["hold", &first, "--reason", "before migration 42"]).exits(0);
    let _ = dozo.run(&["replicate", "--to", "safe", "--tier", "weekly"]).exits(0);
    assert_eq!(copies()[0].1, "before migration 42");
}
