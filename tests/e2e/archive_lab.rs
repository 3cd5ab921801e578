//! A small laboratory for archives: three old months of events, notes that refer to them, and whatever goes wrong.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use dozo_testkit::{Cluster, ClusterOptions, Database, shared};
use rustix::process::Signal;
use serde_json::Value;

use crate::archive::{archived, outcomes};
use crate::harness::{Dozo, Place, nightly};
use crate::protocol::{Psql, until};

/// The moment of all runs: 2023-01 to 2023-03 are old, 2025-12 is not.
pub(crate) const NOW: &str = "2026-01-15T03:00:00Z";
pub(crate) const DROP_AT_ONCE: &str = "then = \"drop\"\nquarantine = \"0\"";
const A_WEEK: &str = "then = \"drop\"\nquarantine = \"7d\"";
const CONCURRENT: &str = "then = \"drop\"\nquarantine = \"0\"\nprotocol = \"concurrent\"";

/// Makes the tables: events by month, notes by month of the event with a foreign key to it.
pub(crate) fn lab<'c>(cluster: &'c Cluster, name: &str) -> Database<'c> {
    let database = cluster.database(name);
    database.psql(
        "SET TimeZone = 'UTC';
         CREATE TABLE kinds (id int PRIMARY KEY); INSERT INTO kinds VALUES (1), (2);
         CREATE TABLE events (id bigint NOT NULL, at timestamptz NOT NULL, kind int NOT NULL REFERENCES kinds, status text NOT NULL DEFAULT 'COMPLETED',
             doubled bigint GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE notes (event bigint NOT NULL, at timestamptz NOT NULL, text text, PRIMARY KEY (event, at),
             FOREIGN KEY (event, at) REFERENCES events (id, at)) PARTITION BY RANGE (at);
         CREATE INDEX ON events (kind, status);",
    );
    for month in ["2023-01", "2023-02", "2023-03", "2025-12"] {
        let tail = month.replace('-', "_");
        let next = match month {
            "2025-12" => "2026-01".to_owned(),
            _ => format!("2023-{:02}", month[5..].parse::<u32>().unwrap() + 1),
        };
        let first = if month == "2025-12" { 12_000 } else { 1000 * month[5..].parse::<u32>().unwrap() };
        for tree in ["events", "notes"] {
            database.psql(&format!(
                "SET TimeZone = 'UTC'; CREATE TABLE {tree}_{tail} PARTITION OF {tree} FOR VALUES FROM ('{month}-01') TO ('{next}-01') WITH (fillfactor = 90)"
            ));
        }
        database.psql(&format!(
            "INSERT INTO events (id, at, kind) SELECT {first} + i, timestamptz '{month}-01 00:00+00' + i * interval '1 hour', 1 + i % 2 FROM generate_series(1, 200) i;
             INSERT INTO notes SELECT id, at, md5(id::text) FROM events_{tail} WHERE id % 4 = 0;
             GRANT SELECT ON events_{tail} TO PUBLIC; COMMENT ON TABLE events_{tail} IS 'events of {month}'"
        ));
    }
    database
}

pub(crate) fn dozo(database: &Database<'_>, keys: &str) -> Dozo {
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "lock-timeout = \"2s\"\nmax-block = \"1s\"");
    crate::archive::with_jobs(&dozo, &[("events", "at"), ("notes", "at")], keys);
    dozo
}

fn apply(dozo: &Dozo, now: &str) -> Value {
    dozo.run(&["--json", "--now", now, "archive", "apply"]).json()
}

/// Stops a run at a step, or holds it there.
pub(crate) fn at_point(dozo: &Dozo, point: &str, args: &[&str]) -> Child {
    let mut command = dozo.command(args);
    command.env("DOZO_POINT", point);
    command.spawn().unwrap()
}

/// Every row of the trees, wherever it is in the database: id and status.
pub(crate) fn rows(database: &Database<'_>) -> BTreeMap<String, String> {
    let quarantined = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('dozo_quarantine') AND relkind = 'r' AND relname LIKE '%events%'";
    let mut found = BTreeMap::new();
    let mut add = |place: &str, sql: &str| {
        for line in database.psql(sql).lines() {
            let twice = found.insert(line.to_owned(), place.to_owned());
            assert!(twice.is_none(), "{line} is in {place} and in {twice:?}");
        }
    };
    add("live", "SELECT id || ' ' || status FROM events");
    for table in database.psql(quarantined).lines() {
        add("quarantine", &format!("SELECT id || ' ' || status FROM dozo_quarantine.\"{table}\""));
    }
    found
}

