//! Every request of every verb fails once, and the verb does what it would have done; every one fails for good, and it says so, commits
//! nothing, touches nothing, and the next run succeeds.

use std::collections::BTreeSet;
use std::time::Duration;

use dozo_engine::{EngineError, tool};
use dozo_model::{Intent, LeaseHolder, Verdict};
use dozo_store::Layout;
use dozo_testkit::{Database, Fault, Proxy, S3Server, Seen, shared, shared_s3};

use crate::world::{Place, Verbs, exit_code, fresh, small_database};

/// Once: whatever the fault, a request that is made again succeeds. Shorter than the longest pause would do for none.
const PATIENT: Duration = Duration::from_secs(20);
/// For good: no need to wait for what does not come.
const IMPATIENT: Duration = Duration::from_millis(120);

const ONCE: [Fault; 6] =
    [Fault::Status(503), Fault::LoseAnswer, Fault::Reset, Fault::Status(500), Fault::Cut, Fault::Status(429)];
const FOR_GOOD: [Fault; 2] = [Fault::Status(503), Fault::Reset];

/// What is swept.
struct Sweep {
    verb: &'static str,
    /// A repository as the verb finds it.
    template: Place,
    verbs: Verbs,
    s3: &'static S3Server,
    proxy: Proxy,
}

/// A verb that failed.
#[derive(Debug)]
struct Failure {
    /// Exit code.
    code: u8,
    text: String,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(e) = cause {
            text.push_str(&format!(": {e}"));
            cause = e.source();
        }
        Self { code: exit_code(&error), text }
    }
}

/// Counts of a sweep.
#[derive(Default)]
struct Swept {
    requests: u64,
    healed: u64,
    refused: u64,
    tolerated: u64,
    sites: BTreeSet<String>,
}

impl Sweep {
    async fn new(verb: &'static str, database: &Database<'_>) -> Self {
        let s3 = shared_s3();
        let template = Place::new(&s3.endpoint, &fresh(verb), PATIENT);
        let verbs = Verbs::new(database);
        verbs.backup(&template).await.unwrap();
        assert_eq!(verbs.verify(&template).await.unwrap().check.verdict, Verdict::Passed);
        Self { verb, template, verbs, s3, proxy: Proxy::start(&s3.endpoint) }
    }

    /// A copy of the template: reached directly, and through the proxy.
    async fn copy(&self, retry_for: Duration) -> (Place, Place) {
        let prefix = fresh(self.verb);
        let direct = Place::new(&self.s3.endpoint, &prefix, PATIENT);
        self.template.copy_to(&direct).await;
        (direct, Place::new(&self.proxy.endpoint, &prefix, retry_for))
    }

