//! Old files go only when a verified backup holds them, and nobody writes to them.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Dozo, Place};

fn logs(rule: &str) -> (Dozo, PathBuf) {
    let source = format!("[source.logs]\nkind = \"files\"\nroot = \"logs\"\ninclude = [\"*.log\"]\nrotate = {rule}\n");
    let dozo = Dozo::without_database(Place::Local, &source);
    let root = dozo.folder.path().join("logs");
    fs::create_dir_all(root.join("app")).unwrap();
    (dozo, root)
}

fn log(path: &Path, text: &str, days: u32) {
    fs::write(path, text.repeat(1000)).unwrap();
    let status = Command::new("touch").args(["-d", &format!("{days} days ago")]).arg(path).status().unwrap();
    assert!(status.success());
}

/// What is to become of each file, by path: the action, or why nothing is.
fn plan(dozo: &Dozo, verb: &str) -> Vec<(String, String)> {
    let plan = dozo.run(&["--json", "rotate", verb]).exits(0).json();
    let word = |l: &Value| l["held-back"].as_str().map_or_else(|| l["action"].as_str().unwrap().to_owned(), str::to_owned);
    plan[0]["lines"].as_array().unwrap().iter().map(|l| (l["path"].as_str().unwrap().to_owned(), word(l))).collect()
}

