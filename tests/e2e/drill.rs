//! Drills: every kind of restore passes and leaves nothing behind, every sabotage is found and named, every edit of a record shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dozo_testkit::{Cluster, ClusterOptions, Database, root, services, shared};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::archive::with_jobs;
use crate::duckdb::reseal;
use crate::harness::{Dozo, Place, files, fresh, nightly};
use crate::protocol::until;

/// A folder that a server of another user can enter.
pub(crate) fn arena() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix("dozo-arena").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Adds a drill of `shop`; `keys` are its others.
pub(crate) fn with_drill(dozo: &Dozo, name: &str, folder: &Path, keys: &str) {
    let sources = if keys.contains("archives =") || keys.contains("sources =") { "" } else { "sources = [\"shop\"]\n" };
    dozo.reconfigure(|text| format!("{text}\n[drill.{name}]\n{sources}folder = \"{}\"\n{keys}\n", folder.display()));
}

pub(crate) fn small(name: &str) -> Database<'static> {
    let database = shared(15).database(name);
    database.psql(
        "CREATE TABLE kinds (id int PRIMARY KEY, name text UNIQUE);
         INSERT INTO kinds SELECT i, 'kind ' || i FROM generate_series(1, 20) i;
         CREATE TABLE things (id bigint PRIMARY KEY, kind int NOT NULL REFERENCES kinds, price numeric(10,2) CHECK (price >= 0), at timestamptz);
         CREATE INDEX things_kind ON things (kind);
         INSERT INTO things SELECT i, 1 + i % 20, i / 10.0, now() - i * interval '1 minute' FROM generate_series(1, 5000) i;
         CREATE VIEW dear AS SELECT * FROM things WHERE price > 100;
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER noting BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION noted();",
    );
    database
}

/// What of a drill is still there: folders, and processes that carry its mark or work in its folder.
pub(crate) fn left(folder: &Path) -> Vec<String> {
    let mut found: Vec<String> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path().display().to_string()).collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&environ);
        if cwd.starts_with(folder) || text.contains(&folder.display().to_string()) && text.contains("DOZO_DRILL=") {
            found.push(format!("{pid} in {}", cwd.display()));
        }
    }
    found
}

pub(crate) fn drill(dozo: &Dozo, name: &str, code: i32) -> Value {
    let run = dozo.run(&["--json", "drill", name]).exits(code);
    run.json()[0]["record"].clone()
}

pub(crate) fn strings(value: &Value) -> Vec<&str> {
    value.as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Every finding of a record, in one text.
pub(crate) fn findings(record: &Value) -> String {
    let own = strings(&record["findings"]).join("\n");
    let items = record["items"].as_array().unwrap().iter().map(|i| strings(&i["findings"]).join("\n"));
    items.chain([own]).collect::<Vec<_>>().join("\n")
}

pub(crate) fn check<'v>(item: &'v Value, name: &str) -> &'v Value {
    let all = item["checks"].as_array().unwrap();
    all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("{name} in {item:#}"))
}

