//! The tiers over what other tools have left in a folder, and the policy played forward.

use std::fs;
use std::path::Path;

use dozo_testkit::shared;
use serde_json::Value;

use crate::harness::{Dozo, Place, files};

const NOW: &str = "2026-11-21T12:00:00Z";
const PATTERNS: [&str; 6] = [
    "--pattern",
    "crm_{timestamp:%Y%m%d_%H%M%S}.sql.gz",
    "--pattern",
    "sales_dw_{timestamp:%Y%m%d}.sql.gz",
    "--pattern",
    "{name}_project_{timestamp:%Y%m%d}",
];

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    all.sort();
    all
}

/// 400 dated files and folders of three naming schemes, with strangers among them.
fn fill(folder: &Path) -> Vec<String> {
    fs::create_dir_all(folder).unwrap();
    let last: jiff::civil::Date = "2026-11-21".parse().unwrap();
    let gzip = |text: &str| [&[0x1f, 0x8b, 8, 0][..], text.as_bytes()].concat();
    for back in 0..150 {
        let day = last.checked_sub(jiff::Span::new().days(back)).unwrap().strftime("%Y%m%d").to_string();
        fs::write(folder.join(format!("crm_{day}_020000.sql.gz")), gzip(&day)).unwrap();
        if back < 130 {
            fs::write(folder.join(format!("sales_dw_{day}.sql.gz")), gzip(&day)).unwrap();
        }
        if back < 120 {
            fs::create_dir(folder.join(format!("dbt_project_{day}"))).unwrap();
            fs::write(folder.join(format!("dbt_project_{day}/dbt_project.yml")), &day).unwrap();
        }
    }
    let strangers = [
        "README.txt",
        "crm_latest.sql.gz",
        "crm_20261332_020000.sql.gz",
        "crm_20250101_020000.sql.gz.bak",
        "old",
        "sales_dw_2025.sql.gz",
    ];
    for stranger in strangers {
        fs::write(folder.join(stranger), "not ours").unwrap();
    }
    std::os::unix::fs::symlink(folder.join("README.txt"), folder.join("crm_20250101_020000.sql.gz")).unwrap();
    let mut strangers: Vec<String> = strangers.iter().map(ToString::to_string).collect();
    strangers.push("crm_20250101_020000.sql.gz".into());
    strangers.sort();
    strangers
}

