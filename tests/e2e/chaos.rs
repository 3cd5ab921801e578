//! Everything at once: a proxy that resets, stalls, cuts and answers for the server, a server that is killed and comes back, a dozo that is
//! killed; backups, verifications, collections, copies and restores all the while. At the end every committed backup is whole.
//!
//! 45 seconds, in the nightly tier 10 minutes. `DOZO_TEST_SEED` repeats the choices (not their timing).

use std::collections::BTreeMap;
use std::fs;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dozo_testkit::{Cluster, Fault, Proxy, S3Server, shared};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Dozo, Place, fresh, nightly};

/// No run may take longer: whatever happens, there is a deadline.
const HANGS: Duration = Duration::from_secs(180);

/// What runs ended with: exit codes, and -9 for those that were killed.
type Ends = BTreeMap<String, BTreeMap<i32, u64>>;

fn configure(dozo: &Dozo, server: &S3Server, proxy: &Proxy) {
    let prefix = format!("chaos_{}", fresh());
    let text = |endpoint: &str, deadlines: &str| {
        let reach = format!("endpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n{deadlines}");
        format!(
            "workers = 2\n[repository]\nurl = \"s3://{}/{prefix}\"\n{reach}\n[[repository.replica]]\nname = \"far\"\n\
             url = \"s3://{}/{prefix}-far\"\n{reach}\nafter-backup = false\n[source.shop]\nkind = \"postgres\"\nurl = \"env:SHOP_URL\"\n",
            S3Server::BUCKET,
            S3Server::BUCKET
        )
    };
    fs::write(dozo.folder.path().join("dozo.toml"), text(&proxy.endpoint, "request-timeout = \"3s\"\nretry-for = \"8s\""))
        .unwrap();
    // A server that was just restarted takes its time, on a busy machine more of it.
    fs::write(dozo.folder.path().join("direct.toml"), text(&server.endpoint, "retry-for = \"60s\"")).unwrap();
}

/// Waits for the end of a run, or kills it after a while.
fn end(mut child: Child, kill_after: Option<Duration>, what: &str) -> i32 {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if kill_after.is_some_and(|after| began.elapsed() > after) {
            child.kill().unwrap();
            child.wait().unwrap();
            return -9;
        }
        assert!(began.elapsed() < HANGS, "{what} hangs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One of the two who work on the repository at the same time.
struct Worker<'a> {
    dozo: &'a Dozo,
    cluster: &'a Cluster,
    rng: StdRng,
    ends: &'a Mutex<Ends>,
}

impl Worker<'_> {
    fn run(&mut self, name: &str, args: &[&str]) {
        let mut command = self.dozo.command(args);
        let log = fs::File::options().create(true).append(true).open(self.dozo.folder.path().join("stderr")).unwrap();
        command.stdout(std::process::Stdio::null()).stderr(log);
        let kill = self.rng.random_bool(0.2).then(|| Duration::from_millis(self.rng.random_range(0..1500)));
        let code = end(command.spawn().unwrap(), kill, name);
        *self.ends.lock().unwrap().entry(name.to_owned()).or_default().entry(code).or_default() += 1;
        // 3 is an integrity finding, 70 a bug, 2 a mistake of the caller: none of them is the network's doing.
        assert!([0, 1, 4, 5, 6, -9].contains(&code), "{name} ended with {code}: {}", self.said());
    }

    fn said(&self) -> String {
        let text = fs::read_to_string(self.dozo.folder.path().join("stderr")).unwrap();
        text[text.len().saturating_sub(3000)..].to_owned()
    }

    fn first(&mut self, database: &str) {
        match self.rng.random_range(0..10) {
            0..6 => {
                self.cluster.psql(database, "UPDATE b SET i = i + 1");
                self.run("backup", &["backup", "shop"]);
            }
            6..8 => self.run("verify", &["verify", "latest"]),
            _ => {
                let target = format!("chaos_copy_{}", fresh());
                let url = self.cluster.url("postgres", &target);
                self.run("restore", &["restore", "shop@latest", "--to", &url, "--create-db"]);
                let _ = self.cluster.try_psql("postgres", &format!("DROP DATABASE IF EXISTS {target} WITH (FORCE)"));
            }
        }
    }

    fn second(&mut self) {
        match self.rng.random_range(0..4) {
            0 => self.run("gc", &["gc", "apply", "--grace", "0s"]),
            1 => self.run("gc of the replica", &["--replica", "far", "gc", "apply", "--grace", "0s"]),
            _ => self.run("replicate", &["replicate"]),
        }
    }
}

