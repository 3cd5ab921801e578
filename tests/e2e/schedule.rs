//! Timers and lines of a crontab: accepted by those who run them.

use std::fs;
use std::process::Command;

use dozo_testkit::shared;

use crate::harness::{Dozo, Place, files};

#[test]
fn units_that_systemd_accepts() {
    let database = shared(15).database("timers");
    let more = "[notify.log]\ncommand = [\"true\"]\n[drill.all]\nsources = [\"shop\"]\n[schedule]\nbackup = \"01:30\"\nnice = 5";
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, more);
    let printed = dozo.run(&["schedule"]).exits(0).stdout;
    for part in [
        "# /etc/systemd/system/dozo-backup.timer",
        "OnCalendar=*-*-* 01:30:00 Asia/Tokyo",
        "OnCalendar=*-*-* 04:00:00 Asia/Tokyo",
        "Persistent=true",
        "RandomizedDelaySec=600",
        "OnFailure=dozo-verify.service",
        "Nice=5",
        "status --notify",
        "OnCalendar=*-*-01 09:00:00 Asia/Tokyo",
        "drill --all",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    let _ = dozo.run(&["schedule", "--into", "units"]).exits(0);
    let folder = dozo.folder.path().join("units");
    let units: Vec<String> = files(&folder).iter().map(|f| f.display().to_string()).collect();
    assert_eq!(units.len(), 9, "five services and four timers: {units:?}");
    let out = Command::new("systemd-analyze").arg("verify").args(&units).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(!said.contains("dozo-"), "{said}");
    for calendar in ["*-*-* 01:30:00 Asia/Tokyo", "*-*-01 09:00:00 Asia/Tokyo", "*-*-* 08:00:00 Asia/Tokyo"] {
        assert!(Command::new("systemd-analyze").args(["calendar", calendar]).output().unwrap().status.success());
    }
    // The command of a unit is one that runs.
    let service = fs::read_to_string(folder.join("dozo-retention.service")).unwrap();
    let line = service.lines().find(|l| l.starts_with("ExecStart=")).unwrap().trim_start_matches("ExecStart=");
    assert!(line.ends_with(" retention apply") && line.contains("--quiet --config "), "{line}");
    let _ = dozo.backup();
    let out = Command::new("sh").args(["-c", line]).current_dir("/").env_clear().output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
    // What somebody else wrote is left alone.
    let theirs = folder.join("dozo-verify.service");
    fs::write(&theirs, "[Service]\n").unwrap();
    let run = dozo.run(&["schedule", "--into", "units"]).exits(2);
    assert!(run.stderr.contains("DOZO-E1017") && run.stderr.contains("was not written by dozo"), "{}", run.stderr);
    fs::remove_file(&theirs).unwrap();
    let _ = dozo.run(&["schedule", "--into", "units", "--remove"]).exits(0);
    assert!(files(&folder).is_empty());
    let text = "[schedule]\nbackup = \"25:00\"\nretention = \"never\"";
    dozo.reconfigure(|t| t.replace("[schedule]\nbackup = \"01:30\"", text));
    let run = dozo.run(&["schedule"]).exits(2);
    assert!(run.stderr.contains("schedule.backup: `25:00` is not a time of day"), "{}", run.stderr);
}

#[test]
fn lines_of_a_crontab() {
    let database = shared(15).database("crontab");
    let dozo = Dozo::with_url(&database.url(), database.cluster, Place::Local, "[drill.all]\nsources = [\"shop\"]");
    // A crontab of our own.
    let (bin, table) = (dozo.folder.path().join("bin"), dozo.folder.path().join("table"));
    fs::create_dir(&bin).unwrap();
    let script = format!("#!/bin/sh\nif [ \"$1\" = -l ]; then cat '{0}'; else cat > '{0}'; fi\n", table.display());
    fs::write(bin.join("crontab"), script).unwrap();
    Command::new("chmod").args(["755", &bin.join("crontab").display().to_string()]).status().unwrap();
    fs::write(&table, "5 5 * * * mine\n").unwrap();
    let run = |args: &[&str]| {
        let out = dozo.command(args).env("PATH", format!("{}:/usr/bin:/bin", bin.display())).env("TZ", "UTC").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let printed = run(&["schedule", "--cron"]);
    // Two in the morning in Tokyo, by a clock of UTC.
    assert!(
        printed.contains("0 17 * * * '") && printed.contains("backup --all; '") && printed.contains("verify latest --all"),
        "{printed}"
    );
    assert!(printed.contains("0 0 1 * * '") && printed.contains("drill --all"), "{printed}");
    assert!(printed.contains("0 19 * * * '") && !printed.contains("status"), "{printed}");
    assert_eq!(fs::read_to_string(&table).unwrap(), "5 5 * * * mine\n");
    for _ in 0..2 {
        run(&["schedule", "--cron", "--install"]);
        let installed = fs::read_to_string(&table).unwrap();
        assert_eq!(installed, format!("5 5 * * * mine\n{printed}"));
    }
    run(&["schedule", "--cron", "--remove"]);
    assert_eq!(fs::read_to_string(&table).unwrap(), "5 5 * * * mine\n");
}