#[test]
fn four_hundred_dumps_of_three_naming_schemes() {
    let database = shared(15).database("adopt");
    let dozo = Dozo::new(&database, Place::Local);
    let folder = dozo.folder.path().join("dumps");
    let strangers = fill(&folder);
    // One that was cut short, one that is empty.
    fs::write(folder.join("crm_20261110_020000.sql.gz"), [0x1f, 0x8b]).unwrap();
    fs::write(folder.join("crm_20261001_020000.sql.gz"), "").unwrap();
    let before = files(&folder);
    let adopt =
        |more: &[&str]| dozo.run(&[&["--now", NOW, "--json", "retention", "adopt", "dumps"], &PATTERNS[..], more].concat());
    let plan = adopt(&[]).exits(0).json();
    assert_eq!(files(&folder), before, "a plan changes nothing");
    assert_eq!(plan["dumps"].as_array().unwrap().len(), 400);
    let listed: Vec<&str> = plan["strangers"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
    assert_eq!(listed, strangers);
    let verdicts: Vec<&Value> = plan["plan"]["backups"].as_array().unwrap().iter().collect();
    let of = |name: &str| {
        let id = plan["dumps"].as_array().unwrap().iter().find(|d| d["name"] == name).unwrap()["id"].clone();
        (*verdicts.iter().find(|v| v["id"] == id).unwrap()).clone()
    };
    // The empty first of October stands for nothing: the second does, of week and month.
    assert_eq!(
        (&of("crm_20261110_020000.sql.gz")["state"], &of("crm_20261001_020000.sql.gz")["state"]),
        (&"suspect".into(), &"damaged".into())
    );
    assert_eq!(of("crm_20261001_020000.sql.gz")["action"], "mark");
    assert_eq!(of("crm_20261002_020000.sql.gz")["tiers"], serde_json::json!(["monthly"]));
    assert_eq!(of("sales_dw_20261001.sql.gz")["tiers"], serde_json::json!(["monthly"]));
    let reason = of("sales_dw_20261003.sql.gz")["reasons"][0].as_str().unwrap().to_owned();
    assert!(reason.contains("2026-W40 is served by sales_dw_20260928.sql.gz"), "{reason}");
    let sources: Vec<&str> = plan["plan"]["sources"].as_array().unwrap().iter().map(|s| s["source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["crm", "dbt-project", "sales-dw"]);
    let text = dozo.run(&[&["--now", NOW, "retention", "adopt", "dumps"], &PATTERNS[..]].concat()).exits(0).stdout;
    assert!(
        text.contains("left alone, as no pattern matches: README.txt") && text.contains("next: the same with --apply"),
        "{text}"
    );
    // Most would go: somebody must have meant it.
    let refused = adopt(&["--apply"]).exits(1);
    assert!(refused.stderr.contains("DOZO-E6026"), "{}", refused.stderr);
    assert_eq!(files(&folder), before);
    let done = adopt(&["--apply", "--max-delete", "100%"]).exits(0).json();
    let retired = done["retired"].as_array().unwrap().len();
    let going = verdicts.iter().filter(|v| v["action"] == "mark").count();
    assert_eq!(retired, going);
    assert!(retired > 250, "{retired}");
    // A link among what was moved aside leads nowhere, nor does what somebody else put there go.
    std::os::unix::fs::symlink(dozo.folder.path().join("repo"), folder.join(".dozo-retired/20250101T000000Z")).unwrap();
    fs::write(folder.join(".dozo-retired/20261121T120000Z/notes.txt"), "mine").unwrap();
    fs::create_dir_all(dozo.folder.path().join("repo/crm_20200101_020000.sql.gz")).unwrap();
    // Strangers are as they were; what went is aside, and comes back by mv.
    let aside = folder.join(".dozo-retired/20261121T120000Z");
    assert_eq!(names(&aside).len(), retired + 1);
    assert_eq!(names(&folder).len(), 400 - retired + strangers.len() + 1);
    for stranger in &strangers {
        assert_eq!(fs::read_to_string(folder.join(stranger)).unwrap(), "not ours", "{stranger}");
    }
    // Twice is once; after the grace it is gone for good.
    let again = adopt(&["--apply"]).exits(0).json();
    assert_eq!((again["retired"].as_array().unwrap().len(), again["deleted"].as_array().unwrap().len()), (0, 0));
    let later = dozo.run(
        &[&["--now", "2026-11-29T12:00:00Z", "--json", "retention", "adopt", "dumps"], &PATTERNS[..], &["--apply"]].concat(),
    );
    assert_eq!(later.exits(0).json()["deleted"].as_array().unwrap().len(), retired);
    assert_eq!(names(&aside), ["notes.txt"]);
    assert!(dozo.folder.path().join("repo/crm_20200101_020000.sql.gz").exists());
    for stranger in &strangers {
        assert!(folder.join(stranger).exists(), "{stranger}");
    }
}

#[test]
fn adopting_needs_a_folder_and_a_pattern_and_no_configuration() {
    let database = shared(15).database("adopt_errors");
    let dozo = Dozo::new(&database, Place::Local);
    fs::remove_file(dozo.folder.path().join("dozo.toml")).unwrap();
    let folder = dozo.folder.path().join("dumps");
    fs::create_dir(&folder).unwrap();
    for day in 1..=9 {
        fs::write(folder.join(format!("a-2026-11-0{day}.sql")), "x").unwrap();
    }
    let run = dozo.run(&["--now", NOW, "retention", "adopt", "dumps", "--pattern", "a-{timestamp:%Y-%m-%d}.sql"]).exits(0);
    assert!(run.stdout.contains("a: 0 of 9 go"), "{}", run.stdout);
    for (args, code, said) in [
        (&["retention", "adopt", "nowhere", "--pattern", "a-{timestamp:%Y}"][..], 1, "DOZO-E6025"),
        (&["retention", "adopt", "dumps", "--pattern", "a-%Y"], 2, "it has no {timestamp:FORMAT}"),
        (&["retention", "adopt", "dumps"], 2, "--pattern"),
    ] {
        let run = dozo.run(args).exits(code);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_year_played_forward() {
    let database = shared(15).database("simulate");
    database.psql("CREATE TABLE a AS SELECT i FROM generate_series(1, 1000) i; CREATE TABLE b AS SELECT 1 AS n");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "[prices]\nSTANDARD = 1000000");
    for day in 18..=21 {
        database.psql("UPDATE b SET n = n + 1");
        let _ = dozo.run(&["--now", &format!("2026-11-{day}T17:00:00Z"), "backup", "shop"]).exits(0);
    }
    let _ = dozo.run(&["--now", "2026-11-21T17:30:00Z", "verify", "latest"]).exits(0);
    let now = ["--now", "2026-11-21T18:00:00Z", "retention", "simulate"];
    let text = dozo.run(&[&now[..], &["1y"]].concat()).exits(0).stdout;
    assert!(text.contains("shop: a backup every 1 d 0 h") && text.contains("STANDARD: "), "{text}");
    assert!(text.contains("2027-11-2"), "{text}");
    let run = dozo.run(&[&now[..], &["60d", "--stop-after", "10d", "--picture", "plan.svg"]].concat()).exits(0);
    assert!(
        run.stdout.contains("broken from 2026-12-04 on: shop: the newest good backup is younger than 1 d 2 h"),
        "{}",
        run.stdout
    );
    let svg = fs::read_to_string(dozo.folder.path().join("plan.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("Size of the repository"), "{svg}");
    let _ = dozo.run(&[&now[..], &["1y", "--picture", "plan.html"]].concat()).exits(0);
    let html = fs::read_to_string(dozo.folder.path().join("plan.html")).unwrap();
    assert!(
        html.contains("<svg") && html.contains("shop: a backup every") && !html.contains("src=") && !html.contains("href="),
        "{html}"
    );
    let json = dozo.run(&[&["--json"], &now[..], &["30d"]].concat()).exits(0).json();
    assert_eq!(json["days"].as_array().unwrap().len(), 30);
    for bad in ["0d", "100y", "forever"] {
        let run = dozo.run(&[&now[..], &[bad]].concat()).exits(2);
        assert!(run.stderr.contains("is not between a day and ten years"), "{}", run.stderr);
    }
}