/// Every row that readers of the archive of events see.
fn rows_archived(dozo: &Dozo) -> Vec<String> {
    if archived(dozo).keys().all(|name| !name.starts_with("events")) {
        return Vec::new();
    }
    let sql = "SELECT id || ' ' || status AS r FROM events ORDER BY 1";
    let out = dozo.run(&["sql", "archive:events", sql, "--format", "csv"]).exits(0).stdout;
    out.lines().skip(1).map(str::to_owned).collect()
}

/// Nothing is lost, nothing is there twice: what is live and what is archived are the rows of `before`, and the ledgers agree.
pub(crate) fn judge(database: &Database<'_>, dozo: &Dozo, before: &BTreeMap<String, String>, what: &str) -> (usize, usize) {
    let (there, gone) = (rows(database), rows_archived(dozo));
    let live: Vec<&String> = there.iter().filter(|(_, place)| *place == "live").map(|(row, _)| row).collect();
    let mut all: Vec<&String> = live.iter().copied().chain(&gone).collect();
    all.sort();
    assert_eq!(all, before.keys().collect::<Vec<_>>(), "{what}: {} live, {} archived", live.len(), gone.len());
    // Quarantined rows are archived ones.
    assert!(there.iter().filter(|(_, place)| *place == "quarantine").all(|(row, _)| gone.contains(row)), "{what}");
    // No file lies where readers look that is of no published unit.
    let repository = dozo.folder.path().join("repo");
    if repository.is_dir() {
        let list = dozo.run(&["--json", "archive", "list"]).exits(0).json();
        let units = list.as_array().unwrap().iter().filter(|u| u["published"] == true);
        let units: Vec<&str> = units.map(|u| u["unit"].as_str().unwrap()).collect();
        for file in crate::harness::files(&repository.join("archive")) {
            let path = file.to_string_lossy();
            assert!(!path.contains("/v1/") || units.iter().any(|unit| path.contains(unit)), "{what}: {path} is of no unit");
        }
    }
    let ledger = database.psql("SELECT count(*) FROM dozo.ledger WHERE state IN ('detached', 'dropped')");
    assert_eq!(ledger, archived(dozo).len().to_string(), "{what}: the ledgers tell the same story");
    (live.len(), gone.len())
}

/// SIGKILL at every step, each protocol: the next run ends what was begun.
#[test]
fn killed_at_every_step() {
    let cluster = shared(15);
    let mut swept = 0;
    for (keys, steps) in [
        (DROP_AT_ONCE, &["planned", "exported", "proven", "left", "dropped", "publishing", "published"][..]),
        (A_WEEK, &["left", "detached", "publishing", "published", "dropping"]),
        (CONCURRENT, &["detaching", "concurrently", "left"]),
    ] {
        let database = lab(cluster, "killed");
        let dozo = dozo(&database, keys);
        let before = rows(&database);
        for step in steps {
            // Each step on the next partition: the ones before are archived.
            let later = if *step == "dropping" { "2026-01-23T03:00:00Z" } else { NOW };
            let run = at_point(&dozo, &format!("{step}:kill"), &["--now", later, "archive", "apply", "--partition", "2023-01"]);
            let out = run.wait_with_output().unwrap();
            assert_eq!(out.status.code(), None, "{keys} {step}: {}", String::from_utf8_lossy(&out.stderr));
            let again = dozo.run(&["--json", "--now", later, "archive", "apply", "--partition", "2023-01"]).exits(0);
            let (live, gone) = judge(&database, &dozo, &before, &format!("{keys} {step}: {}", again.stdout));
            assert_eq!((live, gone), (600, 200), "{keys} {step}");
            swept += 1;
            if !(keys == A_WEEK && *step == "published") {
                back(&database, &dozo, &before);
            }
        }
    }
    eprintln!("{swept} steps, {} rows each: none lost, none twice", 800);
    assert_eq!(swept, 15);
}

