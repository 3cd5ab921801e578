//! What monitors see: alarms, an exit code, metrics.

use std::fs;
use std::process::Command;

use dozo_testkit::{services, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, files};

fn alarms(status: &Value, source: usize) -> Vec<String> {
    let all = status["sources"][source]["alarms"].as_array().unwrap().iter();
    all.map(|a| format!("{} {}", a["severity"].as_str().unwrap(), a["text"].as_str().unwrap())).collect()
}

#[test]
fn silent_sources_and_odd_nights() {
    let database = shared(15).database("alarms");
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 1000) i");
    let more = format!(
        "rows-added = {{ min = 1, max = 100 }}\nsize-drop-max = \"30%\"\nduration-max = \"1h\"\n[source.never]\nkind = \"postgres\"\nurl = \"{}\"",
        database.url()
    );
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, &more);
    let run = dozo.run(&["status", "--max-age"]).exits(1);
    assert!(run.stderr.contains("DOZO-E5001"), "{}", run.stderr);
    let at = |time: &str, args: &[&str]| dozo.run(&[&["--now", time], args].concat());
    let _ = at("2026-11-20T17:00:00Z", &["backup", "shop"]).exits(0);
    // One has never run; the other is young, then old.
    let run = at("2026-11-20T18:00:00Z", &["--json", "status", "--max-age"]).exits(3);
    assert_eq!(alarms(&run.json(), 0), ["critical it has never been backed up"]);
    assert!(alarms(&run.json(), 1).is_empty());
    let run = at("2026-11-20T18:00:00Z", &["status"]).exits(0);
    assert_eq!(run.stderr, "warning: never: it has never been backed up\n");
    let _ = at("2026-11-20T18:00:00Z", &["backup", "never"]).exits(0);
    let _ = at("2026-11-21T19:00:00Z", &["status", "--max-age"]).exits(0);
    let _ = at("2026-11-21T18:30:00Z", &["status", "--max-age", "25h"]).exits(3);
    let _ = at("2026-11-21T18:30:00Z", &["status", "--max-age", "26h"]).exits(0);
    let run = at("2026-11-21T19:00:01Z", &["--json", "status", "--max-age"]).exits(3);
    assert_eq!(alarms(&run.json(), 1), ["critical its newest good backup is 1 d 2 h old, more than 1 d 2 h"]);
    // Too few rows, too many, a smaller backup: told by the backup and by the status, and no failure.
    for (change, said) in [
        ("SELECT 1", "1,000 rows, +0 since the backup before: less than rows-added.min = 1"),
        (
            "INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 500) i",
            "1,500 rows, +500 since the backup before: more than rows-added.max = 100",
        ),
        ("UPDATE a SET t = 'x'", "smaller by more than size-drop-max = \"30%\""),
    ] {
        database.psql(change);
        let run = dozo.run(&["--quiet", "backup", "shop"]).exits(0);
        assert!(run.stderr.contains(said), "{said} in {}", run.stderr);
        let status = dozo.run(&["--json", "status"]).exits(0).json();
        assert!(alarms(&status, 1).iter().any(|a| a.contains(said)), "{status}");
    }
    // A disk that is said to be full.
    dozo.reconfigure(|text| {
        text.replace("[repository]", "[repository]\nmin-free = \"0%\"\ndisk-levels = [\"0%\", \"0%\", \"1%\"]")
    });
    let status = dozo.run(&["--json", "status"]).exits(0).json();
    assert_eq!(status["alarms"][0]["severity"], "critical", "{status}");
    assert!(status["alarms"][0]["text"].as_str().unwrap().contains("the repository's disk is"), "{status}");
}

