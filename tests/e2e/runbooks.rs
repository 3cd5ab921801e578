//! Every runbook is followed to the letter, in both languages, after the disaster that it is for.

use std::fs;
use std::process::Command;

use dozo_testkit::{Database, root, services, shared};

use crate::archive::with_jobs;
use crate::drill::{arena, left, with_drill};
use crate::harness::{Dozo, Place, fresh};

/// The commands of a runbook, in order.
fn commands(name: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/runbooks").join(name)).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let all: Vec<String> = blocks.flat_map(str::lines).map(str::to_owned).collect();
    assert!(all.len() >= 3, "{name} has {all:?}");
    all
}

/// Types a command, as somebody does who stands in the folder of the configuration.
fn typed(dozo: &Dozo, line: &str) -> (i32, String) {
    let like = dozo.command(&[]);
    let bin = dozo.folder.path().join("bin");
    let _ = fs::create_dir(&bin);
    let _ = std::os::unix::fs::symlink(like.get_program(), bin.join("dozo"));
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(dozo.folder.path()).env_clear();
    for (name, value) in like.get_envs().filter_map(|(n, v)| Some((n, v?))) {
        if name == "PATH" {
            shell.env(name, format!("{}:{}", bin.display(), value.to_string_lossy()));
        } else {
            shell.env(name, value);
        }
    }
    let out = shell.output().unwrap();
    (out.status.code().unwrap_or(-1), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// Follows a runbook, and returns what each command said.
fn followed(dozo: &Dozo, name: &str) -> Vec<String> {
    let lines = commands(name);
    let follow = |line: &String| {
        let (code, said) = typed(dozo, line);
        assert_eq!(code, 0, "{name}: {line}\n{said}");
        said
    };
    lines.iter().map(follow).collect()
}

/// `shop`, a DuckDB file, a project and an archive, backed up; and the row counts before anything happened.
fn house() -> (Dozo, Database<'static>) {
    let shop = shared(15).shop("0.02");
    let more = format!(
        "[source.lake]\nkind = \"duckdb\"\npath = \"data/*.duckdb\"\n[source.project]\nkind = \"files\"\nroot = \"{}\"",
        root().join("fixtures/project").display()
    );
    let mut dozo = Dozo::with_url(&shop.url(), shop.cluster, Place::Local, &more);
    dozo.set("NEW_URL", &shop.cluster.url("postgres", &format!("rebuilt_{}", fresh())));
    fs::create_dir(dozo.folder.path().join("data")).unwrap();
    let made = Command::new(services().join("duckdb"))
        .arg(dozo.folder.path().join("data/lake.duckdb"))
        .args(["-c", "CREATE TABLE t AS SELECT range AS i FROM range(1000)"])
        .output()
        .unwrap();
    assert!(made.status.success());
    with_jobs(&dozo, &[("orders", "ordered_at")], "then = \"drop\"\nquarantine = \"0\"");
    let _ = dozo.run(&["backup", "--all"]).exits(0);
    (dozo, shop)
}

fn each(name: &str, check: impl Fn(&Dozo, &Database<'_>, &[String])) {
    assert_eq!(commands(name), commands(&format!("ja/{name}")), "both languages say the same");
    for file in [name.to_owned(), format!("ja/{name}")] {
        let (dozo, shop) = house();
        // The disaster.
        match name {
            "lost-table.md" => drop(shop.psql("DROP TABLE orders CASCADE")),
            "lost-rows.md" => drop(shop.psql(
                "SET session_replication_role = replica; DELETE FROM orders WHERE id % 2 = 0; UPDATE orders SET note = 'oops'",
            )),
            "lost-duckdb-file.md" => fs::write(dozo.folder.path().join("data/lake.duckdb"), "gone").unwrap(),
            "archive-brought-back.md" => {
                // What refers to old orders keeps them, otherwise.
                shop.psql(
                    "DO $$ DECLARE c record; BEGIN FOR c IN SELECT conname, conrelid::regclass t FROM pg_constraint
                         WHERE confrelid = 'orders'::regclass AND conparentid = 0
                     LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); END LOOP; END $$",
                );
                let run = dozo.run(&["--now", "2024-02-15T03:00:00Z", "archive", "apply"]);
                assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
                assert_eq!(shop.psql("SELECT to_regclass('orders_2023_01') IS NULL"), "t");
            }
            _ => {}
        }
        let said = followed(&dozo, &file);
        check(&dozo, &shop, &said);
    }
}

#[test]
fn a_lost_table() {
    each("lost-table.md", |_, shop, said| {
        assert!(said[3].contains("tables equal the manifest"), "{said:?}");
        assert_eq!(shop.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders'::regclass"), "37");
    });
}

#[test]
fn lost_rows() {
    each("lost-rows.md", |_, shop, said| {
        assert!(said[0].contains("differ"), "{said:?}");
        assert_eq!(shop.psql("SELECT count(*) FROM orders WHERE note = 'oops'"), "0");
        assert_eq!(shop.psql("SELECT to_regclass('orders_restored') IS NULL"), "t");
    });
}

#[test]
fn a_lost_database() {
    each("lost-database.md", |_, _, said| assert!(said[1].contains("tables equal the manifest"), "{said:?}"));
}

#[test]
fn a_lost_host() {
    each("lost-host.md", |dozo, _, said| {
        assert!(said[2].contains("every sha256 as in the list"), "{said:?}");
        assert!(dozo.folder.path().join("restored/dbt_project.yml").exists());
    });
}

#[test]
fn a_lost_duckdb_file() {
    each("lost-duckdb-file.md", |dozo, _, said| {
        assert!(said[2].contains("tables equal the manifest"), "{said:?}");
        let read = |file: &str| fs::read(dozo.folder.path().join(file)).unwrap().len();
        assert!(read("data/lake.duckdb") > 1000);
    });
}

#[test]
fn an_archive_brought_back() {
    each("archive-brought-back.md", |_, shop, said| {
        assert!(said[4].lines().any(|l| l.contains("orders_2023_01") && l.contains("live")), "{}", said[4]);
        assert_eq!(shop.psql("SELECT count(*) > 0 FROM orders_2023_01"), "t");
    });
}

#[test]
fn drills_by_the_book() {
    let (dozo, _shop) = house();
    let arena = arena();
    with_drill(&dozo, "all", arena.path(), "sources = [\"shop\", \"lake\", \"project\"]\nrunbook = \"dozo.toml\"");
    let said = followed(&dozo, "drills.md");
    assert!(said[1].contains("passed"), "{said:?}");
    assert!(fs::read_to_string(dozo.folder.path().join("report.html")).unwrap().contains("<svg"));
    assert_eq!(left(arena.path()), Vec::<String>::new());
}
