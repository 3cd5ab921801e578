//! Rows into tables that are there: appended, replaced under readers, filtered, beside; partitions into their tree.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dozo_testkit::{Database, services, shared};

use crate::harness::{Dozo, Place, fingerprints};

/// A database in which everything hangs on everything: keys, a view, triggers, identities, generated columns, a tree.
fn connected<'a>(cluster: &'a dozo_testkit::Cluster, name: &str) -> Database<'a> {
    let database = cluster.database(name);
    database.psql(
        "CREATE TABLE parents (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n numeric, t text, twice numeric GENERATED ALWAYS AS (n * 2) STORED);
         INSERT INTO parents (n, t) SELECT i, 'row ' || i FROM generate_series(1, 500) i;
         CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents);
         INSERT INTO children SELECT i, i FROM generate_series(1, 100) i;
         CREATE TABLE pets (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE);
         INSERT INTO pets VALUES (1, 500);
         CREATE VIEW seen AS SELECT * FROM parents;
         CREATE TABLE said (what text);
         CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.said VALUES (TG_OP); RETURN NEW; END $$;
         CREATE TRIGGER loud AFTER INSERT OR UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION shout();
         ALTER TABLE parents ENABLE ALWAYS TRIGGER loud;
         CREATE TABLE keyless (a int, b text); INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL);
         CREATE TABLE tree (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
         CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         CREATE INDEX ON tree (day);
         INSERT INTO tree SELECT i, date '2026-01-01' + i % 59 FROM generate_series(1, 300) i",
    );
    database
}

#[test]
fn replaced_appended_and_filtered() {
    let cluster = shared(15);
    let database = connected(cluster, "into");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let before = fingerprints(&dozo, cluster, &database.name);
    let restore = |args: &[&str]| dozo.run(&[&["restore", "shop@latest", "--to", "shop"], args].concat());

    // Damage: changed, gone, doubled rows. Replaced, everything is as it was, and nobody's trigger spoke.
    database.psql("UPDATE parents SET n = 1.0 WHERE id = 1; UPDATE parents SET t = 'changed' WHERE id BETWEEN 50 AND 60; DELETE FROM parents WHERE id BETWEEN 200 AND 210; INSERT INTO parents (n, t) VALUES (0, 'extra'); INSERT INTO keyless VALUES (1, 'x'), (3, 'y'); DELETE FROM tree WHERE day = '2026-01-05'; TRUNCATE said");
    let run = restore(&["--table", "parents", "--table", "keyless", "--table", "tree", "--existing", "replace"]).exits(0);
    assert!(run.stdout.contains("public.parents: 11 inserted, 12 updated, 1 deleted"), "{}", run.stdout);
    assert_eq!(database.psql("SELECT count(*) FROM said"), "0");
    assert_eq!(fingerprints(&dozo, cluster, &database.name)[0..2], before[0..2]);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
    assert_eq!(database.psql("SELECT count(*) FROM seen"), "500");
    database.psql("INSERT INTO parents (n, t) VALUES (1, 'new')");
    assert_eq!(database.psql("SELECT string_agg(what, ',') FROM said"), "INSERT", "the trigger is on again, always");
    assert_eq!(database.psql("SELECT tgenabled FROM pg_trigger WHERE tgname = 'loud'"), "A");
    assert_eq!(database.psql("SELECT to_regnamespace('dozo') IS NULL"), "t", "nothing is left behind");
    database.psql("DELETE FROM parents WHERE t = 'new'; TRUNCATE said");

    // Some rows only.
    database.psql("UPDATE parents SET t = 'a' WHERE id IN (10, 20); TRUNCATE said");
    let run = restore(&["--table", "parents", "--where", "id BETWEEN 5 AND 15 -- not 20", "--existing", "replace"]).exits(0);
    assert!(run.stdout.contains("0 inserted, 1 updated, 0 deleted"), "{}", run.stdout);
    assert_eq!(database.psql("SELECT string_agg(t, ',' ORDER BY id) FROM parents WHERE id IN (10, 20)"), "row 10,a");
    database.psql("DELETE FROM tree WHERE id <= 20");
    let _ = restore(&["--table", "tree", "--where", "id <= 20", "--existing", "append"]).exits(0);
    let _ = restore(&["--table", "parents", "--where", "id = 20", "--existing", "replace"]).exits(0);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
    // A part of a table under another name: definitions and some rows.
    let _ = restore(&["--table", "parents", "--as", "few", "--where", "t LIKE 'row 1%'"]).exits(0);
    assert_eq!(database.psql("SELECT count(*), count(twice) FROM few"), "111|111");
    database.psql("DROP TABLE few");

    // What must not happen: rows twice, a cascade into another table, a predicate that is none.
    let run = restore(&["--table", "parents", "--existing", "append"]).exits(1);
    assert!(run.stderr.contains("already exists") && run.stderr.contains("parents"), "{}", run.stderr);
    let run = restore(&["--table", "parents", "--where", "nosuch = 1", "--existing", "replace"]).exits(1);
    assert!(run.stderr.contains("nosuch"), "{}", run.stderr);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
    assert_eq!(database.psql("SELECT to_regnamespace('dozo') IS NULL"), "t", "nothing is left behind");
    database.psql(
        "INSERT INTO parents (n, t) VALUES (7, 'cascading'); INSERT INTO pets SELECT 2, max(id) FROM parents; TRUNCATE said",
    );
    let run = restore(&["--table", "parents", "--existing", "replace"]).exits(1);
    assert!(run.stderr.contains("DOZO-E2123") && run.stderr.contains("pets"), "{}", run.stderr);
    assert_eq!(database.psql("SELECT count(*) FROM pets"), "2");
    let _ = restore(&["--table", "parents", "--table", "pets", "--existing", "replace"]).exits(0);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
    // Other columns than the backup's.
    database.psql("ALTER TABLE keyless ADD c int");
    let run = restore(&["--table", "keyless", "--existing", "append"]).exits(1);
    assert!(run.stderr.contains("DOZO-E6020") && run.stderr.contains("c integer is not in the backup"), "{}", run.stderr);
}

