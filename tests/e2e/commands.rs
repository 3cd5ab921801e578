//! Smaller promises of the verbs: init, leases, quiet runs, JSON, completions, closed pipes.

use std::fs;
use std::time::{Duration, Instant};

use dozo_testkit::shared;

use crate::harness::{Dozo, Place};

#[test]
fn init_looks_at_the_database() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    fs::remove_file(dozo.folder.path().join("dozo.toml")).unwrap();
    let _ = dozo.run(&["init", "--from", "env:SHOP_URL", "--name", "shop"]).exits(0);
    let text = fs::read_to_string(dozo.folder.path().join("dozo.toml")).unwrap();
    assert!(text.contains("#   public.orders: ") && text.contains("37 partitions"), "{text}");
    assert!(text.contains("url = \"env:SHOP_URL\"") && text.contains("time-zone = "), "{text}");
    let _ = dozo.run(&["check"]).exits(0);
    let _ = dozo.run(&["backup", "--all"]).exits(0);
    // Jobs for the trees are proposed; with the # taken away they count.
    assert!(text.contains("# [archive.payment_transactions]") && text.contains("# column = \"requested_at\""), "{text}");
    dozo.reconfigure(|text| text.replace("\n# [archive.orders]\n# ", "\n[archive.orders]\n").replace("\n# table = \"public.orders\"\n# column = \"ordered_at\"\n# older-than = \"12 months\"\n# then = \"quarantine\"\n# time-zone", "\ntable = \"public.orders\"\ncolumn = \"ordered_at\"\nolder-than = \"12 months\"\nthen = \"quarantine\"\ntime-zone"));
    let plan = dozo.run(&["--json", "archive", "plan"]).exits(0).json();
    assert_eq!(
        (&plan["jobs"][0]["table"]["name"], &plan["jobs"][0]["refusals"]),
        (&"orders".into(), &serde_json::json!([])),
        "{plan}"
    );
    fs::write(dozo.folder.path().join("dozo.toml"), &text).unwrap();
    // Never over an existing file.
    let run = dozo.run(&["init", "--from", "env:SHOP_URL"]).exits(2);
    assert!(run.stderr.contains("it exists"), "{}", run.stderr);
    assert_eq!(fs::read_to_string(dozo.folder.path().join("dozo.toml")).unwrap(), text);
}

#[test]
fn a_second_backup_at_the_same_time_exits_5() {
    let cluster = shared(15);
    let database = cluster.database("leased");
    database.psql(
        "CREATE TABLE a (id bigint, t text); INSERT INTO a SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 200000) i;",
    );
    for place in [Place::Local, Place::S3] {
        let dozo = Dozo::with_url(&database.url(), cluster, place, "workers = 1\nzstd-level = 9");
        let first = dozo.command(&["backup", "shop"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while database.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo worker' AND query LIKE 'COPY%' AND datname = current_database()") == "0" {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
        let second = dozo.run(&["backup", "shop"]).exits(5);
        assert!(
            second.stderr.contains("DOZO-E5009") && second.stderr.contains(&format!("pid {}", first.id())),
            "{}",
            second.stderr
        );
        let plan = dozo.run(&["--json", "gc"]).exits(0).json();
        assert_eq!(plan["uncommitted"][0]["state"], "running");
        // One that waits goes on after the first.
        let waited = dozo.run(&["backup", "shop", "--wait", "2min"]).exits(0);
        assert!(!waited.stderr.contains("took over"), "{}", waited.stderr);
        assert!(first.wait_with_output().unwrap().status.success());
        assert_eq!(dozo.run(&["--json", "list"]).exits(0).json().as_array().unwrap().len(), 2);
    }
}

#[test]
fn quiet_runs_say_nothing() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    for args in [
        &["--quiet", "backup", "--all"][..],
        &["--quiet", "verify", "latest", "--all"],
        &["--quiet", "check"],
        &["--quiet", "gc"],
    ] {
        let run = dozo.run(args).exits(0);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{args:?}");
    }
}

/// One source that fails does not stop the others.
#[test]
fn all_sources() {
    let cluster = shared(15);
    let database = cluster.database("several");
    database.psql("CREATE TABLE a (id int)");
    let more = format!(
        "[source.gone]\nkind = \"postgres\"\nurl = \"postgres://postgres@127.0.0.1:1/gone\"\n[source.other]\nkind = \"postgres\"\nurl = \"{}\"",
        database.url()
    );
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, &more);
    let run = dozo.run(&["--json", "backup", "--all"]).exits(4);
    let report = run.json();
    assert_eq!(report["backups"].as_array().unwrap().len(), 2);
    assert_eq!(
        (report["failed"][0]["source"].as_str(), report["failed"][0]["failed"]["code"].as_str()),
        (Some("gone"), Some("DOZO-E2104"))
    );
}