/// Brings everything back, so that the next round begins as the first.
fn back(database: &Database<'_>, dozo: &Dozo, before: &BTreeMap<String, String>) {
    for archive in ["events", "notes"] {
        let out = dozo.run(&["--json", "restore", "--archive", archive, "--partition", "2023-01"]).exits(0).json();
        assert!(out.as_array().unwrap().iter().all(|u| u["outcome"] == "restored"), "{out}");
    }
    assert_eq!(&rows(database), before);
}

/// The server stops at once at every step that it takes part in.
#[test]
fn the_server_stops_at_every_step() {
    let cluster = Cluster::start(15, &ClusterOptions { durable: true, ..ClusterOptions::default() });
    for (keys, steps) in
        [(DROP_AT_ONCE, &["planned", "exported", "proven", "left"][..]), (CONCURRENT, &["detaching", "concurrently"])]
    {
        let database = lab(&cluster, "stopped");
        let dozo = dozo(&database, keys);
        let before = rows(&database);
        for step in steps {
            let hold = dozo.folder.path().join(format!("hold-{step}"));
            let point = format!("{step}:hold={}", hold.display());
            let run = at_point(&dozo, &point, &["--now", NOW, "archive", "apply", "--partition", "2023-01"]);
            until("the step", || hold.exists());
            cluster.stop(Signal::QUIT);
            cluster.run();
            std::fs::remove_file(&hold).unwrap();
            let out = run.wait_with_output().unwrap();
            let again = dozo.run(&["--json", "--now", NOW, "archive", "apply", "--partition", "2023-01"]);
            assert_eq!(again.code, 0, "{step}: {}\nfirst: {}", again.stderr, String::from_utf8_lossy(&out.stderr));
            assert_eq!(judge(&database, &dozo, &before, step), (600, 200));
            back(&database, &dozo, &before);
        }
    }
}

/// The network is gone at every step: each connection of the run is cut.
#[test]
fn the_network_is_lost_at_every_step() {
    let database = lab(shared(15), "network");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let before = rows(&database);
    for step in ["planned", "exported", "proven", "left"] {
        let hold = dozo.folder.path().join(format!("hold-{step}"));
        let run = at_point(
            &dozo,
            &format!("{step}:hold={}", hold.display()),
            &["--now", NOW, "archive", "apply", "--partition", "2023-01"],
        );
        until("the step", || hold.exists());
        database.psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'dozo%'");
        std::fs::remove_file(&hold).unwrap();
        let _ = run.wait_with_output().unwrap();
        let _ = dozo.run(&["--now", NOW, "archive", "apply", "--partition", "2023-01"]).exits(0);
        assert_eq!(judge(&database, &dozo, &before, step), (600, 200));
        back(&database, &dozo, &before);
    }
}

/// Rows that come late: each is in the archive or in the database, never in neither, never in both.
#[test]
fn late_rows() {
    let cluster = shared(15);
    for keys in [DROP_AT_ONCE, CONCURRENT] {
        for (what, sql) in [
            ("inserted", "INSERT INTO events (id, at, kind) VALUES (9001, '2023-01-31 12:00+00', 1)"),
            ("updated", "UPDATE events SET status = 'LATE' WHERE id = 1007"),
            ("deleted", "DELETE FROM events WHERE id = 1007"),
        ] {
            let database = lab(cluster, "late");
            let dozo = dozo(&database, keys);
            let hold = dozo.folder.path().join("hold");
            let point = format!("proven@events_2023_01:hold={}", hold.display());
            let run = at_point(&dozo, &point, &["--now", NOW, "archive", "apply"]);
            until("the step", || hold.exists());
            database.psql(sql);
            let before = rows(&database);
            std::fs::remove_file(&hold).unwrap();
            let out = run.wait_with_output().unwrap();
            assert_eq!(out.status.code(), Some(0), "{what}: {}", String::from_utf8_lossy(&out.stderr));
            let (live, gone) = judge(&database, &dozo, &before, what);
            assert_eq!(live, 200, "{what}: {gone}");
        }
    }
}

