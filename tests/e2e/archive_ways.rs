//! Ways to lose rows, or to get stuck, that somebody found: each of them is one way no more.

use dozo_testkit::{Fault, Proxy, shared, shared_s3};

use crate::archive::{archived, outcomes, with_jobs};
use crate::archive_lab::{DROP_AT_ONCE, NOW, at_point, dozo, judge, lab, rows};
use crate::harness::{Dozo, Place};

const A_WEEK: &str = "then = \"drop\"\nquarantine = \"7d\"";
const LATER: &str = "2026-01-23T03:00:00Z";

fn apply(dozo: &Dozo, now: &str, code: i32) -> serde_json::Value {
    dozo.run(&["--json", "--now", now, "archive", "apply"]).exits(code).json()
}

fn restore(dozo: &Dozo, archive: &str, partition: &str, code: i32) -> serde_json::Value {
    dozo.run(&["--json", "restore", "--archive", archive, "--partition", partition]).exits(code).json()
}

/// Moving rows out of DEFAULT must not let a foreign key delete those that refer to them.
#[test]
fn rows_in_default_that_others_refer_to() {
    let database = lab(shared(15), "cascade");
    database.psql(
        "DROP TABLE notes; CREATE TABLE items (event bigint, at timestamptz, FOREIGN KEY (event, at) REFERENCES events (id, at) ON DELETE CASCADE)",
    );
    let dozo = Dozo::new(&database, Place::Local);
    with_jobs(&dozo, &[("events", "at")], DROP_AT_ONCE);
    let _ = apply(&dozo, NOW, 0);
    database.psql(
        "CREATE TABLE events_default PARTITION OF events DEFAULT;
         INSERT INTO events (id, at, kind) VALUES (9001, '2023-01-05 00:30+00', 1), (9002, '2023-01-06 00:30+00', 1);
         INSERT INTO items VALUES (9001, '2023-01-05 00:30+00')",
    );
    let args = ["--json", "restore", "--archive", "events", "--partition", "2023-01", "--move-default"];
    let refused = dozo.run(&args).exits(1).json();
    assert!(refused.to_string().contains("1 rows of public.items refer to rows of public.events_default"), "{refused}");
    assert_eq!(database.psql("SELECT count(*) FROM items"), "1");
    assert_eq!(archived(&dozo).len(), 3, "readers have the month again");
    database.psql("DELETE FROM items");
    let _ = dozo.run(&args).exits(0);
    assert_eq!(database.psql("SELECT count(*) FROM ONLY events_2023_01"), "202");
}

/// A run that is killed while readers lose an archived month leaves every object in one of the two places.
#[test]
fn killed_while_a_month_is_withdrawn() {
    let database = lab(shared(15), "withdrawing");
    for step in ["withdrawing", "withdrawn", "withdrawn-for-restore", "loaded", "attached"] {
        let dozo = dozo(&database, DROP_AT_ONCE);
        let before = rows(&database);
        let _ = apply(&dozo, NOW, 0);
        let args = ["restore", "--archive", "events", "--partition", "2023-02"];
        let out = at_point(&dozo, &format!("{step}:kill"), &args).wait_with_output().unwrap();
        assert_eq!(out.status.code(), None, "{step}: {}", String::from_utf8_lossy(&out.stderr));
        // An archive run in between finds out what is true.
        let _ = dozo.run(&["--now", NOW, "archive", "apply", "--partition", "2022-01"]).exits(0);
        let expected = if step == "attached" { (400, 400) } else { (200, 600) };
        if database.psql("SELECT to_regclass('events_2023_02') IS NULL OR (SELECT relispartition FROM pg_class WHERE relname = 'events_2023_02')") == "t" {
            assert_eq!(judge(&database, &dozo, &before, step), expected);
        }
        if step != "attached" {
            let _ = dozo.run(&args).exits(0);
            assert_eq!(judge(&database, &dozo, &before, step), (400, 400));
        }
        for (archive, month) in
            [("events", "2023-01"), ("events", "2023-03"), ("notes", "2023-01"), ("notes", "2023-02"), ("notes", "2023-03")]
        {
            let _ = restore(&dozo, archive, month, 0);
        }
        assert_eq!(rows(&database), before);
        database.psql("DROP TABLE dozo.ledger");
    }
}

