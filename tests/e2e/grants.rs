//! Roles without superuser rights: exactly the grants that `check` prints are enough, and a missing one is named.

use dozo_testkit::shared;

use crate::harness::{Dozo, Place, fingerprints, fresh};

#[test]
fn the_grants_that_check_prints_are_enough() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let role = format!("reader_{}", fresh());
    shop.psql(&format!("CREATE ROLE {role} LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC; CREATE SCHEMA other; CREATE TABLE other.t (id serial); INSERT INTO other.t DEFAULT VALUES"));
    let mut dozo = Dozo::with_url(&shop.url_as(&role), cluster, Place::Local, "");
    let check = dozo.run(&["--json", "check"]).exits(1).json();
    let line = check.as_array().unwrap().iter().find(|l| l["question"] == "grants").unwrap();
    let grants: Vec<&str> = line["next"].as_str().unwrap().lines().filter(|l| l.starts_with("GRANT ")).collect();
    assert!(grants.len() >= 4, "{grants:?}");
    shop.psql(&grants.join("\n"));
    let check = dozo.run(&["check"]);
    assert_eq!(check.code, 0, "{}", check.stdout);
    let _ = dozo.backup();
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    let copy = dozo.restore_into(cluster, "granted");
    assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &copy));
}

#[test]
fn a_table_without_permission_makes_the_backup_partial() {
    let cluster = shared(17);
    let database = cluster.database("partial");
    let role = format!("reader_{}", fresh());
    database.psql(&format!(
        "CREATE ROLE {role} LOGIN;
         CREATE TABLE open (id int PRIMARY KEY); INSERT INTO open VALUES (1);
         CREATE TABLE secret (id int PRIMARY KEY); INSERT INTO secret VALUES (1);
         CREATE TABLE child (id int REFERENCES secret); INSERT INTO child VALUES (1);
         CREATE VIEW peek AS SELECT * FROM secret;
         CREATE TABLE policed (id int); ALTER TABLE policed ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON policed USING (false); INSERT INTO policed VALUES (1);
         GRANT SELECT ON open, child, peek, policed TO {role};"
    ));
    let mut dozo = Dozo::with_url(&database.url_as(&role), cluster, Place::Local, "");
    let run = dozo.run(&["--quiet", "backup", "shop"]).exits(4);
    assert!(run.stdout.is_empty());
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(
        run.stderr
            .contains("is partial: public.policed was left out (row-level security would hide rows from this role) and 1 more"),
        "{}",
        run.stderr
    );
    let manifest = dozo.manifest();
    assert_eq!(manifest["complete"], false);
    let left = manifest["left-out"].as_array().unwrap();
    let secret = left.iter().find(|l| l["name"] == "secret").unwrap();
    assert_eq!(secret["reason"], "permission denied");
    let needed: Vec<&str> = secret["needed-by"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert_eq!(needed, ["foreign key child_id_fkey of public.child", "view public.peek"]);
    let status = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
    assert!(status[0]["newest-good"].is_null(), "a partial backup is never good");

    // What is there can be restored; what needs the absent table is left out, and said.
    let target = format!("partial_copy_{}", fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let run = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(4);
    assert!(
        run.stderr.contains("FK CONSTRAINT public.child child_id_fkey was left out")
            && run.stderr.contains("VIEW public.peek was left out"),
        "{}",
        run.stderr
    );
    assert_eq!(
        cluster.psql(&target, "SELECT (SELECT count(*) FROM open), (SELECT count(*) FROM child), to_regclass('secret') IS NULL"),
        "1|1|t"
    );
}