#[test]
fn tiers_and_what_goes_next() {
    let database = shared(15).database("tiers_status");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "retention = { min-keep = 1 }");
    for day in ["2026-10-01", "2026-10-02", "2026-11-20", "2026-11-21"] {
        let _ = dozo.run(&["--now", &format!("{day}T02:00:00Z"), "backup", "shop"]).exits(0);
    }
    let now = ["--now", "2026-11-21T03:00:00Z"];
    let _ = dozo.run(&[&now[..], &["hold", "shop@latest", "--reason", "a demonstration"]].concat()).exits(0);
    let status = dozo.run(&[&now[..], &["--json", "status"]].concat()).exits(0).json();
    let shop = &status["sources"][0];
    // 2 and 21 November are the first ones of their weeks; 1 October is not verified, so the other of that week stands by.
    assert_eq!(shop["tiers"], serde_json::json!({ "daily": 2, "weekly": 2, "monthly": 2 }), "{shop}");
    assert_eq!((&shop["held"], &shop["marked"], shop["next-deletion"]["marked"].as_bool()), (&1.into(), &0.into(), Some(false)));
    let text = dozo.run(&[&now[..], &["status"]].concat()).exits(0).stdout;
    assert!(text.contains("2d 2w 2m 1 held") && text.contains("NEXT DELETION"), "{text}");
    let listed = dozo.run(&["list"]).exits(0).stdout;
    assert!(listed.contains("held: a demonstration"), "{listed}");
}

/// Read by a parser that is not ours, from a file that is replaced as a whole.
#[test]
fn metrics_are_those_of_prometheus() {
    let database = shared(15).database("metrics");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 10) i");
    let dozo = Dozo::new(&database, Place::Local);
    dozo.add_to_repository(
        "[[repository.replica]]\nname = \"the \\\"safe\\\" \\\\ disk\"\nurl = \"file://safe\"\nafter-backup = false",
    );
    let _ = dozo.run(&["backup", "shop", "--prove"]).exits(0);
    let _ = dozo.run(&["verify", "latest"]).exits(0);
    let _ = dozo.run(&["replicate", "--init"]).exits(0);
    let printed = dozo.run(&["status", "--prometheus"]).exits(0).stdout;
    let file = dozo.folder.path().join("dozo.prom");
    let _ = dozo.run(&["status", "--prometheus", "dozo.prom"]).exits(0);
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), printed.lines().count());
    assert!(!files(dozo.folder.path()).iter().any(|f| f.to_string_lossy().ends_with(".tmp")));
    let script = "import sys, json; from prometheus_client.parser import text_string_to_metric_families as parse\n\
                  print(json.dumps([[s.name, s.labels, s.value] for f in parse(open(sys.argv[1]).read()) for s in f.samples]))";
    let out = Command::new(services().join("venv/bin/python")).args(["-c", script]).arg(&file).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let samples: Value = serde_json::from_slice(&out.stdout).unwrap();
    let documented = fs::read_to_string(dozo_testkit::root().join("docs/metrics.md")).unwrap();
    let names: std::collections::BTreeSet<&str> = samples.as_array().unwrap().iter().map(|s| s[0].as_str().unwrap()).collect();
    assert!(names.len() >= 20 && names.iter().all(|name| documented.contains(&format!("`{name}`"))), "{names:?}");
    let value = |name: &str, labels: Value| {
        let found = samples.as_array().unwrap().iter().find(|s| s[0] == name && s[1] == labels);
        found.unwrap_or_else(|| panic!("{name} {labels} in {samples}"))[2].as_f64().unwrap()
    };
    let shop = serde_json::json!({ "source": "shop" });
    for name in ["backups", "rows", "held", "marked", "not_good", "stored_bytes", "duration_seconds", "proven_timestamp_seconds"]
    {
        let found = value(&format!("dozo_source_{name}"), shop.clone());
        assert!(if ["held", "marked", "not_good"].contains(&name) { found == 0.0 } else { found > 0.0 }, "{name} {found}");
    }
    let (newest, verified) =
        (value("dozo_source_newest_good_timestamp_seconds", shop.clone()), value("dozo_source_verified_timestamp_seconds", shop));
    assert!(newest > 1.7e9 && newest == verified);
    let replica = serde_json::json!({ "source": "shop", "replica": "the \"safe\" \\ disk" });
    assert_eq!((value("dozo_replica_missing_backups", replica.clone()), value("dozo_replica_reached", replica)), (0.0, 1.0));
    assert_eq!(value("dozo_alarms", serde_json::json!({ "severity": "critical" })), 0.0);
    let run = dozo.run(&["status", "--prometheus", "nowhere/dozo.prom"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1016"), "{}", run.stderr);
}
