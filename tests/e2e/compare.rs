//! Two sides are compared: planted differences are found, exactly these, with their keys.

use std::collections::BTreeSet;

use dozo_testkit::shared;
use serde_json::Value;

use crate::harness::{Dozo, Place, fresh, nightly};

/// Everything that a comparison says differs, as `table word key`.
fn differences(report: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for table in report["tables"].as_array().unwrap().iter().filter(|t| t["verdict"] != "equal") {
        assert_eq!(table["verdict"], "differs", "{table}");
        for word in ["missing", "extra", "changed"] {
            for row in table[word].as_array().unwrap() {
                let key: Vec<&str> = row["key"].as_array().unwrap().iter().map(|k| k.as_str().unwrap_or("NULL")).collect();
                let key = if table["key"].as_array().unwrap().is_empty() { "digest".to_owned() } else { key.join(",") };
                all.insert(format!(
                    "{} {word} {key} {}/{}",
                    table["table"].as_str().unwrap(),
                    row["rows-in-a"],
                    row["rows-in-b"]
                ));
            }
        }
    }
    all
}

/// Ten differences in a copy of `shop`: databases, a database and a backup, and two backups tell the same.
#[test]
fn planted_differences_are_found_with_their_keys() {
    let cluster = shared(15);
    let database = cluster.shop(if nightly() { "10" } else { "0.05" });
    let mut dozo = Dozo::new(&database, Place::Local);
    let original = dozo.backup();
    let copy = dozo.restore_into(cluster, "compared");
    dozo.set("COPY_URL", &cluster.url("postgres", &copy));
    let equal = dozo.run(&["--json", "compare", "shop", "env:COPY_URL"]).exits(0).json();
    assert_eq!(equal["outcome"], "equal");
    let sql = |sql: &str| cluster.psql(&copy, sql);
    let order = sql(
        "SELECT id || ',' || ordered_at FROM orders WHERE ordered_at >= '2024-03-01' AND ordered_at < '2024-04-01' ORDER BY id LIMIT 1",
    );
    let order_id = order.split(',').next().unwrap();
    sql("UPDATE products SET rating = 4.50 WHERE id = 3; UPDATE products SET rating = 4.500 WHERE id = 3");
    database.psql("UPDATE products SET rating = 4.50 WHERE id = 3");
    sql("DELETE FROM inventory WHERE product_id = 1 AND warehouse = (SELECT min(warehouse) FROM inventory WHERE product_id = 1)");
    let inventory = database.psql("SELECT '1,' || min(warehouse) FROM inventory WHERE product_id = 1");
    sql("INSERT INTO job_logs SELECT * FROM job_logs ORDER BY started DESC LIMIT 1");
    sql(&format!("UPDATE orders SET note = CASE WHEN note IS NULL THEN '' END WHERE id = {order_id}"));
    sql("UPDATE users SET profile = coalesce(profile, '{}') || '{\"planted\": 1}' WHERE id = 5");
    sql("UPDATE users SET tags = tags || NULL::text WHERE id = 6");
    sql("UPDATE products SET weight = '-0' WHERE id = 1");
    database.psql("UPDATE products SET weight = '0' WHERE id = 1");
    sql("INSERT INTO coupons SELECT 'PLANTED', discount, list_price, valid_from, valid_to, valid_for FROM coupons LIMIT 1");
    sql(
        "UPDATE coupons SET valid_for = valid_for + '1 day' - '24 hours' WHERE code = (SELECT min(code) FROM coupons WHERE code <> 'PLANTED')",
    );
    let coupon = database.psql("SELECT min(code) FROM coupons");
    sql("UPDATE users SET created_at = created_at + '1 microsecond' WHERE id = 7");
    let expected: BTreeSet<String> = [
        "public.products changed 3 1/1".to_owned(),
        format!("public.inventory missing {inventory} 1/0"),
        "public.job_logs extra digest 1/2".into(),
        format!("public.orders changed {order} 1/1"),
        "public.users changed 5 1/1".into(),
        "public.users changed 6 1/1".into(),
        "public.products changed 1 1/1".into(),
        "public.coupons extra PLANTED 0/1".into(),
        format!("public.coupons changed {coupon} 1/1"),
        "public.users changed 7 1/1".into(),
    ]
    .into();
    assert_eq!(expected.len(), 10);
    let live = dozo.run(&["--json", "compare", "shop", "env:COPY_URL"]).exits(3).json();
    assert_eq!(differences(&live), expected, "{live}");
    let orders = live["tables"].as_array().unwrap().iter().find(|t| t["table"] == "public.orders").unwrap();
    assert_eq!(orders["partitions"].as_array().unwrap().len(), 1);
    assert!(orders["partitions"][0]["partition"]["name"].as_str().unwrap().contains("2024"), "{orders}");

    let changed = dozo.backup();
    let mixed = dozo.run(&["--json", "compare", &changed, "env:COPY_URL"]).exits(3).json();
    let timeless = |all: BTreeSet<String>| all.into_iter().map(|d| d.replace("+00", "")).collect::<BTreeSet<_>>();
    assert_eq!(timeless(differences(&mixed)), timeless(expected.clone()), "{mixed}");
    dozo.set("SHOP_URL", &cluster.url("postgres", &copy));
    let copied = dozo.backup();
    let stored = dozo.run(&["--json", "compare", &changed, &copied]).exits(3).json();
    assert_eq!(timeless(differences(&stored)), timeless(expected));
    // What was changed on the first side since its first backup, and nothing else.
    let since = dozo.run(&["--json", "compare", &original, &changed]).exits(3).json();
    assert_eq!(differences(&since), ["public.products changed 1 1/1", "public.products changed 3 1/1"].map(str::to_owned).into());
}

