//! What runs at two in the morning: nothing to say, nothing to read a home from, others in the way, commands around it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dozo_testkit::{Cluster, ClusterOptions, shared};

use crate::harness::{Dozo, Place, fresh};
use crate::protocol::{Psql, until};

/// `env -i`, the connection in a file, relative paths: no output and exit 0; one line on a warning; a log that tells.
#[test]
fn an_empty_environment_and_nothing_to_say() {
    let cluster = shared(15);
    let database = cluster.database("cron");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i");
    let dozo = Dozo::new(&database, Place::Local);
    let folder = dozo.folder.path();
    std::fs::write(folder.join("shop.url"), database.url()).unwrap();
    let config = std::fs::read_to_string(folder.join("dozo.toml")).unwrap().replace("env:SHOP_URL", "file:shop.url");
    std::fs::write(folder.join("dozo.toml"), format!("{config}pg-tools = \"{}\"\n", cluster.tools().display())).unwrap();
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_dozo"))
            .args(["--quiet", "--config"])
            .arg(folder.join("dozo.toml"))
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let silent = (Some(0), String::new(), String::new());
    let log = folder.join("dozo.log");
    let logged = ["--log-file", log.to_str().unwrap()];
    assert_eq!(run(&[&["backup", "--all"], &logged[..]].concat()), silent);
    assert_eq!(run(&["verify", "latest", "--all"]), silent);
    assert_eq!(run(&["backup", "--all"]), silent);
    database.psql("DELETE FROM a");
    let (code, stdout, stderr) = run(&[&["backup", "--all"], &logged[..]].concat());
    assert_eq!((code, stdout.as_str(), stderr.lines().count()), (Some(4), "", 1), "{stderr}");
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].contains("begin: ") && lines[0].contains(" pid "), "{text}");
    assert!(
        text.contains("result: shop@") && text.contains("message: warning: shop: backup ") && text.contains("end: exit 4"),
        "{text}"
    );
    assert!(!text.contains(&database.url()));
    let (code, _, stderr) = run(&["backup", "--all", "--log-file", "/nowhere/dozo.log"]);
    assert!(code == Some(2) && stderr.contains("DOZO-E1010"), "{stderr}");
}

/// Of two runs one works; the other exits 5, or 0 if it is told so.
#[test]
fn overlapping_runs() {
    let cluster = shared(15);
    let database = cluster.database("overlap");
    database.psql("CREATE TABLE a AS SELECT i, repeat(md5(i::text), 20) t FROM generate_series(1, 60000) i");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let first = dozo.command(&["backup", "shop", "--full", "--rate", "10MB"]).spawn().unwrap();
    until("the lease", || {
        let leases = crate::harness::files(&dozo.repository().join("leases"));
        leases.last().is_some_and(|f| std::fs::read_to_string(f).is_ok_and(|t| t.contains("\"held\"")))
    });
    let run = dozo.run(&["backup", "shop"]).exits(5);
    assert!(run.stderr.contains("DOZO-E5009"), "{}", run.stderr);
    let run = dozo.run(&["--quiet", "backup", "shop", "--exit-zero-on-lock"]).exits(0);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let out = first.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(dozo.run(&["--json", "list"]).exits(0).json().as_array().unwrap().len(), 2);
}