/// By a transaction that was open all along, and commits when its partition is about to leave.
#[test]
fn a_late_transaction() {
    let database = lab(shared(15), "open");
    database.psql("DELETE FROM notes WHERE at >= '2023-02-01' AND at < '2023-03-01'");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let mut before = rows(&database);
    let mut other = Psql::new(&database);
    other.say("BEGIN; INSERT INTO events (id, at, kind) VALUES (9002, '2023-02-27 12:00+00', 2);");
    let writers = "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock' AND relation = 'events_2023_02'::regclass";
    until("the row", || database.psql(writers) == "1");
    let hold = dozo.folder.path().join("hold");
    let point = format!("proven@events_2023_02:hold={}", hold.display());
    let run = at_point(&dozo, &point, &["--now", NOW, "archive", "apply", "events", "--partition", "2023-02"]);
    until("the step", || hold.exists());
    std::fs::remove_file(&hold).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    other.say("COMMIT;");
    other.end();
    let out = run.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    before.insert("9002 COMPLETED".into(), "live".into());
    assert_eq!(judge(&database, &dozo, &before, "open"), (600, 201));
}

/// After the detach: into DEFAULT, into a stub, into the table in quarantine.
#[test]
fn rows_after_the_detach() {
    let database = lab(shared(15), "after");
    let dozo = dozo(&database, A_WEEK);
    assert!(outcomes(&apply(&dozo, NOW)).values().all(|o| o != "failed"));
    // Nobody takes it: an error for whoever inserts.
    let late = "INSERT INTO events (id, at, kind) VALUES (9003, '2023-01-05 00:30+00', 1)";
    assert!(database.cluster.try_psql(&database.name, late).is_err());
    database.psql("CREATE TABLE events_default PARTITION OF events DEFAULT");
    database.psql(late);
    // Written to in quarantine: it is never dropped, and comes back with the row.
    let table = database.psql(
        "SELECT relname FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace AND relname LIKE '%events_2023_02'",
    );
    database.psql(&format!("INSERT INTO dozo_quarantine.\"{table}\" (id, at, kind) VALUES (9004, '2023-02-05 00:30+00', 1)"));
    let later = "2026-01-23T03:00:00Z";
    let report = dozo.run(&["--json", "--now", later, "archive", "apply"]).exits(3).json();
    let outcome = outcomes(&report);
    assert_eq!((outcome["events_2023_02"].as_str(), outcome["events_2023_03"].as_str()), ("finding", "dropped"), "{report}");
    assert!(report.to_string().contains("instead of b1:200:"), "{report}");
    let back = dozo.run(&["--json", "restore", "--archive", "events", "--partition", "events_2023_02"]).exits(0).json();
    assert!(back[0]["reasons"].to_string().contains("written to it in quarantine"), "{back}");
    assert_eq!(database.psql("SELECT count(*) FROM events WHERE at >= '2023-02-01' AND at < '2023-03-01'"), "201");
    // The row in DEFAULT stands in the way of its month, or is moved.
    let refused = dozo.run(&["--json", "restore", "--archive", "events", "--partition", "2023-01"]).exits(1).json();
    assert!(refused[0]["reasons"].to_string().contains("1 rows of its range are in public.events_default"), "{refused}");
    let moved =
        dozo.run(&["--json", "restore", "--archive", "events", "--partition", "2023-01", "--move-default"]).exits(0).json();
    assert_eq!(moved[0]["outcome"], "restored", "{moved}");
    assert_eq!(database.psql("SELECT count(*) FROM ONLY events_2023_01"), "201");
    assert_eq!(database.psql("SELECT count(*) FROM events_default"), "0");
}

/// A stub takes late rows; they are archived beside the others of their month.
#[test]
fn a_stub_for_late_rows() {
    let database = lab(shared(15), "stub");
    let dozo = dozo(&database, &format!("{DROP_AT_ONCE}\nstub = true"));
    let before = rows(&database);
    assert!(outcomes(&apply(&dozo, NOW)).values().any(|o| o == "dropped"));
    assert_eq!(judge(&database, &dozo, &before, "first"), (200, 600));
    // Empty ones stay.
    assert!(outcomes(&apply(&dozo, NOW)).values().all(|o| o != "dropped"));
    database.psql("INSERT INTO events (id, at, kind) VALUES (9005, '2023-01-05 00:30+00', 1); ANALYZE events");
    let before = rows(&database).into_iter().chain(rows_archived(&dozo).into_iter().map(|r| (r, String::new()))).collect();
    let report = apply(&dozo, NOW);
    assert_eq!(outcomes(&report).values().filter(|o| *o == "dropped").count(), 1, "{report}");
    assert_eq!(judge(&database, &dozo, &before, "late"), (200, 601));
    let january = archived(&dozo).keys().filter(|n| n.starts_with("events_2023_01")).count();
    assert_eq!(january, 2, "an additive set of files");
    // All of the month comes back beside, and into one partition.
    let _ = dozo.run(&["restore", "--archive", "events", "--partition", "2023-01", "--as", "month"]).exits(0);
    assert_eq!(database.psql("SELECT count(*) FROM month"), "201");
    let out = dozo.run(&["--json", "restore", "--archive", "events", "--partition", "2023-01"]).exits(0).json();
    assert_eq!(out.as_array().unwrap().iter().filter(|u| u["outcome"] == "restored").count(), 2, "{out}");
    assert_eq!(judge(&database, &dozo, &before, "restored"), (401, 400));
    assert_eq!(database.psql("SELECT count(*) FROM ONLY events_2023_01"), "201");
}

