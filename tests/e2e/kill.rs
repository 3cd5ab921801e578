//! Killed anywhere, nothing is lost: SIGKILL at random moments of a backup and of a restore.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use dozo_testkit::{Fault, Proxy, S3Server, shared, shared_s3};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Dozo, Place, fingerprints, fresh, nightly};

fn rounds() -> usize {
    if nightly() { 20 } else { 4 }
}

/// Runs and kills after a while. Returns whether it was killed in time.
fn killed(dozo: &Dozo, args: &[&str], after: Duration) -> bool {
    let mut child = dozo.command(args).spawn().unwrap();
    std::thread::sleep(after);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    running
}

#[test]
fn a_killed_backup_leaves_no_manifest_and_the_next_run_goes_on() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    let dozo = Dozo::new(&shop, Place::Local);
    let began = Instant::now();
    let _ = dozo.backup();
    let whole = began.elapsed();
    let mut rng = StdRng::seed_from_u64(rand::rng().random());
    let mut uncommitted = 0;
    for _ in 0..rounds() {
        let hit = killed(&dozo, &["backup", "shop"], whole.mul_f64(rng.random_range(0.05..0.95)));
        let plan = dozo.run(&["--json", "gc", "plan"]).exits(0).json();
        let open = plan["uncommitted"].as_array().unwrap();
        // Killed before its intent, it left nothing; after, it is listed. Never is there an orphan that nobody owns.
        assert!(open.len() <= uncommitted + 1, "{plan}");
        assert!(hit || open.len() == uncommitted, "{plan}");
        assert!(plan["orphans"].as_array().unwrap().is_empty(), "{plan}");
        assert!(open.iter().all(|b| b["state"] == "abandoned"), "{plan}");
        uncommitted = open.len();
        // At once: the lease of a dead process on this host is broken, and that is said.
        let began = Instant::now();
        let run = dozo.run(&["backup", "shop"]).exits(0);
        assert!(began.elapsed() < whole * 4 + Duration::from_secs(5));
        assert!(!run.stderr.contains("error"), "{}", run.stderr);
        // No manifest without all its objects.
        let _ = dozo.run(&["verify", "--all", "--level", "digest"]).exits(0);
    }
    let _ = dozo.run(&["verify", "--all"]).exits(0);
    assert!(uncommitted > 0, "no round hit a running backup");
}

#[test]
fn a_killed_restore_continues() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    let mut dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let began = Instant::now();
    let reference = dozo.restore_into(cluster, "reference");
    let whole = began.elapsed();
    let expected = fingerprints(&dozo, cluster, &reference);
    let mut rng = StdRng::seed_from_u64(rand::rng().random());
    let mut continued = 0;
    for round in 0..rounds() {
        let target = format!("killed_{}", fresh());
        dozo.set("COPY_URL", &cluster.url("postgres", &target));
        let args = ["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"];
        if round == 0 {
            // However busy the machine is: one is killed while it loads.
            let mut child = dozo.command(&args).spawn().unwrap();
            let some = "SELECT count(*) > 0 FROM dozo.restore WHERE item LIKE 'rows of %'";
            crate::protocol::until("rows", || cluster.try_psql(&target, some).is_ok_and(|answer| answer == "t"));
            child.kill().unwrap();
            let _ = child.wait();
        } else {
            // Twice: the second run is killed too.
            for _ in 0..2 {
                killed(&dozo, &args, whole.mul_f64(rng.random_range(0.1..0.8)));
            }
        }
        let run = dozo.run(&args);
        if run.code == 1 && run.stderr.contains("is not empty") {
            // The killed run had already ended.
            assert_eq!(fingerprints(&dozo, cluster, &target), expected);
            continue;
        }
        let run = run.exits(0);
        continued += usize::from(run.stdout.contains("(continued)"));
        assert_eq!(fingerprints(&dozo, cluster, &target), expected);
        assert_eq!(cluster.psql(&target, "SELECT to_regnamespace('dozo') IS NULL"), "t");
        let keys = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace";
        assert_eq!(cluster.psql(&target, keys), shop.psql(keys));
    }
    assert!(continued > 0, "no round hit a running restore");
}

#[test]
fn ctrl_c_stops_within_a_second() {
    let cluster = shared(15);
    let shop = cluster.shop("0.1");
    let mut dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    dozo.set("COPY_URL", &cluster.url("postgres", &format!("interrupted_{}", fresh())));
    for args in
        [&["backup", "shop"][..], &["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"], &["verify", "shop@latest"]]
    {
        let mut child = dozo.command(args).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), Signal::INT).unwrap();
        let began = Instant::now();
        let status = child.wait().unwrap();
        assert!(began.elapsed() < Duration::from_millis(1500), "{args:?} took {:?}", began.elapsed());
        assert!(matches!(status.code(), Some(130 | 0)), "{args:?}: {status}");
    }
    // What was interrupted is no backup.
    let _ = dozo.run(&["verify", "--all", "--level", "exists"]).exits(0);
}

