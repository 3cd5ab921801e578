//! Bad networks, as the binary meets them: stalled, throttled, interrupted, and watched by somebody who looks for secrets.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dozo_testkit::{Database, Fault, Proxy, S3Server, shared, shared_s3};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Dozo, Place, files, fresh, nightly};

/// A configuration whose repository is reached through a proxy.
fn behind(proxy: &Proxy, database: &Database<'_>, more: &str) -> Dozo {
    let dozo = Dozo::new(database, Place::S3);
    fs::copy(dozo.folder.path().join("dozo.toml"), dozo.folder.path().join("direct.toml")).unwrap();
    dozo.reach_through(proxy, more);
    dozo
}

/// Rows that do not compress: megabytes of them.
fn incompressible(database: &Database<'_>, megabytes: usize) {
    database.psql(&format!(
        "CREATE TABLE wide AS SELECT i, string_agg(decode(md5(i || ' ' || j), 'hex'), '') t \
         FROM generate_series(1, {megabytes} * 10) i, generate_series(1, 6250) j GROUP BY i"
    ));
}

#[test]
fn a_stalled_connection_ends_by_a_deadline() {
    let database = shared(15).database("stalled");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i");
    let proxy = Proxy::start(&shared_s3().endpoint);
    let dozo = behind(&proxy, &database, "request-timeout = \"1s\"\nretry-for = \"2s\"");
    let _ = dozo.backup();
    // From the first object on, nothing is answered any more.
    let mut stalling = false;
    proxy.decide(move |_, seen| {
        stalling |= seen.method == "PUT" && seen.target.contains("/data/");
        stalling.then_some(Fault::Stall(Duration::from_secs(600)))
    });
    let began = Instant::now();
    let run = dozo.run(&["backup", "shop", "--full"]).exits(1);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(run.stderr.contains("DOZO-E3008") && run.stderr.contains("/data/"), "{}", run.stderr);
    let run = dozo.run(&["verify", "latest"]).exits(1);
    assert!(run.stderr.contains("DOZO-E3008"), "{}", run.stderr);
    proxy.pass();
    let listed = dozo.run(&["--json", "list"]).exits(0).json();
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|l| l["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["complete", "uncommitted"]);
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "--all"]).exits(0);
}

