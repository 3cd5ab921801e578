//! The second night: what has not changed is not copied again, and whatever looks unchanged and is not is copied.

use std::collections::BTreeMap;

use dozo_testkit::{Cluster, ClusterOptions, Database, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, copy_folder, files, fingerprints};

/// Backs up and verifies: what cron does every night. Returns the report.
fn night(dozo: &Dozo, more: &[&str]) -> Value {
    let args = [&["--json", "backup", "shop"], more].concat();
    let report = dozo.run(&args).exits(0).json();
    let _ = dozo.run(&["verify", "--level", "content", "shop@latest"]).exits(0);
    report
}

/// `copied` or `reused` by table.
fn how(report: &Value) -> BTreeMap<String, String> {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().map(|t| (t["table"].as_str().unwrap().to_owned(), t["how"].as_str().unwrap().to_owned())).collect()
}

fn count(report: &Value, word: &str) -> usize {
    how(report).values().filter(|how| *how == word).count()
}

/// Restores the latest backup and compares every table with the source.
fn restored_equal(dozo: &mut Dozo, database: &Database<'_>) {
    let copy = dozo.restore_into(database.cluster, "night_copy");
    assert_eq!(fingerprints(dozo, database.cluster, &database.name), fingerprints(dozo, database.cluster, &copy));
}

struct Case {
    name: &'static str,
    before: &'static str,
    change: &'static str,
    how: &'static str,
}

