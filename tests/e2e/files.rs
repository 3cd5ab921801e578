//! File sets: what is stored of them, what is not stored again, and that a restore makes nothing but what the list says.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use dozo_model::Sha256Digest;
use dozo_testkit::root;
use serde_json::Value;

use crate::duckdb::{manifest, reseal, run_python, same_rows};
use crate::harness::{Dozo, Place, copy_folder, files, nightly};

/// A folder with a source `set` below it.
fn set(place: Place, more: &str) -> Dozo {
    let dozo = Dozo::without_database(place, &format!("[source.set]\nkind = \"files\"\nroot = \"set\"\n{more}\n"));
    fs::create_dir(dozo.folder.path().join("set")).unwrap();
    dozo
}

/// Everything that a restore must bring back, by path: kind and mode, content, time of change in nanoseconds.
fn everything(root: &Path) -> BTreeMap<String, (u32, String, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let content = if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if meta.is_file() {
                Sha256Digest::of(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, (meta.mode(), content, meta.mtime() * 1_000_000_000 + meta.mtime_nsec()));
            if meta.is_dir() {
                open.push(path);
            }
        }
    }
    found
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Dates everything back, so that nothing is too young to be believed.
fn age(root: &Path) {
    let out = Command::new("find").arg(root).args(["-exec", "touch", "-h", "-d", "2 days ago", "{}", "+"]).status().unwrap();
    assert!(out.success());
}

