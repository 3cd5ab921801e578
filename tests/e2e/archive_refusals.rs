//! What must not leave: each refusal, all told at once and before anything is read, and again behind the locks.

use dozo_testkit::{Cluster, ClusterOptions, Database, shared};
use serde_json::Value;

use crate::archive::{archived, outcomes, with_jobs};
use crate::archive_lab::{DROP_AT_ONCE, NOW, at_point, dozo, judge, lab, rows};
use crate::harness::{Dozo, Place, files};
use crate::protocol::{Psql, until};

fn plan(dozo: &Dozo) -> Value {
    dozo.run(&["--json", "--now", NOW, "archive", "plan"]).exits(0).json()
}

/// What the plan says of a partition: its action, and why.
fn of(plan: &Value, name: &str) -> (String, String) {
    let line = plan["units"].as_array().unwrap().iter().find(|u| u["partition"]["name"] == name);
    let line = line.unwrap_or_else(|| panic!("{name} in {plan}"));
    (line["action"].as_str().unwrap().to_owned(), line["reasons"].to_string())
}

fn refused(plan: &Value, name: &str, why: &str) {
    let (action, reasons) = of(plan, name);
    assert!(action == "refused" && reasons.contains(why), "{name} is to be refused ({why}): {action} {reasons}");
}

/// Only events: what refers to them stays.
fn events_only(database: &Database<'_>, keys: &str) -> Dozo {
    let dozo = Dozo::new(database, Place::Local);
    with_jobs(&dozo, &[("events", "at")], keys);
    dozo
}

#[test]
fn rows_that_stay_keep_what_they_refer_to() {
    let database = lab(shared(15), "inbound");
    let dozo = events_only(&database, DROP_AT_ONCE);
    let (action, why) = of(&plan(&dozo), "events_2023_01");
    assert!(action == "stay" && why.contains("50 rows of public.notes_2023_01, which stays, refer to it"), "{why}");
    let before = rows(&database);
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply"]).exits(0).json();
    assert!(outcomes(&report).values().all(|o| o == "stays"));
    // Whoever names it wants it: then it is not done.
    let _ = dozo.run(&["--now", NOW, "archive", "apply", "--partition", "2023-01"]).exits(4);
    assert_eq!(rows(&database), before);
    // A row that comes between the look and the detach: the server's own word.
    database.psql("DELETE FROM notes WHERE at < '2023-02-01'");
    let hold = dozo.folder.path().join("hold");
    let run =
        at_point(&dozo, &format!("proven@events_2023_01:hold={}", hold.display()), &["--json", "--now", NOW, "archive", "apply"]);
    until("the step", || hold.exists());
    database.psql("INSERT INTO notes SELECT id, at, 'late' FROM events WHERE id = 1001");
    std::fs::remove_file(&hold).unwrap();
    let out = run.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(4), "{}", String::from_utf8_lossy(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(outcomes(&report)["events_2023_01"], "refused", "{report}");
    assert_eq!(rows(&database), before);
    assert!(archived(&dozo).is_empty());
}

#[test]
fn what_the_definitions_say() {
    let cluster = shared(15);
    let database = lab(cluster, "definitions");
    database.psql(
        "SET TimeZone = 'UTC';
         CREATE VIEW january AS SELECT * FROM events_2023_01;
         CREATE FUNCTION count_february() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM public.events_2023_02; END;
         CREATE TABLE direct (event bigint, at timestamptz, FOREIGN KEY (event, at) REFERENCES events_2023_03 (id, at));
         CREATE TABLE events_first PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2022-01-01');
         CREATE TABLE events_odd PARTITION OF events FOR VALUES FROM ('2022-03-15') TO ('2022-04-15');
         CREATE TABLE events_later PARTITION OF events FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
         DELETE FROM notes",
    );
    let dozo = events_only(&database, DROP_AT_ONCE);
    let found = plan(&dozo);
    refused(&found, "events_2023_01", "view public.january reads it");
    refused(&found, "events_2023_02", "function public.count_february() reads it");
    refused(&found, "events_2023_03", "of public.direct refers to it by name");
    refused(&found, "events_first", "its bound has no end (MINVALUE)");
    refused(&found, "events_odd", "it straddles two folders, 2022-03 and 2022-04");
    for (name, why) in [("events_later", "its bound has no end (MAXVALUE)"), ("events_2025_12", "it is not old enough")] {
        let (action, reasons) = of(&found, name);
        assert!(action == "stay" && reasons.contains(why), "{name}: {reasons}");
        let named = dozo.run(&["--json", "--now", NOW, "archive", "apply", "--partition", name]).exits(4).json();
        assert!(named["units"].to_string().contains(why), "{named}");
    }
    // The calendar is the job's: by that of Tokyo these months are none.
    dozo.reconfigure(|text| text.replace("time-zone = \"UTC\"", "time-zone = \"America/New_York\""));
    refused(&plan(&dozo), "events_2023_02", "it straddles two folders, 2023-01 and 2023-02, by the calendar of America/New_York");
    // And it must be named for a timestamptz.
    dozo.reconfigure(|text| text.replace("time-zone = \"America/New_York\"\n", "").replace("time-zone = \"Asia/Tokyo\"\n", ""));
    let unnamed = plan(&dozo);
    assert!(unnamed["jobs"][0]["refusals"].to_string().contains("set time-zone"), "{unnamed}");
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]).exits(4);
    assert_eq!(database.psql("SELECT count(*) FROM events WHERE at < '2024-01-01'"), "600");
}