/// Each works on a table of its own name. What must be copied again would show other rows if it were not.
const CASES: &[Case] = &[
    Case {
        name: "nothing",
        before: "CREATE TABLE nothing AS SELECT i, i::text t FROM generate_series(1, 100) i",
        change: "",
        how: "reused",
    },
    Case { name: "empty", before: "CREATE TABLE empty (i int)", change: "", how: "reused" },
    Case {
        name: "no_columns",
        before: "CREATE TABLE no_columns (); INSERT INTO no_columns DEFAULT VALUES",
        change: "",
        how: "reused",
    },
    Case {
        name: "inserted",
        before: "CREATE TABLE inserted AS SELECT 1 i",
        change: "INSERT INTO inserted VALUES (2)",
        how: "copied",
    },
    Case {
        name: "updated_and_reverted",
        before: "CREATE TABLE updated_and_reverted AS SELECT 1 i",
        change: "UPDATE updated_and_reverted SET i = 2; UPDATE updated_and_reverted SET i = 1",
        how: "copied",
    },
    Case {
        name: "deleted_and_inserted_again",
        before: "CREATE TABLE deleted_and_inserted_again AS SELECT 1 i",
        change: "DELETE FROM deleted_and_inserted_again; INSERT INTO deleted_and_inserted_again VALUES (1)",
        how: "copied",
    },
    Case {
        name: "column_added_with_default",
        before: "CREATE TABLE column_added_with_default AS SELECT 1 i",
        change: "ALTER TABLE column_added_with_default ADD c text DEFAULT 'constant'",
        how: "copied",
    },
    Case {
        name: "default_replaced",
        before: "CREATE TABLE default_replaced AS SELECT 1 i; ALTER TABLE default_replaced ADD c text DEFAULT 'old'",
        change: "ALTER TABLE default_replaced DROP c; ALTER TABLE default_replaced ADD c text DEFAULT 'new'",
        how: "copied",
    },
    Case {
        name: "column_dropped",
        before: "CREATE TABLE column_dropped AS SELECT 1 i, 2 j",
        change: "ALTER TABLE column_dropped DROP j",
        how: "copied",
    },
    Case {
        name: "labels_swapped",
        before: "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE labels_swapped AS SELECT 'sad'::mood m",
        change: "ALTER TYPE mood RENAME VALUE 'sad' TO 'x'; ALTER TYPE mood RENAME VALUE 'happy' TO 'sad'; ALTER TYPE mood RENAME VALUE 'x' TO 'happy'",
        how: "copied",
    },
    Case {
        name: "labels_swapped_in_array",
        before: "CREATE TYPE mood2 AS ENUM ('sad', 'happy'); CREATE DOMAIN moods AS mood2[]; CREATE TABLE labels_swapped_in_array (m moods); INSERT INTO labels_swapped_in_array VALUES ('{sad}')",
        change: "ALTER TYPE mood2 RENAME VALUE 'sad' TO 'x'; ALTER TYPE mood2 RENAME VALUE 'happy' TO 'sad'; ALTER TYPE mood2 RENAME VALUE 'x' TO 'happy'",
        how: "copied",
    },
    Case {
        name: "columns_renamed_into_each_other",
        before: "CREATE TABLE columns_renamed_into_each_other AS SELECT 1 a, 2 b",
        change: "ALTER TABLE columns_renamed_into_each_other RENAME a TO x; ALTER TABLE columns_renamed_into_each_other RENAME b TO a; ALTER TABLE columns_renamed_into_each_other RENAME x TO b",
        how: "copied",
    },
    Case {
        name: "attribute_dropped_and_added_again",
        before: "CREATE TYPE pair AS (a int, b int); CREATE TABLE attribute_dropped_and_added_again AS SELECT ROW(1, 2)::pair p",
        change: "ALTER TYPE pair DROP ATTRIBUTE b; ALTER TYPE pair ADD ATTRIBUTE b int",
        how: "copied",
    },
    Case {
        name: "label_of_an_attribute_renamed",
        before: "CREATE TYPE mood3 AS ENUM ('sad', 'happy'); CREATE TYPE felt AS (m mood3); CREATE TABLE label_of_an_attribute_renamed AS SELECT ARRAY[ROW('sad')::felt] f",
        change: "ALTER TYPE mood3 RENAME VALUE 'sad' TO 'blue'",
        how: "copied",
    },
    Case {
        name: "table_renamed_that_a_regclass_shows",
        before: "CREATE TABLE renamed_shown (i int); CREATE TABLE table_renamed_that_a_regclass_shows AS SELECT 'renamed_shown'::regclass c",
        change: "ALTER TABLE renamed_shown RENAME TO shown_otherwise",
        how: "copied",
    },
    Case {
        name: "untouched_beside_text",
        before: "CREATE TABLE untouched_beside_text AS SELECT '[1,2)'::int4range r, 'a b'::tsvector v, 1 p",
        change: "",
        how: "reused",
    },
    Case {
        name: "vacuumed",
        before: "CREATE TABLE vacuumed AS SELECT i FROM generate_series(1, 100) i; DELETE FROM vacuumed WHERE i % 2 = 0",
        change: "VACUUM (FREEZE) vacuumed",
        how: "reused",
    },
    Case {
        name: "vacuumed_full",
        before: "CREATE TABLE vacuumed_full AS SELECT i FROM generate_series(1, 100) i; DELETE FROM vacuumed_full WHERE i % 2 = 0",
        change: "VACUUM FULL vacuumed_full",
        how: "copied",
    },
    Case {
        name: "clustered",
        before: "CREATE TABLE clustered (i int PRIMARY KEY); INSERT INTO clustered SELECT -i FROM generate_series(1, 100) i",
        change: "CLUSTER clustered USING clustered_pkey",
        how: "copied",
    },
    Case {
        name: "truncated_and_reloaded",
        before: "CREATE TABLE truncated_and_reloaded AS SELECT 1 i",
        change: "BEGIN; TRUNCATE truncated_and_reloaded; INSERT INTO truncated_and_reloaded VALUES (1); COMMIT",
        how: "copied",
    },
    Case {
        name: "type_changed",
        before: "CREATE TABLE type_changed AS SELECT 1::int i",
        change: "ALTER TABLE type_changed ALTER i TYPE bigint",
        how: "copied",
    },
    Case {
        name: "precision_lost",
        before: "CREATE TABLE precision_lost (n numeric(10,2)); INSERT INTO precision_lost VALUES (1)",
        change: "ALTER TABLE precision_lost ALTER n TYPE numeric(12,2)",
        how: "copied",
    },
    Case {
        name: "analyzed",
        before: "CREATE TABLE analyzed AS SELECT 1 i",
        change: "ANALYZE analyzed; CREATE INDEX ON analyzed (i); COMMENT ON TABLE analyzed IS 'x'; SELECT * FROM analyzed FOR UPDATE",
        how: "reused",
    },
    Case { name: "unlogged", before: "CREATE UNLOGGED TABLE unlogged AS SELECT 1 i", change: "", how: "copied" },
    Case {
        name: "renamed_into",
        before: "CREATE TABLE renamed_from AS SELECT 1 i; CREATE TABLE renamed_into AS SELECT 2 i",
        change: "DROP TABLE renamed_into; ALTER TABLE renamed_from RENAME TO renamed_into",
        how: "copied",
    },
    Case {
        name: "attached",
        before: "CREATE TABLE tree (b int, a int) PARTITION BY RANGE (a); CREATE TABLE stays PARTITION OF tree FOR VALUES FROM (0) TO (10); INSERT INTO tree VALUES (1, 1); CREATE TABLE attached (a int, b int); INSERT INTO attached VALUES (11, 12)",
        change: "ALTER TABLE tree ATTACH PARTITION attached FOR VALUES FROM (10) TO (20)",
        how: "copied",
    },
    Case {
        name: "detached",
        before: "CREATE TABLE tree2 (a int) PARTITION BY RANGE (a); CREATE TABLE detached PARTITION OF tree2 FOR VALUES FROM (0) TO (10); INSERT INTO tree2 VALUES (1)",
        change: "ALTER TABLE tree2 DETACH PARTITION detached",
        how: "reused",
    },
];

