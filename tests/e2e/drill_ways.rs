//! Drills that must not be green, servers that must not be drilled on, and what the sweep must not touch.

use std::fs;

use dozo_testkit::{Cluster, ClusterOptions, shared};

use crate::drill::{arena, as_root, check, drill, small, strings, with_drill};
use crate::harness::{Dozo, Place};

/// What looks like a drill that passed, and is none.
#[test]
fn what_was_not_restored_is_not_green() {
    let database = shared(15).database("drill_green");
    database.psql(
        "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'a');
         CREATE TABLE audit (at timestamptz, u users); INSERT INTO audit VALUES (now(), ROW(1, 'a'));
         CREATE TABLE bookings (id int PRIMARY KEY, at timestamp, d date); INSERT INTO bookings VALUES (1, now() AT TIME ZONE 'Asia/Tokyo' - interval '1 minute', '2020-01-01'), (2, '2099-01-01', 'infinity');
         CREATE TABLE tree (k int, i int) PARTITION BY LIST (k);
         CREATE TABLE tree_1 PARTITION OF tree FOR VALUES IN (1) PARTITION BY RANGE (i);
         CREATE TABLE tree_1_a PARTITION OF tree_1 FOR VALUES FROM (0) TO (10);
         CREATE TABLE tree_2 PARTITION OF tree FOR VALUES IN (2);
         INSERT INTO tree VALUES (1, 1), (1, 2), (2, 3);",
    );
    let dozo =
        Dozo::with_url(&database.url(), database.cluster, Place::Local, "canary = true\nrpo-column = \"public.bookings.at\"");
    let arena = arena();
    let folder = arena.path();
    with_drill(&dozo, "all", folder, "amcheck = false\nrpo = \"10min\"");
    with_drill(&dozo, "branch", folder, "amcheck = false\ntables = [\"public.tree_1\"]");
    let _ = dozo.backup();
    // A row of the future is told of, and counts for nothing; a time without a zone is one of the source's.
    let record = drill(&dozo, "all", 0);
    let rpo = record["items"][0]["rpo"]["seconds"].as_f64().unwrap();
    assert!((60.0..300.0).contains(&rpo), "{rpo}");
    assert!(
        strings(&record["items"][0]["not-checked"])
            .iter()
            .any(|n| n.starts_with("1 rows of public.bookings that are dated after"))
    );
    // A branch of a tree, with what is below it.
    let record = drill(&dozo, "branch", 0);
    assert_eq!(
        (&record["items"][0]["chosen"], &record["items"][0]["restored"]),
        (&serde_json::json!(["public.tree_1", "dozo.canary"]), &2.into())
    );
    // A column that is not there.
    dozo.reconfigure(|t| t.replace("public.bookings.at", "public.bookings.when"));
    let record = drill(&dozo, "all", 6);
    assert!(
        check(&record["items"][0], "newest row")["detail"].as_str().unwrap().contains("\"when\" does not exist"),
        "{record:#}"
    );
    // A table that cannot be made without another one, which is excluded.
    dozo.reconfigure(|t| t.replace("rpo-column = \"public.bookings.when\"", "exclude = [\"public.users\"]"));
    let run = dozo.run(&["backup", "shop"]);
    assert!([0, 4].contains(&run.code), "{run:?}");
    let record = drill(&dozo, "all", 6);
    let unlooked = strings(&record["items"][0]["not-checked"]);
    assert!(unlooked.contains(&"fingerprint: public.audit was not restored"), "{record:#}");
    // A check that nothing fits.
    dozo.reconfigure(|t| {
        t.replacen("[drill.branch]", "[source.docs]\nkind = \"files\"\nroot = \"docs\"\n[drill.docs]\nsources = [\"docs\"]\n[[drill.docs.check]]\nname = \"rows\"\nquery = \"SELECT 1\"\nexpect = \"1\"\n[drill.branch]", 1)
    });
    fs::create_dir(dozo.folder.path().join("docs")).unwrap();
    fs::write(dozo.folder.path().join("docs/a"), "a").unwrap();
    let _ = dozo.run(&["backup", "docs"]).exits(0);
    let run = dozo.run(&["drill", "docs"]).exits(6);
    assert!(run.stderr.contains("check `rows` was not run"), "{}", run.stderr);
    // A database without a table.
    let empty = shared(15).database("drill_empty");
    let dozo = Dozo::new(&empty, Place::Local);
    with_drill(&dozo, "all", folder, "");
    let run = dozo.run(&["backup", "shop"]);
    if run.code == 0 {
        let _ = drill(&dozo, "all", 6);
    }
}

