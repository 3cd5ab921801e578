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
    assert!(again.stderr.contains("DOZO-E2124"), "{}", again.stderr);

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

/// Counter-examples: each would lose or change rows that nobody asked about. Refused or left alone, the rows stay.
#[test]
fn rows_that_nobody_asked_about_stay() {
    let cluster = shared(15);
    let case = |setup: &str, exclude: &str, then: &str, args: &[&str], code: i32, said: &str, check: &str, expected: &str| {
        let database = cluster.database("bystander");
        database.psql(setup);
        let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, exclude);
        let _ = dozo.backup();
        database.psql(then);
        let run = dozo.run(&[&["restore", "shop@latest", "--to", "shop"], args].concat());
        assert_eq!(run.code, code, "{setup}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains(said), "{setup}: {}", run.stderr);
        assert_eq!(database.psql(check), expected, "{setup}");
        assert_eq!(database.psql("SELECT to_regnamespace('dozo') IS NULL"), "t", "{setup}: something is left behind");
    };
    let replace = |table| vec!["--table", table, "--existing", "replace"];
    let cascades = "DOZO-E2123";
    // Children of inheritance are no rows of their parent.
    case(
        "CREATE TABLE par (id int PRIMARY KEY, t text); INSERT INTO par VALUES (1, 'a'), (2, 'b'); CREATE TABLE chi (x int) INHERITS (par); INSERT INTO chi VALUES (1, 'child', 1)",
        "",
        "UPDATE ONLY par SET t = 'zz' WHERE id = 1",
        &replace("par"),
        0,
        "",
        "SELECT string_agg(id || t, ',' ORDER BY t) FROM par",
        "1a,2b,1child",
    );
    // A partition that the backup does not hold.
    case(
        "CREATE TABLE tree (id int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF tree FOR VALUES FROM (10) TO (20); INSERT INTO tree VALUES (1), (11)",
        "exclude = [\"t2\"]",
        "",
        &replace("tree"),
        2,
        "its partition public.t2 is not in the backup",
        "SELECT count(*) FROM t2",
        "1",
    );
    // Foreign keys to the root of a partition, and to a partition of a root.
    case(
        "CREATE TABLE tree (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree FOR VALUES FROM (0) TO (100); CREATE TABLE chi (p int REFERENCES tree ON DELETE CASCADE); INSERT INTO tree VALUES (1)",
        "",
        "INSERT INTO tree VALUES (50); INSERT INTO chi VALUES (50)",
        &replace("t1"),
        1,
        cascades,
        "SELECT count(*) FROM chi",
        "1",
    );
    case(
        "CREATE TABLE tree (id int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (100); CREATE TABLE chi (p int REFERENCES t1 ON DELETE SET NULL); INSERT INTO tree VALUES (1)",
        "",
        "INSERT INTO tree VALUES (50); INSERT INTO chi VALUES (50)",
        &replace("tree"),
        1,
        cascades,
        "SELECT count(p) FROM chi",
        "1",
    );
    // A changed key that others refer to.
    case(
        "CREATE TABLE par (id int PRIMARY KEY, code text UNIQUE); CREATE TABLE chi (code text REFERENCES par (code) ON UPDATE SET NULL); INSERT INTO par VALUES (1, 'A')",
        "",
        "UPDATE par SET code = 'B'; INSERT INTO chi VALUES ('B')",
        &replace("par"),
        1,
        cascades,
        "SELECT code FROM chi",
        "B",
    );
    // Tables that are restored together, and what hangs on them.
    case(
        "CREATE TABLE par (id int PRIMARY KEY); CREATE TABLE chi (id int PRIMARY KEY, par int REFERENCES par ON DELETE CASCADE); CREATE TABLE gra (id int REFERENCES chi ON DELETE CASCADE); INSERT INTO par VALUES (1); INSERT INTO chi VALUES (1, 1); INSERT INTO gra VALUES (1)",
        "",
        "INSERT INTO par VALUES (999); UPDATE chi SET par = 999",
        &["--table", "par", "--table", "chi", "--existing", "replace"],
        1,
        cascades,
        "SELECT count(*) FROM gra",
        "1",
    );
    case(
        "CREATE TABLE par (id int PRIMARY KEY, g int); CREATE TABLE chi (id int PRIMARY KEY, par int REFERENCES par ON DELETE CASCADE, g int); INSERT INTO par VALUES (1, 1); INSERT INTO chi VALUES (1, 1, 1)",
        "",
        "INSERT INTO par VALUES (999, 1); INSERT INTO chi VALUES (5, 999, 2)",
        &["--table", "par", "--table", "chi", "--where", "g = 1", "--existing", "replace"],
        1,
        cascades,
        "SELECT count(*) FROM chi",
        "2",
    );
    case(
        "CREATE TABLE a (id int PRIMARY KEY, up int REFERENCES a ON DELETE CASCADE, g int); INSERT INTO a VALUES (1, NULL, 1)",
        "",
        "INSERT INTO a VALUES (5, NULL, 1), (6, 5, 2)",
        &["--table", "a", "--where", "g = 1", "--existing", "replace"],
        1,
        cascades,
        "SELECT count(*) FROM a",
        "3",
    );
    case(
        "CREATE TABLE a (id int PRIMARY KEY, up int REFERENCES a ON DELETE CASCADE); INSERT INTO a VALUES (1, NULL)",
        "",
        "INSERT INTO a VALUES (5, NULL), (6, 5)",
        &replace("a"),
        0,
        "",
        "SELECT count(*) FROM a",
        "1",
    );
    // Rules act on other tables.
    case(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int); INSERT INTO t VALUES (1, 1); INSERT INTO other VALUES (1); CREATE RULE r AS ON UPDATE TO t DO ALSO DELETE FROM other",
        "",
        "ALTER TABLE t DISABLE RULE r; UPDATE t SET v = 2; ALTER TABLE t ENABLE RULE r",
        &replace("t"),
        1,
        "its rule r would act on the rows",
        "SELECT count(*) FROM other",
        "1",
    );
    // A table that was never analyzed is not empty.
    case(
        "CREATE TABLE k (a int) WITH (autovacuum_enabled = off); INSERT INTO k VALUES (1), (2)",
        "",
        "",
        &["--table", "k", "--data-only"],
        1,
        "DOZO-E2124",
        "SELECT count(*) FROM k",
        "2",
    );
    // Triggers of partitions keep their own state and stay silent.
    case("CREATE TABLE said (n int); CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.said VALUES (1); RETURN NULL; END $$;
          CREATE TABLE tree (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree FOR VALUES FROM (0) TO (10); CREATE TABLE t2 PARTITION OF tree FOR VALUES FROM (10) TO (20);
          CREATE TRIGGER tg AFTER INSERT OR UPDATE OR DELETE ON tree FOR EACH ROW EXECUTE FUNCTION say(); ALTER TABLE t1 DISABLE TRIGGER tg; INSERT INTO tree VALUES (1, 1), (11, 1); TRUNCATE said",
        "", "UPDATE tree SET v = 2; TRUNCATE said", &replace("tree"), 0, "", "SELECT (SELECT count(*) FROM said), (SELECT string_agg(tgenabled, '' ORDER BY tgrelid::regclass::text) FROM pg_trigger WHERE tgname = 'tg')", "0|DOO");
    case("CREATE TABLE said (n int); CREATE FUNCTION say() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.said VALUES (1); RETURN NULL; END $$;
          CREATE TABLE tree (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree FOR VALUES FROM (0) TO (10); CREATE TRIGGER tg AFTER UPDATE ON tree FOR EACH ROW EXECUTE FUNCTION say(); INSERT INTO tree VALUES (1, 1)",
        "", "UPDATE tree SET v = 2; TRUNCATE said", &replace("t1"), 0, "", "SELECT (SELECT count(*) FROM said), (SELECT v FROM tree)", "0|1");
    // Deferred keys and triggers together.
    case(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p DEFERRABLE INITIALLY DEFERRED); CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; CREATE TRIGGER tg AFTER INSERT ON c FOR EACH ROW EXECUTE FUNCTION nothing(); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1)",
        "",
        "DELETE FROM c",
        &["--table", "p", "--table", "c", "--existing", "replace"],
        0,
        "",
        "SELECT count(*) FROM c",
        "1",
    );
    // A predicate on a column that has changed.
    case(
        "CREATE TABLE t (id int PRIMARY KEY, s text); INSERT INTO t VALUES (1, 'a'), (2, 'b')",
        "",
        "UPDATE t SET s = 'b' WHERE id = 1",
        &["--table", "t", "--where", "s = 'b'", "--existing", "replace"],
        0,
        "",
        "SELECT string_agg(id || s, ',' ORDER BY id) FROM t",
        "1a,2b",
    );
    // A wrong predicate leaves no new table; a right one, of a partition by itself, joins its tree.
    case(
        "CREATE TABLE t (id int); INSERT INTO t VALUES (1)",
        "",
        "",
        &["--table", "t", "--as", "t2", "--where", "nosuch = 1"],
        1,
        "nosuch",
        "SELECT to_regclass('t2') IS NULL",
        "t",
    );
    case(
        "CREATE TABLE tree (id int) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF tree FOR VALUES FROM (0) TO (10); INSERT INTO tree VALUES (1), (2)",
        "",
        "DROP TABLE t1",
        &["--table", "t1", "--where", "id = 2"],
        0,
        "",
        "SELECT string_agg(id::text, ',') FROM tree",
        "2",
    );
    // A name with a point is a name.
    case(
        "CREATE TABLE \"a.b\" (id int); INSERT INTO \"a.b\" VALUES (1)",
        "",
        "",
        &["--table", "public.a.b", "--beside"],
        0,
        "",
        "SELECT count(*) FROM \"a.b_restored\"",
        "1",
    );
}