#[test]
fn one_drill_of_each_kind() {
    let cluster = Cluster::start(15, &ClusterOptions { settings: vec!["log_connections = on".into()], ..Default::default() });
    let shop = cluster.shop("0.1");
    let more = format!(
        "canary = true\n[source.lake]\nkind = \"duckdb\"\npath = \"data/*.duckdb\"\n[source.project]\nkind = \"files\"\nroot = \"{}\"\n\
         [source.said]\nkind = \"command\"\ncommand = [\"echo\", \"hello\"]\n[contacts]\nprimary = \"oncall@example.com\"",
        root().join("fixtures/project").display()
    );
    let dozo = Dozo::with_url(&shop.url(), &cluster, Place::S3, &more);
    fs::create_dir(dozo.folder.path().join("data")).unwrap();
    let made = Command::new(services().join("duckdb"))
        .arg(dozo.folder.path().join("data/lake.duckdb"))
        .arg("-c")
        .arg(fs::read_to_string(root().join("fixtures/project/warehouse.sql")).unwrap())
        .current_dir(root().join("fixtures/project"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    with_jobs(&dozo, &[("system_events", "created_at")], "then = \"drop\"\nquarantine = \"0\"");
    let arena = arena();
    let folder = arena.path();
    with_drill(
        &dozo,
        "everything",
        folder,
        "sources = [\"shop\", \"lake\", \"project\", \"said\"]\narchives = [\"system-events\"]\nincident = \"complete\"",
    );
    dozo.reconfigure(|t| {
        format!("{t}[[drill.everything.check]]\nname = \"users\"\nsource = \"shop\"\nquery = \"SELECT count(*) > 0, 'x' FROM users\"\nexpect = \"t|x\"\n\
                 [[drill.everything.check]]\nname = \"by psql\"\nsource = \"shop\"\ncommand = [\"psql\", \"-Xc\", \"SELECT 1 FROM users LIMIT 1\"]\n\
                 [[drill.everything.check]]\nname = \"folder\"\nsource = \"project\"\ncommand = [\"sh\", \"-c\", \"test -s $DOZO_DRILL_FOLDER/profiles.yml && test -z $AWS_SECRET_ACCESS_KEY\"]\n")
    });
    with_drill(&dozo, "table", folder, "tables = [\"public.orders\"]");
    let _ = dozo.run(&["backup", "--all"]).exits(0);
    let now = ["--now", "2024-06-15T03:00:00Z"];
    let run = dozo.run(&[&now[..], &["archive", "apply"]].concat());
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);

    let plan = dozo.run(&["drill", "--plan"]).exits(0).stdout;
    assert!(plan.contains("no source hears of it") && plan.contains("whole database") && plan.contains("DuckDB"), "{plan}");
    assert_eq!(left(folder), Vec::<String>::new());
    let log = || fs::read_to_string(cluster.folder().join("log")).unwrap().matches("connection authorized").count();
    let before = log();
    let run = dozo.run(&["--json", "drill", "--all"]).exits(0);
    assert_eq!(log(), before, "the production server was connected to");
    assert_eq!(left(folder), Vec::<String>::new());
    let all = run.json();
    let record = &all[0]["record"];
    let items = record["items"].as_array().unwrap();
    let scopes: Vec<&str> = items.iter().map(|i| i["scope"].as_str().unwrap()).collect();
    assert_eq!(scopes, ["database", "duckdb", "files", "command", "archive"]);
    for item in items {
        assert_eq!(item["verdict"], "passed", "{item:#}");
        assert!(item["rto-seconds"].as_f64().unwrap() > 0.0 && item["restored"] == item["equal"], "{item:#}");
        assert_eq!(item["manifest-sha256"].as_str().unwrap().len(), 64);
    }
    let database = &items[0];
    for phase in ["provision", "schema", "fetch", "load", "index", "verify", "checks", "teardown"] {
        assert!(database["seconds"][phase].as_f64().is_some(), "{phase} in {database:#}");
    }
    assert!(database["rpo"]["seconds"].as_f64().unwrap() > 0.0 && database["rpo"]["from"] == "canary");
    for name in ["fingerprint", "definitions", "newest row", "pg_amcheck", "users", "by psql"] {
        assert_eq!(check(database, name)["verdict"], "passed", "{database:#}");
    }
    assert_eq!(check(&items[2], "folder")["verdict"], "passed");
    assert!(strings(&database["not-checked"]).iter().any(|n| n.starts_with("views, functions")));
    let measured = record["measured"]["rto-seconds"].as_f64().unwrap();
    let sum: f64 = items.iter().map(|i| i["rto-seconds"].as_f64().unwrap()).sum();
    assert!((measured - sum).abs() < 1e-6, "of a complete loss all times count");
    assert_eq!(all[1]["record"]["items"][0]["scope"], "tables");
    // What people see.
    let status = dozo.run(&["--json", "status"]).exits(0).json();
    for source in ["shop", "lake", "project", "said"] {
        let of = status["sources"].as_array().unwrap().iter().find(|s| s["source"] == source).unwrap();
        assert!(of["drilled"].is_string(), "{of:#}");
    }
    let metrics = dozo.run(&["status", "--prometheus"]).exits(0).stdout;
    for expected in [
        "dozo_drill_verdict{drill=\"everything\",verdict=\"passed\"} 1",
        "dozo_source_drilled_timestamp_seconds{source=\"shop\"}",
    ] {
        assert!(metrics.contains(expected), "{metrics}");
    }
    let history = dozo.run(&["drill", "--history"]).exits(0).stdout;
    assert!(history.contains("everything") && history.contains("head 2:"), "{history}");
    let certificate = dozo.run(&["report", "--drill", "1"]).exits(0).stdout;
    for expected in ["<!DOCTYPE html>", "oncall@example.com", database["manifest-sha256"].as_str().unwrap(), "pg_amcheck"] {
        assert!(certificate.contains(expected), "{expected} in {certificate}");
    }
    let text = dozo.run(&["report", "--drill", "latest", "--text", "--lang", "ja"]).exits(0).stdout;
    assert!(text.contains("復旧訓練証明書 2") && text.contains("合格"), "{text}");
    drop(shop);
}

/// What a record says fits its schema.
#[test]
fn records_fit_their_schema() {
    let database = small("drill_schema");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "canary = true");
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "runbook = \"runbook.md\"\nrunbook-max-age = \"1d\"\nserver-programs = \"nowhere\"");
    with_drill(&dozo, "sample", arena.path(), "sample = 1");
    fs::write(dozo.folder.path().join("runbook.md"), "# What to do\n").unwrap();
    let _ = dozo.backup();
    let record = drill(&dozo, "all", 6);
    assert_eq!(record["verdict"], "not-run");
    assert_eq!(record["runbook"]["age-days"], 0);
    let _ = drill(&dozo, "sample", 0);
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(50)).to_string();
    let run = dozo.run(&["--now", &later, "drill", "all"]).exits(6);
    assert!(run.stderr.contains("warning: the runbook") && run.stderr.contains("2 days ago, more than"), "{}", run.stderr);
    let script = "import json, sys, jsonschema\nschema = json.load(open(sys.argv[1]))\nfor f in sys.argv[2:]:\n    body = open(f).read().rsplit('sha256:', 1)[0]\n    jsonschema.Draft202012Validator(schema).validate(json.loads(body))\nprint(len(sys.argv) - 2)";
    let records: Vec<PathBuf> =
        files(&dozo.repository().join("drills")).into_iter().filter(|f| f.extension().is_some_and(|e| e == "json")).collect();
    assert_eq!(records.len(), 3);
    let out = Command::new(services().join("venv/bin/python"))
        .args(["-c", script])
        .arg(root().join("docs/drill.schema.json"))
        .args(&records)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Changes the value of one row of a stored table.
