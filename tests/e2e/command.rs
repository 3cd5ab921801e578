//! What commands print: only a command that ended well, in time, with enough of it, is a backup.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Dozo, Place, files};

fn source(place: Place, command: &str, more: &str) -> Dozo {
    let command = serde_json::to_string(&["sh", "-c", command]).unwrap();
    Dozo::without_database(place, &format!("[source.out]\nkind = \"command\"\ncommand = {command}\n{more}\n"))
}

#[test]
fn what_it_printed_comes_back_as_a_file_on_stdout_and_into_a_command() {
    for (place, format) in [(Place::Local, "zst"), (Place::S3, "gz")] {
        let command = "echo $DOZO_SOURCE; seq 1 300000; echo careful >&2";
        let dozo = source(place, command, &format!("format = \"{format}\"\nfile = \"out.sql\""));
        let backup = dozo.run(&["backup", "out"]).exits(0);
        assert!(backup.stderr.contains("said: careful") && backup.stdout.contains("2.0 MB printed"), "{backup:?}");
        let expected: String = std::iter::once("out\n".to_owned()).chain((1..=300_000).map(|n| format!("{n}\n"))).collect();
        let _ = dozo.run(&["verify", "out@latest"]).exits(0);
        let _ = dozo.run(&["restore", "out@latest", "--to", "new"]).exits(0);
        let file = dozo.folder.path().join("new/out.sql");
        assert!(fs::read_to_string(&file).unwrap() == expected);
        let _ = dozo.run(&["restore", "out@latest", "--to", "new"]).exits(1);
        let _ = dozo.run(&["restore", "--all", "--to", "new", "--existing", "replace"]).exits(0);
        let streamed = dozo.run(&["restore", "out@latest", "--to", "-"]).exits(0);
        assert!(streamed.stdout == expected);
        let taken = dozo.run(&["restore", "out@latest", "--", "sh", "-c", "cat > taken"]).exits(0);
        assert!(fs::read_to_string(dozo.folder.path().join("taken")).unwrap() == expected, "{taken:?}");
        // A command that fails, also one that reads nothing, fails the restore.
        for fails in ["exit 3", "cat > /dev/null; exit 4"] {
            let failed = dozo.run(&["restore", "out@latest", "--", "sh", "-c", fails]).exits(1);
            assert!(failed.stderr.contains("DOZO-E6030") && failed.stderr.contains("exit status"), "{failed:?}");
        }
        let _ = dozo.run(&["restore", "out@latest", "--", "sh", "-c", "exit 0"]);
        let show = dozo.run(&["show", "out@latest"]).exits(0);
        assert!(show.stdout.contains("out.sql") && show.stdout.contains("seq 1 300000"), "{show:?}");
        if place == Place::Local {
            let md = files(&dozo.repository()).into_iter().find(|p| p.ends_with("RESTORE.md")).unwrap();
            let text = fs::read_to_string(md).unwrap();
            let block = text.split("```sh\n").nth(1).unwrap().split("\n```").next().unwrap().to_owned();
            let target = dozo.folder.path().join("by hand");
            let mut by_hand = Command::new("bash");
            by_hand.args(["-c", &block]).env("REPO", dozo.repository()).env("TARGET", &target);
            assert!(by_hand.status().unwrap().success());
            assert!(fs::read_to_string(target.join("out.sql")).unwrap() == expected);
        }
    }
}

#[test]
fn a_command_that_fails_prints_nothing_or_hangs_is_never_a_backup() {
    let big = "head -c 30000000 /dev/urandom";
    for (command, more, said) in [
        ("echo half; echo no such table >&2; exit 3", "", "exit status: 3: no such table"),
        (&format!("{big}; exit 1"), "", "exit status: 1"),
        ("true", "", "it printed nothing"),
        ("echo short", "min-size = \"1kB\"", "less than min-size"),
        ("echo half; sleep 100", "timeout = \"1s\"", "did not end within timeout"),
        // Its child holds the pipe.
        ("echo half; sleep 100 & exit 0", "timeout = \"1s\"", "did not end within timeout"),
        ("echo half; kill -9 $$", "", "signal: 9"),
        ("echo good", "check = [\"sh\", \"-c\", \"echo not there >&2; exit 1\"]", "not there"),
        ("echo good", "check = [\"sleep\", \"100\"]\ntimeout = \"1s\"", "did not end within timeout"),
        ("echo good", "check = [\"/no/such/program\"]", "No such file"),
    ] {
        for place in [Place::Local, Place::S3] {
            let dozo = source(place, command, more);
            let began = Instant::now();
            let run = dozo.run(&["backup", "out"]).exits(1);
            assert!(run.stderr.contains("DOZO-E6030") && run.stderr.contains(said), "{command}: {run:?}");
            assert!(began.elapsed() < Duration::from_secs(30));
            let list = dozo.run(&["--json", "list", "out"]).exits(0).json();
            assert!(list.as_array().unwrap().iter().all(|b| b["state"] == "uncommitted" && b["good"] == false), "{list}");
            let _ = dozo.run(&["restore", "out@latest", "--to", "x"]).exits(2);
            if place == Place::Local {
                assert!(!files(&dozo.repository()).iter().any(|p| p.starts_with(dozo.repository().join("data"))), "{command}");
            }
        }
    }
    let dozo = source(Place::Local, "true", "");
    dozo.reconfigure(|text| text.replace("\"sh\"", "\"no-such-program\""));
    let _ = dozo.run(&["backup", "out"]).exits(1);
    let check = dozo.run(&["check", "out"]);
    assert!(check.code != 0 && check.stdout.contains("no-such-program"), "{check:?}");
}