#[test]
fn an_interrupted_upload_leaves_nothing_behind() {
    let database = shared(15).database("interrupted");
    incompressible(&database, 30);
    let proxy = Proxy::start(&shared_s3().endpoint);
    let dozo = behind(&proxy, &database, "part-size = \"5MiB\"");
    proxy.throttle(1_000_000);
    for signal in [Signal::INT, Signal::TERM] {
        proxy.pass();
        let child = dozo.command(&["backup", "shop"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !proxy.seen().iter().any(|s| s.target.contains("partNumber")) {
            assert!(Instant::now() < deadline, "{:?}", proxy.seen());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(out.status.code(), Some(130));
        let plan = dozo.run(&["--json", "--config", "direct.toml", "gc", "plan"]).exits(0).json();
        assert!(plan["unfinished"].as_array().unwrap().is_empty(), "{plan}");
        assert!(plan["uncommitted"].as_array().unwrap().iter().all(|b| b["state"] == "abandoned"), "{plan}");
    }
}

/// The most memory that a process has had so far, in bytes.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

#[test]
fn an_upload_that_is_the_bottleneck_is_named_and_fits_into_memory() {
    let megabytes = if nightly() { 60 } else { 12 };
    let database = shared(15).database("slow");
    incompressible(&database, megabytes);
    let proxy = Proxy::start(&shared_s3().endpoint);
    let dozo = behind(&proxy, &database, "");
    proxy.throttle(1_000_000);
    let child = dozo.command(&["--json", "backup", "shop", "--memory", "128MB"]).spawn().unwrap();
    let (pid, done) = (child.id(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&done);
    let watcher = std::thread::spawn(move || {
        let mut most = 0;
        while !stop.load(Ordering::SeqCst) {
            most = most.max(peak(pid));
            std::thread::sleep(Duration::from_millis(20));
        }
        most
    });
    let out = child.wait_with_output().unwrap();
    done.store(true, Ordering::SeqCst);
    let most = watcher.join().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    println!("{megabytes} MB at 1 MB/s: peak {} MB of 128, bound by {}", most / 1_000_000, report["bottleneck"]);
    assert!(most > 0 && most <= 128_000_000, "{most}");
    assert!(report["memory-budget"].as_u64().unwrap() <= 128_000_000, "{report}");
    assert_eq!(report["bottleneck"]["what"], "upload", "{report}");
    assert!(report["bottleneck"]["share"].as_f64().unwrap() > 0.5, "{report}");
    assert!(report["bytes-written"].as_u64().unwrap() > megabytes as u64 * 950_000, "{report}");
    let requests = &report["requests"];
    assert!(requests["put"].as_u64().unwrap() >= 5 && requests["list"].as_u64().unwrap() >= 2, "{requests}");
    proxy.throttle(0);
    let _ = dozo.run(&["verify", "latest"]).exits(0);
    // For people.
    database.psql("UPDATE wide SET i = -i WHERE i = 1");
    proxy.throttle(2_000_000);
    let run = dozo.run(&["backup", "shop"]).exits(0);
    assert!(run.stdout.contains("bound by the upload ("), "{}", run.stdout);
}

/// Nothing that a run writes or shows holds a secret that it was given.
#[test]
fn no_secret_is_seen_anywhere() {
    let cluster = shared(15);
    let database = cluster.database("secrets");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i");
    let user = format!("keeper_{}", fresh());
    let password = "hunter2-und-kein-anderes";
    cluster.psql("postgres", &format!("CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'"));
    let s3 = shared_s3();
    let dozo =
        Dozo::with_url(&database.url_as(&user).replacen(&user, &format!("{user}:{password}"), 1), cluster, Place::Local, "");
    let replica = format!(
        "[[repository.replica]]\nname = \"far\"\nurl = \"s3://{}/{}\"\nendpoint = \"{}\"\nregion = \"us-east-1\"\nretry-for = \"1s\"",
        S3Server::BUCKET,
        fresh(),
        s3.endpoint
    );
    dozo.add_to_repository(&replica);
    let mut dozo = dozo;
    dozo.set("AWS_ACCESS_KEY_ID", S3Server::KEY);
    dozo.set("AWS_SECRET_ACCESS_KEY", S3Server::SECRET);
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let spy = std::thread::spawn(move || {
        let (mut lines, mut looks) = (std::collections::BTreeSet::new(), 0);
        while !stop.load(Ordering::SeqCst) {
            for process in fs::read_dir("/proc").unwrap().flatten() {
                let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                if line.contains("dozo") || line.contains("pg_dump") || line.contains("pg_restore") {
                    lines.insert(line);
                }
            }
            looks += 1;
        }
        (lines, looks)
    });
    let (mut said, mut succeeded, mut codes) = (String::new(), 0, Vec::new());
    let target = format!("secrets_{}", fresh());
    let url = cluster.url(&user, &target).replacen(&user, &format!("{user}:{password}"), 1);
    dozo.set("COPY_URL", &url);
    for args in [
        &["check"][..],
        &["backup", "shop"],
        &["replicate", "--init"],
        &["backup", "shop"],
        &["verify", "latest"],
        &["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"],
        &["restore", "shop@latest", "--to", "env:COPY_URL"],
        &["fingerprint", &url],
        &["gc", "apply"],
        &["status"],
        &["show", "shop@latest"],
    ] {
        let run = dozo.run(&[&["--log-file", "log", "--json"], args].concat());
        succeeded += usize::from(run.code == 0);
        codes.push((args[0], run.code));
        said.push_str(&format!("{}{}", run.stdout, run.stderr));
    }
    // The first backup finds no replica to fill, nothing is restored over what is there, and a URL with a password is refused.
    assert_eq!(succeeded, 8, "{codes:?}");
    // Failing, too: a wrong password, a wrong key.
    dozo.set("SHOP_URL", &format!("postgres://{user}:{password}x@127.0.0.1:1/none"));
    dozo.set("AWS_SECRET_ACCESS_KEY", &format!("{}x", S3Server::SECRET));
    for args in [&["backup", "shop"][..], &["check"], &["replicate"]] {
        let run = dozo.run(&[&["--log-file", "log"], args].concat());
        assert_ne!(run.code, 0, "{}", run.stdout);
        said.push_str(&format!("{}{}", run.stdout, run.stderr));
    }
    done.store(true, Ordering::SeqCst);
    let (lines, looks) = spy.join().unwrap();
    assert!(
        looks > 10 && lines.iter().any(|l| l.contains("pg_dump")) && lines.iter().any(|l| l.contains("backup shop")),
        "{looks} {lines:?}"
    );
    let secrets = [password, S3Server::SECRET];
    let clean = |what: &str, text: &str| {
        for secret in secrets {
            assert!(!text.contains(secret), "{what} holds a secret: {text}");
        }
    };
    clean("the output", &said);
    // The test itself puts one on a command line: a URL that people type. dozo cannot take that back; it never does it itself.
    lines.iter().filter(|l| !l.contains(" fingerprint ")).for_each(|l| clean("a command line", l));
    let written = files(dozo.folder.path());
    assert!(written.iter().any(|f| f.ends_with("log")) && written.iter().any(|f| f.ends_with("manifest.json")));
    for file in &written {
        clean(&file.display().to_string(), &String::from_utf8_lossy(&fs::read(file).unwrap()));
    }
    println!("{} files, {} command lines, {} bytes of output: no secret", written.len(), lines.len(), said.len());
}