/// A server that crashes after the side tables were loaded empties them: the restore begins anew instead of being stuck.
#[test]
fn a_crash_of_the_server_between_loading_and_exchange() {
    let cluster = dozo_testkit::Cluster::start(15, &dozo_testkit::ClusterOptions { durable: true, ..Default::default() });
    let database = cluster.database("crashed");
    database.psql(
        "CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
    );
    let dozo = Dozo::with_url(&database.url(), &cluster, Place::Local, "");
    let _ = dozo.backup();
    database.psql("UPDATE a SET t = 'x'; CHECKPOINT");
    // A session that holds the table keeps the exchange waiting while the server is killed.
    let mut blocker = crate::protocol::Psql::new(&database);
    blocker.say("BEGIN; UPDATE a SET t = 'y' WHERE id = 1;");
    let running =
        dozo.command(&["restore", "shop@latest", "--to", "shop", "--table", "a", "--existing", "replace"]).spawn().unwrap();
    crate::protocol::until("the exchange", || {
        database
            .psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dozo restore' AND wait_event_type = 'Lock'")
            != "0"
    });
    cluster.stop(rustix::process::Signal::QUIT);
    let out = running.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    cluster.run();
    let args = ["restore", "shop@latest", "--to", "shop", "--table", "a", "--existing", "replace"];
    let _ = dozo.run(&args).exits(0);
    assert_eq!(database.psql("SELECT count(*) FROM a WHERE t = md5(id::text)"), "20000");
}