/// Partitions of one name in two schemas, both in quarantine at once, with their indexes; and one that was made again meanwhile.
#[test]
fn the_same_name_twice_in_quarantine() {
    let database = shared(15).database("names");
    for schema in ["a", "b"] {
        database.psql(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.events (id serial, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE {schema}.events_2023_01 PARTITION OF {schema}.events FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
             INSERT INTO {schema}.events (at) SELECT date '2023-01-01' + i % 31 FROM generate_series(1, 100) i"
        ));
    }
    let dozo = Dozo::new(&database, Place::Local);
    dozo.reconfigure(|text| {
        let job = |s: &str| format!("\n[archive.{s}]\nsource = \"shop\"\ntable = \"{s}.events\"\ncolumn = \"at\"\nolder-than = \"12 months\"\n{A_WEEK}\n");
        format!("{text}{}{}", job("a"), job("b"))
    });
    let report = apply(&dozo, NOW, 0);
    assert_eq!(report["units"].as_array().unwrap().iter().filter(|u| u["outcome"] == "quarantined").count(), 2, "{report}");
    // Late rows: somebody makes the month again, under the same name.
    database.psql(
        "CREATE TABLE a.events_2023_01 PARTITION OF a.events FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
         INSERT INTO a.events (id, at) VALUES (9001, '2023-01-15')",
    );
    let report = apply(&dozo, NOW, 0);
    assert_eq!(report["units"].as_array().unwrap().iter().filter(|u| u["outcome"] == "quarantined").count(), 1, "{report}");
    assert_eq!(database.psql("SELECT count(*) FROM a.events"), "0");
    // One is dropped by hand in quarantine: its rows come out of the archive.
    let table = database.psql("SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace AND relkind = 'r' ORDER BY oid LIMIT 1");
    database.psql(&format!("DROP TABLE dozo_quarantine.{table}"));
    for archive in ["a", "b"] {
        let back = restore(&dozo, archive, "2023-01", 0);
        assert!(back.as_array().unwrap().iter().all(|u| u["outcome"] == "restored"), "{back}");
    }
    assert_eq!(database.psql("SELECT count(*), count(DISTINCT id) FROM a.events"), "101|101");
    assert_eq!(database.psql("SELECT count(*) FROM b.events"), "100");
    assert_eq!(database.psql("SELECT count(*) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace"), "0");
    assert_eq!(database.psql("SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'i' AND relnamespace = 'b'::regnamespace"), "events_2023_01_pkey");
}

/// What was dropped by hand while it waited is dropped, by the ledger too: its files were read back just before.
#[test]
fn dropped_by_somebody_else() {
    let database = lab(shared(15), "gone");
    let dozo = dozo(&database, A_WEEK);
    let before = rows(&database);
    let _ = apply(&dozo, NOW, 0);
    let table = database.psql("SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace AND relname LIKE '%events_2023_01'");
    database.psql(&format!("DROP TABLE dozo_quarantine.{table}"));
    let report = apply(&dozo, LATER, 0);
    assert!(report.to_string().contains("somebody else had dropped it"), "{report}");
    assert_eq!(judge(&database, &dozo, &before, "gone"), (200, 600));
}