#[test]
fn every_change_is_seen() {
    for major in [15, 18] {
        let cluster = shared(major);
        let database = cluster.database("changes");
        for case in CASES {
            database.psql(case.before);
        }
        let mut dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "shrink-ignore = [\"*.renamed_*\"]");
        let first = night(&dozo, &[]);
        assert_eq!((first["full-because"].as_str(), count(&first, "reused")), (Some("it is the first backup"), 0));
        for case in CASES {
            // VACUUM and CLUSTER want no transaction around them.
            case.change.split("; ").filter(|_| !case.change.contains("BEGIN")).for_each(|sql| drop(database.psql(sql)));
            if case.change.contains("BEGIN") {
                database.psql(case.change);
            }
        }
        let second = night(&dozo, &[]);
        let found = how(&second);
        for case in CASES {
            assert_eq!(found[&format!("public.{}", case.name)], case.how, "{} on {major}: {}", case.name, second);
        }
        assert_eq!(found["public.stays"], "reused");
        assert_eq!(second["parent"], first["id"]);
        restored_equal(&mut dozo, &database);
        // A third night leans on the second, and names the objects of the first.
        let third = night(&dozo, &[]);
        assert_eq!(count(&third, "copied"), 2, "only the unlogged one, and the one that shows names: {third}");
        let nothing = third["tables"].as_array().unwrap().iter().find(|t| t["table"] == "public.nothing").unwrap();
        assert_eq!((&nothing["copied-by"], &nothing["copies"]), (&first["id"], &1.into()));
        restored_equal(&mut dozo, &database);
        let full = night(&dozo, &["--full"]);
        assert_eq!((full["full-because"].as_str(), count(&full, "reused")), (Some("--full"), 0));
        let nothing = full["tables"].as_array().unwrap().iter().find(|t| t["table"] == "public.nothing").unwrap();
        assert_eq!(nothing["copies"], 2, "a second physical copy");
        let shown = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
        assert_eq!(shown[0]["copies"]["public.nothing"], 2);
    }
}