#[test]
fn every_committed_backup_is_whole_after_all() {
    let cluster = shared(15);
    let database = cluster.database("chaos");
    database.psql(
        "CREATE TABLE a AS SELECT i, string_agg(decode(md5(i || ' ' || j), 'hex'), '') t FROM generate_series(1, 90) i, \
         generate_series(1, 6250) j GROUP BY i; CREATE TABLE b AS SELECT i FROM generate_series(1, 10) i",
    );
    let server = S3Server::start("chaos");
    let proxy = Proxy::start(&server.endpoint);
    let dozo = Dozo::new(&database, Place::S3);
    configure(&dozo, &server, &proxy);
    let _ = dozo.run(&["backup", "shop"]).exits(0);
    let _ = dozo.run(&["replicate", "--init"]).exits(0);
    let seed = std::env::var("DOZO_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| rand::rng().random::<u64>());
    println!("seed {seed}");
    let mut faults = StdRng::seed_from_u64(seed);
    let counts: Arc<Mutex<BTreeMap<&str, u64>>> = Arc::default();
    let counted = Arc::clone(&counts);
    proxy.decide(move |_, _| {
        let (name, fault) = match faults.random_range(0..400) {
            0..4 => ("reset", Fault::Reset),
            4..8 => ("answer lost", Fault::LoseAnswer),
            8..12 => ("cut", Fault::Cut),
            12..15 => ("500", Fault::Status(500)),
            15..18 => ("503", Fault::Status(503)),
            18..21 => ("429", Fault::Status(429)),
            21..22 => ("stall", Fault::Stall(Duration::from_secs(5))),
            22..30 => ("slow", Fault::Slow(Duration::from_millis(200))),
            _ => return None,
        };
        *counted.lock().unwrap().entry(name).or_default() += 1;
        Some(fault)
    });
    let ends = Mutex::new(Ends::new());
    let over = Instant::now() + Duration::from_secs(if nightly() { 600 } else { 45 });
    let (working, deaths) = (AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let worker = |n| Worker { dozo: &dozo, cluster, rng: StdRng::seed_from_u64(seed.wrapping_add(n)), ends: &ends };
        let (mut one, mut other) = (worker(1), worker(2));
        scope.spawn(|| {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_add(3));
            while working.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(rng.random_range(6_000..14_000)));
                server.kill();
                deaths.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(rng.random_range(100..2_000)));
                server.restart();
            }
        });
        let first = scope.spawn(move || {
            while Instant::now() < over {
                one.first(&database.name);
            }
        });
        let second = scope.spawn(move || {
            while Instant::now() < over {
                other.second();
            }
        });
        let results = [first.join(), second.join()];
        working.store(false, Ordering::SeqCst);
        results.into_iter().for_each(|r| r.unwrap());
    });
    proxy.pass();
    let direct = |args: &[&str]| dozo.run(&[&["--config", "direct.toml"], args].concat());
    // One more of each, undisturbed: what was left half done is finished.
    let _ = direct(&["gc", "apply", "--grace", "0s"]).exits(0);
    let _ = direct(&["--replica", "far", "gc", "apply", "--grace", "0s"]).exits(0);
    let _ = direct(&["backup", "shop"]).exits(0);
    let _ = direct(&["replicate"]).exits(0);
    let mut whole = Vec::new();
    for replica in [&[][..], &["--replica", "far"]] {
        let verified = direct(&[replica, &["--json", "verify", "--all"]].concat()).exits(0).json();
        let all: Vec<_> = verified.as_array().unwrap().iter().filter(|v| v["verdict"] == "passed").collect();
        let ids: Vec<String> = all.iter().map(|v| v["backup"].as_str().unwrap().to_owned()).collect();
        whole.push(ids.len());
        let restored = if nightly() { ids.len() } else { 2 };
        for id in ids.iter().rev().take(restored) {
            let target = format!("chaos_end_{}", fresh());
            let url = cluster.url("postgres", &target);
            let _ = direct(&[replica, &["restore", &format!("shop@{id}"), "--to", &url, "--create-db"]].concat()).exits(0);
            cluster.psql("postgres", &format!("DROP DATABASE {target}"));
        }
    }
    let deaths = deaths.load(Ordering::SeqCst);
    println!("exit codes (-9 = killed): {:?}", ends.lock().unwrap());
    println!("faults: {:?}; the server was killed {deaths} times", counts.lock().unwrap());
    println!(
        "{} backups and {} copies verified by content, {} of each restored",
        whole[0],
        whole[1],
        if nightly() { "all" } else { "the newest two" }
    );
    assert!(deaths > 0 && proxy.faults() == 0 && whole[0] > 2 && whole[1] >= whole[0], "{whole:?}");
}