    /// Runs the verb with a fault at every request. `done` tells what must be true after a run that succeeded, `repeat` how it is run again.
    async fn run<V, D>(&self, verb: V, done: D) -> Swept
    where
        V: AsyncFn(&Place, &str) -> Result<(), Failure>,
        D: AsyncFn(&Place, &str),
    {
        let mut swept = Swept::default();
        // Without a fault: how many requests there are, and which.
        let (direct, through) = self.copy(PATIENT).await;
        let label = fresh("run");
        self.proxy.pass();
        verb(&through, &label).await.unwrap();
        let seen = self.proxy.seen();
        swept.requests = seen.len() as u64;
        swept.sites = seen.iter().map(|s| site(s, S3Server::BUCKET)).collect();
        done(&direct, &label).await;
        for n in 1..=swept.requests {
            let fault = ONCE[usize::try_from(n).unwrap() % ONCE.len()];
            let (direct, through) = self.copy(PATIENT).await;
            let label = fresh("run");
            self.proxy.fail(n, fault, false);
            let result = verb(&through, &label).await;
            assert!(self.proxy.faults() <= 1);
            self.proxy.pass();
            if let Err(e) = result {
                panic!("{}: request {n}, {fault:?} once, {}: {}", self.verb, swept_site(&seen, n), e.text);
            }
            done(&direct, &label).await;
            swept.healed += 1;
        }
        for n in 1..=swept.requests {
            let fault = FOR_GOOD[usize::try_from(n).unwrap() % FOR_GOOD.len()];
            let (direct, through) = self.copy(IMPATIENT).await;
            let before = direct.content().await;
            let label = fresh("run");
            self.proxy.fail(n, fault, true);
            let result = verb(&through, &label).await;
            self.proxy.pass();
            let place = format!("{}: request {n}, {fault:?} for good, {}", self.verb, swept_site(&seen, n));
            match result {
                // Nothing depends on it: a lease that is given back, a probe that is removed, a check that is recorded.
                Ok(()) => swept.tolerated += 1,
                Err(e) => {
                    assert_eq!(e.code, if self.verb == "verify" { e.code.clamp(1, 6) } else { 1 }, "{place}: {}", e.text);
                    swept.refused += 1;
                    if self.verb != "gc" {
                        let after = direct.content().await;
                        let missing: Vec<_> =
                            before.iter().filter(|o| !after.contains(o)).filter(|o| !o.0.starts_with("leases/")).collect();
                        assert!(missing.is_empty(), "{place}: {missing:?}");
                        let manifests = |all: &[(String, String)]| all.iter().filter(|o| o.0.ends_with("manifest.json")).count();
                        let lost_answer = after.len() > before.len() && manifests(&after) > manifests(&before);
                        assert!(!lost_answer, "{place}: a manifest although it failed");
                    }
                    if self.verb == "replicate" {
                        // What it writes to: what was committed there is whole, and nothing was added.
                        let there = Place::new(&self.s3.endpoint, &format!("to_{label}"), PATIENT);
                        assert!(
                            there.open().await.is_err() || self.verbs.verify_all(&there).await == 1,
                            "{place}: a copy although it failed"
                        );
                    }
                    verb(&direct, &label).await.unwrap_or_else(|e| panic!("{place}: the next run: {}", e.text));
                }
            }
            done(&direct, &label).await;
        }
        println!(
            "{}: {} requests swept; failing once, {} healed; failing for good, {} refused and {} told or tolerated",
            self.verb, swept.requests, swept.healed, swept.refused, swept.tolerated
        );
        assert!(swept.requests > 0 && swept.refused > 0);
        swept
    }
}

fn swept_site(seen: &[Seen], n: u64) -> String {
    seen.get(usize::try_from(n).unwrap() - 1).map_or_else(String::new, |s| format!("{} {}", s.method, s.target))
}

/// Names what a request does to which kind of key: `PUT backups/<source>/<id>/intent.json`.
fn site(seen: &Seen, bucket: &str) -> String {
    let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
    let value =
        |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('=')).map(|v| v.replace("%2F", "/"));
    let flag = |name: &str| query.split('&').any(|p| p.split('=').next() == Some(name));
    let (method, key) = match seen.method.as_str() {
        "GET" if flag("uploads") => ("LIST UPLOADS", value("prefix").unwrap_or_default()),
        "GET" if flag("list-type") => ("LIST", value("prefix").unwrap_or_default()),
        "GET" if flag("versioning") || flag("object-lock") => ("GET", format!("{bucket}/-/?{}", query.trim_end_matches('='))),
        "POST" if flag("uploads") => ("BEGIN", path.to_owned()),
        "POST" if flag("uploadId") => ("COMPLETE", path.to_owned()),
        "POST" if flag("delete") => ("DELETE", format!("{bucket}/-/(keys in the body)")),
        "PUT" if flag("partNumber") => ("PART", path.to_owned()),
        "DELETE" if flag("uploadId") => ("ABORT", path.to_owned()),
        method => (method, path.to_owned()),
    };
    // Without bucket and prefix of the test.
    let key = key.trim_start_matches('/').trim_start_matches(bucket).trim_start_matches('/');
    let key = key.split_once('/').map_or("", |(_, rest)| rest);
    let parts: Vec<&str> = key.trim_end_matches('/').split('/').collect();
    let numbered = |name: &str| name.strip_suffix(".json").is_some_and(|n| n.bytes().all(|c| c.is_ascii_digit()));
    let kind = match parts.as_slice() {
        ["leases", _] => "leases/<source>/".into(),
        ["sources", _] => "sources/<source>/".into(),
        ["leases", _, name] if numbered(name) => "leases/<source>/<n>.json".into(),
        ["backups", _] => "backups/<source>/".into(),
        ["backups", _, _] => "backups/<source>/<id>/".into(),
        ["backups", _, _, "checks"] => "backups/<source>/<id>/checks/".into(),
        ["backups", _, _, "checks", _] => "backups/<source>/<id>/checks/<n>.json".into(),
        ["backups", _, _, name] if name.starts_with("fate-") => "backups/<source>/<id>/fate-<n>.json".into(),
        ["backups", _, _, name] if name.ends_with(".sql.gz") => "backups/<source>/<id>/<piece>.sql.gz".into(),
        ["backups", _, _, name] => format!("backups/<source>/<id>/{name}"),
        ["data", _] => "data/<source>/".into(),
        ["data", _, ..] => "data/<source>/….parquet".into(),
        [probe, ..] if probe.starts_with("probe-") => "probe-<random>/…".into(),
        _ => key.to_owned(),
    };
    format!("{method} {kind}").trim().to_owned()
}