/// One manifest that is gone does not keep the others from being drilled, and is the worst that can be found.
#[test]
fn damage_to_a_manifest_is_recorded() {
    let database = small("drill_manifest");
    let more = "[source.other]\nkind = \"postgres\"\nurl = \"env:SHOP_URL\"\ninclude = [\"kinds\"]";
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, more);
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "sources = [\"shop\", \"other\"]\namcheck = false");
    let _ = dozo.run(&["backup", "--all"]).exits(0);
    let id = dozo.backup();
    let manifest = dozo.repository().join(format!("backups/shop/{id}/manifest.json"));
    let kept = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{}").unwrap();
    let record = drill(&dozo, "all", 0);
    assert!(strings(&record["items"][0]["not-checked"])[0].starts_with("a backup that cannot be read"), "{record:#}");
    fs::write(&manifest, kept).unwrap();
    // What is no record does not hold the chain up.
    fs::write(dozo.repository().join("drills/20261122.txt"), "{}").unwrap();
    fs::write(dozo.repository().join("drills/1.json"), "{}").unwrap();
    let _ = dozo.run(&["drill", "--history"]).exits(0);
    // Nowhere to restore to.
    dozo.reconfigure(|t| t.replace(&arena.path().display().to_string(), "/nowhere/at/all"));
    let record = drill(&dozo, "all", 6);
    assert_eq!(record["items"].as_array().unwrap().len(), 2);
    assert!(check(&record["items"][0], "folder")["detail"].as_str().unwrap().contains("/nowhere/at/all"));
}

/// Only what a drill of this user has made is swept away: not through a link, not what another user has put there.
#[test]
fn the_sweep_touches_nobody_elses() {
    let database = small("drill_sweep");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    let folder = arena.path();
    with_drill(&dozo, "all", folder, "amcheck = false\ntables = [\"kinds\"]");
    let _ = dozo.backup();
    let victim = Cluster::start(15, &ClusterOptions::default());
    let dead = "{\"host\":\"HOST\",\"boot-id\":\"BOOT\",\"pid-namespace\":\"x\",\"pid\":1,\"pid-start\":1}";
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let make = |name: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.join("0")).unwrap();
        std::os::unix::fs::symlink(victim.data(), path.join("0/data")).unwrap();
        fs::write(path.join("owner.json"), dead.replace("HOST", &host)).unwrap();
        path
    };
    let (ours, theirs) = (make("dozo-drill-ours"), make("dozo-drill-theirs"));
    as_root(&["chown", "65534:65534", &theirs.display().to_string()]);
    let _ = drill(&dozo, "all", 0);
    assert_eq!(victim.psql("postgres", "SELECT 1"), "1");
    assert!(!ours.exists() && theirs.exists() && victim.data().join("PG_VERSION").exists());
    as_root(&["rm", "-r", &theirs.display().to_string()]);
}

/// A new database on another server, gone afterwards; never on a server that backups came from.
#[test]
fn a_test_server_by_url() {
    let production = small("drill_url");
    let mut dozo = Dozo::new(&production, Place::Local);
    let test = Cluster::start(17, &ClusterOptions::default());
    dozo.set("TEST_URL", &test.url("postgres", "postgres"));
    dozo.set("PROD_URL", &production.cluster.url("postgres", "postgres").replace("127.0.0.1", "localhost"));
    dozo.set("SAME_URL", &production.cluster.url("postgres", "postgres"));
    dozo.set("TWO_URL", &test.url("postgres", "postgres").replace("127.0.0.1", "127.0.0.2:1,127.0.0.1"));
    let arena = arena();
    with_drill(&dozo, "test", arena.path(), "server = \"env:TEST_URL\"\nsample = \"50%\"");
    for (name, url) in [("prod", "PROD_URL"), ("same", "SAME_URL"), ("two", "TWO_URL")] {
        with_drill(&dozo, name, arena.path(), &format!("server = \"env:{url}\""));
    }
    let _ = dozo.backup();
    let plan = dozo.run(&["drill", "--plan", "test"]).exits(0).stdout;
    assert!(plan.contains("connects to env:TEST_URL, and to no source"), "{plan}");
    let record = drill(&dozo, "test", 0);
    assert_eq!(record["items"][0]["place"], "test server env:TEST_URL");
    assert!(record["items"][0]["estimate"]["seconds"].as_f64().unwrap() > 0.0);
    let databases =
        |c: &Cluster| c.psql("postgres", "SELECT string_agg(datname, ',') FROM pg_database WHERE datname LIKE 'dozo_drill%'");
    assert_eq!(databases(&test), "");
    // One that a killed run has left goes; one of somebody else's stays.
    test.psql(
        "postgres",
        "CREATE DATABASE dozo_drill_old_0; COMMENT ON DATABASE dozo_drill_old_0 IS '{\"host\":\"elsewhere\",\"boot-id\":\"b\",\"pid-namespace\":\"p\",\"pid\":1,\"pid-start\":1}'",
    );
    let _ = drill(&dozo, "test", 0);
    assert_eq!(databases(&test), "dozo_drill_old_0");
    for (name, why) in [
        ("prod", "it is the server that shop@"),
        ("same", "source `shop` is on the same host and port"),
        ("two", "it names several hosts"),
    ] {
        let record = drill(&dozo, name, 6);
        let said = check(&record["items"][0], "server")["detail"].as_str().unwrap().to_owned();
        assert!(said.contains(why), "{name}: {said}");
    }
    assert_eq!(databases(production.cluster), "");
}
