//! Two processes that take each other for other hosts, with clocks ten minutes apart, back up, delete and verify the same source. Now and
//! then one of them is stopped for longer than any lease lives, and goes on where it was.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dozo_catalog::{Decision, Fate, LeaseTimes};
use dozo_engine::{BackupOptions, CatalogError, EngineError, GcOptions, Repository, backup, verify};
use dozo_model::{Clock, Manifest, Timestamp, Verdict, VerifyLevel};
use dozo_testkit::{shared, shared_s3};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use crate::world::{Place, Verbs, all_may_go, fresh, nightly};

const PATIENT: Duration = Duration::from_secs(20);
/// Leases that die while a process is stopped.
const LEASES: LeaseTimes = LeaseTimes { heartbeat: Duration::from_millis(200), dead_after: Duration::from_secs(1) };

/// A clock that is off.
struct Shifted(Duration);

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::now() + self.0
    }
}

/// What a host did.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Counts {
    committed: u64,
    lost_races: u64,
    deleted: u64,
    aborted: u64,
    taken_back: u64,
    verified: u64,
}

struct Host {
    verbs: Verbs,
    place: Place,
    rng: StdRng,
    counts: Counts,
}

impl Host {
    async fn round(&mut self, psql: &dyn Fn(&str)) {
        let repository = self.place.open().await.unwrap().with_lease_times(LEASES);
        match self.rng.random_range(0..10) {
            0..6 => {
                psql("UPDATE b SET i = i + 1");
                let options = BackupOptions::default();
                match backup(&self.verbs.ctx, &repository, &self.place.settings, &self.verbs.source, &options).await {
                    Ok(_) => self.counts.committed += 1,
                    // The other one is at it, took over, or took away what this one shared.
                    Err(EngineError::Catalog(
                        CatalogError::LeaseHeld { .. } | CatalogError::Fate { .. } | CatalogError::ParentGone { .. },
                    )) => self.counts.lost_races += 1,
                    Err(e) => panic!("{e}: {:?}", std::error::Error::source(&e)),
                }
                self.look(&repository).await;
            }
            6..9 => {
                let history = repository.history(&self.verbs.source.name).await.unwrap();
                let now = self.verbs.ctx.clock.now();
                let by = Decision { operator: &self.verbs.ctx.operator, at: now, reason: "two are enough" };
                for record in history.records.iter().rev().skip(2) {
                    let m = &record.manifest;
                    match repository.mark(&m.source, &m.id, &by, now).await {
                        Ok(_) | Err(CatalogError::Doomed { .. } | CatalogError::NoBackup { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
                let options = GcOptions { grace: Duration::ZERO, now, only_host: None };
                match repository.gc_apply(&options, &self.verbs.ctx.operator, all_may_go).await {
                    Ok(done) => {
                        self.counts.deleted += done.doomed.len() as u64;
                        self.counts.aborted += done.aborted.len() as u64;
                    }
                    Err(e) => panic!("{e}"),
                }
            }
            _ => {
                let history = repository.history(&self.verbs.source.name).await.unwrap();
                let Some(m) = history.records.first().map(|r| &r.manifest) else { return };
                let now = self.verbs.ctx.clock.now();
                let by = Decision { operator: &self.verbs.ctx.operator, at: now, reason: "perhaps" };
                let later = now + Duration::from_secs(3600);
                match repository.mark(&m.source, &m.id, &by, later).await {
                    Ok(_) => {}
                    Err(CatalogError::Doomed { .. } | CatalogError::NoBackup { .. }) => return,
                    Err(e) => panic!("{e}"),
                }
                match repository.undo(&m.source, &m.id, &by).await {
                    Ok(()) => self.counts.taken_back += 1,
                    Err(CatalogError::Doomed { .. } | CatalogError::NotMarked { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }

    /// Reads the latest backup to the last row.
    async fn look(&mut self, repository: &Repository) {
        let latest = match self.verbs.latest(repository).await {
            Ok(manifest) => manifest,
            Err(EngineError::Catalog(CatalogError::NoBackup { .. } | CatalogError::Doomed { .. })) => return,
            Err(e) => panic!("{e}"),
        };
        let report = verify(&self.verbs.ctx, repository, &latest, VerifyLevel::Content, None).await.unwrap();
        if report.check.verdict != Verdict::Passed {
            // Only what was deleted since may have lost something.
            let fate = repository.fate(&latest.source, &latest.id).await.unwrap();
            assert!(matches!(fate, Fate::Doomed(_)), "DAMAGED: {:?}", report.check);
            return;
        }
        self.counts.verified += 1;
    }
}

/// One host. Started by the test below, with what it needs in its environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by two_hosts_never_damage_a_committed_backup, as a process of its own"]
async fn host() {
    let get = |name: &str| std::env::var(name).unwrap();
    let shift = Duration::from_secs(get("DOZO_HOST_SHIFT").parse().unwrap());
    let (url, tools) = (get("DOZO_HOST_URL"), get("DOZO_HOST_TOOLS"));
    let place = Place::new(&get("DOZO_HOST_ENDPOINT"), &get("DOZO_HOST_PREFIX"), PATIENT);
    let verbs = Verbs::on(&url, tools.clone().into(), Arc::new(Shifted(shift)));
    let mut host =
        Host { verbs, place, rng: StdRng::seed_from_u64(get("DOZO_HOST_SEED").parse().unwrap()), counts: Counts::default() };
    let psql = |sql: &str| {
        let status = Command::new(format!("{tools}/psql")).args([&url, "-qc", sql]).status().unwrap();
        assert!(status.success());
    };
    for _ in 0..get("DOZO_HOST_ROUNDS").parse().unwrap() {
        host.round(&psql).await;
    }
    println!("COUNTS {}", serde_json::to_string(&host.counts).unwrap());
}

fn start(name: &str, shift: u64, seed: u64, rounds: u64, variables: &[(&str, String)]) -> Child {
    let exe = std::env::current_exe().unwrap();
    let script = format!("hostname {name} && exec \"$0\" --exact hosts::host --ignored --nocapture");
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", &script]).arg(exe);
    command.envs(variables.iter().map(|(n, v)| (n, v)));
    command.env("DOZO_HOST_SHIFT", shift.to_string()).env("DOZO_HOST_SEED", seed.to_string());
    command.env("DOZO_HOST_ROUNDS", rounds.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().expect("unshare is there, and this user may make a UTS namespace (root)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_never_damage_a_committed_backup() {
    let (cluster, s3) = (shared(15), shared_s3());
    let database = cluster.database("two_hosts");
    database.psql(
        "CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 500) i; CREATE TABLE b AS SELECT i FROM generate_series(1, 10) i",
    );
    let prefix = fresh("hosts");
    let place = Place::new(&s3.endpoint, &prefix, PATIENT);
    let verbs = Verbs::new(&database);
    verbs.backup(&place).await.unwrap();
    verbs.verify(&place).await.unwrap();
    let rounds = if nightly() { 100 } else { 12 };
    let variables = [
        ("DOZO_HOST_URL", database.url()),
        ("DOZO_HOST_TOOLS", cluster.tools().display().to_string()),
        ("DOZO_HOST_ENDPOINT", s3.endpoint.clone()),
        ("DOZO_HOST_PREFIX", prefix),
    ];
    let seed = std::env::var("DOZO_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()));
    let mut hosts = [start("host-a", 0, seed, rounds, &variables), start("host-b", 600, seed + 1, rounds, &variables)];
    let (mut rng, mut stops) = (StdRng::seed_from_u64(seed + 2), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..700))).await;
        let victim = rng.random_range(0..2);
        let pid = Pid::from_child(&hosts[victim]);
        if hosts.iter_mut().all(|h| h.try_wait().unwrap().is_some()) {
            break;
        }
        if hosts[victim].try_wait().unwrap().is_none() && kill_process(pid, Signal::STOP).is_ok() {
            stops += 1;
            tokio::time::sleep(Duration::from_millis(rng.random_range(1200..3200))).await;
            let _ = kill_process(pid, Signal::CONT);
        }
    }
    let mut total = Counts::default();
    for host in hosts {
        let out = host.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "seed {seed}: {stdout}\n{stderr}");
        let line = stdout.lines().find_map(|l| l.split_once("COUNTS ")).unwrap_or_else(|| panic!("{stdout}")).1;
        let counts: Counts = serde_json::from_str(line).unwrap();
        total.committed += counts.committed;
        total.lost_races += counts.lost_races;
        total.deleted += counts.deleted;
        total.aborted += counts.aborted;
        total.taken_back += counts.taken_back;
        total.verified += counts.verified;
    }
    let left = verbs.verify_all(&place).await;
    let target = fresh("hosts_copy");
    verbs.restore(&place, &cluster.url("postgres", &target)).await.unwrap();
    let newest: Manifest = verbs.latest(&place.open().await.unwrap()).await.unwrap();
    assert_eq!(cluster.psql(&target, "SELECT count(*) FROM a"), "500", "{}", newest.id);
    println!("two hosts, {} rounds, stopped {stops} times, seed {seed}: {total:?}; {left} backups left, all intact", 2 * rounds);
    assert!(total.committed > 0 && total.deleted > 0 && total.verified > 0 && stops > 0, "{total:?}");
}