/// `docs/format.md` names, for each verb, exactly the kinds of requests that were swept.
fn documented(verb: &str, sites: &BTreeSet<String>) {
    let text = std::fs::read_to_string(dozo_testkit::root().join("docs/format.md")).unwrap();
    let heading = format!("### {verb}\n");
    let section = text.split_once(&heading).unwrap_or_else(|| panic!("docs/format.md has no section {verb}: {sites:#?}")).1;
    let block = section.split("```").nth(1).unwrap();
    let listed: BTreeSet<String> =
        block.lines().map(|l| l.split("  ").next().unwrap().trim().to_owned()).filter(|l| !l.is_empty()).collect();
    let missing: Vec<_> = sites.difference(&listed).collect();
    let unseen: Vec<_> = listed.difference(sites).collect();
    assert!(missing.is_empty() && unseen.is_empty(), "{verb}: not in docs/format.md: {missing:#?}\nnot swept: {unseen:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup() {
    let database = small_database(shared(15), "sweep_backup");
    let sweep = Sweep::new("backup", &database).await;
    let verbs = &sweep.verbs;
    database.psql("UPDATE b SET i = i + 1");
    let committed = verbs.backup(&sweep.copy(PATIENT).await.0).await.unwrap();
    assert!(committed.reused > 0 && committed.copied > 0, "{committed:?}");
    let expected: Vec<_> = committed.tables.iter().map(|t| (t.table.clone(), t.fingerprint.clone())).collect();
    let swept = sweep
        .run(
            async |place, _| verbs.backup(place).await.map(drop).map_err(Failure::from),
            async |place, _| {
                let repository = place.open().await.unwrap();
                let newest = verbs.latest(&repository).await.unwrap();
                let found: Vec<_> = newest.datasets().iter().map(|d| (d.name.to_string(), d.fingerprint.to_string())).collect();
                assert_eq!(found, expected);
                repository.everything_stands(&newest).await.unwrap();
            },
        )
        .await;
    documented("backup", &swept.sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_backup() {
    let database = small_database(shared(15), "sweep_first");
    let mut sweep = Sweep::new("first", &database).await;
    sweep.template = Place::new(&sweep.s3.endpoint, &fresh("nothing"), PATIENT);
    let verbs = &sweep.verbs;
    let swept = sweep
        .run(
            async |place, _| verbs.backup(place).await.map(drop).map_err(Failure::from),
            async |place, _| assert!(verbs.verify_all(place).await >= 1),
        )
        .await;
    documented("first backup", &swept.sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify() {
    let database = small_database(shared(15), "sweep_verify");
    let sweep = Sweep::new("verify", &database).await;
    let verbs = &sweep.verbs;
    // A check that could not read is no error, but it is not green.
    let run = async |place: &Place, _: &str| match verbs.verify(place).await?.check {
        check if check.verdict == Verdict::Passed => Ok(()),
        check => {
            assert_eq!(check.verdict, Verdict::NotRun, "{check:?}");
            Err(Failure { code: 6, text: "not run".into() })
        }
    };
    let done = async |place: &Place, _: &str| assert_eq!(verbs.verify_all(place).await, 1);
    let swept = sweep.run(run, done).await;
    documented("verify", &swept.sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore() {
    let cluster = shared(15);
    let database = small_database(cluster, "sweep_restore");
    let sweep = Sweep::new("restore", &database).await;
    let verbs = &sweep.verbs;
    let url = |label: &str| cluster.url("postgres", label);
    let swept = sweep
        .run(
            async |place, label| verbs.restore(place, &url(label)).await.map(drop).map_err(Failure::from),
            async |_, label| {
                assert_eq!(cluster.psql(label, "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM p)"), "54|100");
                cluster.psql("postgres", &format!("DROP DATABASE {label}"));
            },
        )
        .await;
    documented("restore", &swept.sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gc() {
    let database = small_database(shared(15), "sweep_gc");
    let sweep = Sweep::new("gc", &database).await;
    let verbs = &sweep.verbs;
    database.psql("UPDATE b SET i = i + 1");
    verbs.backup(&sweep.template).await.unwrap();
    // The first is marked and due; a third died with one object and one part stored.
    let repository = sweep.template.open().await.unwrap();
    let history = repository.history(&verbs.source.name).await.unwrap();
    let first = &history.records[0].manifest;
    let by = dozo_catalog::Decision { operator: &verbs.ctx.operator, at: verbs.ctx.clock.now(), reason: "old" };
    repository.mark(&first.source, &first.id, &by, by.at).await.unwrap();
    let dead = dozo_model::BackupId::parse("20260101T000000Z-abcdef").unwrap();
    let holder = LeaseHolder { host: "gone".into(), boot_id: String::new(), pid_namespace: String::new(), pid: 1, pid_start: 1 };
    let intent = Intent {
        format: dozo_model::FORMAT_VERSION,
        id: dead.clone(),
        source: first.source.clone(),
        parent: None,
        started: "2026-01-01T00:00:00Z".parse().unwrap(),
        holder,
        replica_of: None,
    };
    repository.begin(&intent).await.unwrap();
    let table = dozo_model::QualifiedName::new("public", "a");
    repository
        .store()
        .put_own(&Layout::data(&first.source, &table, None, 0, &dead, "abcdefgh", "parquet"), tool().version.into())
        .await
        .unwrap();
    let swept = sweep
        .run(
            async |place, _| verbs.gc(place, Duration::ZERO).await.map(drop).map_err(Failure::from),
            async |place, _| {
                let repository = place.open().await.unwrap();
                let history = repository.history(&verbs.source.name).await.unwrap();
                assert_eq!(history.records.len(), 1, "the marked one is gone, the other stands");
                let needed: BTreeSet<_> = history.records[0].manifest.objects.iter().map(|o| o.key.clone()).collect();
                let there: BTreeSet<_> = place.store().list("data").await.unwrap().into_iter().map(|o| o.key).collect();
                assert!(there.iter().all(|key| needed.contains(key)), "only what is needed is left");
                repository.everything_stands(&history.records[0].manifest).await.unwrap();
            },
        )
        .await;
    documented("gc apply", &swept.sites);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicate() {
    let database = small_database(shared(15), "sweep_replicate");
    let sweep = Sweep::new("replicate", &database).await;
    let verbs = &sweep.verbs;
    // Its copy holds the first backup; the second shares objects with it.
    let copy = Place::new(&sweep.s3.endpoint, &fresh("copy"), PATIENT);
    verbs.replicate(&sweep.template, &copy).await.unwrap();
    database.psql("UPDATE b SET i = i + 1");
    verbs.backup(&sweep.template).await.unwrap();
    let proxied = |place: &Place| place.settings.store.endpoint.as_deref() == Some(sweep.proxy.endpoint.as_str());
    let target = |label: &str, endpoint: &str, retry_for| Place::new(endpoint, &format!("to_{label}"), retry_for);
    let swept = sweep
        .run(
            async |place, label| {
                let direct = target(label, &sweep.s3.endpoint, PATIENT);
                if direct.store().list("").await.unwrap().is_empty() {
                    copy.copy_to(&direct).await;
                }
                let retry_for = place.settings.store.retry_for.unwrap();
                let to = if proxied(place) { target(label, &sweep.proxy.endpoint, retry_for) } else { direct };
                let done = verbs.replicate(place, &to).await.map(drop);
                // What the binary makes of it is tested with the binary.
                done.map_err(|e| Failure { code: 1, ..e.into() })
            },
            async |_, label| assert_eq!(verbs.verify_all(&target(label, &sweep.s3.endpoint, PATIENT)).await, 2),
        )
        .await;
    documented("replicate", &swept.sites);
}