fn change_value(object: &Path) {
    let script = "import sys, pyarrow as pa, pyarrow.parquet as pq\n\
        object = sys.argv[1]\nt = pq.ParquetFile(object).read()\nnames = t.column('name').to_pylist()\nnames[3] = 'kind x'\n\
        field = t.schema.field('name')\nt = t.set_column(t.schema.get_field_index('name'), field, pa.array(names, field.type))\n\
        pq.write_table(t, object, version='2.6', store_schema=False, compression='zstd')";
    let out = Command::new(services().join("venv/bin/python")).args(["-c", script]).arg(object).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_changed_value_with_fitting_digests_is_found_by_the_fingerprint() {
    let database = small("drill_value");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "");
    let _ = dozo.backup();
    let object = files(&dozo.repository().join("data/shop/public/kinds")).pop().unwrap();
    change_value(&object);
    reseal(&dozo, "shop", &object);
    let record = drill(&dozo, "all", 3);
    assert_eq!(record["verdict"], "failed");
    assert!(findings(&record).contains("fingerprint: public.kinds holds b1:20:"), "{}", findings(&record));
    assert_eq!(left(arena.path()), Vec::<String>::new());
}

#[test]
fn a_missing_index_is_named() {
    let database = small("drill_index");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "");
    with_drill(&dozo, "part", arena.path(), "tables = [\"things\"]");
    let id = dozo.backup();
    // A dump without them, under digests that fit.
    database.psql("DROP INDEX things_kind; ALTER TABLE things DROP CONSTRAINT things_price_check; DROP TRIGGER noting ON things");
    let dump = dozo.repository().join(format!("backups/shop/{id}/schema.dump"));
    let made = Command::new(database.cluster.tools().join("pg_dump"))
        .args(["-Fc", "--schema-only", "--file"])
        .arg(&dump)
        .arg(database.url())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    reseal(&dozo, "shop", &dump);
    let found = findings(&drill(&dozo, "all", 3));
    for expected in [
        "definitions: index things_kind of public.things is missing",
        "definitions: check things_price_check of public.things is missing",
        "definitions: trigger noting of public.things is missing",
    ] {
        assert!(found.contains(expected), "{expected} in {found}");
    }
    // Dropped at the source: the backup says what the source has, and whoever runs the drill is told what it had.
    let _ = dozo.backup();
    let run = dozo.run(&["drill", "all"]).exits(0);
    assert!(
        run.stderr.contains(&format!("warning: shop: index things_kind of public.things is missing: it was in shop@{id}")),
        "{}",
        run.stderr
    );
    dozo.reconfigure(|t| t.replacen("[drill.part]", "[drill.part]\nbackup = \"oldest\"", 1));
    let found = findings(&drill(&dozo, "part", 3));
    assert!(found.contains("index things_kind of public.things is missing") && !found.contains("foreign key"), "{found}");
}