/// What `--sql` prints gives the same line in psql as `fingerprint` and the manifest.
#[test]
fn fingerprints_agree() {
    let cluster = shared(18);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let sql = dozo.run(&["fingerprint", "shop", "public.users", "--sql"]).exits(0).stdout;
    let by_psql = shop.psql(&sql);
    let by_dozo = dozo.run(&["--json", "fingerprint", "shop", "users"]).exits(0).json()["tables"][0]["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    let manifest = dozo.manifest();
    let stored = manifest["datasets"].as_array().unwrap().iter().find(|d| d["name"] == "users").unwrap()["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!((&by_psql, &by_dozo), (&stored, &stored));
    // By a third party: MD5 over the COPY BINARY tuples of one small table, computed here in SQL from pg_read-free pieces.
    let reference = shop.psql("SELECT 'b1:1:' || md5(int4send(7) || textsend(m) ) FROM (SELECT 'konbini'::text m) x");
    shop.psql("CREATE TABLE one (m text); INSERT INTO one VALUES ('konbini')");
    assert_eq!(
        dozo.run(&["--json", "fingerprint", "shop", "one"]).exits(0).json()["tables"][0]["fingerprint"],
        reference.as_str()
    );
}

#[test]
fn completions_man_and_closed_pipes() {
    let cluster = shared(15);
    let database = cluster.database("shells");
    let dozo = Dozo::new(&database, Place::Local);
    assert!(dozo.run(&["completions", "bash"]).exits(0).stdout.contains("_dozo"));
    assert!(dozo.run(&["man"]).exits(0).stdout.contains(".TH dozo"));
    let mut child = dozo.command(&["man"]).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Every verb that touches a repository, on a folder and on S3.
#[test]
fn every_verb_on_a_folder_and_on_s3() {
    let cluster = shared(15);
    for place in [Place::Local, Place::S3] {
        let database = cluster.database("verbs");
        database.psql("CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT i, 'v' || i FROM generate_series(1, 1000) i; CREATE TABLE b AS SELECT * FROM a");
        let mut dozo = Dozo::new(&database, place);
        dozo.add_to_repository("[[repository.replica]]\nname = \"safe\"\nurl = \"file://safe\"\nafter-backup = false");
        dozo.set("COPY_URL", &cluster.url("postgres", &format!("copy_of_verbs_{}", crate::harness::fresh())));
        let first = dozo.backup();
        let first = format!("shop@{first}");
        let steps: &[(&[&str], i32)] = &[
            (&["check"], 0),
            (&["verify", &first], 0),
            (&["backup", "shop"], 0),
            (&["backup", "--all", "--full", "--prove"], 0),
            (&["verify", "latest", "--all", "--level", "exists"], 0),
            (&["verify", "--all", "--level", "digest"], 0),
            (&["verify", "--all"], 0),
            (&["list"], 0),
            (&["list", "shop"], 0),
            (&["show", &first, "--types"], 0),
            (&["status"], 0),
            (&["restore", &first, "--to", "env:COPY_URL", "--create-db"], 0),
            (&["compare", &first, "env:COPY_URL"], 0),
            (&["compare", "env:SHOP_URL", "env:COPY_URL"], 0),
            (&["restore", &first, "--to", "env:COPY_URL"], 1),
            (&["restore", &first, "--to", "env:COPY_URL", "--table", "public.a", "--swap", "--plan"], 0),
            (&["restore", &first, "--to", "env:COPY_URL", "--table", "public.a", "--swap"], 0),
            (&["restore", &first, "--to", "env:COPY_URL", "--table", "public.a", "--beside"], 0),
            (&["restore", &first, "--to", "env:COPY_URL", "--table", "public.b", "--as", "c", "--where", "id < 10"], 0),
            (&["replicate"], 1),
            (&["replicate", "--init"], 0),
            (&["--replica", "safe", "backup", "shop"], 2),
            (&["--replica", "safe", "verify", "--all"], 0),
            (&["gc"], 0),
            (&["gc", "apply"], 0),
            (&["gc", "give-up", &first], 2),
            (&["accept", &first], 1),
        ];
        for (args, code) in steps {
            let run = dozo.run(args);
            assert_eq!(run.code, *code, "{place:?}: {args:?}: {}{}", run.stdout, run.stderr);
        }
        // What may be lost is suspect, until somebody accepts it.
        database.psql("DELETE FROM a WHERE id > 100");
        let _ = dozo.run(&["backup", "shop"]).exits(4);
        let _ = dozo.run(&["accept", "shop@latest", "--reason", "spring cleaning"]).exits(0);
        let _ = dozo.run(&["replicate"]).exits(0);
        let copies = dozo.run(&["--json", "--replica", "safe", "list"]).exits(0).json();
        let copies = copies.as_array().unwrap();
        assert!(copies.len() == 4 && copies.iter().all(|c| c["good"] == true), "{copies:?}");
    }
}
