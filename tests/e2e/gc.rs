//! `gc apply`: what killed backups left goes, what anybody needs stays.

use std::fs;

use dozo_testkit::shared;
use serde_json::Value;

use crate::harness::{Dozo, Place, files};
use crate::protocol::until;

fn plan(dozo: &Dozo) -> Value {
    dozo.run(&["--json", "gc", "plan"]).exits(0).json()
}

/// Kills a backup once it has an intent and is not committed.
fn leave_a_killed_backup(dozo: &Dozo) {
    let before = plan(dozo)["uncommitted"].as_array().unwrap().len();
    let mut child = dozo.command(&["backup", "shop", "--full"]).spawn().unwrap();
    until("intent", || plan(dozo)["uncommitted"].as_array().unwrap().len() > before);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_a_killed_backup_left_is_deleted() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    for place in [Place::Local, Place::S3] {
        let mut dozo = Dozo::new(&shop, place);
        let first = dozo.backup();
        for _ in 0..2 {
            leave_a_killed_backup(&dozo);
        }
        let open = plan(&dozo)["uncommitted"].as_array().unwrap().len();
        assert_eq!(open, 2);
        let done = dozo.run(&["--json", "gc", "apply", "--grace", "0s"]).exits(0).json();
        assert_eq!(done["aborted"].as_array().unwrap().len(), 2, "{done}");
        assert!(done["objects"].as_u64().unwrap() >= 2, "{done}");
        let left = plan(&dozo);
        for list in ["uncommitted", "orphans", "unfinished", "marked", "foreign"] {
            assert!(left[list].as_array().unwrap().is_empty(), "{left}");
        }
        // A second run finds nothing to do.
        let again = dozo.run(&["--json", "gc", "apply", "--grace", "0s"]).exits(0).json();
        assert_eq!((&again["objects"], again["aborted"].as_array().unwrap().len()), (&Value::from(0), 0), "{again}");
        let _ = dozo.run(&["verify", "--all"]).exits(0);
        let second = dozo.backup();
        assert_ne!(first, second);
        let _ = dozo.restore_into(cluster, "after_gc");
    }
}

#[test]
fn a_running_backup_is_waited_for() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    let dozo = Dozo::new(&shop, Place::Local);
    let id = dozo.backup();
    let running = dozo.command(&["backup", "shop", "--full", "--rate", "2MB"]).spawn().unwrap();
    until("intent", || !plan(&dozo)["uncommitted"].as_array().unwrap().is_empty());
    // An object of a source that a running backup holds stays, whoever it belongs to.
    let orphan = dozo.repository().join(format!("data/shop/public/orders/00000-{id}-zzzzzzzz.parquet"));
    fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    fs::write(&orphan, "left").unwrap();
    let run = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(0);
    assert!(run.stdout.contains("may still be running"), "{}", run.stdout);
    assert!(orphan.exists());
    let out = running.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let _ = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(0);
    assert!(!orphan.exists());
    let _ = dozo.run(&["verify", "--all"]).exits(0);
}

#[test]
fn nothing_goes_while_the_needs_of_a_backup_are_unknown() {
    let cluster = shared(15);
    let shop = cluster.shop("0.01");
    let dozo = Dozo::new(&shop, Place::Local);
    let id = dozo.backup();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    let orphan = dozo.repository().join(format!("data/shop/public/orders/00000-{id}-zzzzzzzz.parquet"));
    let foreign = dozo.repository().join("data/shop/notes.txt");
    let manifest = dozo.repository().join("backups/shop").join(&id).join("manifest.json");
    let good = fs::read(&manifest).unwrap();
    for file in [&orphan, &foreign] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "left").unwrap();
    }
    let all = files(&dozo.repository());
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    fs::write(&manifest, damaged).unwrap();
    let run = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(3);
    assert!(run.stderr.contains("DOZO-E5015") && run.stderr.contains(&id), "{}", run.stderr);
    assert_eq!(files(&dozo.repository()), all);
    // It was verified once, so it was committed once: a manifest that is not there is no sign of a killed backup.
    fs::remove_file(&manifest).unwrap();
    let run = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(3);
    assert!(run.stderr.contains("is missing"), "{}", run.stderr);
    fs::write(&manifest, good).unwrap();
    assert_eq!(files(&dozo.repository()), all);
    // Nor is a folder that is missing, or renamed, as a whole.
    let folder = manifest.parent().unwrap();
    for elsewhere in [dozo.folder.path().join("lost"), folder.with_extension("bak")] {
        fs::rename(folder, &elsewhere).unwrap();
        let run = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(3);
        assert!(run.stderr.contains("DOZO-E5015"), "{}", run.stderr);
        fs::rename(&elsewhere, folder).unwrap();
    }
    assert_eq!(files(&dozo.repository()), all);
    // Younger than the grace: it stays. What dozo did not write stays anyway.
    let _ = dozo.run(&["gc", "apply"]).exits(0);
    assert!(orphan.exists());
    let _ = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(0);
    assert!(!orphan.exists() && foreign.exists());
    let _ = dozo.run(&["verify", "--all"]).exits(0);
}

#[test]
fn a_damaged_backup_can_be_given_up() {
    let cluster = shared(15);
    let shop = cluster.shop("0.01");
    let dozo = Dozo::new(&shop, Place::Local);
    let (lost, kept) = (dozo.backup(), dozo.backup());
    let manifest = |id: &str| dozo.repository().join("backups/shop").join(id).join("manifest.json");
    let mut damaged = fs::read(manifest(&lost)).unwrap();
    damaged[100] ^= 1;
    fs::write(manifest(&lost), damaged).unwrap();
    let run = dozo.run(&["gc", "apply"]).exits(3);
    assert!(run.stderr.contains("DOZO-E5015"), "{}", run.stderr);
    let run = dozo.run(&["gc", "give-up", &format!("shop@{kept}")]).exits(2);
    assert!(run.stderr.contains("DOZO-E5018") && run.stderr.contains("can be read"), "{}", run.stderr);
    let run = dozo.run(&["gc", "give-up", "shop@latest"]).exits(2);
    assert!(run.stderr.contains("DOZO-E5008"), "{}", run.stderr);
    let run = dozo.run(&["gc", "give-up", &format!("shop@{lost}"), "--reason", "the disk had a bad day"]).exits(0);
    assert!(run.stdout.contains("next: dozo gc apply"), "{}", run.stdout);
    let _ = dozo.run(&["gc", "apply", "--grace", "0s"]).exits(0);
    assert!(!manifest(&lost).exists());
    let verified = dozo.run(&["--json", "verify", "--all"]).exits(0).json();
    assert_eq!(verified.as_array().unwrap().len(), 1);
    let _ = dozo.backup();
}