#[test]
fn stale_canaries_and_missed_objectives_are_findings() {
    let database = small("drill_canary");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "include = [\"public.*\"]");
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "rpo = \"2h\"\namcheck = false");
    with_drill(&dozo, "quick", arena.path(), "rto = \"1ms\"\nincident = \"complete\"\namcheck = false");
    with_drill(&dozo, "column", arena.path(), "rpo = \"2h\"\namcheck = false");
    let _ = dozo.run(&["canary"]).exits(0);
    let run = dozo.run(&["--json", "canary", "shop"]).exits(0);
    assert_eq!(run.json()[0]["source"], "shop");
    assert_eq!(database.psql("SELECT count(*) FROM dozo.canary"), "2");
    let _ = dozo.backup();
    let record = drill(&dozo, "all", 0);
    assert_eq!(record["items"][0]["rpo"]["from"], "canary");
    assert!(strings(&record["items"][0]["not-checked"]).contains(&"pg_amcheck: switched off"));
    let found = findings(&drill(&dozo, "quick", 3));
    assert!(found.contains("objective missed: everything is back after"), "{found}");
    // Nobody has written one for three hours before the backup.
    database.psql("UPDATE dozo.canary SET at = at - interval '3 hours'");
    let _ = dozo.backup();
    let found = findings(&drill(&dozo, "all", 3));
    assert!(found.contains("stale canary: when the backup was made nobody had written one for 3 h 0 min"), "{found}");
    assert!(
        found.contains("objective missed: the newest row (canary) is 3 h 0 min old, the recovery point objective is 2 h 0 min"),
        "{found}"
    );
    // The same by a column, whose newest row is a minute old.
    dozo.reconfigure(|t| t.replacen("include =", "rpo-column = \"public.things.at\"\ninclude =", 1));
    let record = drill(&dozo, "column", 0);
    assert_eq!(record["items"][0]["rpo"]["from"], "public.things.at");
    assert!((60.0..120.0).contains(&record["items"][0]["rpo"]["seconds"].as_f64().unwrap()), "{record:#}");
    // An old backup.
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(30)).to_string();
    let run = dozo.run(&["--now", &later, "drill", "all"]).exits(3);
    assert!(run.stdout.contains("objective missed: the newest row"), "{}", run.stdout);
}