/// The common mistake: export what is completed, drop the partition, and lose the one order that is open.
#[test]
fn rows_outside_of_where() {
    let database = lab(shared(15), "common");
    database.psql("DELETE FROM notes WHERE at < '2024-01-01'; UPDATE events SET status = 'OPEN' WHERE id = 1007");
    let keys = format!("{DROP_AT_ONCE}\nwhere = \"status = 'COMPLETED'\"");
    let dozo = Dozo::new(&database, Place::Local);
    crate::archive::with_jobs(&dozo, &[("events", "at")], &keys);
    let before = rows(&database);
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply"]).exits(4).json();
    let outcome = outcomes(&report);
    assert_eq!((outcome["events_2023_01"].as_str(), outcome["events_2023_02"].as_str()), ("refused", "dropped"), "{report}");
    assert!(report.to_string().contains("1 rows of public.events_2023_01 do not satisfy `where`"), "{report}");
    assert_eq!(judge(&database, &dozo, &before, "refused"), (400, 400));
    dozo.reconfigure(|text| text.replace("where = ", "leftover = \"archive-all\"\nwhere = "));
    assert_eq!(outcomes(&apply(&dozo, NOW))["events_2023_01"], "dropped");
    assert_eq!(judge(&database, &dozo, &before, "archive-all"), (200, 600));
    assert!(rows_archived(&dozo).iter().any(|r| r.ends_with("OPEN")));
}

/// Restored: the same rows, the same definitions, the same keys.
#[test]
fn a_restored_partition_is_what_it_was() {
    let cluster = shared(15);
    for keys in [DROP_AT_ONCE, A_WEEK, CONCURRENT, "then = \"quarantine\"\nprotocol = \"concurrent\""] {
        let database = lab(cluster, "restored");
        database.psql(
            "ALTER TABLE events_2023_02 ADD CONSTRAINT own FOREIGN KEY (kind) REFERENCES kinds ON DELETE RESTRICT;
                       ALTER TABLE events_2023_02 ADD CHECK (id > 0); CREATE INDEX only_here ON events_2023_02 (status)",
        );
        let dozo = dozo(&database, keys);
        let (before, dump) = (rows(&database), cluster.dump(&database.name));
        assert!(outcomes(&apply(&dozo, NOW)).values().filter(|o| matches!(o.as_str(), "dropped" | "quarantined")).count() == 6);
        for archive in ["events", "notes"] {
            for month in ["2023-01", "2023-02", "2023-03"] {
                let out = dozo.run(&["--json", "restore", "--archive", archive, "--partition", month]).exits(0).json();
                assert_eq!((&out[0]["outcome"], &out[0]["reasons"]), (&"restored".into(), &serde_json::json!([])), "{out}");
            }
        }
        assert_eq!(rows(&database), before);
        assert_eq!(database.psql("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated"), "0");
        database.psql("DROP SCHEMA dozo CASCADE; DROP SCHEMA dozo_quarantine CASCADE");
        assert_eq!(cluster.dump(&database.name), dump, "{keys}");
        assert!(archived(&dozo).is_empty());
    }
}