/// Every database of a server; one that refuses is told and stops nobody; one that is gone is told.
#[test]
fn a_whole_server() {
    let cluster = Cluster::start(17, &ClusterOptions::default());
    let one = cluster.database("one");
    let two = cluster.database("two");
    let three = cluster.database("tmp");
    for database in [&one, &two, &three] {
        database.psql("CREATE TABLE a AS SELECT 1 i");
    }
    let dozo = Dozo::with_url(
        &one.url(),
        &cluster,
        Place::Local,
        "databases = [\"*\"]\nexclude-databases = [\"tmp*\", \"postgres\"]\n[source.dead]\nkind = \"postgres\"\nurl = \"postgres://nobody@127.0.0.1:1/x\"",
    );
    let run = dozo.run(&["--json", "backup", "--all"]).exits(4);
    let report = run.json();
    let mut found: Vec<&str> = report["backups"].as_array().unwrap().iter().map(|b| b["database"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, [one.name.as_str(), two.name.as_str()]);
    assert_eq!(report["failed"][0]["source"], "dead");
    let _ = dozo.run(&["backup", "shop"]).exits(0);
    let run = dozo.run(&["backup", "shop", "--rate", "0MB"]).exits(2);
    assert!(run.stderr.contains("above 0"), "{}", run.stderr);
    let _ = dozo.run(&["verify", "latest", "--all"]).exits(0);
    one.psql(&format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", two.name));
    let run = dozo.run(&["--quiet", "backup", "shop"]).exits(4);
    assert!(run.stderr.contains(&format!("database {} is not backed up: it allows no connections", two.name)), "{}", run.stderr);
    one.psql(&format!("DROP DATABASE {}", two.name));
    let run = dozo.run(&["--quiet", "backup", "shop"]).exits(4);
    assert!(run.stderr.contains("is gone, its backups are kept"), "{}", run.stderr);
    let name = format!("shop-{}", one.name);
    let restored =
        dozo.run(&["restore", &format!("{name}@latest"), "--to", &cluster.url("postgres", "copy_of_one"), "--create-db"]);
    let _ = restored.exits(0);
}

/// Hooks get no secrets; one before that fails, or hangs, fails the backup by name.
#[test]
fn hooks_around_a_source() {
    let cluster = shared(15);
    let database = cluster.database("hooks");
    database.psql("CREATE TABLE a AS SELECT 1 i");
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let dozo = |before: &str, after: &str| {
        Dozo::with_url(
            &database.url(),
            cluster,
            Place::Local,
            &format!("before = [\"sh\", \"-c\", '''{before}''']\nafter = [\"sh\", \"-c\", '''{after}''']\nhook-timeout = \"2s\""),
        )
    };
    let told = format!("env > {}", said.display());
    let run = dozo("true", &told).run(&["backup", "shop"]).exits(0);
    assert!(run.stdout.contains("shop@"));
    let text = std::fs::read_to_string(&said).unwrap();
    assert!(text.contains("DOZO_SOURCE=shop") && text.contains("DOZO_OUTCOME=done") && !text.contains("SHOP_URL"), "{text}");
    let failing = dozo("echo no disk >&2; exit 3", &told);
    let run = failing.run(&["backup", "shop"]).exits(1);
    assert!(
        run.stderr.contains("hook `before`") && run.stderr.contains("no disk") && run.stderr.contains("DOZO-E6016"),
        "{}",
        run.stderr
    );
    let hanging = dozo("sleep 1000", "true");
    let run = hanging.run(&["backup", "shop"]).exits(1);
    assert!(run.stderr.contains("it did not end within 2.0 s"), "{}", run.stderr);
    let late = dozo("true", "exit 1");
    let run = late.run(&["--quiet", "backup", "shop"]).exits(0);
    assert!(run.stderr.contains("hook `after`"), "{}", run.stderr);
}

/// Whoever waits behind our locks is told of, waited for, or makes the run give up.
#[test]
fn others_wait_behind_our_locks() {
    let cluster = shared(15);
    for (mode, code, said) in [
        ("warn", 0, "has waited longer than 0.3 s behind the locks of this backup"),
        ("release", 0, "it gave them back and starts over"),
        ("abort", 1, "DOZO-E6014"),
    ] {
        let database = cluster.database("blocked");
        database.psql("CREATE TABLE a AS SELECT i, repeat(md5(i::text), 20) t FROM generate_series(1, 30000) i");
        let dozo = Dozo::with_url(
            &database.url(),
            cluster,
            Place::Local,
            &format!("on-block = \"{mode}\"\nmax-block = \"300ms\"\nrate = \"8MB\""),
        );
        let running = dozo.command(&["backup", "shop"]).spawn().unwrap();
        until("copying", || {
            database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()") != "0"
        });
        let mut migration = Psql::new(&database);
        migration.say("ALTER TABLE a ADD c int;");
        let out = running.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{mode}: {stderr}");
        assert!(stderr.contains(said) && stderr.contains("for public.a"), "{mode}: {stderr}");
        migration.end();
        let columns = dozo.run(&["--json", "list"]).exits(0).json();
        assert_eq!(columns.as_array().unwrap().iter().filter(|l| l["state"] == "complete").count(), usize::from(code == 0));
        if mode == "release" {
            let columns = dozo.manifest()["datasets"][0]["columns"].as_array().unwrap().len();
            assert_eq!(columns, 3, "the second round came after the migration");
        }
    }
}

/// While a replica lags the run pauses and says so, and goes on when it has caught up.
#[test]
fn a_lagging_replica_pauses_the_run() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("lag");
    database.psql("CREATE TABLE a AS SELECT i, repeat(md5(i::text), 20) t FROM generate_series(1, 2000) i");
    let standby = cluster.standby();
    until("replay", || standby.psql(&database.name, "SELECT count(*) FROM a") == "2000");
    let dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "max-replication-lag = \"1s\"");
    let quick = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(quick["warnings"].as_array().unwrap().len(), 0);
    standby.psql("postgres", "SELECT pg_wal_replay_pause()");
    // Written when it commits: the position of a server that writes its WAL a moment later would be the replica's own.
    database.psql("SET synchronous_commit = on; INSERT INTO a SELECT i FROM generate_series(1, 100) i");
    let mut running = dozo.command(&["--json", "backup", "shop"]).spawn().unwrap();
    let told = Arc::new(Mutex::new(String::new()));
    let stderr = BufReader::new(running.stderr.take().unwrap());
    let reader = std::thread::spawn({
        let told = told.clone();
        move || stderr.lines().map_while(Result::ok).for_each(|line| told.lock().unwrap().push_str(&(line + "\n")))
    });
    let pauses = || told.lock().unwrap().matches("paused: replica walreceiver lags more than 1.0 s").count();
    until("a pause", || pauses() > 0);
    std::thread::sleep(Duration::from_secs(2));
    let copying = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()";
    assert_eq!(database.psql(copying), "0", "paused before the first row");
    assert_eq!(pauses(), 1, "{}", told.lock().unwrap());
    standby.psql("postgres", "SELECT pg_wal_replay_resume()");
    let status = running.wait().unwrap();
    reader.join().unwrap();
    assert_eq!(status.code(), Some(0), "{}", told.lock().unwrap());
}