#[test]
fn what_cannot_run_is_not_green() {
    let database = small("drill_cannot");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    let folder = arena.path();
    let _ = dozo.run(&["drill"]).exits(1);
    let _ = dozo.backup();
    let run = dozo.run(&["drill", "--all"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1020") && run.stderr.contains("add [drill.NAME]"), "{}", run.stderr);
    with_drill(&dozo, "all", folder, "");
    // A server that does not start: its own words are quoted.
    let broken = folder.join("broken-bin");
    fs::create_dir(&broken).unwrap();
    for program in ["initdb", "pg_amcheck"] {
        std::os::unix::fs::symlink(database.cluster.tools().join(program), broken.join(program)).unwrap();
    }
    let real = database.cluster.tools().join("postgres");
    fs::write(
        broken.join("postgres"),
        format!("#!/bin/sh\ncase \"$1\" in -V|--version) exec {0} \"$@\";; -D) echo 'FATAL:  could not map anonymous shared memory' >&2; exit 1;; esac\nexec {0} \"$@\"\n", real.display()),
    )
    .unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(broken.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
    // initdb looks for postgres beside itself.
    fs::remove_file(broken.join("initdb")).unwrap();
    fs::write(broken.join("initdb"), format!("#!/bin/sh\nexec {} \"$@\"\n", database.cluster.tools().join("initdb").display()))
        .unwrap();
    fs::set_permissions(broken.join("initdb"), fs::Permissions::from_mode(0o755)).unwrap();
    with_drill(&dozo, "broken", folder, &format!("server-programs = \"{}\"", broken.display()));
    let record = drill(&dozo, "broken", 6);
    let said = check(&record["items"][0], "server")["detail"].as_str().unwrap().to_owned();
    assert!(said.contains("could not map anonymous shared memory"), "{said}");
    with_drill(&dozo, "none", folder, "server-programs = \"/nowhere\"");
    let record = drill(&dozo, "none", 6);
    assert!(check(&record["items"][0], "server")["detail"].as_str().unwrap().contains("/nowhere has no initdb and postgres"));
    // A check that cannot run.
    dozo.reconfigure(|t| format!("{t}[[drill.all.check]]\nname = \"dbt\"\ncommand = [\"/nowhere/dbt\", \"test\"]\n"));
    let record = drill(&dozo, "all", 6);
    assert!(check(&record["items"][0], "dbt")["detail"].as_str().unwrap().contains("cannot be started"));
    dozo.reconfigure(|t| {
        t.replace("command = [\"/nowhere/dbt\", \"test\"]", "command = [\"sh\", \"-c\", \"echo 3 of 4 failed; exit 1\"]")
    });
    let found = findings(&drill(&dozo, "all", 3));
    assert!(found.contains("dbt: exit status: 1: 3 of 4 failed"), "{found}");
    dozo.reconfigure(|t| {
        t.replace(
            "command = [\"sh\", \"-c\", \"echo 3 of 4 failed; exit 1\"]",
            "query = \"SELECT count(*) FROM things\"\nexpect = \"4999\"",
        )
    });
    let found = findings(&drill(&dozo, "all", 3));
    assert!(found.contains("dbt: `5000` instead of `4999`"), "{found}");
    // Nothing to restore.
    dozo.reconfigure(|t| {
        t.replacen(
            "[drill.all]",
            "[source.never]\nkind = \"postgres\"\nurl = \"env:SHOP_URL\"\n[drill.never]\nsources = [\"never\"]\n[drill.all]",
            1,
        )
    });
    let run = dozo.run(&["drill", "never"]).exits(6);
    assert!(run.stdout.contains("it has no good backup"), "{}", run.stdout);
    let run = dozo.run(&["drill", "--plan", "never"]).exits(6);
    assert!(run.stdout.contains("NOT RUN it has no good backup"), "{}", run.stdout);
    let mut there: Vec<String> = left(folder);
    there.retain(|l| !l.ends_with("broken-bin"));
    assert_eq!(there, Vec::<String>::new());
}

/// Runs a command as root, or by sudo.
pub(crate) fn as_root(words: &[&str]) {
    let sudo: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
    let all: Vec<&str> = sudo.iter().chain(words).copied().collect();
    let status = Command::new(all[0]).args(&all[1..]).status().unwrap();
    assert!(status.success(), "{words:?} needs root or sudo");
}

/// A disk of 64 MB takes no cluster.
#[test]
fn no_room_is_said_and_not_green() {
    let database = small("drill_room");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    let disk = arena.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mode = if rustix::process::geteuid().is_root() { "755" } else { "777" };
    as_root(&["mount", "-t", "tmpfs", "-o", &format!("size=64m,mode={mode}"), "none", &disk.display().to_string()]);
    with_drill(&dozo, "all", &disk, "");
    let _ = dozo.backup();
    let record = drill(&dozo, "all", 6);
    let said = check(&record["items"][0], "server")["detail"].as_str().unwrap().to_owned();
    as_root(&["umount", &disk.display().to_string()]);
    assert!(said.contains("no room: about") && said.contains("are free"), "{said}");
}

/// Ctrl-C takes everything down at once; after SIGKILL the next run does.
#[test]
fn nothing_is_left_after_a_signal_or_a_kill() {
    let database = small("drill_kill");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    let folder = arena.path();
    let began = dozo.folder.path().join("began");
    with_drill(&dozo, "all", folder, "amcheck = false");
    with_drill(&dozo, "next", folder, "amcheck = false");
    dozo.reconfigure(|t| {
        t.replacen(
            "[drill.next]",
            &format!(
                "[[drill.all.check]]\nname = \"long\"\ncommand = [\"sh\", \"-c\", \"echo > {}; sleep 600\"]\n[drill.next]",
                began.display()
            ),
            1,
        )
    });
    let _ = dozo.backup();
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let mut child = dozo.command(&["drill", "all"]).spawn().unwrap();
        until("the check", || began.exists());
        assert!(left(folder).len() > 2, "{:?}", left(folder));
        let sent = Instant::now();
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code);
        fs::remove_file(&began).unwrap();
        if code.is_none() {
            assert!(!left(folder).is_empty());
            let _ = dozo.run(&["drill", "next"]).exits(0);
        } else {
            assert!(sent.elapsed() < Duration::from_secs(30));
        }
        assert_eq!(left(folder), Vec::<String>::new(), "after {signal:?}");
    }
    // Killed while the server was being made.
    for wait in [5, 50, 150, 400, 700] {
        let mut child = dozo.command(&["drill", "next"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        let _ = child.wait();
        let _ = dozo.run(&["drill", "next"]).exits(0);
        assert_eq!(left(folder), Vec::<String>::new(), "after {wait} ms");
    }
    let history = dozo.run(&["--json", "drill", "--history"]).exits(0).json();
    assert!(history["drills"].as_array().unwrap().len() >= 6, "{history}");
}

#[test]
fn edited_removed_and_reordered_records_are_found() {
    let database = small("drill_chain");
    let mut dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "tables = [\"kinds\"]\namcheck = false");
    let _ = dozo.backup();
    for _ in 0..3 {
        let _ = drill(&dozo, "all", 0);
    }
    let head = dozo.run(&["--json", "drill", "--history"]).exits(0).json()["head"].clone();
    assert_eq!(head["number"], 3);
    let folder = dozo.repository().join("drills");
    let path = |n: u32| folder.join(format!("{n:06}.json"));
    let kept: Vec<Vec<u8>> = (1..=3).map(|n| fs::read(path(n)).unwrap()).collect();
    let restore = || (1..=3).for_each(|n| fs::write(path(n), &kept[n as usize - 1]).unwrap());
    let events = files(&dozo.repository().join("backups")).into_iter().filter(|f| f.to_string_lossy().contains("/drills/"));
    let events: Vec<(PathBuf, Vec<u8>)> = events.map(|f| (f.clone(), fs::read(f).unwrap())).collect();
    assert_eq!(events.len(), 3);
    let broken = |dozo: &Dozo, what: &str, number: u32| {
        let run = dozo.run(&["drill", "--history"]).exits(3);
        assert!(run.stderr.contains(&format!("drill record {number}: ")), "{what}: {}", run.stderr);
    };
    // The witnesses beside the backups, what this user saw, and the chain itself: each alone is enough where it can be.
    for without_state in [false, true] {
        if without_state {
            dozo.set("DOZO_STATE", &dozo.folder.path().join(fresh()).display().to_string());
        }
        for number in 1..=3 {
            let text = String::from_utf8(kept[number as usize - 1].clone()).unwrap().replacen("\"passed\"", "\"failed\"", 1);
            fs::write(path(number), text).unwrap();
            broken(&dozo, "edited", number);
            restore();
            fs::remove_file(path(number)).unwrap();
            broken(&dozo, "removed", number);
            restore();
        }
        fs::write(path(1), &kept[1]).unwrap();
        fs::write(path(2), &kept[0]).unwrap();
        broken(&dozo, "reordered", 2);
        restore();
        let _ = dozo.run(&["drill", "--history"]).exits(0);
    }
    // The end is cut off with its witness: whoever was told the head knows.
    fs::remove_file(path(3)).unwrap();
    for (file, bytes) in &events {
        if String::from_utf8_lossy(bytes).contains(head["sha256"].as_str().unwrap()) {
            fs::remove_file(file).unwrap();
        }
    }
    let blank = fresh();
    dozo.set("DOZO_STATE", &dozo.folder.path().join(&blank).display().to_string());
    let _ = dozo.run(&["drill", "--history"]).exits(0);
    let told = format!("3:{}", head["sha256"].as_str().unwrap());
    let run = dozo.run(&["drill", "--history", "--head", &told]).exits(3);
    assert!(run.stderr.contains("drill record 3: it is gone"), "{}", run.stderr);
    let _ = dozo.run(&["drill", "--history", "--head", "nonsense"]).exits(2);
}

/// The head of the chain goes out with the notification.
#[test]
fn whoever_is_told_gets_the_head() {
    let database = small("drill_told");
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    let told = dozo.folder.path().join("told.json");
    with_drill(&dozo, "all", arena.path(), "tables = [\"kinds\"]\namcheck = false\nrto = \"1ms\"");
    dozo.reconfigure(|t| {
        format!("{t}[notify.me]\ncommand = [\"sh\", \"-c\", \"cat > {}\"]\njobs = [\"drill\"]\n", told.display())
    });
    let _ = dozo.backup();
    let run = dozo.run(&["--json", "drill", "all"]).exits(3);
    let sha = run.json()[0]["sha256"].as_str().unwrap().to_owned();
    let message = fs::read_to_string(&told).unwrap();
    assert!(message.contains(&format!("head 1:{sha}")) && message.contains("objective missed"), "{message}");
}

/// A server that must not reach anything: what it is set to, and that it really cannot.
#[test]
fn a_scratch_server_is_cut_off() {
    let database = shared(15).database("drill_isolated");
    let port = shared(15).port();
    database.psql(&format!(
        "CREATE EXTENSION postgres_fdw; CREATE TABLE t AS SELECT 1 i;
         CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname '{}');
         CREATE USER MAPPING FOR postgres SERVER other OPTIONS (user 'postgres');
         CREATE FOREIGN TABLE far (i int) SERVER other OPTIONS (table_name 't');
         CREATE MATERIALIZED VIEW seen AS SELECT * FROM far;
         CREATE EXTENSION dblink; CREATE TABLE caught (i int);",
        database.name
    ));
    // By a library, over TCP and over a socket in the file system.
    let socket = shared(15).folder().display().to_string();
    let reach =
        |host: &str| format!("SELECT public.dblink_connect('host={host} port={port} user=postgres dbname={}')", database.name);
    let dozo = Dozo::new(&database, Place::Local);
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "amcheck = false");
    let asked = [
        (
            "archive",
            "SELECT current_setting('archive_mode') || current_setting('listen_addresses') || current_setting('primary_conninfo')",
            "off",
        ),
        ("workers", "SELECT current_setting('max_logical_replication_workers')", "0"),
        ("libraries", "SELECT current_setting('shared_preload_libraries')", ""),
        ("cron", "SELECT current_setting('cron.launch_active_jobs')", "off"),
        ("handler", "SELECT DISTINCT fdwhandler FROM pg_foreign_data_wrapper", "0"),
    ];
    dozo.reconfigure(|mut t| {
        for (name, query, expect) in asked {
            t.push_str(&format!("[[drill.all.check]]\nname = \"{name}\"\nquery = \"{query}\"\nexpect = \"{expect}\"\n"));
        }
        for (name, host) in [("tcp", "127.0.0.1"), ("socket", socket.as_str())] {
            t.push_str(&format!("[[drill.all.check]]\nname = \"{name}\"\nquery = \"{}\"\nexpect = \"OK\"\n", reach(host)));
        }
        t
    });
    assert_eq!(database.psql(&reach(&socket)), "OK", "from here it can be reached");
    let _ = dozo.backup();
    let before = database.psql("SELECT sessions FROM pg_stat_database WHERE datname = current_database()");
    let record = drill(&dozo, "all", 6);
    let item = &record["items"][0];
    for name in ["tcp", "socket"] {
        let said = check(item, name)["detail"].as_str().unwrap();
        assert!(said.contains("could not establish connection"), "{name}: {said}");
    }
    for (name, ..) in asked {
        assert_eq!(check(item, name)["verdict"], "passed", "{item:#}");
    }
    assert!(
        strings(&item["not-checked"])
            .iter()
            .any(|n| n.contains("materialized view public.seen stays empty: it reads another server")),
        "{item:#}"
    );
    let after = database.psql("SELECT sessions FROM pg_stat_database WHERE datname = current_database()");
    // The two questions themselves.
    assert!(after.parse::<u64>().unwrap() <= before.parse::<u64>().unwrap() + 1, "{before} {after}");
}