/// Beside the live table, under another name; and by the states that a list shows.
#[test]
fn beside_under_another_name() {
    let database = lab(shared(15), "beside");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let _ = apply(&dozo, NOW);
    let out =
        dozo.run(&["--json", "restore", "--archive", "events", "--partition", "2023-01", "--as", "january"]).exits(0).json();
    assert_eq!(out[0]["outcome"], "restored");
    assert_eq!(database.psql("SELECT count(*) FROM january"), "200");
    assert_eq!(archived(&dozo).len(), 6, "it stays archived");
}

/// A copy of an earlier point in time: live and archived at once. Both ways out.
#[test]
fn an_earlier_point_in_time() {
    let cluster = shared(15);
    let database = lab(cluster, "pitr");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let _ = dozo.backup();
    let copy_name = format!("{}_copy", database.name);
    cluster.psql("postgres", &format!("CREATE DATABASE \"{copy_name}\" TEMPLATE \"{}\"", database.name));
    let _ = apply(&dozo, NOW);
    let before = rows(&lab(cluster, "pitr_reference"));
    // The copy takes the place of the database.
    cluster.psql("postgres", &format!("ALTER DATABASE \"{0}\" RENAME TO \"{0}_gone\"", database.name));
    cluster.psql("postgres", &format!("ALTER DATABASE \"{copy_name}\" RENAME TO \"{}\"", database.name));
    let list = dozo.run(&["--json", "partitions", "list", "public.events"]).exits(0).json();
    let january = list.as_array().unwrap().iter().find(|p| p["partition"]["name"] == "events_2023_01").unwrap();
    assert_eq!(january["states"], serde_json::json!(["live", "archived"]), "{list}");
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply"]).exits(4).json();
    assert!(
        outcomes(&report).values().all(|o| o == "refused") && report.to_string().contains("--keep live|archived"),
        "{report}"
    );
    let unit = |dozo: &Dozo, name: &str| {
        let list = dozo.run(&["--json", "archive", "list"]).exits(0).json();
        let found = list.as_array().unwrap().iter().find(|u| u["partition"]["name"] == name && u["published"] == true).cloned();
        found.unwrap()["unit"].as_str().unwrap().to_owned()
    };
    for (name, keep, outcome) in [
        ("notes_2023_01", "archived", "dropped"),
        ("events_2023_01", "archived", "dropped"),
        ("notes_2023_02", "live", "restored"),
        ("events_2023_02", "live", "restored"),
        ("notes_2023_03", "live", "restored"),
    ] {
        let out = dozo.run(&["--json", "--now", NOW, "archive", "resolve", &unit(&dozo, name), "--keep", keep]).exits(0).json();
        assert_eq!(out[0]["outcome"], outcome, "{out}");
    }
    // Rows that differ are never thrown away.
    database.psql(
        "DELETE FROM notes WHERE at >= '2023-03-01' AND at < '2023-04-01'; UPDATE events SET status = 'OTHER' WHERE id = 3007",
    );
    let differs = dozo
        .run(&["--json", "--now", NOW, "archive", "resolve", &unit(&dozo, "events_2023_03"), "--keep", "archived"])
        .exits(3)
        .json();
    assert!(differs.to_string().contains("instead of b1:200"), "{differs}");
    database.psql("UPDATE events SET status = 'COMPLETED' WHERE status = 'OTHER'");
    let _ = dozo.run(&["--now", NOW, "archive", "resolve", &unit(&dozo, "events_2023_03"), "--keep", "live"]).exits(0);
    assert_eq!(judge(&database, &dozo, &before, "resolved"), (600, 200));
}