#[test]
fn output_that_shrank_is_suspect() {
    let dozo = source(Place::Local, "cat lines", "check = [\"test\", \"-s\", \"lines\"]");
    let lines = dozo.folder.path().join("lines");
    fs::write(&lines, "line\n".repeat(100)).unwrap();
    let _ = dozo.run(&["backup", "out"]).exits(0);
    fs::write(&lines, "line\n".repeat(49)).unwrap();
    let suspect = dozo.run(&["backup", "out"]).exits(4);
    assert!(suspect.stderr.contains("command.out has 245 bytes instead of 500"), "{suspect:?}");
    let _ = dozo.run(&["accept", "out@latest"]).exits(0);
    let _ = dozo.run(&["backup", "out"]).exits(0);
}

/// Ctrl-C ends the command, and what it has started.
#[test]
fn an_interrupted_run_leaves_no_process_behind() {
    let dozo = source(Place::Local, "echo $$ > pid; sh -c 'echo $$ > child; sleep 300' & echo half; sleep 300", "");
    let mut child = dozo.command(&["backup", "out"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let pids = ["pid", "child"].map(|name| dozo.folder.path().join(name));
    let began = Instant::now();
    while !pids.iter().all(|p| fs::read_to_string(p).is_ok_and(|t| t.ends_with('\n'))) {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    for pid in pids {
        let pid = fs::read_to_string(pid).unwrap();
        let state = format!("/proc/{}/stat", pid.trim());
        let began = Instant::now();
        while fs::read_to_string(&state).is_ok_and(|s| !s.contains(") Z ")) {
            assert!(began.elapsed() < Duration::from_secs(10), "{pid} lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A command that is given half of it must not take it for the whole: it dies before its input ends.
#[test]
fn an_interrupted_restore_is_never_taken_for_the_whole() {
    let dozo = source(Place::Local, "seq 1 3000000", "");
    let _ = dozo.run(&["backup", "out"]).exits(0);
    let script = "echo $$ > pid; cat | (head -c 1000 > first; sleep 2; cat > rest; echo COMMIT > committed)";
    let mut child = dozo.command(&["restore", "out@latest", "--", "sh", "-c", script]).stderr(Stdio::null()).spawn().unwrap();
    let first = dozo.folder.path().join("first");
    let began = Instant::now();
    while !fs::metadata(&first).is_ok_and(|m| m.len() == 1000) {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    std::thread::sleep(Duration::from_secs(3));
    assert!(!dozo.folder.path().join("committed").exists());
    let pid = fs::read_to_string(dozo.folder.path().join("pid")).unwrap();
    assert!(!fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|s| !s.contains(") Z ")), "{pid} lives on");
    // One that reads only a part and says that all is well is not believed.
    let small = source(Place::Local, "echo a few words", "");
    let _ = small.run(&["backup", "out"]).exits(0);
    let run = small.run(&["restore", "out@latest", "--", "sleep", "0.2"]).exits(1);
    assert!(run.stderr.contains("without reading everything"), "{run:?}");
    let _ = small.run(&["restore", "out@latest", "--to", "-", "--jobs", "2"]).exits(2);
}

/// What a command leaves behind on purpose is left alone, and not waited for.
#[test]
fn a_daemon_that_a_command_starts_lives_on() {
    let hook = "before = [\"sh\", \"-c\", \"sleep 61 > /dev/null 2>&1 & echo $! > hooked\"]";
    let dozo = source(Place::Local, "(sleep 62 > /dev/null & echo $! > left) ; echo good", hook);
    let began = Instant::now();
    let _ = dozo.run(&["backup", "out"]).exits(0);
    assert!(began.elapsed() < Duration::from_secs(30));
    for name in ["hooked", "left"] {
        let pid = fs::read_to_string(dozo.folder.path().join(name)).unwrap();
        let ended = Command::new("kill").arg(pid.trim()).status().unwrap();
        assert!(ended.success(), "{name} is gone");
    }
}

#[test]
fn backups_that_would_make_the_same_file_are_told_apart_first() {
    let dozo = Dozo::without_database(
        Place::Local,
        "[source.a]\nkind = \"command\"\ncommand = [\"echo\", \"a\"]\nfile = \"x\"\n[source.b]\nkind = \"command\"\ncommand = [\"echo\", \"b\"]\nfile = \"x\"\n",
    );
    let _ = dozo.run(&["backup", "--all"]).exits(0);
    let run = dozo.run(&["restore", "--all", "--to", "out"]).exits(2);
    assert!(run.stderr.contains("both restore `x`") && !dozo.folder.path().join("out").exists(), "{run:?}");
    // One of several that fails does not stop the others.
    dozo.reconfigure(|text| text.replace("file = \"x\"\n[source.b]", "file = \"y\"\n[source.b]"));
    let _ = dozo.run(&["backup", "a"]).exits(0);
    fs::create_dir_all(dozo.folder.path().join("out/y")).unwrap();
    let run = dozo.run(&["restore", "--all", "--to", "out"]).exits(4);
    assert!(run.stderr.contains("DOZO-E6032") && dozo.folder.path().join("out/x").exists(), "{run:?}");
}