/// Every type and object that there is, on every version: the throw-away server is of the same one.
#[test]
fn the_zoo_is_drilled_on_every_version() {
    for major in dozo_testkit::majors() {
        let zoo = shared(major).zoo(true);
        let dozo = Dozo::with_url(&zoo.url(), zoo.cluster, Place::Local, "exclude = [\"zoo.refused*\"]");
        let arena = arena();
        with_drill(&dozo, "all", arena.path(), "");
        with_drill(&dozo, "sample", arena.path(), "sample = \"30%\"");
        let run = dozo.run(&["backup", "shop"]);
        assert!([0, 4].contains(&run.code), "{}{}", run.stdout, run.stderr);
        let record = drill(&dozo, "all", 0);
        let item = &record["items"][0];
        assert_eq!(item["place"], format!("scratch server {major}"));
        assert_eq!(check(item, "definitions")["verdict"], "passed", "{item:#}");
        // What a table needs of other objects may not come with it: that is said, and no finding about the backup.
        let run = dozo.run(&["--json", "drill", "sample"]);
        assert!([0, 6].contains(&run.code), "{}{}", run.stdout, run.stderr);
        let item = run.json()[0]["record"]["items"][0].clone();
        let unlooked = strings(&item["not-checked"]);
        assert!(run.code == 0 || unlooked.iter().any(|n| n.contains("left out ") || n.contains("was not restored")), "{item:#}");
        assert_eq!(left(arena.path()), Vec::<String>::new());
    }
}