/// Rows of a transaction with a smaller xid that commits later are seen although newer ones were seen before.
#[test]
fn an_older_transaction_that_commits_later() {
    let cluster = shared(15);
    let database = cluster.database("late");
    database.psql("CREATE TABLE a (i int); INSERT INTO a VALUES (1)");
    let mut dozo = Dozo::new(&database, Place::Local);
    let mut open = crate::protocol::Psql::new(&database);
    open.say("BEGIN; INSERT INTO a VALUES (2);");
    crate::protocol::until("the insert", || {
        database.psql("SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND pid <> pg_backend_pid()") != "0"
    });
    database.psql("INSERT INTO a VALUES (3)");
    let first = night(&dozo, &[]);
    assert_eq!(first["rows"], 2);
    open.say("COMMIT;");
    open.end();
    let second = night(&dozo, &[]);
    assert_eq!((how(&second)["public.a"].as_str(), &second["rows"]), ("copied", &3.into()));
    restored_equal(&mut dozo, &database);
}

/// With asynchronous commit a crash forgets a transaction, and its number is given to another one: after a restart everything
/// is copied.
#[test]
fn immediate_stop_with_asynchronous_commit() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("crash");
    database.psql("CREATE TABLE a (i int); CHECKPOINT");
    let mut dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "");
    database.psql("SET synchronous_commit = off; INSERT INTO a VALUES (1)");
    let _ = night(&dozo, &[]);
    cluster.stop(rustix::process::Signal::QUIT);
    cluster.run();
    database.psql("SET synchronous_commit = off; INSERT INTO a VALUES (2)");
    let second = night(&dozo, &[]);
    assert_eq!(second["full-because"], "the server was restarted since the last backup");
    assert_eq!(how(&second)["public.a"], "copied");
    restored_equal(&mut dozo, &database);
}

/// A data folder that is rolled back to a copy repeats relfilenode, ctid and xmin with other rows.
#[test]
fn a_data_folder_rolled_back_to_a_copy() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("rolled");
    database.psql("CREATE TABLE a (i int); INSERT INTO a VALUES (1)");
    cluster.stop(rustix::process::Signal::INT);
    let saved = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let done = std::process::Command::new("cp").arg("-a").arg("-T").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&cluster.data(), &saved.path().join("data"));
    cluster.run();
    let version = "SELECT ctid, xmin FROM a ORDER BY ctid";
    database.psql("INSERT INTO a VALUES (2)");
    let mut dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "");
    let _ = night(&dozo, &[]);
    let before = database.psql(version);
    cluster.stop(rustix::process::Signal::QUIT);
    std::fs::remove_dir_all(cluster.data()).unwrap();
    copy(&saved.path().join("data"), &cluster.data());
    cluster.run();
    database.psql("INSERT INTO a VALUES (3)");
    assert_eq!(database.psql(version), before, "the same row versions with other rows");
    let second = night(&dozo, &[]);
    assert_eq!(how(&second)["public.a"], "copied");
    restored_equal(&mut dozo, &database);
}

/// A promoted standby is the same process on another timeline; a clone answers under the same URL as another process.
#[test]
fn a_promoted_standby_and_a_clone_under_the_same_url() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("promoted");
    database.psql("CREATE TABLE a (i int); INSERT INTO a VALUES (1)");
    let standby = cluster.standby();
    crate::protocol::until("replay", || standby.psql(&database.name, "SELECT count(*) FROM a") == "1");
    let mut dozo = Dozo::with_url(&standby.url("postgres", &database.name), &standby, Place::Local, "");
    let _ = night(&dozo, &[]);
    let again = night(&dozo, &[]);
    assert_eq!(how(&again)["public.a"], "reused", "{again}");
    standby.psql("postgres", "SELECT pg_promote(true)");
    crate::protocol::until("promotion", || standby.psql("postgres", "SELECT pg_is_in_recovery()") == "f");
    let promoted = night(&dozo, &[]);
    assert_eq!(how(&promoted)["public.a"], "copied");
    assert_eq!(promoted["full-because"], "the timeline is not that of the last backup");
    // The other server, with the same system identifier and the same files.
    dozo.set("SHOP_URL", &database.url());
    database.psql("INSERT INTO a VALUES (2)");
    let clone = night(&dozo, &[]);
    assert_eq!((how(&clone)["public.a"].as_str(), &clone["rows"]), ("copied", &2.into()));
}