/// While a table is replaced, sessions of every kind read it: each sees all old or all new rows.
#[test]
fn no_reader_sees_an_empty_or_half_table() {
    let cluster = shared(15);
    let database = cluster.database("readers");
    database.psql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 1 FROM generate_series(1, 20000) i; CREATE VIEW w AS SELECT * FROM t");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    database.psql("UPDATE t SET v = 2");
    let stop = AtomicBool::new(false);
    let psql = |sql: String| {
        let out = Command::new(services().join(format!("pg{}/bin/psql", cluster.major)))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &database.url(), "-c", &sql])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let count = "SELECT count(*), min(v), max(v) FROM";
    thread::scope(|scope| {
        // One snapshot, looked at for the first time after the exchange.
        let old = scope
            .spawn(|| psql(format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT pg_sleep(4); {count} t; COMMIT")));
        let readers: Vec<_> = ["t", "w"]
            .into_iter()
            .map(|name| {
                scope.spawn({
                    let (stop, psql) = (&stop, &psql);
                    move || {
                        let mut seen = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            seen.extend(psql(format!("{count} {name};").repeat(20)).lines().map(str::to_owned));
                        }
                        seen
                    }
                })
            })
            .collect();
        thread::sleep(std::time::Duration::from_millis(700));
        let swapped = dozo.run(&["restore", "shop@latest", "--table", "t", "--swap", "--to", "shop"]);
        thread::sleep(std::time::Duration::from_millis(300));
        // Whatever came of it, the readers end.
        stop.store(true, Ordering::Relaxed);
        let swapped = swapped.exits(0);
        assert!(swapped.stderr.contains("the replaced rows of public.t are kept in public.t_before_"), "{}", swapped.stderr);
        for reader in readers {
            let seen = reader.join().unwrap();
            assert!(seen.iter().all(|row| row == "20000|2|2" || row == "20000|1|1"), "{seen:?}");
            assert!(seen.contains(&"20000|2|2".to_owned()) && seen.contains(&"20000|1|1".to_owned()), "both sides were seen");
        }
        let old = old.join().unwrap();
        assert!(old.lines().any(|l| l == "20000|2|2"), "{old}");
    });
    let kept = database.psql("SELECT relname FROM pg_class WHERE relname LIKE 't_before_%'");
    assert_eq!(database.psql(&format!("SELECT count(*), min(v) FROM {kept}")), "20000|2");
}

