//! DuckDB files: both forms, every type, files that others hold, write and damage.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dozo_testkit::{S3Server, root, services, shared_s3};
use serde_json::Value;

use crate::harness::{Dozo, Place, Run, files, fresh, nightly};

/// The two releases of DuckDB whose files are backed up.
const VERSIONS: [&str; 2] = ["venv", "duckdb2"];
const FORMS: [&str; 3] = ["parquet", "duckdb.zst", "duckdb.gz"];

fn python(version: &str) -> PathBuf {
    services().join(version).join("bin/python")
}

/// Runs Python with DuckDB; `path` is the file that it is given. Returns what it prints.
pub(crate) fn run_python(version: &str, path: &Path, script: &str) -> String {
    let out = Command::new(python(version))
        .args(["-c", &format!("import duckdb, sys, os\npath = sys.argv[1]\n{script}"), &path.display().to_string()])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A folder with a source `lake` in each form.
fn lake(place: Place, pattern: &str, more: &str) -> Dozo {
    let sources: Vec<String> = FORMS
        .iter()
        .enumerate()
        .map(|(i, form)| format!("[source.lake{i}]\nkind = \"duckdb\"\npath = \"{pattern}\"\nformat = \"{form}\"\n{more}\n"))
        .collect();
    Dozo::without_database(place, &sources.join("\n"))
}

/// Makes the zoo. Older releases lack some types: whatever needs them is left out there, and counted.
fn zoo(version: &str, path: &Path) -> (usize, usize) {
    let script = format!(
        "import json\nfailed = made = 0\nconnection = duckdb.connect(path)\nfor statement in open({:?}).read().split(';' + chr(10)):\n    \
         try: connection.execute(statement); made += 1\n    except duckdb.Error as e: failed += 1\nconnection.close()\nprint(json.dumps([made, failed]))",
        root().join("fixtures/duckdb/zoo.sql").display().to_string()
    );
    serde_json::from_str(&run_python(version, path, &script)).unwrap()
}

/// Both files have the same tables and rows, in DuckDB's eyes: EXCEPT ALL finds nothing, in either direction.
pub(crate) fn same_rows(version: &str, a: &Path, b: &Path) -> usize {
    let script = format!(
        "c = duckdb.connect()\nc.execute(f\"ATTACH '{{path}}' AS a (READ_ONLY)\"); c.execute(\"ATTACH '{}' AS b (READ_ONLY)\")\n\
         def tables(n): return c.execute(f\"SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = '{{n}}' ORDER BY ALL\").fetchall()\n\
         assert tables('a') == tables('b'), (tables('a'), tables('b'))\n\
         q = lambda n: '\"' + n.replace('\"', '\"\"') + '\"'\n\
         for schema, table in tables('a'):\n    name = q(schema) + '.' + q(table)\n    for x, y in (('a', 'b'), ('b', 'a')):\n        \
         n = c.execute(f'SELECT count(*) FROM (FROM {{x}}.{{name}} EXCEPT ALL FROM {{y}}.{{name}})').fetchone()[0]\n        assert n == 0, (name, x, n)\n\
         print(len(tables('a')))",
        b.display()
    );
    run_python(version, a, &script).trim().parse().unwrap()
}

pub(crate) fn manifest(dozo: &Dozo, source: &str) -> Value {
    dozo.run(&["--json", "show", &format!("{source}@latest")]).exits(0).json()["manifest"].clone()
}

/// Runs the `sh` blocks of RESTORE.md, in order, in one shell. DuckDB's command line is that of Python's release.
fn run_restore_md(dozo: &Dozo, version: &str, source: &str, target: &Path) {
    let m = manifest(dozo, source);
    let text = fs::read_to_string(dozo.repository().join(m["restore-md"].as_str().unwrap())).unwrap();
    let blocks: Vec<&str> = text.split("```sh\n").skip(1).map(|b| b.split("\n```").next().unwrap()).collect();
    assert!(!blocks.is_empty());
    let bin = dozo.folder.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let shim = format!(
        "#!{}\nimport duckdb, sys, csv\noptions = [a for a in sys.argv[1:] if a.startswith('-')]\nfile, = [a for a in sys.argv[1:] if not a.startswith('-')]\n\
         assert '-bail' in options\nc = duckdb.connect(file, config={{'enable_external_access': True}})\nout = csv.writer(sys.stdout)\n\
         import os\n\
         text = sys.stdin.read().replace(\"getenv('REPO') || '\", \"'\" + os.environ['REPO'])\n\
         for s in duckdb.extract_statements(text):\n    r = c.execute(s)\n    if '-csv' in options: out.writerows(r.fetchall())\nc.close()\n",
        python(version).display()
    );
    let tool = bin.join("duckdb");
    fs::write(&tool, shim).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let out = Command::new("bash")
        .args(["-c", &blocks.join("\n")])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("REPO", dozo.repository())
        .env("TARGET", target)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}

#[test]
fn the_zoo_comes_back_in_every_form() {
    for version in VERSIONS {
        let dozo = lake(Place::Local, "data/*.duckdb", "");
        let data = dozo.folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let file = data.join("zoo.duckdb");
        let (made, failed) = zoo(version, &file);
        let tables = if version == "duckdb2" {
            assert_eq!(failed, 0);
            13
        } else {
            assert!(failed < made / 4, "{failed} of {made}");
            9
        };
        let mut prints = Vec::new();
        for (i, form) in FORMS.iter().enumerate() {
            let source = format!("lake{i}");
            let backup = dozo.run(&["--json", "backup", &source]).exits(0).json();
            assert_eq!((&backup["outcome"], backup["left-out"].as_array().unwrap().len()), (&Value::from("done"), 0));
            let latest = format!("{source}@latest");
            let checked = dozo.run(&["--json", "verify", &latest]).exits(0).json()[0].clone();
            assert_eq!((&checked["verdict"], &checked["rows"]), (&Value::from("passed"), &backup["rows"]), "{checked}");
            let out = dozo.folder.path().join(format!("out{i}"));
            let restored = dozo.run(&["--json", "restore", &latest, "--to", &out.display().to_string()]).exits(0).json();
            assert_eq!(restored["files"][0]["verdict"], "equal", "{form}");
            assert!(same_rows(version, &file, &out.join("data/zoo.duckdb")) >= tables, "{form}");
            if version == "duckdb2" && i > 0 {
                assert_eq!(fs::read(&file).unwrap(), fs::read(out.join("data/zoo.duckdb")).unwrap());
            }
            let m = manifest(&dozo, &source);
            let of = m["files"][0]["tables"].as_array().unwrap().iter();
            prints.push(of.map(|t| (t["name"].clone(), t["fingerprint"].clone())).collect::<Vec<_>>());
            assert!(prints[i].len() >= tables && prints[i] == prints[0], "{prints:?}");
            // Without dozo: all but rows that refer to their own table, which DuckDB does not insert in one statement.
            if *form != "parquet" {
                let by_hand = dozo.folder.path().join(format!("hand{i}"));
                run_restore_md(&dozo, version, &source, &by_hand);
                same_rows(version, &file, &by_hand.join("data/zoo.duckdb"));
            }
        }
        // Catalog and state: what the views, macros and sequences give.
        let asked = "c = duckdb.connect(path)\nprint(c.execute(\"SELECT (SELECT n FROM earlier), twice(1), nextval('ids'), (SELECT count(*) FROM staging.rows_of(3))\").fetchone(), \
                     c.execute(\"SELECT count(*) FROM duckdb_indexes()\").fetchone())";
        let found: Vec<String> =
            (0..3).map(|i| run_python(version, &dozo.folder.path().join(format!("out{i}/data/zoo.duckdb")), asked)).collect();
        assert!(found.iter().all(|f| f == &found[0]) && found[0].starts_with("(113329, 6, 27008, 3) (2,)"), "{found:?}");
    }
}

#[test]
fn instructions_for_people_restore_the_parquet_form() {
    let dozo = lake(Place::Local, "plain.duckdb", "");
    dozo.reconfigure(|t| t.replacen("format = \"parquet\"", "format = \"parquet\"\nexclude = [\"tree\"]", 1));
    let file = dozo.folder.path().join("plain.duckdb");
    assert_eq!(zoo("duckdb2", &file).1, 0);
    let backup = dozo.run(&["--json", "backup", "lake0"]).exits(0).json();
    assert_eq!(backup["left-out"][0]["name"], "tree");
    let out = dozo.folder.path().join("hand");
    run_restore_md(&dozo, "duckdb2", "lake0", &out);
    let again = dozo.folder.path().join("dozo");
    let _ = dozo.run(&["restore", "lake0@latest", "--to", &again.display().to_string()]).exits(0);
    // A file that is kept as a whole has no tables to leave out; files have no tokens of changes.
    dozo.reconfigure(|t| {
        t.replace("format = \"duckdb.zst\"", "format = \"duckdb.zst\"\nexclude = [\"tree\"]\nreuse-max-age = \"3d\"")
    });
    let refused = dozo.run(&["list"]).exits(2);
    assert!(
        refused.stderr.contains("source.lake1.format: include and exclude go with")
            && refused.stderr.contains("reuse-max-age: unknown key"),
        "{}",
        refused.stderr
    );
    assert_eq!(same_rows("duckdb2", &out.join("plain.duckdb"), &again.join("plain.duckdb")), 12);
}

#[test]
fn what_parquet_cannot_hold_is_refused_by_name() {
    let dozo = lake(Place::Local, "v.duckdb", "");
    let file = dozo.folder.path().join("v.duckdb");
    run_python(
        "duckdb2",
        &file,
        "c = duckdb.connect(path)\nc.execute('CREATE TABLE t(a VARIANT, b INTEGER)')\nc.execute(\"INSERT INTO t VALUES ({'x': 1}::VARIANT, 2)\")\nc.close()",
    );
    let refused = dozo.run(&["backup", "lake0"]).exits(2);
    assert!(refused.stderr.contains("main.t.a (VARIANT)") && refused.stderr.contains("duckdb.zst"), "{}", refused.stderr);
    assert!(!dozo.repository().join("backups/lake0").exists() || !has_manifest(&dozo, "lake0"));
    let _ = dozo.run(&["check", "lake0"]).exits(1);
    let _ = dozo.run(&["backup", "lake1"]).exits(0);
    let out = dozo.folder.path().join("out");
    let _ = dozo.run(&["restore", "lake1@latest", "--to", &out.display().to_string()]).exits(0);
    assert_eq!(same_rows("duckdb2", &file, &out.join("v.duckdb")), 1);
}

fn has_manifest(dozo: &Dozo, source: &str) -> bool {
    files(&dozo.repository().join("backups").join(source)).iter().any(|f| f.ends_with("manifest.json"))
}

/// A process that holds a file until it is told to end.
struct Holder(Child);

impl Holder {
    fn of(path: &Path) -> Self {
        let mut child = Command::new(python("duckdb2"))
            .args(["-c", "import duckdb, sys\nc = duckdb.connect(sys.argv[1])\nprint('held', flush=True)\nsys.stdin.read()"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "held");
        Self(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn a_file_that_somebody_holds_is_waited_for_and_its_holder_named() {
    let dozo = lake(Place::Local, "data/**/*.duckdb", "lock-timeout = \"300ms\"");
    let (one, two) = (dozo.folder.path().join("data/one.duckdb"), dozo.folder.path().join("data/deep/two.duckdb"));
    fs::create_dir_all(two.parent().unwrap()).unwrap();
    let make = "c = duckdb.connect(path)\nc.execute('CREATE TABLE t AS SELECT range i FROM range(1000)')\nc.close()";
    run_python("duckdb2", &one, make);
    let holder = Holder::of(&one);
    let held = dozo.run(&["backup", "lake0"]).exits(1);
    let pid = holder.0.id().to_string();
    assert!(held.stderr.contains(&format!("process {pid} (")) && held.stderr.contains("python"), "{}", held.stderr);
    assert!(held.stderr.contains("DOZO-E7001") && held.stderr.contains("lock-timeout"), "{}", held.stderr);
    // Of several, the others are backed up.
    run_python("venv", &two, make);
    for source in ["lake0", "lake1"] {
        let partial = dozo.run(&["--json", "backup", source]).exits(4);
        assert!(partial.stderr.contains("one.duckdb is held by process"), "{}", partial.stderr);
        let report = partial.json();
        assert_eq!((&report["outcome"], &report["rows"]), (&Value::from("partial"), &Value::from(1000)));
        assert_eq!(manifest(&dozo, source)["files"][0]["path"], "data/deep/two.duckdb");
    }
    // While it is waited for, it is given back.
    dozo.reconfigure(|text| text.replace("300ms", "60s"));
    let waiting = dozo.command(&["--json", "backup", "lake0"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    holder.end();
    let out = waiting.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(manifest(&dozo, "lake0")["files"].as_array().unwrap().len(), 2);
    let out = dozo.folder.path().join("out");
    let _ = dozo.run(&["restore", "lake0@latest", "--to", &out.display().to_string()]).exits(0);
    assert_eq!(same_rows("duckdb2", &two, &out.join("data/deep/two.duckdb")), 1);
    // What was written by an older DuckDB is read by it again.
    assert_eq!(same_rows("venv", &two, &out.join("data/deep/two.duckdb")), 1);
}

/// The writer: each commit moves an amount and notes in a book what the sum must be. Some commits stay in the WAL.
const WRITER: &str = "
import time
n = 0
while not os.path.exists(path + '.stop'):
    try: c = duckdb.connect(path)
    except duckdb.IOException: time.sleep(0.002); continue
    c.execute('CREATE TABLE IF NOT EXISTS rows(n INTEGER, amount INTEGER)')
    c.execute('CREATE TABLE IF NOT EXISTS book(commits INTEGER, total HUGEINT)')
    if n % 3: c.execute('PRAGMA disable_checkpoint_on_shutdown')
    c.execute('BEGIN')
    c.execute(f'INSERT INTO rows SELECT {n}, i FROM range({n} % 50 + 1) t(i)')
    c.execute(f'DELETE FROM rows WHERE n = {n} - 7')
    c.execute('DELETE FROM book')
    c.execute(f'INSERT INTO book SELECT {n} + 1, coalesce(sum(amount), 0) * 1000003 + count(*) FROM rows')
    c.execute('COMMIT')
    c.close()
    n += 1
    if n == 3: print('going', flush=True)
    time.sleep(0.01)
";

#[test]
fn every_backup_beside_a_writer_is_a_committed_state() {
    let dozo = lake(Place::Local, "busy.duckdb", "lock-timeout = \"60s\"\nshrink-max = \"100%\"");
    let file = dozo.folder.path().join("busy.duckdb");
    let mut writer = Command::new(python("duckdb2"))
        .args(["-c", &format!("import duckdb, sys, os\npath = sys.argv[1]\n{WRITER}")])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(writer.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let rounds = if nightly() { 50 } else { 12 };
    let mut seen = Vec::new();
    for round in 0..rounds {
        let source = format!("lake{}", round % 3);
        let _ = dozo.run(&["backup", &source]).exits(0);
        let out = dozo.folder.path().join(format!("out{round}"));
        let _ = dozo.run(&["restore", &format!("{source}@latest"), "--to", &out.display().to_string()]).exits(0);
        let judge = "c = duckdb.connect(path)\nbook = c.execute('SELECT commits, total FROM book').fetchall()\n\
                     total = c.execute('SELECT coalesce(sum(amount), 0) * 1000003 + count(*) FROM rows').fetchone()[0]\n\
                     assert len(book) == 1 and book[0][1] == total, (book, total)\nprint(book[0][0])";
        seen.push(run_python("duckdb2", &out.join("busy.duckdb"), judge).trim().parse::<u32>().unwrap());
    }
    fs::write(file.with_extension("duckdb.stop"), "").unwrap();
    assert!(writer.wait().unwrap().success());
    assert!(seen.is_sorted() && seen[0] >= 3 && seen[0] < seen[rounds - 1], "{seen:?}");
    println!("{rounds} backups beside a writer, commits {seen:?}");
}

#[test]
fn damage_in_any_object_is_found_and_never_restored() {
    let dozo = lake(Place::Local, "zoo.duckdb", "");
    assert_eq!(zoo("duckdb2", &dozo.folder.path().join("zoo.duckdb")).1, 0);
    for (source, named) in [("lake0", "main.gaps"), ("lake1", "zoo.duckdb"), ("lake2", "zoo.duckdb")] {
        let _ = dozo.run(&["backup", source]).exits(0);
        let latest = format!("{source}@latest");
        let objects: Vec<PathBuf> = files(&dozo.repository().join("data").join(source));
        let largest = objects.iter().max_by_key(|f| f.metadata().unwrap().len()).unwrap();
        let schema = files(&dozo.repository().join("backups").join(source))
            .into_iter()
            .filter(|f| f.extension().is_some_and(|e| e == "sql"));
        for (n, victim) in std::iter::once(largest.clone()).chain(schema).enumerate() {
            let whole = fs::read(&victim).unwrap();
            let mut bad = whole.clone();
            bad[whole.len() / 2] ^= 4;
            fs::write(&victim, &bad).unwrap();
            let found = dozo.run(&["--json", "verify", &latest]).exits(3).json();
            assert!(n > 0 || found.to_string().contains(named), "{found}");
            let out = dozo.folder.path().join(format!("out-{source}-{n}"));
            let refused = dozo.run(&["restore", &latest, "--to", &out.display().to_string()]).exits(3);
            assert!(refused.stderr.contains("DOZO-E6008") && files(&out).is_empty(), "{refused:?}");
            fs::write(&victim, &whole).unwrap();
        }
        let _ = dozo.run(&["verify", &latest]).exits(0);
    }
    // A value that was changed, with all digests made to fit: only the fingerprint tells.
    let m = manifest(&dozo, "lake0");
    let gaps = m["files"][0]["tables"].as_array().unwrap().iter().find(|t| t["name"] == "gaps").unwrap();
    let object = dozo.repository().join(gaps["parts"][0]["object"].as_str().unwrap());
    run_python(
        "duckdb2",
        &object,
        "new = path + '.new'\nduckdb.sql(f\"COPY (SELECT * REPLACE (CASE WHEN id = 5 THEN 6 ELSE seven END AS seven) FROM read_parquet('{path}')) TO '{new}' (FORMAT parquet)\")\nos.rename(new, path)",
    );
    reseal(&dozo, "lake0", &object);
    let found = dozo.run(&["--json", "verify", "lake0@latest"]).exits(3).json()[0].clone();
    let first = &found["findings"][0];
    assert_eq!(
        (&first["kind"], first["tables"][0].as_str().unwrap()),
        (&Value::from("content"), "zoo.duckdb:main.gaps"),
        "{found}"
    );
    let out = dozo.folder.path().join("forged");
    let _ = dozo.run(&["restore", "lake0@latest", "--to", &out.display().to_string()]).exits(3);
    assert!(files(&out).is_empty());
}

/// Makes a manifest say of an object what it is now.
pub(crate) fn reseal(dozo: &Dozo, source: &str, object: &Path) {
    let folder = dozo.repository().join("backups").join(source);
    let file = files(&folder).into_iter().find(|f| f.ends_with("manifest.json")).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let body = text.rsplit_once("sha256:").unwrap().0;
    let mut tree: Value = serde_json::from_str(body).unwrap();
    let bytes = fs::read(object).unwrap();
    for entry in tree["objects"].as_array_mut().unwrap() {
        if object.ends_with(entry["key"].as_str().unwrap()) {
            entry["bytes"] = bytes.len().into();
            entry["sha256"] = dozo_model::Sha256Digest::of(&bytes).to_string().into();
        }
    }
    let body = format!("{}\n", serde_json::to_string_pretty(&tree).unwrap());
    let digest = dozo_model::Sha256Digest::of(body.as_bytes());
    fs::write(&file, format!("{body}sha256:{digest}\n")).unwrap();
}

#[test]
fn files_with_a_wal_go_to_a_bucket_and_come_back() {
    let mut dozo = lake(Place::S3, "wal.duckdb", "");
    dozo.set("AWS_ACCESS_KEY_ID", S3Server::KEY);
    assert!(shared_s3().endpoint.starts_with("http"));
    let file = dozo.folder.path().join("wal.duckdb");
    run_python(
        "duckdb2",
        &file,
        "c = duckdb.connect(path)\nc.execute('CREATE TABLE t AS SELECT range i, range::VARCHAR s FROM range(200000)')\nc.execute('CHECKPOINT')\n\
         c.execute('INSERT INTO t VALUES (-1, NULL)')\nc.execute('CREATE TABLE late AS SELECT 1 AS x')\nos._exit(0)",
    );
    let wal = dozo.folder.path().join("wal.duckdb.wal");
    let before = (fs::read(&file).unwrap(), fs::read(&wal).unwrap());
    assert!(!before.1.is_empty());
    for i in 0..3 {
        let _ = dozo.run(&["backup", &format!("lake{i}")]).exits(0);
        let _ = dozo.run(&["verify", &format!("lake{i}@latest")]).exits(0);
        let out = dozo.folder.path().join(format!("out{i}"));
        let _ = dozo.run(&["restore", &format!("lake{i}@latest"), "--to", &out.display().to_string()]).exits(0);
        assert_eq!(same_rows("duckdb2", &file, &out.join("wal.duckdb")), 2);
        assert!(!out.join("wal.duckdb.wal").exists());
    }
    assert_eq!(before, (fs::read(&file).unwrap(), fs::read(&wal).unwrap()), "the source was written to");
}

#[test]
fn mistakes_are_told_with_a_next_step() {
    let dozo = lake(Place::Local, "data/*.duckdb", "");
    let told = |run: Run, code: i32, words: &[&str]| {
        let run = run.exits(code);
        assert!(words.iter().all(|w| run.stderr.contains(w)), "{}", run.stderr);
    };
    told(dozo.run(&["backup", "lake0"]), 1, &["no file matches", "data/*.duckdb"]);
    let data = dozo.folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let file = data.join("a.duckdb");
    fs::write(&file, "not a database, but long enough to look like one".repeat(500)).unwrap();
    told(dozo.run(&["backup", "lake0"]), 1, &["a.duckdb cannot be opened by DuckDB 2.0", "DOZO-E7002", "next:"]);
    fs::remove_file(&file).unwrap();
    run_python("duckdb2", &file, "c = duckdb.connect(path)\nc.execute('CREATE TABLE t AS SELECT 1 AS x')\nc.close()");
    let whole = fs::read(&file).unwrap();
    // A later release: its version stands in the header.
    let mut newer = whole.clone();
    newer[52..58].copy_from_slice(b"v9.9.9");
    newer[12..16].copy_from_slice(&9999u32.to_le_bytes());
    fs::write(&file, &newer).unwrap();
    told(dozo.run(&["backup", "lake1"]), 1, &["it was written by v9.9.9", "open it with the DuckDB that wrote it"]);
    fs::write(&file, &whole).unwrap();
    let _ = dozo.run(&["backup", "lake0"]).exits(0);
    let out = dozo.folder.path().join("out").display().to_string();
    let _ = dozo.run(&["restore", "lake0@latest", "--to", &out]).exits(0);
    told(dozo.run(&["restore", "lake0@latest", "--to", &out]), 1, &["data/a.duckdb", "DOZO-E6032"]);
    let _ = dozo.run(&["restore", "lake0@latest", "--to", &out, "--existing", "replace"]).exits(0);
    told(dozo.run(&["restore", "lake0@latest", "--to", &out, "--table", "t"]), 2, &["are for files", "next:"]);
    // A table that is gone makes the next backup suspect.
    run_python(
        "duckdb2",
        &file,
        "c = duckdb.connect(path)\nc.execute('DROP TABLE t')\nc.execute('CREATE TABLE u AS SELECT 1 AS x')\nc.close()",
    );
    told(dozo.run(&["backup", "lake0"]), 4, &["suspect", "main.t is gone"]);
    let status = dozo.run(&["--json", "list"]).exits(0).json();
    assert!(status.as_array().unwrap().iter().any(|l| l["state"] == "suspect"), "{status}");
}

/// What lies beside a place, or leads away from it, must not become part of what is restored.
#[test]
fn a_restore_minds_what_lies_in_its_way() {
    let dozo = lake(Place::Local, "data/*.duckdb", "");
    let data = dozo.folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let (file, link) = (data.join("real.db"), data.join("link.duckdb"));
    run_python("duckdb2", &file, "c = duckdb.connect(path)\nc.execute('CREATE TABLE t AS SELECT 1 AS i')\nc.close()");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    // Rows in the WAL of a file behind a link, and a second one, which is damaged.
    let add = "c = duckdb.connect(path)\nc.execute('INSERT INTO t VALUES (2)')\nos._exit(0)";
    run_python("duckdb2", &link, add);
    fs::write(data.join("broken.duckdb"), "x".repeat(9000)).unwrap();
    for i in 0..3 {
        let source = format!("lake{i}");
        let partial = dozo.run(&["--json", "backup", &source]).exits(4);
        assert!(partial.json()["rows"] == 2 && partial.stderr.contains("broken.duckdb"), "{partial:?}");
        let latest = format!("{source}@latest");
        let _ = dozo.run(&["verify", &latest]).exits(0);
        let target = dozo.folder.path().join(format!("out{i}"));
        let to = target.display().to_string();
        let place = target.join("data/link.duckdb");
        // A WAL of another file would be replayed over the restored one.
        fs::create_dir_all(target.join("data")).unwrap();
        fs::write(target.join("data/link.duckdb.wal"), "stale").unwrap();
        let _ = dozo.run(&["restore", &latest, "--to", &to]).exits(1);
        assert!(!place.exists());
        let _ = dozo.run(&["restore", &latest, "--to", &to, "--existing", "replace"]).exits(4);
        assert!(!target.join("data/link.duckdb.wal").exists());
        assert_eq!(same_rows("duckdb2", &link, &place), 1);
        // Nobody uses what is replaced.
        let holder = Holder::of(&place);
        let held = dozo.run(&["restore", &latest, "--to", &to, "--existing", "replace"]).exits(1);
        assert!(held.stderr.contains(&format!("process {}", holder.0.id())), "{}", held.stderr);
        holder.end();
        // Links that lead out of the folder, or nowhere.
        let (away, other) = (dozo.folder.path().join(format!("away{i}")), dozo.folder.path().join(format!("other{i}")));
        fs::create_dir_all(&away).unwrap();
        fs::create_dir_all(&other).unwrap();
        std::os::unix::fs::symlink(&away, other.join("data")).unwrap();
        let _ = dozo.run(&["restore", &latest, "--to", &other.display().to_string()]).exits(3);
        assert!(files(&away).is_empty());
        fs::remove_file(other.join("data")).unwrap();
        fs::create_dir(other.join("data")).unwrap();
        std::os::unix::fs::symlink(away.join("nowhere"), other.join("data/link.duckdb")).unwrap();
        let _ = dozo.run(&["restore", &latest, "--to", &other.display().to_string()]).exits(1);
    }
}

#[test]
fn copies_and_deletions_know_duckdb_files() {
    let dozo = lake(Place::Local, "a.duckdb", "");
    let far = format!("far-{}", fresh());
    dozo.reconfigure(|t| {
        t.replacen(
            "[source.",
            &format!("[[repository.replica]]\nname = \"far\"\nurl = \"file://{far}\"\nafter-backup = false\n[source."),
            1,
        )
    });
    run_python(
        "duckdb2",
        &dozo.folder.path().join("a.duckdb"),
        "c = duckdb.connect(path)\nc.execute('CREATE TABLE t AS SELECT range i FROM range(1000)')\nc.close()",
    );
    for i in 0..3 {
        let _ = dozo.run(&["backup", &format!("lake{i}")]).exits(0);
    }
    let _ = dozo.run(&["replicate", "--init"]).exits(0);
    fs::rename(dozo.repository(), dozo.folder.path().join("lost")).unwrap();
    for i in 0..3 {
        let latest = format!("lake{i}@latest");
        let _ = dozo.run(&["--replica", "far", "verify", &latest]).exits(0);
        let out = dozo.folder.path().join(format!("out{i}")).display().to_string();
        let _ = dozo.run(&["--replica", "far", "restore", &latest, "--to", &out]).exits(0);
    }
    fs::rename(dozo.folder.path().join("lost"), dozo.repository()).unwrap();
    let plan = dozo.run(&["gc", "plan"]).exits(0);
    assert!(!plan.stdout.contains("orphan"), "{}", plan.stdout);
}
