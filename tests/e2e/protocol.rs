//! The counter-examples behind the reading protocol, one test each.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dozo_testkit::{Cluster, ClusterOptions, Database, services, shared};

use crate::harness::{Dozo, Place, fingerprints};

/// A psql session that does what it is told and stays open.
pub(crate) struct Psql {
    child: Child,
}

impl Psql {
    pub(crate) fn new(database: &Database<'_>) -> Self {
        let child = Command::new(services().join(format!("pg{}/bin/psql", database.cluster.major)))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &database.url()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(crate) fn say(&mut self, sql: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{sql}").unwrap();
    }

    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn waiting_for_lock(database: &Database<'_>) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo coordinator' AND wait_event_type = 'Lock' AND datname = current_database()";
    database.psql(sql) != "0"
}

/// 1.1: a table is truncated and filled again between the look and the lock. A snapshot older than the lock would read it as
/// empty, and SQL in that snapshot would agree.
#[test]
fn truncated_between_look_and_lock() {
    let cluster = shared(15);
    let database = cluster.database("truncated");
    database.psql("CREATE TABLE a (id int); INSERT INTO a SELECT generate_series(1, 1000); CREATE TABLE b (id int)");
    let dozo = Dozo::new(&database, Place::Local);
    let mut other = Psql::new(&database);
    other.say(
        "BEGIN; TRUNCATE a; INSERT INTO a SELECT generate_series(1, 7); CREATE TABLE late (id int); INSERT INTO late VALUES (1);",
    );
    until("the truncation", || {
        database.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'a'::regclass") == "1"
    });
    let running = dozo.command(&["--json", "backup", "shop"]).spawn().unwrap();
    until("waiting", || waiting_for_lock(&database));
    other.say("COMMIT;");
    other.end();
    let out = running.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
    let manifest = dozo.manifest();
    let rows: Vec<(String, String)> = manifest["datasets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            (d["name"].as_str().unwrap().to_owned(), d["fingerprint"].as_str().unwrap().split(':').nth(1).unwrap().to_owned())
        })
        .collect();
    let expected = [("a", "7"), ("b", "0"), ("late", "1")].map(|(t, n)| (t.to_owned(), n.to_owned()));
    assert_eq!(rows, expected);
}

/// A lock that is not free in time is one clear error that says who holds it.
#[test]
fn a_lock_that_is_not_free_names_its_holder() {
    let cluster = shared(15);
    let database = cluster.database("locked");
    database.psql("CREATE TABLE a (id int)");
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "lock-timeout = \"300ms\"");
    let mut other = Psql::new(&database);
    other.say("BEGIN; LOCK TABLE a;");
    until("the lock", || {
        database.psql("SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation = 'a'::regclass") == "1"
    });
    let run = dozo.run(&["backup", "shop"]).exits(1);
    assert!(run.stderr.contains("locking public.a (held by pid") && run.stderr.contains("DOZO-E2112"), "{}", run.stderr);
    other.end();
    let _ = dozo.backup();
}

/// 1.2: the coordinator is killed while workers copy. Without its lock a worker could read a truncated table as empty, so the
/// run fails, and no manifest is written.
#[test]
fn coordinator_killed() {
    let cluster = shared(15);
    let database = cluster.database("coordinator");
    // Slow enough to be killed in the middle, however quick the machine is.
    database.psql("CREATE TABLE a (id bigint, t text); INSERT INTO a SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 400000) i; CREATE TABLE z (id int); INSERT INTO z VALUES (1);");
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "workers = 1\nrate = \"30MB\"");
    let running = dozo.command(&["backup", "shop"]).spawn().unwrap();
    until("copying", || {
        database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()") != "0"
    });
    assert_eq!(database.psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'dozo coordinator' AND datname = current_database()"), "1");
    let out = running.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("DOZO-E2113"), "{stderr}");
    let plan = dozo.run(&["--json", "gc"]).exits(0).json();
    assert_eq!(plan["uncommitted"].as_array().unwrap().len(), 1);
    assert!(dozo.run(&["--json", "list"]).exits(0).json().as_array().unwrap().iter().all(|l| l["state"] == "uncommitted"));
}

/// 1.3: the timeline of a standby that was just promoted is the new one; `pg_control_checkpoint()` still shows the old.
#[test]
fn promoted_standby() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("standby");
    database.psql(
        "CREATE TABLE a (id int); INSERT INTO a VALUES (1), (2); CREATE UNLOGGED TABLE u (id int); CREATE TABLE n (id int)",
    );
    let standby = cluster.standby();
    let url = standby.url("postgres", &database.name);
    until("replay", || standby.psql(&database.name, "SELECT count(*) FROM a") == "2");

    // From a standby: the WAL receiver's timeline; the unlogged table cannot be read and is named, so the backup is partial.
    let dozo = Dozo::with_url(&url, &standby, Place::Local, "");
    let run = dozo.run(&["backup", "shop"]).exits(4);
    assert!(run.stderr.contains("public.u was left out (an unlogged table cannot be read on a standby"), "{}", run.stderr);
    assert_eq!(
        (dozo.manifest()["server"]["timeline"].clone(), dozo.manifest()["server"]["standby"].clone()),
        (1.into(), true.into())
    );

    standby.psql("postgres", "SELECT pg_promote(true)");
    until("promotion", || standby.psql("postgres", "SELECT pg_is_in_recovery()") == "f");
    standby.psql(&database.name, "INSERT INTO n VALUES (5)");
    let _ = dozo.backup();
    assert_eq!(dozo.manifest()["server"]["timeline"], 2);
}

