//! The tiers as a user meets them: plan, apply, undo, holds, another server, and what stops a plan.

use std::fs;

use dozo_testkit::{Database, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, files};

const NIGHTS: usize = 9;

/// The time of a night: 2 o'clock in Tokyo.
fn night(n: usize) -> String {
    format!("2026-11-{:02}T17:00:00Z", n + 1)
}

/// A source with some nights of backups, a policy of three days, and the ids.
fn nights<'c>(place: Place, name: &str) -> (Dozo, Vec<String>, Database<'c>) {
    let database = shared(15).database(name);
    database.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 200) i; CREATE TABLE b AS SELECT 1 AS n");
    let retention =
        "retention = { daily = \"3d\", weekly = \"0d\", monthly = \"0d\", min-keep = 1, grace = \"2d\", max-age = \"3000d\" }";
    let dozo = Dozo::with_url(&database.url(), database.cluster, place, retention);
    let ids = (0..NIGHTS)
        .map(|n| {
            database.psql("UPDATE b SET n = n + 1");
            let run = dozo.run(&["--now", &night(n), "--json", "backup", "shop"]).exits(0);
            run.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    (dozo, ids, database)
}

fn actions(plan: &Value) -> Vec<(String, String)> {
    let all = plan["backups"].as_array().unwrap().iter();
    all.map(|b| (b["id"].as_str().unwrap().to_owned(), b["action"].as_str().unwrap().to_owned())).collect()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

#[test]
fn planned_applied_taken_back_and_gone() {
    for place in [Place::Local, Place::S3] {
        let (mut dozo, ids, database) = nights(place, "tiers");
        let (morning, later) = ("2026-11-09T18:00:00Z", "2026-11-11T20:00:00Z");
        // A bare `retention` plans, and changes nothing.
        let text = dozo.run(&["--now", morning, "retention"]).exits(0).stdout;
        assert!(text.contains("shop: 4 of 9 stay, 5 to be marked (daily 3 days, at least 1)"), "{text}");
        assert!(
            text.contains("older than 3 days, and no tier keeps it") && text.contains("newest good backup of shop"),
            "{text}"
        );
        assert!(text.contains("more than max-delete = \"50%\""), "{text}");
        let plan = dozo.run(&["--now", morning, "--json", "retention", "plan", "shop"]).exits(0).json();
        for (i, (id, action)) in actions(&plan).iter().enumerate() {
            assert_eq!((id, action.as_str()), (&ids[i], if i < 5 { "mark" } else { "keep" }));
        }
        let refused = dozo.run(&["--now", morning, "retention", "apply"]).exits(1);
        assert!(refused.stderr.contains("DOZO-E5019") && refused.stderr.contains("5 of 9 backups of shop"), "{}", refused.stderr);
        let apply = ["--now", morning, "--json", "retention", "apply", "--max-delete", "60%"];
        let done = dozo.run(&apply).exits(0).json();
        assert_eq!(texts(&done["marked"]), ids[..5].iter().map(|id| format!("shop@{id}")).collect::<Vec<_>>());
        assert_eq!((&done["gc"]["objects"], texts(&done["taken-back"]).len()), (&Value::from(0), 0), "{done}");
        // The same again does nothing.
        let again = dozo.run(&apply).exits(0).json();
        assert!(texts(&again["marked"]).is_empty(), "{again}");
        // Within the grace it can be taken back; then it is held, so that the next night does not mark it again.
        let undo = dozo.run(&["--now", morning, "retention", "undo", &ids[1]]).exits(0).stdout;
        assert!(undo.contains("stays, and is held") && undo.contains("--release"), "{undo}");
        let refused = dozo.run(&["--now", morning, "retention", "undo", &ids[1]]).exits(2);
        assert!(refused.stderr.contains("DOZO-E5014"), "{}", refused.stderr);
        let done = dozo.run(&["--now", later, "--json", "retention", "apply"]).exits(0).json();
        assert_eq!(texts(&done["gc"]["doomed"]).len(), 4, "{done}");
        assert!(done["gc"]["objects"].as_u64().unwrap() >= 4, "{done}");
        let listed = dozo.run(&["--json", "list"]).exits(0).json();
        let left: Vec<&str> = listed.as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap()).collect();
        assert_eq!(left, [&[ids[1].as_str()][..], &ids[5..].iter().map(String::as_str).collect::<Vec<_>>()].concat());
        // What stays, verifies and restores, also where it shares objects with what went.
        let _ = dozo.run(&["verify", "--all"]).exits(0);
        let _ = dozo.restore_into(database.cluster, "tiers_copy");
        let refused = dozo.run(&["--now", later, "retention", "undo", &format!("shop@{}", ids[0])]).exits(1);
        assert!(refused.stderr.contains("DOZO-E5013"), "{}", refused.stderr);
    }
}

/// A plan that somebody looked at is carried out only while it would be made again.
#[test]
fn a_plan_in_a_file() {
    let (dozo, ids, database) = nights(Place::Local, "plan_file");
    let morning = "2026-11-09T18:00:00Z";
    let plan = dozo.folder.path().join("plan.json");
    let write = || fs::write(&plan, dozo.run(&["--now", morning, "--json", "retention"]).exits(0).stdout).unwrap();
    let apply = || dozo.run(&["--now", morning, "retention", "apply", "--plan", "plan.json", "--max-delete", "100%"]);
    let before = files(&dozo.repository().join("backups"));
    write();
    // Another backup came.
    database.psql("UPDATE b SET n = n + 1");
    let _ = dozo.run(&["--now", "2026-11-09T17:30:00Z", "backup", "shop"]).exits(0);
    let run = apply().exits(5);
    assert!(run.stderr.contains("DOZO-E5021") && run.stderr.contains("have changed"), "{}", run.stderr);
    // Somebody holds one; a check was made; the policy is another.
    write();
    let _ = dozo.run(&["--now", morning, "hold", &ids[0], "--reason", "the auditors asked"]).exits(0);
    let _ = apply().exits(5);
    write();
    let _ = dozo.run(&["--now", morning, "verify", "latest"]).exits(0);
    let _ = apply().exits(5);
    write();
    dozo.reconfigure(|text| text.replace("daily = \"3d\"", "daily = \"4d\""));
    let _ = apply().exits(5);
    assert!(
        before.iter().all(|f| f.exists()) && !files(&dozo.repository()).iter().any(|f| f.to_string_lossy().contains("fate-"))
    );
    write();
    let run = apply().exits(0);
    assert!(run.stdout.contains("is marked: dozo retention undo"), "{}", run.stdout);
    for (text, why) in [("{}", "not a plan"), ("[", "not a plan")] {
        fs::write(&plan, text).unwrap();
        let run = apply().exits(2);
        assert!(run.stderr.contains("DOZO-E1013") && run.stderr.contains(why), "{}", run.stderr);
    }
    fs::remove_file(&plan).unwrap();
    let run = apply().exits(2);
    assert!(run.stderr.contains("plan.json cannot be used"), "{}", run.stderr);
}

#[test]
fn held_before_a_migration() {
    let (dozo, ids, database) = nights(Place::Local, "holds");
    database.psql("UPDATE b SET n = n + 1");
    let args =
        ["--now", "2026-11-02T06:00:00Z", "--json", "backup", "shop", "--hold", "before migration 42", "--until", "2026-12-31"];
    let held = dozo.run(&args).exits(0).json()["id"].as_str().unwrap().to_owned();
    let listed = dozo.run(&["--json", "hold"]).exits(0).json();
    assert_eq!((listed[0]["id"].as_str(), listed[0]["reason"].as_str()), (Some(held.as_str()), Some("before migration 42")));
    // Through that day, by the clock of the configuration.
    assert_eq!(listed[0]["until"], "2026-12-31T15:00:00Z");
    let plan = |now: &str| dozo.run(&["--now", now, "--json", "retention"]).exits(0);
    let action = |run: &crate::harness::Run| actions(&run.json()).into_iter().find(|(id, _)| *id == held).unwrap().1;
    assert_eq!(action(&plan("2026-12-31T14:00:00Z")), "keep");
    let ended = plan("2026-12-31T16:00:00Z");
    assert_eq!(action(&ended), "mark");
    assert!(ended.stderr.contains("warning: ") && ended.stderr.contains("`before migration 42` of tester@"), "{}", ended.stderr);
    // Another hold without an end, which a shorter one does not end, and its release; all of it stays written down.
    let _ = dozo.run(&["hold", &held, "--reason", "until the audit"]).exits(0);
    let _ = dozo.run(&["--now", "2026-11-03T00:00:00Z", "hold", &held, "--reason", "a test", "--until", "2d"]).exits(0);
    assert_eq!(action(&plan("2027-12-31T16:00:00Z")), "keep");
    let _ = dozo.run(&["hold", &held, "--release"]).exits(0);
    assert_eq!(action(&plan("2027-12-31T16:00:00Z")), "mark");
    let folder = dozo.repository().join("backups/shop").join(&held).join("holds");
    assert_eq!(files(&folder).len(), 4);
    for (args, code, said) in [
        (&["hold", &held, "--release"][..], 2, "DOZO-E5022"),
        (&["hold", &held], 2, "a hold needs a reason"),
        (&["hold", &ids[0], "--reason", "x", "--until", "yesterday"], 2, "is not a date"),
        (&["hold", &ids[0], "--reason", "x", "--until", "2020-01-01"], 2, "is over"),
        (&["hold", "shop@20200101T000000Z-aaaaaa", "--reason", "x"], 2, "DOZO-E5006"),
    ] {
        let run = dozo.run(args).exits(code);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
}

/// After an upgrade to another cluster, the old server's nights stay until the two are joined.
#[test]
fn another_server_and_rebind() {
    let (mut dozo, ids, _) = nights(Place::Local, "rebind");
    let other = shared(17).database("rebind");
    other.psql("CREATE TABLE a AS SELECT i, md5(i::text) t FROM generate_series(1, 200) i; CREATE TABLE b AS SELECT 1 AS n");
    dozo.set("SHOP_URL", &other.url());
    dozo.reconfigure(|text| {
        text.replace("[source.shop]", &format!("[source.shop]\npg-tools = \"{}\"", shared(17).tools().display()))
    });
    let last: Vec<String> = (NIGHTS..NIGHTS + 6)
        .map(|n| dozo.run(&["--now", &night(n), "--json", "backup", "shop"]).exits(0).json()["id"].as_str().unwrap().to_owned())
        .collect();
    let now = "2026-11-15T18:00:00Z";
    let going = || -> Vec<String> {
        let plan = dozo.run(&["--now", now, "--json", "retention"]).exits(0).json();
        actions(&plan).into_iter().filter(|(_, a)| a == "mark").map(|(id, _)| id).collect()
    };
    // Each server's own: the nights that are three days older than its newest.
    assert_eq!(going(), [&ids[..5], &last[..2]].concat());
    let servers = dozo.run(&["source", "list"]).exits(0).stdout;
    assert_eq!(servers.lines().count(), 3, "{servers}");
    let run = dozo.run(&["source", "rebind", "shop", "123"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1014"), "{}", run.stderr);
    let _ = dozo.run(&["source", "rebind", "shop", "--reason", "upgraded to 17"]).exits(0);
    assert_eq!(going(), [&ids[..], &last[..2]].concat());
    // What is said about a source is no garbage.
    let plan = dozo.run(&["--json", "gc", "plan"]).exits(0).json();
    assert!(plan["foreign"].as_array().unwrap().is_empty(), "{plan}");
}

/// A clock that cannot be right, and a night that is dated in the future.
#[test]
fn clocks_that_jumped() {
    let (dozo, ids, _) = nights(Place::Local, "clocks");
    let ahead = dozo.run(&["--now", "2031-01-01T00:00:00Z", "--json", "backup", "shop"]).exits(0).json();
    let before = files(&dozo.repository().join("backups"));
    // The backup of 2031 is kept, and counts for nothing.
    let run = dozo.run(&["--now", "2026-11-09T18:00:00Z", "--json", "retention"]).exits(0);
    let decided = actions(&run.json());
    assert_eq!(decided.last().unwrap(), &(ahead["id"].as_str().unwrap().to_owned(), "keep".into()));
    assert!(decided[..5].iter().all(|(_, a)| a == "mark") && decided[5..].iter().all(|(_, a)| a == "keep"), "{decided:?}");
    assert!(run.stderr.contains("is dated in the future"), "{}", run.stderr);
    // Five are marked. By a clock of 2031 their grace is over; but nobody has written anything for months.
    let _ = dozo.run(&["--now", "2026-11-09T18:00:00Z", "retention", "apply", "--max-delete", "100%"]).exits(0);
    let jumped = ["--now", "2031-04-01T00:10:00Z", "retention", "apply", "--max-delete", "100%"];
    dozo.reconfigure(|text| text.replace(", max-age = \"3000d\"", ""));
    for args in [&jumped[..], &["--now", "2031-04-01T00:10:00Z", "gc", "apply"]] {
        let run = dozo.run(args).exits(1);
        assert!(run.stderr.contains("DOZO-E5020") && run.stderr.contains("timedatectl"), "{}", run.stderr);
    }
    // A check of 2031 speaks against a clock of 2026.
    let _ = dozo.run(&["--now", "2031-01-01T00:10:00Z", "verify", &ids[8]]).exits(0);
    let run = dozo.run(&["--now", "2026-11-09T18:00:00Z", "retention", "apply", "--max-delete", "100%"]).exits(1);
    assert!(run.stderr.contains("DOZO-E5020") && run.stderr.contains(&ids[8]), "{}", run.stderr);
    let doomed = || files(&dozo.repository()).iter().filter(|f| f.to_string_lossy().ends_with("fate-1.json")).count();
    assert_eq!(doomed(), 0);
    assert!(before.iter().all(|f| f.exists()));
    // Somebody looked at it.
    let _ = dozo.run(&[&jumped[..], &["--trust-clock"]].concat()).exits(0);
    assert_eq!(doomed(), 5);
}