#[test]
fn a_detach_that_somebody_else_began() {
    let database = lab(shared(15), "pending");
    database.psql("DELETE FROM notes");
    let mut reader = Psql::new(&database);
    reader.say("BEGIN; SELECT count(*) FROM events;");
    until("the reader", || {
        database.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessShareLock' AND relation = 'events'::regclass AND pid <> pg_backend_pid()") == "1"
    });
    let begun = database.cluster.try_psql(
        &database.name,
        "SET statement_timeout = '500ms';\nALTER TABLE events DETACH PARTITION events_2023_01 CONCURRENTLY;",
    );
    assert!(begun.is_err());
    reader.say("COMMIT;");
    reader.end();
    let dozo = events_only(&database, DROP_AT_ONCE);
    refused(&plan(&dozo), "events_2023_01", "a concurrent detach of it is pending");
    let list = dozo.backup();
    assert!(!list.is_empty());
    let list = dozo.run(&["--json", "partitions", "list", "public.events"]).exits(0).json();
    let january = list.as_array().unwrap().iter().find(|p| p["partition"]["name"] == "events_2023_01").unwrap();
    assert_eq!(january["states"], serde_json::json!(["detaching"]));
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply"]).exits(4).json();
    assert_eq!(
        (outcomes(&report)["events_2023_01"].as_str(), outcomes(&report)["events_2023_02"].as_str()),
        ("refused", "dropped")
    );
}

#[test]
fn privileges_that_are_missing() {
    let database = lab(shared(15), "grants");
    database.psql(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC; REVOKE SELECT ON events_2023_02 FROM PUBLIC; DELETE FROM notes",
    );
    let role = format!("archivist_{}", std::process::id());
    database.psql(&format!("CREATE ROLE {role} LOGIN"));
    let dozo = Dozo::with_url(&database.url_as(&role), database.cluster, Place::Local, "");
    with_jobs(&dozo, &[("events", "at")], DROP_AT_ONCE);
    let found = plan(&dozo);
    let job = found["jobs"][0]["refusals"].to_string();
    for why in ["CREATE for schema dozo\"", "CREATE for schema dozo_quarantine", "only the owner of public.events can detach"] {
        assert!(job.contains(why), "{why}: {job}");
    }
    refused(&found, "events_2023_02", "not every row of public.events_2023_02 may be read");
    refused(&found, "events_2023_01", "public.events_2023_01 belongs to another role");
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]).exits(4);
    assert_eq!(database.psql("SELECT to_regnamespace('dozo') IS NULL"), "t");
    database.psql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_replica_and_another_server() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = lab(&cluster, "server");
    let mut dozo = dozo(&database, DROP_AT_ONCE);
    let _ = dozo.run(&["--now", NOW, "archive", "apply", "--partition", "2023-01"]).exits(0);
    let _ = dozo.backup();
    let standby = cluster.standby();
    until("replay", || standby.psql(&database.name, "SELECT count(*) FROM dozo.ledger") == "2");
    dozo.set("SHOP_URL", &standby.url("postgres", &database.name));
    let found = plan(&dozo);
    assert!(found["jobs"][0]["refusals"].to_string().contains("is a replica: archive on the primary"), "{found}");
    let run = dozo.run(&["--now", NOW, "archive", "apply"]).exits(2);
    assert!(run.stderr.contains("is a replica"), "{}", run.stderr);
    // The same tables on a server of another identity.
    let other = lab(shared(15), "server");
    dozo.set("SHOP_URL", &other.url());
    let found = plan(&dozo);
    assert!(found["jobs"][0]["refusals"].to_string().contains("were archived from the server"), "{found}");
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]).exits(4);
    assert_eq!(other.psql("SELECT count(*) FROM events"), "800");
    // Somebody says that it goes on there: then the partition is live and archived.
    let _ = dozo.run(&["backup", "shop"]).exits(4);
    let _ = dozo.run(&["source", "rebind", "shop"]).exits(0);
    refused(&plan(&dozo), "events_2023_01", "--keep live|archived");
}