/// Who reads and writes beside an archive run never waits longer than `max-block`, whatever stands in the way of it.
#[test]
fn nobody_waits_longer_than_max_block() {
    let database = lab(shared(15), "probe");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "lock-timeout = \"10s\"\nmax-block = \"400ms\"");
    crate::archive::with_jobs(&dozo, &[("events", "at"), ("notes", "at")], DROP_AT_ONCE);
    let before = rows(&database);
    // Somebody reads for long: the detach cannot have the table, and must not make others wait for it.
    let mut long = Psql::new(&database);
    long.say("BEGIN; SELECT count(*) FROM events;");
    until("the reader", || {
        database.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = 'events'::regclass AND pid <> pg_backend_pid()") == "1"
    });
    let mut run = dozo.command(&["--json", "--now", NOW, "archive", "apply"]).spawn().unwrap();
    let (mut worst, mut looks) = (Duration::ZERO, 0);
    let began = Instant::now();
    let mut released = Some(long);
    while run.try_wait().unwrap().is_none() {
        let asked = Instant::now();
        database.psql(&format!(
            "INSERT INTO events (id, at, kind) VALUES ({}, '2025-12-20', 1); SELECT count(*) FROM events",
            100_000 + looks
        ));
        worst = worst.max(asked.elapsed());
        looks += 1;
        if began.elapsed() > Duration::from_secs(3)
            && let Some(mut reader) = released.take()
        {
            reader.say("COMMIT;");
            reader.end();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = run.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    // A process of its own for each look takes some of it.
    assert!(worst < Duration::from_millis(400 + 100), "somebody waited {worst:?}");
    eprintln!("{looks} looks, the longest took {worst:?} (max-block 400 ms)");
    database.psql("DELETE FROM events WHERE id >= 100000");
    assert_eq!(judge(&database, &dozo, &before, "probe"), (200, 600));
    assert!(looks > 20);
}

/// Partitions to come are made as the others are, once.
#[test]
fn partitions_to_come() {
    let database = lab(shared(15), "ahead");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let _ = dozo.backup();
    let run = |now: &str, more: &[&str]| {
        let mut args = vec!["--json", "--now", now, "partitions", "create", "public.events", "--ahead", "3"];
        args.extend(more);
        dozo.run(&args).exits(0).json()
    };
    let said = run(NOW, &["--sql"]);
    assert_eq!(said.as_array().unwrap().len(), 4, "January itself, and three behind it: {said}");
    assert_eq!(database.psql("SELECT to_regclass('events_2026_01') IS NULL"), "t", "only said");
    let made = run(NOW, &[]);
    let names: Vec<&str> = made.as_array().unwrap().iter().map(|m| m["partition"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["events_2026_01", "events_2026_02", "events_2026_03", "events_2026_04"]);
    assert!(run(NOW, &[]).as_array().unwrap().is_empty(), "they lie ahead already");
    let facts = |table: &str| {
        database.psql(&format!(
            "SELECT reloptions, relacl IS NOT NULL, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) FROM pg_class c WHERE oid = '{table}'::regclass"
        ))
    };
    assert_eq!(facts("events_2026_04"), facts("events_2025_12"));
    database.psql("INSERT INTO events (id, at, kind) VALUES (1, '2026-04-30 23:59:59+00', 1)");
    // Without a pattern in the names, or between two calendars, nobody guesses.
    let elsewhere =
        dozo.run(&["--now", NOW, "partitions", "create", "public.events", "--ahead", "9", "--time-zone", "America/New_York"]);
    assert!(elsewhere.code == 2 && elsewhere.stderr.contains("set time-zone"), "{}", elsewhere.stderr);
    assert!(nightly() || !names.is_empty());
}

/// Out of quarantine before its time, because somebody says so: only what is proven goes.
#[test]
fn dropped_by_hand() {
    let database = lab(shared(15), "by_hand");
    let dozo = dozo(&database, "then = \"quarantine\"");
    let before = rows(&database);
    assert!(outcomes(&apply(&dozo, NOW)).values().filter(|o| *o == "quarantined").count() == 6);
    let object = |name: &str| -> PathBuf {
        let folder = dozo.repository().join(format!("archive/shop/public/events/v1/at_month={name}"));
        std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
    };
    let damaged = object("2023-01");
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let out = dozo.run(&["--json", "--now", NOW, "partitions", "drop", "--older-than", "12 months"]).exits(3).json();
    let outcome: BTreeMap<String, String> = outcomes(&serde_json::json!({ "units": out }));
    assert_eq!((outcome["events_2023_01"].as_str(), outcome["events_2023_02"].as_str()), ("finding", "dropped"), "{out}");
    let found = dozo.run(&["verify", "--archive", "events"]).exits(3).stdout;
    assert!(found.contains("public.events_2023_01: failed") && found.contains("public.events_2023_02: passed"), "{found}");
    // It is still there, and can come back as it was.
    let back =
        dozo.run(&["--json", "restore", "--archive", "events", "--partition", "2023-02", "--as", "february"]).exits(0).json();
    assert_eq!(back[0]["outcome"], "restored");
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    assert_eq!(judge(&database, &dozo, &before, "by hand"), (200, 600));
}