/// A sample of a fifth tells how long the whole takes.
#[test]
fn the_estimate_of_a_sample_holds() {
    let (scale, times) = if nightly() { ("20", 3) } else { ("0.3", 1) };
    let shop = shared(15).shop(scale);
    let dozo = Dozo::with_url(&shop.url(), shop.cluster, Place::Local, "");
    let arena = arena();
    with_drill(&dozo, "whole", arena.path(), "amcheck = false");
    with_drill(&dozo, "sample", arena.path(), "sample = \"20%\"\namcheck = false");
    let _ = dozo.backup();
    let median = |mut all: Vec<(f64, Value)>| {
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.swap_remove(all.len() / 2)
    };
    let (full, _) = median(
        (0..times).map(|_| (drill(&dozo, "whole", 0)["items"][0]["rto-seconds"].as_f64().unwrap(), Value::Null)).collect(),
    );
    let (seconds, estimate) = median(
        (0..times)
            .map(|_| {
                let e = drill(&dozo, "sample", 0)["items"][0]["estimate"].clone();
                (e["seconds"].as_f64().unwrap(), e)
            })
            .collect(),
    );
    let (low, high) = (estimate["low"].as_f64().unwrap(), estimate["high"].as_f64().unwrap());
    println!(
        "shop scale {scale}: full {full:.1} s, estimated {seconds:.1} s ({low:.1} to {high:.1}), share {}",
        estimate["share"]
    );
    assert!((0.15..0.27).contains(&estimate["share"].as_f64().unwrap()), "{estimate}");
    assert!(low <= seconds && seconds <= high, "{estimate}");
    if nightly() {
        assert!(low <= full && full <= high && (full * 0.6..full * 1.4).contains(&seconds), "{full} s, {estimate}");
    }
}