/// Definitions that differ, tables of one side only, limits, roles that may not read, and a side that is not there.
#[test]
fn what_cannot_be_compared_is_said() {
    let cluster = shared(15);
    let (a, b) = (cluster.database("left"), cluster.database("right"));
    a.psql("CREATE TABLE t (id int PRIMARY KEY, n numeric(10,2), x text, gone int); INSERT INTO t SELECT i, i, i::text, 0 FROM generate_series(1, 100) i; CREATE TABLE only_here (i int); CREATE TABLE same (b int, a text); INSERT INTO same VALUES (1, 'x')");
    b.psql("CREATE TABLE t (x text, id int PRIMARY KEY, n numeric(10,3)); INSERT INTO t SELECT CASE WHEN i > 50 THEN 'y' ELSE i::text END, i, i FROM generate_series(1, 100) i; CREATE TABLE only_there (i int); CREATE TABLE same (a text, b int); INSERT INTO same VALUES ('x', 1)");
    let mut dozo = Dozo::new(&a, Place::Local);
    dozo.set("OTHER", &b.url());
    let run = dozo.run(&["compare", "shop", "env:OTHER", "--limit", "3"]).exits(3);
    for line in [
        "1 tables equal, 1 differ, 1 only in the first, 1 only in the second",
        "public.only_here is only in the first",
        "public.only_there is only in the second",
        "public.t differs, 100 rows / 100 rows",
        "column n: numeric(10,2) / numeric(10,3)",
        "column gone integer is only in the first",
        "differing keys (id) from (51) to (100)",
        "changed: (51)",
        "and more (--limit shows them)",
    ] {
        assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
    }
    assert_eq!(run.stdout.matches("changed: ").count(), 3);
    let run = dozo.run(&["compare", "shop", "env:OTHER", "--table", "same"]).exits(0);
    assert!(run.stdout.contains("1 tables equal"), "{}", run.stdout);
    let run = dozo.run(&["compare", "shop", "env:OTHER", "--table", "nosuch"]).exits(2);
    assert!(run.stderr.contains("DOZO-E6002"), "{}", run.stderr);
    let role = format!("half_{}", fresh());
    b.psql(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON same TO {role}"));
    dozo.set("OTHER", &b.url_as(&role));
    let run = dozo.run(&["compare", "shop", "env:OTHER", "--table", "same"]).exits(6);
    assert!(run.stdout.contains("public.t in") && run.stdout.contains("permission denied"), "{}", run.stdout);
    dozo.set("OTHER", "postgres://postgres@127.0.0.1:1/x");
    let run = dozo.run(&["compare", "shop", "env:OTHER"]).exits(1);
    assert!(run.stderr.contains("DOZO-E2104"), "{}", run.stderr);
}