/// An object that is missing, of another size, found damaged, or not verified is not named again.
#[test]
fn a_damaged_object_is_copied_again() {
    let cluster = shared(15);
    let database = cluster.database("damaged");
    database.psql("CREATE TABLE missing AS SELECT 1 i; CREATE TABLE cut AS SELECT 1 i; CREATE TABLE flipped AS SELECT 1 i; CREATE TABLE whole AS SELECT 1 i");
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = night(&dozo, &[]);
    let object = |table: &str| files(&dozo.repository().join("data/shop/public").join(table)).remove(0);
    std::fs::remove_file(object("missing")).unwrap();
    let bytes = std::fs::read(object("cut")).unwrap();
    std::fs::write(object("cut"), &bytes[..bytes.len() - 1]).unwrap();
    let mut bytes = std::fs::read(object("flipped")).unwrap();
    bytes[100] ^= 1;
    std::fs::write(object("flipped"), bytes).unwrap();
    let undamaged = tempfile::tempdir().unwrap();
    copy_folder(&dozo.repository(), undamaged.path());
    let _ = dozo.run(&["verify", "shop@latest"]).exits(3);
    // A month needs a good full backup first: this one is full, because the only one has findings.
    let second = night(&dozo, &[]);
    assert_eq!(second["full-because"], "this month has no good full backup yet");
    let third = night(&dozo, &[]);
    assert_eq!(count(&third, "reused"), 4);
    let object = |table: &str| {
        let all = files(&dozo.repository().join("data/shop/public").join(table));
        all.into_iter().max_by_key(|f| f.metadata().unwrap().modified().unwrap()).unwrap()
    };
    std::fs::remove_file(object("missing")).unwrap();
    let bytes = std::fs::read(object("cut")).unwrap();
    std::fs::write(object("cut"), &bytes[..bytes.len() - 1]).unwrap();
    let fourth = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
    let found = how(&fourth);
    assert_eq!(
        ["missing", "cut", "flipped", "whole"].map(|t| found[&format!("public.{t}")].as_str()),
        ["copied", "copied", "reused", "reused"]
    );
    restored_equal(&mut dozo, &database);
}

/// Nothing is shared that no check has read within `reuse-max-age`; a month begins with a full backup.
#[test]
fn unverified_objects_and_new_months() {
    let cluster = shared(15);
    let database = cluster.database("months");
    database.psql("CREATE TABLE a AS SELECT 1 i; CREATE TABLE b AS SELECT 2 i");
    let dozo = Dozo::new(&database, Place::Local);
    let at = |time: &str, args: &[&str]| dozo.run(&[&["--now", time, "--json"], args].concat()).exits(0).json();
    let _ = at("2027-01-02T02:00:00Z", &["backup", "shop"]);
    let unverified = at("2027-01-03T02:00:00Z", &["backup", "shop"]);
    assert_eq!(count(&unverified, "copied"), 2);
    assert_eq!(unverified["tables"][0]["because"], "its object was never verified by content");
    let _ = at("2027-01-03T03:00:00Z", &["verify", "shop@latest"]);
    let next = at("2027-01-04T02:00:00Z", &["backup", "shop"]);
    assert_eq!(count(&next, "reused"), 2);
    // The nightly verification leaves alone what was read within half of that age; a named backup is read whole.
    let verified = at("2027-01-05T03:00:00Z", &["verify", "shop@latest"]);
    assert_eq!(verified[0]["skipped"].as_array().unwrap().len(), 2);
    let verified = at("2027-01-05T04:00:00Z", &["verify", next["id"].as_str().unwrap()]);
    assert!(verified[0]["skipped"].is_null());
    // 2027-01-31T16:00Z is February in Tokyo.
    let february = at("2027-01-31T16:00:00Z", &["backup", "shop"]);
    assert_eq!(
        (february["full-because"].as_str(), count(&february, "copied")),
        (Some("this month has no good full backup yet"), 2)
    );
    let _ = at("2027-02-01T03:00:00Z", &["verify", "shop@latest"]);
    let later = at("2027-02-20T02:00:00Z", &["backup", "shop"]);
    assert_eq!(count(&later, "reused"), 2);
    let verified = at("2027-02-20T03:00:00Z", &["verify", "shop@latest"]);
    assert!(verified[0]["skipped"].is_null(), "read again after half of 35 days");
    let old = Dozo::with_url(&database.url(), cluster, Place::Local, "reuse-max-age = \"1d\"");
    let at = |time: &str, args: &[&str]| old.run(&[&["--now", time, "--json"], args].concat()).exits(0).json();
    let _ = at("2027-01-02T02:00:00Z", &["backup", "shop"]);
    let _ = at("2027-01-02T03:00:00Z", &["verify", "shop@latest"]);
    let late = at("2027-01-03T04:00:00Z", &["backup", "shop"]);
    assert_eq!(late["tables"][0]["because"], "its object was not verified within 1 d 0 h");
}