fn texts(plan: &[(String, String)]) -> Vec<(&str, &str)> {
    plan.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

#[test]
fn nothing_goes_before_a_verified_backup_holds_it() {
    let (dozo, root) = logs("{ compress-after = \"1d\", delete-after = \"30d\" }");
    let names = ["app/new.log", "app/old.log", "app/ancient.log", "app/open.log", "app/other.txt", "twice.log"];
    for (name, days) in names.iter().zip([0, 3, 40, 3, 40, 3]) {
        log(&root.join(name), &format!("{name} 行\n"), days);
    }
    fs::hard_link(root.join("twice.log"), dozo.folder.path().join("elsewhere")).unwrap();
    fs::set_permissions(root.join("app/old.log"), fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(root.join("app/old.log")).unwrap();
    let open = File::options().append(true).open(root.join("app/open.log")).unwrap();
    let none = dozo.run(&["rotate"]).exits(1);
    assert!(none.stderr.contains("holds no") || none.stderr.contains("no dozo repository"), "{none:?}");
    let unverified = "no verified backup holds it as it is";
    let _ = dozo.run(&["backup", "logs"]).exits(0);
    let held = plan(&dozo, "plan");
    assert_eq!(held.len(), 4, "{held:?}");
    assert!(held.iter().all(|(name, why)| why == unverified || name.contains("open") || name == "twice.log"), "{held:?}");
    let _ = dozo.run(&["rotate", "apply"]).exits(0);
    assert!(root.join("app/ancient.log").exists());
    let _ = dozo.run(&["verify", "logs@latest"]).exits(0);
    // What was written after the backup is not in it.
    log(&root.join("app/late.log"), "late\n", 50);
    let now = plan(&dozo, "plan");
    let by_name = |name: &str| now.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!((by_name("app/old.log").as_str(), by_name("app/ancient.log").as_str()), ("compress", "delete"));
    assert!(by_name("app/open.log").contains(&format!("process {}", std::process::id())), "{now:?}");
    assert_eq!((by_name("app/late.log").as_str(), by_name("twice.log").as_str()), (unverified, "it has another name"));
    let done = dozo.run(&["rotate", "apply"]).exits(0);
    assert!(done.stdout.contains("1 compressed, 1 deleted, 3 held back"), "{done:?}");
    assert!(!root.join("app/old.log").exists() && !root.join("app/ancient.log").exists() && root.join("app/other.txt").exists());
    let gz = root.join("app/old.log.gz");
    let after = fs::metadata(&gz).unwrap();
    assert_eq!(
        (after.mode(), after.mtime(), after.mtime_nsec(), after.uid()),
        (before.mode(), before.mtime(), before.mtime_nsec(), before.uid())
    );
    let unpacked = Command::new("gunzip").arg("-c").arg(&gz).output().unwrap();
    assert!(unpacked.stdout == "app/old.log 行\n".repeat(1000).as_bytes());
    drop(open);
    assert_eq!(texts(&plan(&dozo, "apply"))[1], ("app/open.log", "compress"));
    // The backups of what is gone still hold it, and the next ones what became of the others: nothing is lost.
    let next = dozo.run(&["--json", "backup", "logs"]).exits(0).json();
    assert_eq!((&next["outcome"], next["files"]["files"].as_u64()), (&Value::from("done"), Some(5)), "{next}");
    let _ = dozo.run(&["verify", "logs@latest"]).exits(0);
    let first = dozo.run(&["--json", "list", "logs"]).exits(0).json()[0]["id"].as_str().unwrap().to_owned();
    let _ = dozo.run(&["restore", &format!("logs@{first}"), "--to", "out", "--path", "ancient.log"]).exits(0);
    assert!(dozo.folder.path().join("out/app/ancient.log").exists());
}

#[test]
fn what_was_compressed_goes_in_its_time_and_a_stopped_run_is_finished() {
    let (dozo, root) = logs("{ compress-after = \"1d\", delete-after = \"30d\" }");
    log(&root.join("a.log"), "a\n", 20);
    log(&root.join("b.log"), "b\n", 20);
    let _ = dozo.run(&["backup", "logs"]).exits(0);
    let _ = dozo.run(&["verify", "logs@latest"]).exits(0);
    // A run was stopped between the two halves of its work; and somebody else's file stands where ours should.
    let gzip = |name: &str| Command::new("gzip").args(["-k"]).arg(root.join(name)).status().unwrap();
    assert!(gzip("a.log").success());
    fs::write(root.join("b.log.gz"), "not ours").unwrap();
    let run = dozo.run(&["rotate", "apply"]).exits(0);
    assert!(!root.join("a.log").exists() && root.join("a.log.gz").exists(), "{run:?}");
    assert!(root.join("b.log").exists() && run.stdout.contains("stands beside it"), "{run:?}");
    // Nor is a link or a pipe taken for it, whatever lies behind.
    for script in ["rm b.log.gz; gzip -c b.log > ../x.gz; ln -s ../x.gz b.log.gz", "rm b.log.gz; mkfifo b.log.gz"] {
        assert!(Command::new("sh").args(["-c", script]).current_dir(&root).status().unwrap().success());
        let run = dozo.run(&["rotate", "apply"]).exits(0);
        assert!(root.join("b.log").exists() && run.stdout.contains("stands beside it"), "{run:?}");
    }
    fs::remove_file(root.join("b.log.gz")).unwrap();
    let _ = dozo.run(&["rotate", "apply"]).exits(0);
    // Eleven days later: the digest of what they were proves that a backup holds them.
    let old = dozo.folder.path().join("logs/a.log.gz");
    let touched = Command::new("touch").args(["-d", "31 days ago"]).arg(&old).status().unwrap();
    assert!(touched.success());
    fs::write(root.join("c.log.gz"), "never backed up").unwrap();
    let touched = Command::new("touch").args(["-d", "31 days ago"]).arg(root.join("c.log.gz")).status().unwrap();
    assert!(touched.success());
    assert_eq!(texts(&plan(&dozo, "apply")), [("a.log.gz", "delete"), ("c.log.gz", "no verified backup holds it as it is")]);
    assert!(!old.exists() && root.join("b.log.gz").exists() && root.join("c.log.gz").exists());
}

#[test]
fn a_rule_can_do_without_backups_and_mistakes_are_told() {
    let (dozo, root) = logs("{ delete-after = \"30d\", after-backup = false }");
    log(&root.join("a.log"), "a\n", 31);
    log(&root.join("b.log"), "b\n", 29);
    let _ = dozo.run(&["backup", "logs"]).exits(0);
    assert_eq!(texts(&plan(&dozo, "apply")), [("a.log", "delete")]);
    assert!(!root.join("a.log").exists() && root.join("b.log").exists());
    for (rule, said) in [
        ("{ after-backup = true }", "it needs compress-after or delete-after"),
        ("{ compress-after = \"30d\", delete-after = \"1d\" }", "delete-after must be longer"),
        ("{ compress-after = \"soon\" }", "not a span"),
        ("\"30d\"", "it must be a table"),
        ("{ delete_after = \"1d\" }", "unknown key"),
    ] {
        let (dozo, _) = logs(rule);
        let run = dozo.run(&["rotate"]).exits(2);
        assert!(run.stderr.contains(said), "{rule}: {run:?}");
    }
    let (dozo, _) = logs("{ delete-after = \"1d\" }");
    // The night's jobs know of it: after the verification.
    let cron = dozo.run(&["schedule", "--cron"]).exits(0);
    let order = ["backup --all", "verify latest --all", "rotate apply"].map(|job| cron.stdout.find(job).unwrap());
    assert!(order.is_sorted(), "{cron:?}");
    dozo.reconfigure(|text| text.lines().filter(|l| !l.starts_with("rotate")).map(|l| format!("{l}\n")).collect());
    let run = dozo.run(&["rotate", "apply"]).exits(2);
    assert!(run.stderr.contains("no source") && run.stderr.contains("rotate = {"), "{run:?}");
    let _ = dozo.run(&["rotate", "plan", "nobody"]).exits(2);
    let named = dozo.run(&["rotate", "apply", "logs"]).exits(2);
    assert!(named.stderr.contains("has no rule"), "{named:?}");
}