/// A partition that was dropped comes back into its tree by itself; one that is there is replaced in place.
#[test]
fn single_partitions_into_their_tree() {
    let cluster = shared(15);
    let database = connected(cluster, "leaves");
    let dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let before = fingerprints(&dozo, cluster, &database.name);
    let restore = |args: &[&str]| dozo.run(&[&["restore", "shop@latest", "--to", "shop"], args].concat());
    database.psql("DROP TABLE tree_2");
    let _ = restore(&["--table", "tree_2"]).exits(0);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
    assert_eq!(database.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'tree'::regclass"), "2");
    assert_eq!(
        database
            .psql("SELECT bool_and(indisvalid), count(*) FROM pg_index WHERE indrelid IN ('tree'::regclass, 'tree_2'::regclass)"),
        "t|4"
    );
    database.psql("DELETE FROM tree_1; INSERT INTO tree VALUES (9999, '2026-01-15')");
    let run = restore(&["--table", "tree_1", "--existing", "replace"]).exits(0);
    assert!(run.stdout.contains("public.tree_1: ") && run.stdout.contains("1 deleted"), "{}", run.stdout);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), before);
}

/// Definitions without rows, then rows without definitions, in another database; a plan before; and beside the live table.
#[test]
fn definitions_rows_plans_and_beside() {
    let cluster = shared(17);
    let database = connected(cluster, "halves");
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let target = format!("halves_copy_{}", crate::harness::fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let _ = dozo.run(&["restore", "shop@latest", "--schema-only", "--to", "env:COPY_URL", "--create-db"]).exits(0);
    assert_eq!(
        cluster.psql(
            &target,
            "SELECT (SELECT count(*) FROM parents), (SELECT count(*) FROM seen), to_regclass('tree_1') IS NOT NULL"
        ),
        "0|0|t"
    );
    let plan = dozo.run(&["--json", "restore", "shop@latest", "--data-only", "--plan", "--to", "env:COPY_URL"]).exits(0).json();
    assert_eq!((&plan["rows"], plan["tables"].as_array().unwrap().len()), (&904.into(), 6));
    assert!(plan["tables"].as_array().unwrap().iter().all(|t| t["action"] == "append"), "{plan}");
    let _ = dozo.run(&["restore", "shop@latest", "--data-only", "--to", "env:COPY_URL"]).exits(0);
    assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &target));
    assert_eq!(cluster.psql(&target, "INSERT INTO parents (n, t) VALUES (1, 'next') RETURNING id"), "501", "sequences go on");
    let again = dozo.run(&["restore", "shop@latest", "--data-only", "--to", "env:COPY_URL"]).exits(1);
    assert!(again.stderr.contains("DOZO-E6004"), "{}", again.stderr);

    let plan = dozo.run(&["restore", "shop@latest", "--table", "parents", "--plan", "--to", "shop"]).exits(1);
    assert!(
        plan.stdout.contains("refuse public.parents: 500 rows, about")
            && plan.stdout.contains("in the way: public.parents exists"),
        "{}",
        plan.stdout
    );
    database.psql("UPDATE parents SET t = 'changed' WHERE id = 7; DELETE FROM parents WHERE id = 300");
    let run = dozo.run(&["restore", "shop@latest", "--table", "parents", "--beside", "--to", "shop"]).exits(0);
    assert!(run.stderr.contains("changed: (7)") && run.stderr.contains("only in the second: (300)"), "{}", run.stderr);
    assert_eq!(database.psql("SELECT count(*) FROM parents_restored"), "500");
    for (args, words) in [
        (&["--where", "true"][..], "--where needs --table"),
        (&["--table", "parents", "--beside", "--as", "x"], "--beside goes with --table"),
        (&["--existing", "replace"], "need --table or --schema"),
        (&["--table", "parents", "--schema-only", "--existing", "append"], "--schema-only restores none"),
    ] {
        let run = dozo.run(&[&["restore", "shop@latest", "--to", "shop"], args].concat()).exits(2);
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
}