#[test]
fn published_tables() {
    let database = lab(shared(15), "published");
    database.psql("CREATE PUBLICATION all_events FOR TABLE events WITH (publish_via_partition_root = true)");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let found = plan(&dozo);
    let job = found["jobs"].as_array().unwrap().iter().find(|j| j["job"] == "events").unwrap();
    assert!(job["refusals"].to_string().contains("it is published (all_events)"), "{found}");
    refused(&found, "events_2023_01", "it is published");
    database.psql("DROP PUBLICATION all_events");
}

/// Before a partition goes, every object of it is read once more: a damaged one is never what is left.
#[test]
fn a_damaged_object_before_the_drop() {
    let database = lab(shared(15), "damaged");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let before = rows(&database);
    let args = ["--json", "--now", NOW, "archive", "apply", "--partition", "2023-02"];
    let _ = at_point(&dozo, "proven@events_2023_02:kill", &args).wait_with_output().unwrap();
    let staged = files(&dozo.repository()).into_iter().find(|f| f.to_string_lossy().contains("events/_staging/")).unwrap();
    let mut bytes = std::fs::read(&staged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&staged, bytes).unwrap();
    let run = dozo.run(&args).exits(0);
    assert!(run.stderr.contains("it is exported again") && run.stderr.contains("sha256"), "{}", run.stderr);
    assert_eq!(judge(&database, &dozo, &before, "damaged"), (600, 200));
    // Nothing of the first try is left behind.
    let left = files(&dozo.repository()).into_iter().filter(|f| f.to_string_lossy().contains("_staging")).count();
    assert_eq!(left, 0);
}

