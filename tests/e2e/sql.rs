//! `dozo sql`: a backup is asked where it lies, without a database server, and nothing else can be.

use std::fs;
use std::process::Command;

use dozo_testkit::{services, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, fresh};

const SCHEMA: &str = "CREATE TABLE customers(id int PRIMARY KEY, name text, born date, tags text[]);
    INSERT INTO customers SELECT i, CASE WHEN i % 7 = 0 THEN NULL ELSE 'name, \"' || i END, date '1970-01-01' + i, ARRAY['a', NULL, i::text] FROM generate_series(1, 500) i;
    UPDATE customers SET born = 'infinity' WHERE id = 3;
    CREATE TABLE orders(id bigint, customer int, amount numeric(12,2), at timestamptz NOT NULL) PARTITION BY RANGE (at);
    CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
    CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
    CREATE TABLE orders_3 PARTITION OF orders FOR VALUES FROM ('2024-03-01') TO ('2024-04-01');
    INSERT INTO orders SELECT i, 1 + i % 500, i * 1.25, timestamptz '2024-01-01 00:00+00' + i * interval '90 seconds' FROM generate_series(1, 50000) i;
    CREATE SCHEMA \"Odd\"; CREATE TABLE \"Odd\".\"My Table\"(\"a b\" int); INSERT INTO \"Odd\".\"My Table\" VALUES (1), (NULL); CREATE TABLE nothing(a int)";

#[test]
fn a_join_over_a_bucket_needs_no_server_and_reaches_nothing_else() {
    let cluster = shared(17);
    let database = cluster.database(&format!("sql_{}", fresh()));
    database.psql(SCHEMA);
    for place in [Place::S3, Place::Local] {
        let mut dozo = Dozo::new(&database, place);
        dozo.backup();
        dozo.set("SHOP_URL", "postgres://nobody@127.0.0.1:1/gone");
        let ask = |query: &str| dozo.run(&["sql", "shop@latest", query, "--format", "csv"]);
        let join = "SELECT c.name, count(*) AS orders, sum(o.amount) AS total FROM orders o JOIN customers c ON c.id = o.customer GROUP BY ALL ORDER BY total DESC, 1 LIMIT 3";
        let by_server = database.psql(
            "SELECT c.name || '|' || count(*) || '|' || sum(o.amount) FROM orders o JOIN customers c ON c.id = o.customer GROUP BY c.name ORDER BY sum(o.amount) DESC, c.name LIMIT 3",
        );
        let answer = ask(join).exits(0);
        let lines: Vec<&str> = answer.stdout.lines().collect();
        assert_eq!(lines[0], "name,orders,total");
        for (found, expected) in lines[2..].iter().zip(by_server.lines().skip(1)) {
            let expected: Vec<&str> = expected.split('|').collect();
            let quoted = format!("\"{}\",{},{}", expected[0].replace('"', "\"\""), expected[1], expected[2]);
            assert_eq!(*found, quoted);
        }
        // Partitions, schemas, names with blanks, what is empty, nested values; only what is named is fetched.
        assert_eq!(
            ask("SELECT count(*) AS n FROM orders_2").exits(0).stdout.trim(),
            format!("n\n{}", database.psql("SELECT count(*) FROM orders_2").trim())
        );
        assert_eq!(ask("SELECT count(*) AS n, count(\"a b\") AS m FROM \"Odd\".\"My Table\"").exits(0).stdout, "n,m\n2,1\n");
        assert_eq!(ask("FROM nothing").exits(0).stdout, "a\n");
        assert_eq!(
            ask("SELECT tags[3] AS t, orders.\"at\" FROM customers, orders WHERE customers.id = 9 AND orders.id = 8")
                .exits(0)
                .stdout,
            "t,at\n9,2024-01-01 00:12:00+00\n"
        );
        let one = ask("SELECT id FROM nothing_like_it");
        assert!(one.code == 1 && one.stderr.contains("nothing_like_it"), "{one:?}");
        let note = ask("SELECT born, _dozo_exact FROM customers WHERE id = 3 -- the day").exits(0);
        assert!(note.stdout.contains("infinity") && note.stderr.contains("public.customers"), "{note:?}");
        // JSON, Parquet, a table.
        let json = dozo
            .run(&["--json", "sql", "shop@latest", "SELECT id, name, tags FROM customers WHERE id <= 7 ORDER BY id"])
            .exits(0)
            .json();
        assert_eq!((json.as_array().unwrap().len(), &json[6]["name"], &json[1]["tags"][2]), (7, &Value::Null, &Value::from("2")));
        assert_eq!(
            dozo.run(&["--json", "sql", "shop@latest", "SELECT 1 AS one FROM nothing"]).exits(0).json(),
            Value::Array(vec![])
        );
        let file = dozo.folder.path().join("answer.parquet");
        let path = file.display().to_string();
        let _ = dozo
            .run(&["sql", "shop@latest", "SELECT * FROM orders WHERE id <= 40000", "--format", "parquet", "-o", &path])
            .exits(0);
        let out = Command::new(services().join("duckdb"))
            .args(["-csv", "-noheader", "-c", &format!("SELECT count(*), sum(amount) FROM '{path}'")])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8(out.stdout).unwrap().trim(),
            database.psql("SELECT count(*) || ',' || sum(amount) FROM orders WHERE id <= 40000").trim()
        );
        let _ = dozo.run(&["sql", "shop@latest", "FROM orders", "--format", "parquet", "-o", &path]).exits(2);
        assert!(
            dozo.run(&["sql", "shop@latest", "SELECT 42 AS answer FROM nothing RIGHT JOIN (SELECT 1) ON true"])
                .exits(0)
                .stdout
                .contains("42")
        );
        // Nothing else is read, loaded, written or set.
        let secret = dozo.folder.path().join("secret.csv");
        fs::write(&secret, "a,b\n1,2\n").unwrap();
        let secret = secret.display();
        for refused in [
            format!("FROM read_csv('{secret}')"),
            format!("FROM '{secret}'"),
            format!("SELECT * FROM read_text('{secret}')"),
            format!("SELECT * FROM glob('{}/*')", dozo.folder.path().display()),
            "FROM read_parquet('s3://bucket/x.parquet')".into(),
            format!("COPY (SELECT 1) TO '{secret}.out'"),
            "INSTALL httpfs".into(),
            "LOAD httpfs".into(),
            format!("ATTACH '{secret}.db'"),
            "SET enable_external_access = true".into(),
            "SELECT 1); SET enable_external_access = true; SELECT (1".into(),
            "DROP VIEW customers".into(),
            "SELECT getenv('SHOP_URL') FROM customers".into(),
        ] {
            let run = ask(&refused);
            assert!(run.code == 1 && run.stdout.is_empty() && run.stderr.contains("DOZO-E7005"), "{refused}: {run:?}");
        }
        assert!(!dozo.folder.path().join("secret.csv.out").exists() && !dozo.folder.path().join("secret.csv.db").exists());
        let small = dozo.run(&["sql", "shop@latest", "FROM orders", "--cache-max", "1kB"]).exits(2);
        assert!(small.stderr.contains("--cache-max"), "{}", small.stderr);
    }
}