/// The server is killed half-way: one clear error, nothing committed, and the next run works.
#[test]
fn server_killed_half_way() {
    let cluster = Cluster::start(15, &ClusterOptions::default());
    let database = cluster.database("killed");
    database.psql(
        "CREATE TABLE a (id bigint, t text); INSERT INTO a SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 300000) i;",
    );
    let dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "workers = 1\nrate = \"30MB\"");
    let running = dozo.command(&["backup", "shop"]).spawn().unwrap();
    until("copying", || {
        database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%'")
            != "0"
    });
    cluster.stop(rustix::process::Signal::QUIT);
    let out = running.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error[DOZO-E21"), "{stderr}");
    cluster.run();
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "--all"]).exits(0);
}

/// PgBouncer in transaction mode is recognized and refused; in session mode it is not in the way.
#[test]
fn pooler_in_transaction_mode() {
    let cluster = shared(15);
    let database = cluster.database("pooled");
    database.psql("CREATE TABLE a (id int); INSERT INTO a VALUES (1)");
    for (mode, code) in [("transaction", 1), ("session", 0)] {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\nmax_client_conn = 50\ndefault_pool_size = 20\nuser = nobody\nignore_startup_parameters = extra_float_digits\n",
            cluster.port()
        );
        let ini = ini.replace("* = host", &format!("{} = user=postgres host", database.name));
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, ini).unwrap();
        let mut pooler = Command::new("pgbouncer")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = format!("postgres://postgres@127.0.0.1:{port}/{}", database.name);
        until("the pooler", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        let dozo = Dozo::with_url(&url, cluster, Place::Local, "");
        let run = dozo.run(&["backup", "shop"]);
        pooler.kill().unwrap();
        pooler.wait().unwrap();
        let run = run.exits(code);
        assert_eq!(run.stderr.contains("DOZO-E2108"), code == 1, "{}", run.stderr);
    }
}

/// A table that is added, dropped or altered right after the snapshot does not change what is in the backup.
#[test]
fn writes_during_the_copy_are_not_in_it() {
    let cluster = shared(15);
    let database = cluster.database("busy");
    database.psql("CREATE TABLE a (id bigint, t text); INSERT INTO a SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 200000) i; CREATE TABLE b (id int); INSERT INTO b SELECT generate_series(1, 10)");
    let mut dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "workers = 1\nzstd-level = 9");
    let before = fingerprints(&dozo, cluster, &database.name);
    let running = dozo.command(&["backup", "shop"]).spawn().unwrap();
    until("copying", || {
        database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()") != "0"
    });
    database.psql("DELETE FROM a WHERE id % 2 = 0; UPDATE b SET id = id + 1; INSERT INTO b VALUES (99); CREATE TABLE c (id int); INSERT INTO c VALUES (1)");
    assert_eq!(running.wait_with_output().unwrap().status.code(), Some(0));
    let copy = dozo.restore_into(cluster, "busy_copy");
    assert_eq!(before, fingerprints(&dozo, cluster, &copy));
}

/// Tables that are dropped, altered, detached or attached while a backup runs: it shows what was there when it began, and
/// whoever waited goes on afterwards.
#[test]
fn changed_while_it_runs() {
    for major in [15, 18] {
        let cluster = shared(major);
        let database = cluster.database("moving");
        database.psql("CREATE TABLE big AS SELECT i, repeat(md5(i::text), 20) t FROM generate_series(1, 30000) i");
        for tree in ["detached", "detached_concurrently", "attached"] {
            database.psql(&format!(
                "CREATE TABLE {tree} (k int, v text) PARTITION BY RANGE (k);
                 CREATE TABLE {tree}_1 PARTITION OF {tree} FOR VALUES FROM (0) TO (100);
                 CREATE TABLE {tree}_2 PARTITION OF {tree} FOR VALUES FROM (100) TO (200);
                 INSERT INTO {tree} SELECT i % 200, i::text FROM generate_series(1, 3000) i"
            ));
        }
        database.psql(
            "CREATE TABLE loose (k int, v text); INSERT INTO loose VALUES (350, 'x');
             CREATE TABLE dropped AS SELECT 1 i; CREATE TABLE altered AS SELECT 1 i, 2 j",
        );
        let more = "rate = \"8MB\"\nmax-block = \"1min\"";
        let mut dozo = Dozo::with_url(&database.url(), cluster, Place::Local, more);
        let before = fingerprints(&dozo, cluster, &database.name);
        let running = dozo.command(&["--json", "backup", "shop"]).spawn().unwrap();
        until("copying", || {
            database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()") != "0"
        });
        let others: Vec<Psql> = [
            "DROP TABLE dropped;",
            "ALTER TABLE altered DROP j;",
            "ALTER TABLE detached DETACH PARTITION detached_1;",
            "ALTER TABLE detached_concurrently DETACH PARTITION detached_concurrently_1 CONCURRENTLY;",
            "ALTER TABLE attached ATTACH PARTITION loose FOR VALUES FROM (300) TO (400);",
        ]
        .into_iter()
        .map(|sql| {
            let mut session = Psql::new(&database);
            session.say(sql);
            session
        })
        .collect();
        until("five waiting", || {
            database.psql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'psql' AND datname = current_database()") == "5"
        });
        let out = running.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
        others.into_iter().for_each(Psql::end);
        assert_eq!(database.psql("SELECT to_regclass('dropped') IS NULL, count(*) FROM pg_inherits"), "t|5");
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let copy = dozo.restore_into(cluster, "moving_copy");
        assert_eq!(fingerprints(&dozo, cluster, &copy), before, "on {major}");
    }
}