/// A repository whose disk is too full is refused before anything is read; one that fills up commits nothing.
#[test]
fn a_full_disk() {
    let cluster = shared(15);
    let database = cluster.database("full");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) || md5((-i)::text) t FROM generate_series(1, 200000) i");
    let disk = std::env::temp_dir().join(format!("dozo-disk-{}", fresh()));
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&disk).status().unwrap();
    assert!(mounted.success(), "mounting a small file system needs root");
    let mut dozo = Dozo::new(&database, Place::Local);
    let config = dozo.folder.path().join("dozo.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let set = |min_free: &str| {
        let repository = format!("url = \"file://{}/repo\"\nmin-free = \"{min_free}\"", disk.display());
        std::fs::write(&config, text.replace("url = \"file://repo\"", &repository)).unwrap();
    };
    set("0%");
    let run = dozo.run(&["backup", "shop"]).exits(1);
    assert!(run.stderr.contains("DOZO-E3004"), "{}", run.stderr);
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    assert!(listed.as_array().unwrap().iter().all(|l| l["state"] == "uncommitted"));
    std::fs::write(disk.join("filler"), vec![0; 3 << 20]).unwrap();
    set("50%");
    let run = dozo.run(&["backup", "shop"]).exits(1);
    assert!(run.stderr.contains("DOZO-E6015") && run.stderr.contains("min-free"), "{}", run.stderr);
    std::fs::remove_file(disk.join("filler")).unwrap();
    database.psql("DELETE FROM a WHERE i > 100");
    set("0%");
    let _ = dozo.backup();
    let copy = dozo.restore_into(cluster, "full_copy");
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM a"), "100");
    let _ = Command::new("umount").arg(&disk).status();
    let _ = std::fs::remove_dir(&disk);
}