/// A table that has other columns by now cannot take the partition back; nothing is loaded before that is said.
#[test]
fn a_table_with_other_columns() {
    let database = lab(shared(15), "columns");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let _ = apply(&dozo, NOW, 0);
    database.psql("ALTER TABLE events ADD extra text");
    let refused = restore(&dozo, "events", "2023-01", 1);
    assert!(refused.to_string().contains("has other columns by now: new extra (text)"), "{refused}");
    assert_eq!(database.psql("SELECT to_regclass('events_2023_01') IS NULL"), "t");
    let _ = dozo.run(&["restore", "--archive", "events", "--partition", "2023-01", "--as", "january"]).exits(0);
    // Both forms of columns can be asked together.
    database.psql("ALTER TABLE notes ADD extra text; CREATE TABLE notes_2023_05 PARTITION OF notes FOR VALUES FROM ('2023-05-01 UTC') TO ('2023-06-01 UTC');
                   CREATE TABLE events_2023_05 PARTITION OF events FOR VALUES FROM ('2023-05-01 UTC') TO ('2023-06-01 UTC');
                   INSERT INTO events (id, at, kind, extra) VALUES (5001, '2023-05-05', 1, 'new')");
    let _ = apply(&dozo, NOW, 0);
    let sql = "SELECT count(*), count(extra) FROM events";
    let out = dozo.run(&["sql", "archive:events", sql, "--format", "csv"]).exits(0).stdout;
    assert_eq!(out.lines().nth(1), Some("601,1"));
}

/// Copies are copies: once the partition has left, readers see its rows once.
#[test]
fn a_copy_whose_partition_leaves() {
    let database = lab(shared(15), "copies");
    let dozo = dozo(&database, "then = \"keep\"");
    let before = rows(&database);
    let _ = apply(&dozo, NOW, 0);
    dozo.reconfigure(|text| text.replace("then = \"keep\"", DROP_AT_ONCE));
    let _ = apply(&dozo, NOW, 0);
    assert_eq!(judge(&database, &dozo, &before, "kept, then dropped"), (200, 600));
    let left =
        crate::harness::files(&dozo.repository()).into_iter().filter(|f| f.to_string_lossy().contains("/copy/v1/")).count();
    assert_eq!(left, 0);
}

/// What a job says wrong is told, and the run is not green; options that mean nothing are refused.
#[test]
fn jobs_and_options_that_say_wrong_things() {
    let database = lab(shared(15), "wrong");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let restore = ["restore", "--archive", "events", "--partition", "2023-01"];
    for option in
        [&["--plan"][..], &["--where", "id < 3"], &["--schema-only"], &["--beside"], &["--existing", "append"], &["--to", "shop"]]
    {
        let args: Vec<&str> = restore.iter().chain(option).copied().collect();
        let _ = dozo.run(&args).exits(2);
    }
    dozo.reconfigure(|text| text.replace("public.notes", "public.nots"));
    let run = dozo.run(&["--now", NOW, "archive", "apply"]).exits(4);
    assert!(run.stdout.contains("refused archive.notes: public.nots is not a partitioned table"), "{}", run.stdout);
    dozo.reconfigure(|text| text.replace("public.nots", "public.notes"));
    let _ = apply(&dozo, NOW, 0);
    // Folders of two widths in one archive would be readable by nobody.
    dozo.reconfigure(|text| text.replace("table = \"public.events\"", "table = \"public.events\"\ngranularity = \"year\""));
    let plan = dozo.run(&["--json", "--now", NOW, "archive", "plan"]).exits(0).json();
    assert!(plan["jobs"].to_string().contains("its archive has folders by at_month, and none by at_year"), "{plan}");
}

/// Ranges within ranges: the widest that fits a folder is the unit. A table that refers to itself within a partition stays.
#[test]
fn ranges_within_ranges_and_rows_that_refer_to_their_own_partition() {
    let database = shared(15).database("nested");
    database.psql(
        "CREATE TABLE logs (id int, day date) PARTITION BY RANGE (day);
         CREATE TABLE logs_2023 PARTITION OF logs FOR VALUES FROM ('2023-01-01') TO ('2024-01-01') PARTITION BY RANGE (day);
         CREATE TABLE logs_2023_01 PARTITION OF logs_2023 FOR VALUES FROM ('2023-01-01') TO ('2023-02-01') PARTITION BY RANGE (day);
         CREATE TABLE logs_2023_01_a PARTITION OF logs_2023_01 FOR VALUES FROM ('2023-01-01') TO ('2023-01-16');
         CREATE TABLE logs_2023_01_b PARTITION OF logs_2023_01 FOR VALUES FROM ('2023-01-16') TO ('2023-02-01');
         CREATE TABLE logs_2023_02 PARTITION OF logs_2023 FOR VALUES FROM ('2023-02-01') TO ('2023-03-01');
         INSERT INTO logs SELECT i, date '2023-01-01' + i % 58 FROM generate_series(1, 580) i;
         CREATE TABLE trees (id int, day date, parent int, parent_day date, PRIMARY KEY (id, day), FOREIGN KEY (parent, parent_day) REFERENCES trees) PARTITION BY RANGE (day);
         CREATE TABLE trees_2023_01 PARTITION OF trees FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
         INSERT INTO trees VALUES (1, '2023-01-01', NULL, NULL), (2, '2023-01-02', 1, '2023-01-01')",
    );
    let dozo = Dozo::new(&database, Place::Local);
    with_jobs(&dozo, &[("logs", "day"), ("trees", "day")], DROP_AT_ONCE);
    let plan = dozo.run(&["--json", "--now", NOW, "archive", "plan"]).exits(0).json();
    let going: Vec<&str> = plan["units"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|u| u["action"] == "archive")
        .map(|u| u["partition"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(going, ["logs_2023_01", "logs_2023_02"], "{plan}");
    assert!(plan.to_string().contains("1 rows of public.trees_2023_01 refer to rows of the same partition"), "{plan}");
    let report = apply(&dozo, NOW, 4);
    assert_eq!(outcomes(&report).values().filter(|o| *o == "dropped").count(), 2, "{report}");
    let sql = "SELECT count(*), count(DISTINCT id) FROM logs";
    let out = dozo.run(&["sql", "archive:logs", sql, "--format", "csv"]).exits(0).stdout;
    assert_eq!(out.lines().nth(1), Some("580,580"));
    let _ = restore(&dozo, "logs", "2023-01", 0);
    assert_eq!(database.psql("SELECT count(*) FROM logs_2023_01_a"), "150");
}

/// The store is lost at any request of a run, for good: the next run ends what was begun, wherever it was.
#[test]
fn the_store_is_lost_at_every_kind_of_request() {
    let database = lab(shared(15), "store");
    let proxy = Proxy::start(&shared_s3().endpoint);
    let dozo = Dozo::new(&database, Place::S3);
    with_jobs(&dozo, &[("events", "at"), ("notes", "at")], DROP_AT_ONCE);
    dozo.reach_through(&proxy, "retry-for = \"0s\"");
    let _ = dozo.backup();
    let before = rows(&database);
    let args = ["--now", NOW, "archive", "apply", "--partition", "2023-01"];
    let mut swept = 0;
    // What a run asks the store about: staged objects, the ledger, the copy, the look at it, the deletes behind it.
    for (method, part) in [
        ("PUT", "_staging"),
        ("PUT", "-exported.json"),
        ("GET", "_staging"),
        ("PUT", "/manifest.json"),
        ("PUT", "-proven.json"),
        ("PUT", "-dropped.json"),
        ("PUT", "/v1/"),
        ("GET", "/v1/"),
        ("PUT", "-published.json"),
        ("GET", "list-type"),
    ] {
        let mut lost = false;
        proxy.decide(move |_, seen| {
            lost |= seen.method == method && seen.target.contains(part) && seen.target.contains("archive");
            lost.then_some(Fault::Status(503))
        });
        let run = dozo.run(&args);
        assert_eq!(run.code, 1, "{method} {part}: {} {}", run.stdout, run.stderr);
        proxy.pass();
        let _ = dozo.run(&args).exits(0);
        assert_eq!(judge(&database, &dozo, &before, part), (600, 200));
        swept += 1;
        for archive in ["events", "notes"] {
            let _ = restore(&dozo, archive, "2023-01", 0);
        }
        assert_eq!(rows(&database), before);
    }
    eprintln!("the store was lost at {swept} kinds of requests; 800 rows, none lost, none twice");
    assert_eq!(swept, 10);
}

/// pg_partman is recognized by its table of configurations, and left its work.
#[test]
fn beside_pg_partman() {
    let database = lab(shared(15), "partman");
    database.psql(
        "CREATE SCHEMA partman; CREATE TABLE partman.part_config (parent_table text, retention text);
         INSERT INTO partman.part_config VALUES ('public.events', '36 months')",
    );
    let dozo = dozo(&database, DROP_AT_ONCE);
    let before = rows(&database);
    let plan = dozo.run(&["--json", "--now", NOW, "archive", "plan"]).exits(0).json();
    assert!(plan["jobs"].to_string().contains("pg_partman looks after it (public.events, retention 36 months)"), "{plan}");
    let made = dozo.run(&["--now", NOW, "partitions", "create", "public.events"]).exits(2);
    assert!(made.stderr.contains("pg_partman makes the partitions of public.events"), "{}", made.stderr);
    let _ = apply(&dozo, NOW, 0);
    assert_eq!(judge(&database, &dozo, &before, "partman"), (200, 600));
}

/// A copy of an earlier point in time whose rows differ, detached concurrently: whatever is undone, the archive keeps its rows.
#[test]
fn an_undone_concurrent_detach_touches_no_archive() {
    let cluster = shared(15);
    let database = lab(cluster, "undone");
    database.psql("ALTER TABLE events_2023_01 ADD CONSTRAINT own FOREIGN KEY (kind) REFERENCES kinds; DELETE FROM notes");
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "lock-timeout = \"2s\"\nmax-block = \"1s\"");
    with_jobs(&dozo, &[("events", "at")], "then = \"drop\"\nquarantine = \"0\"\nprotocol = \"concurrent\"");
    let copy = format!("{}_copy", database.name);
    cluster.psql("postgres", &format!("CREATE DATABASE \"{copy}\" TEMPLATE \"{}\"", database.name));
    let _ = apply(&dozo, NOW, 0);
    let unit = |name: &str| {
        let list = dozo.run(&["--json", "archive", "list"]).exits(0).json();
        list.as_array().unwrap().iter().find(|u| u["partition"]["name"] == name && u["published"] == true).unwrap()["unit"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (january, february) = (unit("events_2023_01"), unit("events_2023_02"));
    cluster.psql("postgres", &format!("ALTER DATABASE \"{0}\" RENAME TO \"{0}_gone\"", database.name));
    cluster.psql("postgres", &format!("ALTER DATABASE \"{copy}\" RENAME TO \"{}\"", database.name));
    database.psql("UPDATE events SET status = 'OTHER' WHERE id = 1007");
    let run = dozo.run(&["--json", "--now", NOW, "archive", "resolve", &january, "--keep", "archived"]).exits(3).json();
    assert!(run.to_string().contains("instead of b1:200"), "{run}");
    assert_eq!(database.psql("SELECT relispartition FROM pg_class WHERE relname = 'events_2023_01'"), "t");
    assert_eq!(database.psql("SELECT count(*) FROM dozo.ledger"), "0");
    // Killed in the middle, then run again.
    let args = ["--now", NOW, "archive", "resolve", &february, "--keep", "archived"];
    let _ = at_point(&dozo, "concurrently:kill", &args).wait_with_output().unwrap();
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]);
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]);
    let out = dozo
        .run(&["sql", "archive:events", "SELECT count(*), count(DISTINCT id) FROM events", "--format", "csv"])
        .exits(0)
        .stdout;
    assert_eq!(out.lines().nth(1), Some("600,600"), "the archive has all of its rows");
    assert_eq!(database.psql("SELECT count(*) FROM events WHERE at >= '2023-02-01' AND at < '2023-03-01'"), "0", "February left");
    assert_eq!(database.psql("SELECT count(*) FROM pg_constraint WHERE conname = 'own'"), "1");
    // Copies, and what never left, are not to be resolved.
    let refused = dozo.run(&["--json", "--now", NOW, "archive", "resolve", &february, "--keep", "archived"]).exits(1).json();
    assert!(refused.to_string().contains("nothing to resolve"), "{refused}");
}

/// One table in quarantine that cannot be dropped does not stop the rest of the run.
#[test]
fn one_that_cannot_be_dropped() {
    let database = lab(shared(15), "stuck");
    let dozo = dozo(&database, A_WEEK);
    let before = rows(&database);
    let _ = apply(&dozo, NOW, 0);
    let table = database.psql("SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace AND relname LIKE '%events_2023_01'");
    database.psql(&format!("CREATE VIEW late AS SELECT * FROM dozo_quarantine.{table}"));
    let report = apply(&dozo, LATER, 4);
    let outcome = outcomes(&report);
    assert_eq!((outcome["events_2023_01"].as_str(), outcome["events_2023_03"].as_str()), ("failed", "dropped"), "{report}");
    assert!(
        report.to_string().contains("view late depends on it") || report.to_string().contains("depends on table"),
        "{report}"
    );
    database.psql("DROP VIEW late");
    let _ = apply(&dozo, LATER, 0);
    assert_eq!(judge(&database, &dozo, &before, "stuck"), (200, 600));
}