/// Runs with the process killed while its `nth` request is on the way; the server carries that one out or never sees it. Tells whether there
/// was such a request.
fn killed_at_request(dozo: &Dozo, proxy: &Proxy, args: &[&str], nth: u64, carried_out: bool) -> bool {
    let pid = Arc::new(AtomicI32::new(0));
    let hit = Arc::new(AtomicBool::new(false));
    let (victim, shot) = (Arc::clone(&pid), Arc::clone(&hit));
    proxy.decide(move |n, _| {
        (n == nth).then(|| {
            // The request may be faster than whoever started its process.
            while victim.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            shot.store(true, Ordering::SeqCst);
            let _ = kill_process(Pid::from_raw(victim.load(Ordering::SeqCst)).unwrap(), Signal::KILL);
            if carried_out { Fault::LoseAnswer } else { Fault::Reset }
        })
    });
    let child = dozo.command(args).spawn().unwrap();
    pid.store(i32::try_from(child.id()).unwrap(), Ordering::SeqCst);
    let out = child.wait_with_output().unwrap();
    let hit = hit.load(Ordering::SeqCst);
    proxy.pass();
    assert!(hit || out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    hit
}

/// Every step of the protocols on S3 is a request: the process dies at each of them, and the next runs go on.
#[test]
fn killed_at_every_request_of_backup_gc_and_replicate() {
    let database = shared(15).database("kill_requests");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 300) i; CREATE TABLE b AS SELECT i FROM generate_series(1, 9) i");
    let proxy = Proxy::start(&shared_s3().endpoint);
    let verbs =
        [("backup", &["backup", "shop"][..]), ("gc apply", &["gc", "apply", "--grace", "0s"]), ("replicate", &["replicate"])];
    let mut kills = [0; 3];
    // By day a fifth of them, another fifth each time.
    let (first, step) = if nightly() { (1, 1) } else { (rand::rng().random_range(1..=5), 5) };
    for nth in (first..).step_by(step) {
        let dozo = Dozo::new(&database, Place::S3);
        // The replica's endpoint is the shared server's, too, until both are reached through the proxy.
        let replica = format!(
            "[[repository.replica]]\nname = \"safe\"\nurl = \"s3://{}/safe-{}\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\nafter-backup = false",
            S3Server::BUCKET,
            fresh(),
            shared_s3().endpoint
        );
        dozo.add_to_repository(&replica);
        dozo.reach_through(&proxy, "");
        let _ = dozo.backup();
        let _ = dozo.run(&["verify", "latest"]).exits(0);
        let _ = dozo.run(&["replicate", "--init"]).exits(0);
        database.psql("UPDATE b SET i = i + 1");
        let mut any = false;
        for ((_, args), count) in verbs.iter().zip(&mut kills) {
            let hit = killed_at_request(&dozo, &proxy, args, nth, nth % 2 == 0);
            *count += u32::from(hit);
            any |= hit;
        }
        for (name, args) in &verbs {
            let run = dozo.run(args);
            assert_eq!(run.code, 0, "request {nth}, {name}: {}", run.stderr);
        }
        for replica in [&[][..], &["--replica", "safe"]] {
            let verified = dozo.run(&[replica, &["--json", "verify", "--all"]].concat()).exits(0).json();
            assert!(verified.as_array().unwrap().len() >= 2, "request {nth}: {verified}");
            let _ = dozo.run(&[replica, &["gc", "apply", "--grace", "0s"]].concat()).exits(0);
            let plan = dozo.run(&[replica, &["--json", "gc", "plan", "--grace", "0s"]].concat()).exits(0).json();
            for list in ["uncommitted", "orphans", "unfinished", "unreadable"] {
                assert!(plan[list].as_array().unwrap().is_empty(), "request {nth}: {list} of {plan}");
            }
        }
        if !any {
            break;
        }
    }
    println!("killed at {} requests of backup, {} of gc apply, {} of replicate", kills[0], kills[1], kills[2]);
    // The shortest of them has about twenty requests.
    assert!(kills.iter().all(|n| *n >= if nightly() { 15 } else { 3 }), "{kills:?}");
}

/// Marks, dooms, deletes: the process dies at a request of `retention apply`, and the next run ends where an undisturbed one does.
#[test]
fn killed_at_requests_of_retention() {
    let database = shared(15).database("kill_retention");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 300) i; CREATE TABLE b AS SELECT 1 AS n");
    let proxy = Proxy::start(&shared_s3().endpoint);
    let policy = "retention = { daily = \"2d\", weekly = \"0d\", monthly = \"0d\", min-keep = 1, grace = \"0s\" }";
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::S3, policy);
    dozo.reach_through(&proxy, "");
    let first = jiff::Timestamp::now();
    let night = |n: i64| (first + jiff::SignedDuration::from_hours(24 * n)).to_string();
    let mut ids: Vec<String> = Vec::new();
    let mut backup = |n: i64| {
        database.psql("UPDATE b SET n = n + 1");
        let made = dozo.run(&["--now", &night(n), "--json", "backup", "shop"]).exits(0).json();
        ids.push(made["id"].as_str().unwrap().to_owned());
        ids.clone()
    };
    for n in 0..3 {
        backup(n);
    }
    let (mut killed, mut nth, step) = (0, rand::rng().random_range(1..=8), if nightly() { 1 } else { 29 });
    for n in 3.. {
        // One more goes each night.
        let ids = backup(n);
        let now = night(n);
        let apply = ["--now", &now, "retention", "apply", "--max-delete", "100%"];
        if !killed_at_request(&dozo, &proxy, &apply, nth, nth % 2 == 0) {
            break;
        }
        killed += 1;
        let _ = dozo.run(&apply).exits(0);
        let listed = dozo.run(&["--json", "list"]).exits(0).json();
        let left: Vec<&str> = listed.as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap()).collect();
        assert_eq!(left, ids[ids.len() - 3..], "killed at request {nth}");
        assert!(listed.as_array().unwrap().iter().all(|b| b["marked-until"].is_null()), "{listed}");
        let plan = dozo.run(&["--json", "gc", "plan", "--grace", "0s"]).exits(0).json();
        for list in ["uncommitted", "marked", "orphans", "unreadable"] {
            assert!(plan[list].as_array().unwrap().is_empty(), "request {nth}: {list} of {plan}");
        }
        nth += step;
    }
    let _ = dozo.run(&["verify", "--all"]).exits(0);
    println!("killed at {killed} requests of retention apply");
    assert!(killed >= if nightly() { 30 } else { 2 }, "{killed}");
}