/// Two levels: regions, and months within them. A unit lies where its month does; one that is partitioned itself leaves whole.
#[test]
fn trees_of_several_levels() {
    let database = shared(17).database("levels");
    database.psql(
        "CREATE TABLE sales (id int, region text, day date) PARTITION BY LIST (region);
         CREATE TABLE sales_eu PARTITION OF sales FOR VALUES IN ('eu') PARTITION BY RANGE (day);
         CREATE TABLE sales_jp PARTITION OF sales FOR VALUES IN ('jp') PARTITION BY RANGE (day);
         CREATE TABLE sales_eu_2023_01 PARTITION OF sales_eu FOR VALUES FROM ('2023-01-01') TO ('2023-02-01');
         CREATE TABLE sales_jp_2023_01 PARTITION OF sales_jp FOR VALUES FROM ('2023-01-01') TO ('2023-02-01') PARTITION BY HASH (id);
         CREATE TABLE sales_jp_2023_01_a PARTITION OF sales_jp_2023_01 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE sales_jp_2023_01_b PARTITION OF sales_jp_2023_01 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO sales SELECT i, CASE i % 3 WHEN 0 THEN 'eu' ELSE 'jp' END, date '2023-01-01' + i % 31 FROM generate_series(1, 300) i",
    );
    let dozo = Dozo::new(&database, Place::Local);
    with_jobs(&dozo, &[("sales", "day")], "then = \"drop\"\nquarantine = \"7d\"");
    let before = database.psql("SELECT count(*), sum(hashtext(s::text)) FROM sales s");
    let dump = definitions(&database);
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply"]).exits(0).json();
    assert_eq!(outcomes(&report).values().filter(|o| *o == "quarantined").count(), 2, "{report}");
    assert_eq!(database.psql("SELECT count(*) FROM sales"), "0");
    let count =
        dozo.run(&["sql", "archive:sales", "SELECT count(*), count(DISTINCT id) FROM sales", "--format", "csv"]).exits(0).stdout;
    assert_eq!(count.lines().nth(1), Some("300,300"));
    let report = dozo.run(&["--json", "--now", "2026-01-23T03:00:00Z", "archive", "apply"]).exits(0).json();
    assert_eq!(outcomes(&report).values().filter(|o| *o == "dropped").count(), 2, "{report}");
    let back = dozo.run(&["--json", "restore", "--archive", "sales", "--partition", "2023-01"]).exits(0).json();
    assert_eq!(back.as_array().unwrap().iter().filter(|u| u["outcome"] == "restored").count(), 2, "{back}");
    assert_eq!(database.psql("SELECT count(*), sum(hashtext(s::text)) FROM sales s"), before);
    database.psql("DROP SCHEMA dozo CASCADE; DROP SCHEMA dozo_quarantine CASCADE");
    assert_eq!(definitions(&database), dump);
}

/// What pg_dump says of a database; rows come in the order of the archive's files, so only their set counts.
fn definitions(database: &Database<'_>) -> Vec<String> {
    let text = database.cluster.dump(&database.name);
    let (mut lines, mut rows, mut inside) = (Vec::new(), Vec::new(), false);
    for line in text.lines() {
        if line == "\\." {
            rows.sort();
            lines.append(&mut rows);
            inside = false;
        }
        (if inside { &mut rows } else { &mut lines }).push(line.to_owned());
        inside |= line.starts_with("COPY ");
    }
    lines
}

/// By need: only when the disk is fuller than that, as the server's own folder or a command says.
#[test]
fn only_when_the_disk_is_full() {
    let database = lab(shared(15), "disk");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let said = dozo.run(&["--now", NOW, "archive", "apply", "--if-disk-above", "100"]).exits(0);
    assert!(said.stdout.contains("nothing to do: no data disk is above 100%"), "{} {}", said.stdout, said.stderr);
    dozo.reconfigure(|text| text.replace("column = \"at\"", "column = \"at\"\ndisk-command = [\"echo\", \"81%\"]"));
    let _ = dozo.run(&["--now", NOW, "archive", "apply", "--if-disk-above", "81"]).exits(0);
    assert_eq!(database.psql("SELECT count(*) FROM events"), "800");
    let report = dozo.run(&["--json", "--now", NOW, "archive", "apply", "--if-disk-above", "80"]).exits(0).json();
    assert!(report["disk-used"] == 81 && report["freed"].as_u64().unwrap() > 0, "{report}");
    dozo.reconfigure(|text| text.replace("\"81%\"", "\"much\""));
    let bad = dozo.run(&["--now", NOW, "archive", "apply", "--if-disk-above", "80"]).exits(1);
    assert!(bad.stderr.contains("DOZO-E6030") && bad.stderr.contains("much"), "{}", bad.stderr);
}

/// A backup that runs holds an archive run off, and the other way round.
#[test]
fn backup_and_archive_exclude_each_other() {
    let database = lab(shared(15), "exclude");
    let dozo = dozo(&database, DROP_AT_ONCE);
    let hold = dozo.folder.path().join("hold");
    let run = at_point(&dozo, &format!("planned:hold={}", hold.display()), &["--now", NOW, "archive", "apply"]);
    until("the step", || hold.exists());
    let busy = dozo.run(&["--now", NOW, "backup", "shop"]).exits(5);
    assert!(busy.stderr.contains("pid"), "{}", busy.stderr);
    let _ = dozo.run(&["--now", NOW, "archive", "apply"]).exits(5);
    std::fs::remove_file(&hold).unwrap();
    assert_eq!(run.wait_with_output().unwrap().status.code(), Some(0));
}