/// The server confirms rows by its own fingerprint: all, also reused ones, or a sample; then verified is proven.
#[test]
fn prove_lets_the_server_confirm() {
    let cluster = shared(15);
    let database = cluster.database("proved");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 5000) i; CREATE TABLE b (x int[]); INSERT INTO b VALUES (NULL), ('{1,NULL}'); CREATE TABLE empty (i int)");
    let dozo = Dozo::new(&database, Place::Local);
    let first = night(&dozo, &["--prove"]);
    assert!(first["tables"].as_array().unwrap().iter().all(|t| t["source-match"]["whole"] == true), "{first}");
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    assert!(listed[0]["proven"].is_string());
    let second = night(&dozo, &["--prove", "100%"]);
    assert_eq!(count(&second, "reused"), 3);
    assert!(second["tables"].as_array().unwrap().iter().all(|t| t["source-match"]["whole"] == true), "{second}");
    let sample = night(&dozo, &["--full", "--prove=1%"]);
    let confirmed = sample["tables"].as_array().unwrap().iter().filter(|t| t["source-match"].is_object()).count();
    assert_eq!(confirmed, 1, "{sample}");
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    assert!(listed[2]["proven"].is_null());
}

/// A finding about one object stays open while later checks read others, or look less deep.
#[test]
fn findings_are_kept_for_each_object() {
    let cluster = shared(15);
    let database = cluster.database("findings");
    database.psql("CREATE TABLE a AS SELECT 1 i; CREATE TABLE b AS SELECT 1 i");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = night(&dozo, &[]);
    let object = files(&dozo.repository().join("data/shop/public/a")).remove(0);
    let good = std::fs::read(&object).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    std::fs::write(&object, &bad).unwrap();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(3);
    let _ = dozo.run(&["verify", "shop@latest", "--level", "exists"]).exits(0);
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    // Its bytes and its rows.
    assert_eq!((&listed[0]["findings"], &listed[0]["good"]), (&2.into(), &false.into()));
    std::fs::write(&object, &good).unwrap();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    assert_eq!((&listed[0]["findings"], &listed[0]["good"]), (&0.into(), &true.into()));
}

/// On a server where nothing happens, a backup does not wait for a flush that nobody makes.
#[test]
fn an_idle_server_keeps_nobody_waiting() {
    let cluster = Cluster::start(17, &ClusterOptions { durable: true, ..ClusterOptions::default() });
    let database = cluster.database("idle");
    database.psql("CREATE TABLE a AS SELECT 1 i; CHECKPOINT");
    let dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "");
    for _ in 0..4 {
        let report = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
        assert!(report["seconds"]["commit"].as_f64().unwrap() < 10.0, "a deadline: {report}");
    }
}