/// Runs the block of RESTORE.md.
fn by_instructions(dozo: &Dozo, source: &str, target: &Path) {
    let text = fs::read_to_string(dozo.repository().join(manifest(dozo, source)["restore-md"].as_str().unwrap())).unwrap();
    let block = text.split("```sh\n").nth(1).unwrap().split("\n```").next().unwrap();
    let mut command = Command::new("bash");
    command.args(["-c", block]).env_clear().env("PATH", "/usr/bin:/bin").env("REPO", dozo.repository()).env("TARGET", target);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

/// One backup of everything, one restore into an empty folder: an analytics project as it was.
#[test]
fn a_whole_project_comes_back_by_one_command() {
    for place in [Place::Local, Place::S3] {
        let dozo = Dozo::without_database(
            place,
            "[source.warehouse]\nkind = \"duckdb\"\npath = \"data/*.duckdb\"\n\
             [source.project]\nkind = \"files\"\nroot = \".\"\nexclude = [\"/data/*.duckdb\", \"*.tmp\"]\n",
        );
        let project = dozo.folder.path();
        copy_folder(&root().join("fixtures/project"), project);
        fs::set_permissions(project.join(".env"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(project.join("scripts/refresh.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("../sources/customers.csv", project.join("monitoring/sample.csv")).unwrap();
        write(&project.join("left.tmp"), "x");
        fs::create_dir(project.join("data")).unwrap();
        let file = project.join("data/warehouse.duckdb");
        let script = "os.chdir(os.path.dirname(os.path.dirname(path)))\nc = duckdb.connect(path)\n\
                      for s in duckdb.extract_statements(open('warehouse.sql').read()): c.execute(s)\nc.close()";
        let _ = run_python("duckdb2", &file, script);
        let backup = dozo.run(&["--json", "backup", "--all"]).exits(0);
        let reports = backup.json()["backups"].clone();
        assert_eq!((reports[0]["rows"].as_u64(), reports[1]["files"]["files"].as_u64()), (Some(322), Some(15)), "{reports}");
        // Everybody can reach the folder of a test, unless it is one of a bucket.
        let warned = backup.stderr.contains(".env") && backup.stderr.contains("hold secrets");
        let open = fs::metadata(project).unwrap().mode() & 0o001 == 1;
        assert_eq!(warned, place == Place::Local && open, "{}", backup.stderr);
        let before = everything(project);
        let target = tempfile::tempdir().unwrap();
        let out = target.path().join("new");
        let restored = dozo.run(&["restore", "--all", "--to", &out.display().to_string()]).exits(0);
        assert!(restored.stdout.contains("322 rows, all 4 tables equal") && restored.stdout.contains("15 files"), "{restored:?}");
        assert_eq!(same_rows("duckdb2", &file, &out.join("data/warehouse.duckdb")), 4);
        let query = "print(duckdb.connect(path).execute('SELECT count(*), sum(orders) FROM marts.best').fetchall())";
        let asked = |file: &Path| run_python("duckdb2", file, query);
        assert_eq!(asked(&out.join("data/warehouse.duckdb")), asked(&file));
        let after = everything(&out);
        let of_set =
            |path: &&String| !path.starts_with("repo") && !path.ends_with(".duckdb") && *path != "left.tmp" && *path != "data";
        assert_eq!(after.keys().filter(of_set).collect::<Vec<_>>(), before.keys().filter(of_set).collect::<Vec<_>>());
        for path in before.keys().filter(of_set) {
            assert_eq!(after[path], before[path], "{path}");
        }
        let _ = dozo.run(&["verify", "--all"]).exits(0);
        // What is there already as it is to be is no obstacle; what somebody changed is.
        let again = dozo.run(&["restore", "project@latest", "--to", &out.display().to_string()]).exits(0);
        assert!(again.stdout.contains("15 files"), "{again:?}");
        write(&out.join("profiles.yml"), "mine");
        fs::remove_file(out.join("sources/customers.csv")).unwrap();
        let refused = dozo.run(&["restore", "project@latest", "--to", &out.display().to_string()]).exits(1);
        assert!(refused.stderr.contains("profiles.yml") && !out.join("sources/customers.csv").exists(), "{refused:?}");
        let _ = dozo.run(&["restore", "project@latest", "--to", &out.display().to_string(), "--existing", "replace"]).exits(0);
        assert_eq!(everything(&out)["profiles.yml"], before["profiles.yml"]);
    }
}

/// Files of every kind, and metadata that does not come of itself.
fn zoo(root: &Path) {
    write(&root.join("a/b/c/deep.txt"), "deep");
    write(&root.join("empty"), "");
    write(&root.join("script.sh"), "#!/bin/sh\n");
    write(&root.join("日本語/ファイル.txt"), "ファイル");
    write(&root.join("改\n行\"'\\"), "odd");
    write(&root.join(format!("{}/{}", "d".repeat(200), "f".repeat(250))), "long");
    fs::set_permissions(root.join("script.sh"), fs::Permissions::from_mode(0o4755)).unwrap();
    let mut holes = File::create(root.join("holes")).unwrap();
    holes.set_len(50 << 20).unwrap();
    holes.seek(SeekFrom::Start(20 << 20)).unwrap();
    holes.write_all(&[9; 10_000]).unwrap();
    fs::hard_link(root.join("a/b/c/deep.txt"), root.join("same")).unwrap();
    symlink("a/b", root.join("to folder")).unwrap();
    symlink("/nowhere/at/all", root.join("to nowhere")).unwrap();
    let fifo = Command::new("mkfifo").arg(root.join("pipe")).status().unwrap();
    assert!(fifo.success());
    // A name in Shift_JIS.
    use std::os::unix::ffi::OsStrExt;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\x83e\x83X\x83g.txt")), "sjis").unwrap();
    let is_root = fs::metadata(root).unwrap().uid() == 0;
    if is_root {
        chown(root.join("empty"), Some(1), Some(2)).unwrap();
        std::os::unix::fs::lchown(root.join("to nowhere"), Some(3), Some(4)).unwrap();
    }
    fs::create_dir(root.join("closed")).unwrap();
    age(root);
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o1700)).unwrap();
}

#[test]
fn every_kind_of_file_comes_back_also_without_dozo() {
    for format in ["tar.zst", "tar.gz"] {
        let dozo = set(Place::Local, &format!("format = \"{format}\""));
        let root = dozo.folder.path().join("set");
        zoo(&root);
        let backup = dozo.run(&["--json", "backup", "set"]).exits(0).json();
        assert_eq!((&backup["outcome"], backup["left-out"].as_array().unwrap().len()), (&Value::from("done"), 0));
        assert!(backup["bytes-written"].as_u64().unwrap() < 100_000, "the hole is stored: {backup}");
        let before = everything(&root);
        let _ = dozo.run(&["verify", "set@latest"]).exits(0);
        for by_hand in [false, true] {
            let out = dozo.folder.path().join(format!("out {by_hand}"));
            if by_hand {
                by_instructions(&dozo, "set", &out);
            } else {
                let _ = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(0);
            }
            let after = everything(&out);
            for (path, expected) in &before {
                assert_eq!(after.get(path), Some(expected), "{path:?} by hand: {by_hand}");
            }
            assert_eq!(after.len(), before.len());
            let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
            assert_eq!(inode("same"), inode("a/b/c/deep.txt"));
            if !by_hand {
                assert!(fs::metadata(out.join("holes")).unwrap().blocks() < 1000);
            }
            let owner = |p: &Path| p.symlink_metadata().map(|m| (m.uid(), m.gid())).unwrap();
            for name in ["empty", "to nowhere", "script.sh"] {
                assert_eq!(owner(&out.join(name)), owner(&root.join(name)), "{name}");
            }
        }
        // A part, with the folders above it; a second name whose file is not asked for brings its content.
        let part = dozo.folder.path().join("part");
        let _ = dozo
            .run(&[
                "restore",
                "set@latest",
                "--to",
                &part.display().to_string(),
                "--path",
                "*.txt",
                "--path",
                "/same",
                "--path",
                "!deep.txt",
            ])
            .exits(0);
        assert_eq!(fs::read_to_string(part.join("same")).unwrap(), "deep");
        assert_eq!(everything(&part).len(), 4, "{:?}", everything(&part));
        let none = dozo.run(&["restore", "set@latest", "--to", "x", "--path", "*.nothing"]).exits(2);
        assert!(none.stderr.contains("DOZO-E6031"), "{none:?}");
    }
}

/// Returns what the newest backup itself has stored: members of its tar objects, and stored bytes.
fn own(dozo: &Dozo) -> (u64, u64) {
    let m = manifest(dozo, "set");
    let own =
        |key: &Value| key.as_str().unwrap().contains(m["id"].as_str().unwrap()) && key.as_str().unwrap().starts_with("data/");
    let packs = m["packs"].as_array().unwrap().iter().filter(|p| own(&p["object"])).map(|p| p["members"].as_u64().unwrap());
    let bytes = m["objects"].as_array().unwrap().iter().filter(|o| own(&o["key"])).map(|o| o["bytes"].as_u64().unwrap());
    (packs.sum(), bytes.sum())
}

#[test]
fn only_what_changed_is_stored_again() {
    let dozo = set(Place::Local, "");
    let root = dozo.folder.path().join("set");
    let count = if nightly() { 20_000 } else { 3_000 };
    let content = |i: usize| (0..50_000 / 8).map(|n| format!("{:07} ", (n * 31 + i * 7919) % 9_999_991)).collect::<String>();
    for i in 0..count {
        write(&root.join(format!("{:02}/{:03}/{i}.csv", i % 37, i % 201)), content(i));
    }
    age(&root);
    // Nobody can date ctime back: what is younger than the backup by less than two seconds is read again.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let first = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    assert_eq!(first["full-because"], "it is the first backup");
    let (members, _) = own(&dozo);
    assert!(members >= count as u64);
    for i in 0..10 {
        write(&root.join(format!("{:02}/{:03}/{i}.csv", i % 37, i % 201)), format!("changed {i}"));
    }
    let second = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    let changed = &second["files"];
    assert_eq!((changed["stored"].as_u64(), changed["unchanged"].as_u64()), (Some(10), Some(count as u64 - 10)), "{changed}");
    // Folders are members, too: writing into a file does not change them.
    assert_eq!(own(&dozo).0, 10);
    assert!(second["bytes-read"].as_u64().unwrap() < 1000 && second["parent"] == first["id"], "{second}");
    let seconds = |r: &Value| r["seconds"]["total"].as_f64().unwrap();
    println!(
        "{count} files: first {:.2} s, second {:.2} s, {:.2} of it",
        seconds(&first),
        seconds(&second),
        seconds(&second) / seconds(&first)
    );
    // What is touched, or has another mode, is read again and not stored again.
    let touched = Command::new("touch").arg(root.join("11/011/11.csv")).status().unwrap();
    assert!(touched.success());
    fs::set_permissions(root.join("12/012/12.csv"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(root.join("13/013/13.csv")).unwrap();
    let third = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    assert_eq!(third["files"]["stored"], 0, "{third}");
    assert!(third["bytes-read"].as_u64().unwrap() > 90_000);
    let before = everything(&root);
    let _ = dozo.run(&["verify", "set@latest"]).exits(0);
    let out = dozo.folder.path().join("out");
    let _ = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(0);
    assert!(everything(&out) == before);
    let by_hand = dozo.folder.path().join("by hand");
    by_instructions(&dozo, "set", &by_hand);
    assert!(everything(&by_hand) == before);
    // The first backup is not needed for itself any more, its objects are.
    let _ = dozo.run(&["backup", "set"]).exits(0);
    let last = dozo.run(&["--json", "list", "set"]).exits(0).json();
    let oldest = last[0]["id"].as_str().unwrap().to_owned();
    let _ = dozo.run(&["restore", &format!("set@{oldest}"), "--to", "old"]).exits(0);
    assert_eq!(fs::read_to_string(dozo.folder.path().join("old/13/013/13.csv")).unwrap(), content(13));
}

/// A tar object that is hardly needed any more does not stay for the sake of a few files.
#[test]
fn what_is_left_of_a_tar_object_is_stored_again_when_most_of_it_is_gone() {
    let dozo = set(Place::Local, "shrink-max = \"100%\"");
    let root = dozo.folder.path().join("set");
    for i in 0..20 {
        write(&root.join(format!("{i}.bin")), vec![i; 1 << 20]);
    }
    age(&root);
    let _ = dozo.run(&["backup", "set"]).exits(0);
    for (gone, stored) in [(0..9, 0), (9..14, 6)] {
        gone.for_each(|i| fs::remove_file(root.join(format!("{i}.bin"))).unwrap());
        let report = dozo.run(&["--json", "backup", "set"]).exits(0).json();
        assert_eq!(report["files"]["stored"], stored, "{report}");
    }
    assert_eq!(manifest(&dozo, "set")["packs"].as_array().unwrap().len(), 1);
    // Many small ones become one.
    for i in 0..34 {
        write(&root.join(format!("small {i}")), "x");
        age(&root);
        let _ = dozo.run(&["--quiet", "backup", "set"]).exits(0);
    }
    let packs = manifest(&dozo, "set")["packs"].as_array().unwrap().len();
    assert!((2..=4).contains(&packs), "{packs}");
    let out = dozo.folder.path().join("out");
    let _ = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(0);
    assert!(everything(&out) == everything(&root));
}

#[test]
fn what_cannot_be_read_makes_a_backup_partial_and_a_lost_half_suspect() {
    // Attributes of the kernel: the one may not be read by anybody, the other has less than it says.
    let dozo = Dozo::without_database(
        Place::Local,
        "[source.set]\nkind = \"files\"\nroot = \"/sys/bus/platform\"\ninclude = [\"/uevent\", \"/drivers_autoprobe\"]\n",
    );
    let partial = dozo.run(&["--json", "backup", "set"]).exits(4);
    let report = partial.json();
    assert_eq!(
        (&report["outcome"], &report["left-out"][0]["name"]),
        (&Value::from("partial"), &Value::from("uevent")),
        "{report}"
    );
    assert!(partial.stderr.contains("is partial") && partial.stderr.contains("uevent"), "{}", partial.stderr);
    assert_eq!(report["files"]["changed"], serde_json::json!(["drivers_autoprobe"]));
    let _ = dozo.run(&["restore", "set@latest", "--to", "out"]).exits(4);
    assert_eq!(fs::read_to_string(dozo.folder.path().join("out/drivers_autoprobe")).unwrap(), "1\n");

    let dozo = set(Place::Local, "");
    let root = dozo.folder.path().join("set");
    let nothing = dozo.run(&["backup", "set"]).exits(1);
    assert!(nothing.stderr.contains("no file below"), "{nothing:?}");
    (0..10).for_each(|i| write(&root.join(format!("{i}")), "x"));
    let _ = dozo.run(&["backup", "set"]).exits(0);
    (0..5).for_each(|i| fs::remove_file(root.join(format!("{i}"))).unwrap());
    let suspect = dozo.run(&["backup", "set"]).exits(4);
    assert!(suspect.stderr.contains("files.set has 5 files instead of 10"), "{}", suspect.stderr);
    fs::remove_dir_all(&root).unwrap();
    let gone = dozo.run(&["backup", "set"]).exits(1);
    assert!(gone.stderr.contains("DOZO-E8001") && gone.stderr.contains("/set"), "{gone:?}");
    write(&root, "a file");
    let _ = dozo.run(&["backup", "set"]).exits(1);
    let _ = dozo.run(&["verify", "set@latest"]).exits(0);
}

#[test]
fn damage_is_found_and_never_restored() {
    let dozo = set(Place::Local, "format = \"tar.gz\"");
    let root = dozo.folder.path().join("set");
    write(&root.join("a.txt"), "a".repeat(5000));
    write(&root.join("b.txt"), "content of b");
    let _ = dozo.run(&["backup", "set"]).exits(0);
    let stored = files(&dozo.repository());
    let find = |suffix: &str| stored.iter().find(|p| p.to_string_lossy().ends_with(suffix)).unwrap();
    let out = dozo.folder.path().join("out");
    for object in [find("tar.gz"), find("files.jsonl.gz")] {
        let whole = fs::read(object).unwrap();
        let mut broken = whole.clone();
        broken[whole.len() / 2] ^= 4;
        fs::write(object, &broken).unwrap();
        let found = dozo.run(&["--json", "verify", "set@latest"]).exits(3).json()[0].clone();
        assert!(!found["findings"].as_array().unwrap().is_empty(), "{found}");
        let _ = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(3);
        assert!(!out.exists() || files(&out).is_empty());
        fs::write(object, &whole).unwrap();
    }
    // Changed content with every digest of objects made to fit: the list's own digests tell.
    let object = find("tar.gz");
    let script = "import sys, gzip\np = sys.argv[1]\nd = gzip.open(p).read().replace(b'content of b', b'content of c')\ngzip.open(p, 'wb').write(d)";
    let whole = fs::read(object).unwrap();
    assert!(Command::new("python3").args(["-c", script]).arg(object).status().unwrap().success());
    reseal(&dozo, "set", object);
    let found = dozo.run(&["--json", "verify", "set@latest"]).exits(3).json()[0].clone();
    assert_eq!(
        (&found["findings"][0]["kind"], &found["findings"][0]["tables"][0]),
        (&Value::from("content"), &Value::from("b.txt"))
    );
    let refused = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(3);
    assert!(refused.stderr.contains("b.txt") && !out.join("b.txt").exists(), "{refused:?}");
    // The next backup stores it again.
    age(&root);
    let again = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    assert_eq!(again["files"]["stored"], 2, "{again}");
    fs::write(object, whole).unwrap();
}

/// Whoever can write to the repository can make the digests fit: still nothing is written outside the target, and nothing in it is
/// anything but what the list says.
#[test]
fn a_hostile_repository_writes_nothing_outside_the_target() {
    let dozo = set(Place::Local, "format = \"tar.gz\"");
    let root = dozo.folder.path().join("set");
    write(&root.join("a/victim.txt"), "content");
    write(&root.join("b.txt"), "other");
    let _ = dozo.run(&["backup", "set"]).exits(0);
    let stored = files(&dozo.repository());
    let find = |suffix: &str| stored.iter().find(|p| p.to_string_lossy().ends_with(suffix)).unwrap();
    let (pack, list) = (find("tar.gz"), find("files.jsonl.gz"));
    let (good_pack, good_list) = (fs::read(pack).unwrap(), fs::read(list).unwrap());
    let outside = dozo.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "kept").unwrap();
    let change = |object: &Path, script: &str| {
        let script = format!(
            "import sys, gzip, json, io, tarfile\npath, outside = sys.argv[1:3]\ndata = gzip.open(path).read()\n{script}\ngzip.open(path, 'wb').write(data)"
        );
        let out = Command::new("python3").args(["-c", &script]).arg(object).arg(&outside).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        reseal(&dozo, "set", object);
    };
    let lines = |body: &str| {
        format!(
            "lines = [json.loads(l) for l in data.splitlines()]\n{body}\ndata = ''.join(json.dumps(l) + '\\n' for l in lines).encode()"
        )
    };
    let attacks = [
        // Paths of the list.
        (list, lines("lines[-1]['path'] = '../outside/new'")),
        (list, lines("lines[-1]['path'] = outside + '/new'")),
        (list, lines("lines[-1]['path'] = 'a/../../outside/new'")),
        (list, lines("lines[-1]['path'] = {'hex': b'../outside/new'.hex()}")),
        // A folder that is a link, and a file behind it.
        (list, lines("lines[0] = {**lines[0], 'type': 'symlink', 'target': outside}")),
        // A second name of a file outside.
        (list, lines("lines[-1] = {**lines[-1], 'type': 'hardlink', 'target': '../outside/kept'}")),
        (list, lines("lines[-1] = {**lines[-1], 'type': 'hardlink', 'target': outside + '/kept'}")),
        // Members that are not there, or are somebody else's.
        (list, lines("lines[-1]['member'] = 4000000000")),
        (list, lines("lines[-1]['pack'] = 7")),
        (list, lines("lines[-1]['member'] = lines[1]['member']")),
        (list, lines("lines[-1]['size'] = 1 << 62")),
        (list, lines("lines[-1]['sparse'] = True")),
        (list, "data = data[:-20]".to_owned()),
        (list, "data = b'{' * 10_000_000".to_owned()),
        // Headers of headers that are larger than any memory, and an archive that is cut off.
        (
            pack,
            "h = tarfile.TarInfo('././@LongLink'); h.type = b'L'; h.size = 1 << 40; data = h.tobuf(tarfile.GNU_FORMAT) + data"
                .to_owned(),
        ),
        (
            pack,
            "h = tarfile.TarInfo('x'); h.type = b'x'; h.size = (1 << 33) - 1; data = h.tobuf(tarfile.GNU_FORMAT) + data"
                .to_owned(),
        ),
        (pack, "data = data[:700]".to_owned()),
        (pack, "data = b''".to_owned()),
    ];
    for (i, (object, script)) in attacks.iter().enumerate() {
        change(object, script);
        let out = dozo.folder.path().join(format!("out{i}"));
        let run = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]);
        assert!([1, 3].contains(&run.code), "{script}: {run:?}");
        assert!(run.stderr.lines().count() < 10 && run.stderr.contains("next:"), "{script}: {run:?}");
        let verified = dozo.run(&["verify", "set@latest"]);
        // That a folder is a link, or a link leads nowhere, contradicts nothing that is stored.
        assert!(verified.code == 3 || (script.contains("'type'") && verified.code == 0), "{script}: {verified:?}");
        fs::write(pack, &good_pack).unwrap();
        fs::write(list, &good_list).unwrap();
        reseal(&dozo, "set", pack);
        reseal(&dozo, "set", list);
        assert_eq!(files(&outside), [outside.join("kept")], "{script}");
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept", "{script}");
        assert_eq!(fs::metadata(outside.join("kept")).unwrap().nlink(), 1, "{script}");
    }
    // Names and links in the archive say nothing: the list does.
    change(
        pack,
        "o = io.BytesIO(); t = tarfile.open(fileobj=o, mode='w', format=tarfile.GNU_FORMAT)\n\
         for m in tarfile.open(fileobj=io.BytesIO(data)):\n    f = None\n    if m.isfile():\n        \
         f = tarfile.open(fileobj=io.BytesIO(data)).extractfile(m.name); m.name = '../outside/' + m.name.replace('/', '_')\n    \
         m.mode = 0o4777; m.uid = 77; t.addfile(m, f)\nt.close(); data = o.getvalue()[:len(data)]",
    );
    let out = dozo.folder.path().join("last");
    let _ = dozo.run(&["restore", "set@latest", "--to", &out.display().to_string()]).exits(0);
    assert!(everything(&out) == everything(&root));
    assert_eq!(files(&outside).len(), 1);
    // A link that lies in the target already is not followed either.
    let trap = dozo.folder.path().join("trap");
    fs::create_dir(&trap).unwrap();
    symlink(&outside, trap.join("a")).unwrap();
    for more in [&["--existing", "replace"][..], &[]] {
        let to = trap.display().to_string();
        let run = dozo.run(&[&["restore", "set@latest", "--to", to.as_str()], more].concat()).exits(1);
        assert!(run.stderr.contains("trap"), "{run:?}");
        assert_eq!(files(&outside).len(), 1);
    }
}

/// Copies in a replica, retention and garbage collection know file sets; the newest backup holds when the first is gone.
#[test]
fn copies_and_deletions_know_file_sets() {
    let dozo = set(Place::S3, "retention = { daily = \"1d\", weekly = \"0d\", monthly = \"0d\", min-keep = 1, grace = \"0d\" }");
    dozo.reconfigure(|text| {
        text.replacen("[source.set]", "[[repository.replica]]\nname = \"safe\"\nurl = \"file://safe\"\n[source.set]", 1)
    });
    let root = dozo.folder.path().join("set");
    for i in 0..30 {
        write(&root.join(format!("{i}.txt")), format!("{i}").repeat(2000));
    }
    age(&root);
    let at = |day: u32| format!("2026-11-{day:02}T03:00:00Z");
    let _ = dozo.run(&["--now", &at(9), "backup", "set"]).exits(4);
    let _ = dozo.run(&["replicate", "--init", "--to", "safe"]).exits(0);
    for day in [10, 11, 14] {
        write(&root.join("3.txt"), format!("on day {day}"));
        let _ = dozo.run(&["--now", &at(day), "backup", "set"]).exits(0);
        let _ = dozo.run(&["--now", &at(day), "verify", "set@latest"]).exits(0);
    }
    let _ = dozo.run(&["--now", &at(15), "retention", "apply", "--max-delete", "100%"]).exits(0);
    let _ = dozo.run(&["--now", &at(16), "retention", "apply", "--max-delete", "100%"]).exits(0);
    let _ = dozo.run(&["--now", &at(17), "gc", "apply", "--grace", "0s"]).exits(0);
    let left = dozo.run(&["--json", "list", "set"]).exits(0).json();
    let standing = left.as_array().unwrap().iter().filter(|l| l["state"] == "complete").count();
    assert_eq!(standing, 1, "{left}");
    for replica in [&[][..], &["--replica", "safe"]] {
        let _ = dozo.run(&[replica, &["verify", "set@latest"]].concat()).exits(0);
        let out = dozo.folder.path().join(format!("out{}", replica.len()));
        let to = out.display().to_string();
        let _ = dozo.run(&[replica, &["restore", "set@latest", "--to", &to]].concat()).exits(0);
        assert!(everything(&out) == everything(&root));
    }
}

/// Another format begins anew: one backup has one way to be read.
#[test]
fn another_format_stores_everything_again() {
    let dozo = set(Place::Local, "format = \"tar.zst\"");
    let root = dozo.folder.path().join("set");
    write(&root.join("a"), "a");
    age(&root);
    let _ = dozo.run(&["backup", "set"]).exits(0);
    dozo.reconfigure(|text| text.replace("tar.zst", "tar.gz"));
    let full = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    assert_eq!(full["full-because"], "the last backup has another format", "{full}");
    let _ = dozo.run(&["verify", "--all"]).exits(0);
    by_instructions(&dozo, "set", &dozo.folder.path().join("out"));
}

#[test]
fn a_restore_in_place_makes_what_the_list_says() {
    let dozo = set(Place::Local, "");
    let root = dozo.folder.path().join("set");
    write(&root.join("a"), "new");
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    write(&root.join("d/x"), "x");
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    pipe(&root.join("p"));
    symlink("a", root.join("s")).unwrap();
    fs::set_permissions(root.join("p"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let _ = dozo.run(&["backup", "set"]).exits(0);
    let before = everything(&root);
    // Names of one old file, a pipe of another mode, and what a killed run has left.
    let out = dozo.folder.path().join("out");
    let to = out.display().to_string();
    write(&out.join("a"), "old");
    fs::hard_link(out.join("a"), out.join("b")).unwrap();
    pipe(&out.join("p"));
    symlink("a", out.join("s")).unwrap();
    write(&out.join("d/.dozo-restore-abcdefgh12"), "half");
    write(&out.join(".dozo-restore-notes"), "kept");
    let _ = dozo.run(&["restore", "set@latest", "--to", &to]).exits(1);
    let _ = dozo.run(&["restore", "set@latest", "--to", &to, "--existing", "replace"]).exits(0);
    let mut after = everything(&out);
    assert!(after.remove(".dozo-restore-notes").is_some());
    assert_eq!(after, before);
    assert_eq!(fs::metadata(out.join("a")).unwrap().ino(), fs::metadata(out.join("b")).unwrap().ino());
    // What is of another kind is told before anything is written.
    for (path, folder) in [("a", true), ("d", false)] {
        let (here, to) = (dozo.folder.path().join(format!("kind {path}")), format!("kind {path}"));
        if folder {
            fs::create_dir_all(here.join(path)).unwrap();
        } else {
            write(&here.join(path), "file");
        }
        let run = dozo.run(&["restore", "set@latest", "--to", &to, "--existing", "replace"]).exits(1);
        assert!(run.stderr.contains(&format!("already: {path}")) || run.stderr.contains("stands in the way"), "{run:?}");
        assert_eq!(fs::read_dir(&here).unwrap().count(), 1, "{run:?}");
    }
    // A new folder is as closed as the old one was; one that is there is left alone.
    let _ = dozo.run(&["restore", "set@latest", "--to", "new"]).exits(0);
    let mode = |name: &str| fs::metadata(dozo.folder.path().join(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("new"), 0o700);
    fs::create_dir(dozo.folder.path().join("there")).unwrap();
    let was = mode("there");
    let _ = dozo.run(&["restore", "set@latest", "--to", "there"]).exits(0);
    assert_eq!(mode("there"), was);
    by_instructions(&dozo, "set", &dozo.folder.path().join("by hand"));
    assert_eq!((mode("by hand"), everything(&dozo.folder.path().join("by hand"))), (0o700, before));
    // Instructions that cannot be followed to their end fail.
    let list = files(&dozo.repository()).into_iter().find(|p| p.to_string_lossy().contains("files.jsonl")).unwrap();
    fs::remove_file(list).unwrap();
    let text = fs::read_to_string(dozo.repository().join(manifest(&dozo, "set")["restore-md"].as_str().unwrap())).unwrap();
    let block = text.split("```sh\n").nth(1).unwrap().split("\n```").next().unwrap();
    let target = dozo.folder.path().join("nothing");
    let run = Command::new("bash").args(["-c", block]).env("REPO", dozo.repository()).env("TARGET", &target).output().unwrap();
    assert!(!run.status.success() && !target.exists());
}

/// Closed folders and files that nobody may read come back, and the same command can be run again: also for users who are not root.
#[test]
fn closed_folders_are_no_obstacle_to_their_owner() {
    let dozo = set(Place::Local, "");
    let root = dozo.folder.path().join("set");
    write(&root.join("closed/a"), "a");
    write(&root.join("closed/b"), "b");
    let mode = |path: &str, mode| fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    let _ = dozo.run(&["backup", "set"]).exits(0);
    mode("closed/b", 0o200);
    mode("closed", 0o500);
    let _ = dozo.run(&["backup", "set"]);
    let before = everything(&root);
    for path in ["closed/a", "/closed/b", "closed"] {
        let _ = dozo.run(&["restore", "set@latest", "--to", "out", "--path", path]).exits(0);
    }
    assert_eq!(everything(&dozo.folder.path().join("out")), before);
    mode("closed", 0o700);
    fs::set_permissions(dozo.folder.path().join("out/closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// What the doctor says of a set: what cannot be read, and patterns that match nothing.
#[test]
fn the_doctor_looks_at_files() {
    let dozo = set(Place::Local, "include = [\"*.csv\", \"*.cvs\"]");
    write(&dozo.folder.path().join("set/a.csv"), "a");
    let check = dozo.run(&["check", "set"]);
    assert!(
        check.stdout.contains("1 files, folders and links below") && check.stdout.contains("`*.cvs` matches nothing"),
        "{check:?}"
    );
    dozo.reconfigure(|text| text.replace("\"*.cvs\"", "\"./b\""));
    let bad = dozo.run(&["backup", "set"]).exits(2);
    assert!(bad.stderr.contains("DOZO-E8002") && bad.stderr.contains("`./b`"), "{bad:?}");
}

/// Neither the repository nor a replica of it is part of what lies around them.
#[test]
fn repositories_within_the_root_are_left_out() {
    let dozo = set(Place::Local, "");
    dozo.reconfigure(|text| {
        text.replace("root = \"set\"", "root = \".\"").replacen(
            "[source.set]",
            "[[repository.replica]]\nname = \"safe\"\nurl = \"file://safe\"\n[source.set]",
            1,
        )
    });
    write(&dozo.folder.path().join("set/a"), "a");
    let _ = dozo.run(&["backup", "set"]);
    let _ = dozo.run(&["replicate", "--init", "--to", "safe"]).exits(0);
    let again = dozo.run(&["--json", "backup", "set"]).exits(0).json();
    assert_eq!((again["files"]["files"].as_u64(), again["files"]["others"].as_u64()), (Some(2), Some(1)), "{again}");
}
