//! The main job on every version and every kind of store.

use dozo_testkit::{majors, shared};

use crate::harness::{Dozo, Place, fingerprints};

fn main_job(major: u32, place: Place) {
    let cluster = shared(major);
    let shop = cluster.shop("0.02");
    let mut dozo = Dozo::new(&shop, place);
    let check = dozo.run(&["check"]).exits(0);
    assert!(check.stdout.contains("warn  repository repository"), "{}", check.stdout);

    let report = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(report["outcome"], "done");
    let source: i64 = cluster
        .psql(
            &shop.name,
            "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_lines) + (SELECT count(*) FROM job_logs)",
        )
        .parse()
        .unwrap();
    let rows: u64 = report["tables"].as_array().unwrap().iter().map(|t| t["rows"].as_u64().unwrap()).sum();
    assert_eq!(report["rows"].as_u64().unwrap(), rows);
    let rows_of = |table: &str| -> i64 {
        let of = report["tables"].as_array().unwrap().iter().filter(|t| t["table"] == table || t["root"] == table);
        of.map(|t| t["rows"].as_i64().unwrap()).sum()
    };
    assert_eq!(rows_of("public.orders") + rows_of("public.order_lines") + rows_of("public.job_logs"), source);

    for level in ["exists", "digest", "content"] {
        let verified = dozo.run(&["--json", "verify", "shop@latest", "--level", level]).exits(0).json();
        assert_eq!(verified[0]["verdict"], "passed");
        assert!(verified[0]["objects"].as_u64().unwrap() > 5);
        assert_eq!(verified[0]["rows"].as_u64().unwrap(), if level == "content" { rows } else { 0 });
    }

    let copy = dozo.restore_into(cluster, "copy");
    assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &copy));
    // What is no row comes back too.
    for sql in [
        "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public'",
        "SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), E'\\n' ORDER BY conrelid::regclass::text, conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "SELECT last_value, is_called FROM users_id_seq",
        "SELECT * FROM sales_by_country ORDER BY 1",
        "SELECT count(*) FROM open_orders",
        "SELECT obj_description('orders'::regclass)",
        "SELECT to_regnamespace('dozo') IS NULL",
    ] {
        assert_eq!(cluster.psql(&shop.name, sql), cluster.psql(&copy, sql), "{sql}");
    }

    let status = dozo.run(&["--json", "status"]).exits(0).json()["sources"].clone();
    assert_eq!(status[0]["backups"], 1);
    assert_eq!(status[0]["newest"]["verified"][1], "passed");
    let plan = dozo.run(&["gc"]).exits(0);
    assert_eq!(plan.stdout.trim(), "nothing: every object belongs to a backup");

    // A second run is a second backup.
    let second = dozo.backup();
    let list = dozo.run(&["--json", "list", "shop"]).exits(0).json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert_eq!(list[1]["id"], second.as_str());
    let _ = dozo.run(&["verify", "latest", "--all"]).exits(0);
    let _ = dozo.run(&["verify", "--all", "--level", "exists"]).exits(0);
    if place == Place::S3 {
        assert!(dozo.prefix().starts_with("e2e/"));
    }
}

#[test]
fn on_every_version_into_a_folder() {
    for major in majors() {
        main_job(major, Place::Local);
    }
}

#[test]
fn into_s3() {
    main_job(15, Place::S3);
}

/// From an older server into every newer one.
#[test]
fn into_newer_servers() {
    let old = shared(15);
    let shop = old.shop("0.02");
    let mut dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    for major in majors().into_iter().filter(|m| *m > 15) {
        let copy = dozo.restore_into(shared(major), "newer");
        assert_eq!(fingerprints(&dozo, old, &shop.name), fingerprints(&dozo, shared(major), &copy));
    }
}

/// More than one chunk of a table, and objects of several parts.
#[test]
fn large_tables_are_cut_into_chunks() {
    let cluster = shared(15);
    let database = cluster.database("large");
    database.psql(
        "CREATE TABLE wide (id bigint, filler bytea);
         ALTER TABLE wide ALTER filler SET STORAGE PLAIN;
         INSERT INTO wide SELECT i, decode(repeat(md5(i::text) || md5((i * 7)::text), 100), 'hex') FROM generate_series(1, 60000) i;",
    );
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let manifest = dozo.manifest();
    let parts = manifest["datasets"][0]["parts"].as_array().unwrap();
    assert!(parts.len() >= 2, "{parts:?}");
    assert!(parts.last().unwrap()["blocks"]["to"].is_null());
    let copy = dozo.restore_into(cluster, "large_copy");
    assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &copy));
}
