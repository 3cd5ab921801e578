//! A bad night never looks like a good one: losses, what cannot be read, and what cron hears of it.

use dozo_testkit::shared;
use serde_json::Value;

use crate::harness::{Dozo, Place};

fn state(dozo: &Dozo) -> (Value, Value, Value) {
    let shown = dozo.run(&["--json", "show", "shop@latest"]).exits(0).json();
    let status = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
    (shown["state"].clone(), shown["good"].clone(), status[0]["newest-good"]["id"].clone())
}

/// An emptied, a halved and a dropped table make a backup suspect; it is committed, exits 4, says which table, and is never
/// counted as good, until somebody accepts it.
#[test]
fn losses_make_a_backup_suspect_until_it_is_accepted() {
    let cluster = shared(15);
    for (change, said) in [
        ("DELETE FROM a", "public.a is empty (it had 1,000 rows)"),
        ("DELETE FROM a WHERE i <= 500", "public.a has 500 rows instead of 1,000"),
        ("DROP TABLE a", "public.a is gone (it had 1,000 rows)"),
        ("DROP TABLE tree", "public.tree is gone (it had 40 rows)"),
        ("DELETE FROM tree WHERE i < 25", "public.tree has 15 rows instead of 40"),
    ] {
        let database = cluster.database("losses");
        database.psql(
            "CREATE TABLE a AS SELECT i FROM generate_series(1, 1000) i;
             CREATE TABLE tree (i int) PARTITION BY RANGE (i);
             CREATE TABLE tree1 PARTITION OF tree FOR VALUES FROM (0) TO (20);
             CREATE TABLE tree2 PARTITION OF tree FOR VALUES FROM (20) TO (60);
             INSERT INTO tree SELECT generate_series(0, 39)",
        );
        let dozo = Dozo::new(&database, Place::Local);
        let good = dozo.backup();
        database.psql(change);
        let run = dozo.run(&["--quiet", "backup", "shop"]).exits(4);
        assert_eq!(run.stdout, "");
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        assert!(run.stderr.contains("is suspect: ") && run.stderr.contains(said), "{}", run.stderr);
        assert_eq!(state(&dozo), ("suspect".into(), false.into(), good.as_str().into()));
        // The next night compares with the last good one, so it is still told.
        let again = dozo.run(&["--json", "backup", "shop"]).exits(4).json();
        assert_eq!(again["outcome"], "suspect");
        let accepted = dozo.run(&["accept", "shop@latest", "--reason", "cleaned up"]).exits(0);
        assert!(accepted.stdout.contains("it is good now") && accepted.stdout.contains(said), "{}", accepted.stdout);
        assert_eq!(state(&dozo), ("complete".into(), true.into(), again["id"].clone()));
        let shown = dozo.run(&["show", "shop@latest"]).exits(0).stdout;
        assert!(shown.contains("accepted    by tester") && shown.contains("cleaned up"), "{shown}");
        let calm = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
        assert_eq!(calm["outcome"], "done");
        // A backup that needs no acceptance is told apart.
        let run = dozo.run(&["accept", "shop@latest"]).exits(1);
        assert!(run.stderr.contains("DOZO-E6017"), "{}", run.stderr);
    }
}

/// What shrinks by less, one month of a tree, an excluded table and a table that may shrink raise no alarm.
#[test]
fn what_is_meant_is_no_loss() {
    let cluster = shared(15);
    let database = cluster.database("calm");
    database.psql(
        "CREATE TABLE a AS SELECT i FROM generate_series(1, 1000) i; CREATE TABLE jobs AS SELECT 1 i; CREATE TABLE out AS SELECT 1 i;
         CREATE TABLE tree (i int) PARTITION BY RANGE (i);
         CREATE TABLE tree1 PARTITION OF tree FOR VALUES FROM (0) TO (10);
         CREATE TABLE tree2 PARTITION OF tree FOR VALUES FROM (10) TO (60);
         CREATE TABLE tree3 PARTITION OF tree FOR VALUES FROM (60) TO (100);
         INSERT INTO tree SELECT generate_series(0, 99)",
    );
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "shrink-ignore = [\"jobs\"]");
    let _ = dozo.backup();
    database.psql("DELETE FROM a WHERE i <= 499; DELETE FROM jobs; DROP TABLE tree1; ALTER TABLE tree DETACH PARTITION tree2");
    let config = std::fs::read_to_string(dozo.folder.path().join("dozo.toml")).unwrap();
    std::fs::write(dozo.folder.path().join("dozo.toml"), format!("{config}exclude = [\"out\"]\n")).unwrap();
    let _ = dozo.backup();
}

/// A table without permission makes the backup partial, which nobody can accept.
#[test]
fn a_table_without_permission_is_partial_for_ever() {
    let cluster = shared(15);
    let database = cluster.database("denied");
    let role = format!("reader_{}", crate::harness::fresh());
    database.psql(&format!(
        "CREATE TABLE a AS SELECT 1 i; CREATE TABLE b AS SELECT 1 i; CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    ));
    let dozo = Dozo::with_url(&database.url_as(&role), cluster, Place::Local, "");
    let good = dozo.backup();
    database.psql(&format!("REVOKE SELECT ON b FROM {role}"));
    let run = dozo.run(&["--quiet", "backup", "shop"]).exits(4);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("is partial: public.b was left out (permission denied)"), "{}", run.stderr);
    assert_eq!(state(&dozo), ("partial".into(), false.into(), good.as_str().into()));
    let run = dozo.run(&["accept", "shop@latest"]).exits(1);
    assert!(run.stderr.contains("it is partial, which nobody can accept"), "{}", run.stderr);
}
