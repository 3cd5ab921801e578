//! Restore of schemas and tables, under other names, into a live database.

use dozo_testkit::shared;

use crate::harness::{Dozo, Place, fresh};

fn fingerprint(dozo: &Dozo, url: &str, table: &str) -> String {
    dozo.run(&["--json", "fingerprint", url, table]).exits(0).json()["tables"][0]["fingerprint"].as_str().unwrap().to_owned()
}

#[test]
fn a_table_beside_the_live_one() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let url = shop.url();
    let before = fingerprint(&dozo, &url, "public.orders");
    shop.psql("DELETE FROM coupon_usages; DELETE FROM returns");
    let live = fingerprint(&dozo, &url, "public.users");

    // A partition tree, with its leaves and keys, under another name in the same schema.
    let _ = dozo.run(&["restore", "shop@latest", "--table", "public.orders", "--as", "orders_back", "--to", "shop"]).exits(0);
    assert_eq!(fingerprint(&dozo, &url, "public.orders_back"), before);
    assert_eq!(
        shop.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders_back'::regclass"),
        shop.psql("SELECT count(*) FROM pg_inherits WHERE inhparent = 'orders'::regclass")
    );
    assert_eq!(shop.psql("SELECT count(*) FROM pg_index WHERE indrelid = 'orders_back'::regclass AND indisvalid"), "3");
    assert_eq!(shop.psql("SELECT to_regclass('orders_back_2024_05') IS NOT NULL"), "t");
    // A plain table with identity, into another schema.
    shop.psql("CREATE SCHEMA rescue");
    let _ = dozo.run(&["restore", "shop@latest", "--table", "users", "--as", "rescue.users", "--to", "shop"]).exits(0);
    assert_eq!(fingerprint(&dozo, &url, "rescue.users"), live);
    assert_eq!(fingerprint(&dozo, &url, "public.users"), live, "the live table is untouched");
    assert_eq!(
        shop.psql("INSERT INTO rescue.users (email, name, country, created_at) VALUES ('new', 'n', 'JP', now()) RETURNING id = (SELECT max(id) + 1 FROM users)"),
        "t",
        "the copy's identity goes on"
    );
    // One leaf alone.
    let _ = dozo.run(&["restore", "shop@latest", "--table", "public.orders_2024_05", "--as", "may", "--to", "shop"]).exits(0);
    assert_eq!(fingerprint(&dozo, &url, "public.may"), fingerprint(&dozo, &url, "public.orders_2024_05"));
    assert_eq!(shop.psql("SELECT to_regnamespace('dozo') IS NULL"), "t");

    // What exists is never overwritten.
    let run = dozo.run(&["restore", "shop@latest", "--table", "public.orders", "--to", "shop"]).exits(1);
    assert!(run.stderr.contains("DOZO-E6004") && run.stderr.contains("orders"), "{}", run.stderr);
    let run = dozo.run(&["restore", "shop@latest", "--to", "shop"]).exits(1);
    assert!(run.stderr.contains("is not empty"), "{}", run.stderr);
}

#[test]
fn tables_and_schemas_into_another_database() {
    let cluster = shared(18);
    let shop = cluster.shop("0.02");
    shop.psql("CREATE SCHEMA stock; CREATE TYPE stock.kind AS ENUM ('a', 'b'); CREATE TABLE stock.items (id serial PRIMARY KEY, k stock.kind, ks stock.kind[]); INSERT INTO stock.items (k, ks) VALUES ('a', '{b,NULL}'); CREATE VIEW stock.seen AS SELECT * FROM stock.items; CREATE INDEX ON stock.items (k)");
    let mut dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let target = format!("parts_{}", fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let url = cluster.url("postgres", &target);
    // Under another name into a database that has none of its types.
    let _ = dozo
        .run(&["restore", "shop@latest", "--table", "stock.items", "--as", "public.spare", "--to", "env:COPY_URL", "--create-db"])
        .exits(0);
    assert_eq!(fingerprint(&dozo, &url, "public.spare"), fingerprint(&dozo, &shop.url(), "stock.items"));
    cluster.psql(&target, "DROP TABLE spare; DROP SCHEMA stock CASCADE");
    // Types that a table needs come along.
    let _ = dozo
        .run(&[
            "restore",
            "shop@latest",
            "--table",
            "public.orders",
            "--table",
            "job_logs",
            "--to",
            "env:COPY_URL",
            "--create-db",
        ])
        .exits(0);
    for table in ["public.orders", "public.job_logs"] {
        assert_eq!(fingerprint(&dozo, &url, table), fingerprint(&dozo, &shop.url(), table));
    }
    assert_eq!(
        cluster.psql(&target, "SELECT to_regclass('users') IS NULL, enum_range(NULL::order_status)"),
        "t|{new,paid,shipped,done,cancelled}"
    );
    let _ = dozo.run(&["restore", "shop@latest", "--schema", "stock", "--to", "env:COPY_URL"]).exits(0);
    let _ = dozo.run(&["restore", "shop@latest", "--schema", "stock", "--as", "Stock 2", "--to", "env:COPY_URL"]).exits(0);
    for table in ["stock.items", "Stock 2.items"] {
        assert_eq!(fingerprint(&dozo, &url, table), fingerprint(&dozo, &shop.url(), "stock.items"), "{table}");
    }
    assert_eq!(cluster.psql(&target, "INSERT INTO \"Stock 2\".items (k) VALUES ('b') RETURNING id"), "2", "the sequence goes on");
    assert_eq!(cluster.psql(&target, "SELECT count(*) FROM \"Stock 2\".seen"), "2");

    for (args, code, text) in [
        (vec!["--table", "nope.*"], 2, "DOZO-E6002"),
        (vec!["--schema", "nope"], 2, "DOZO-E6002"),
        (vec!["--as", "x"], 2, "DOZO-E6003"),
        (vec!["--table", "users", "--table", "products", "--as", "x"], 2, "DOZO-E6003"),
    ] {
        let mut all = vec!["restore", "shop@latest", "--to", "env:COPY_URL"];
        all.extend(args);
        let run = dozo.run(&all).exits(code);
        assert!(run.stderr.contains(text), "{all:?}: {}", run.stderr);
    }
}

#[test]
fn owners_roles_and_privileges() {
    let cluster = shared(15);
    let database = cluster.database("owned");
    let (owner, reader) = (format!("owner_{}", fresh()), format!("granted_{}", fresh()));
    database.psql(&format!("CREATE ROLE {owner}; CREATE ROLE {reader}; CREATE TABLE a (id int); ALTER TABLE a OWNER TO {owner}; GRANT SELECT ON a TO {reader}; INSERT INTO a VALUES (1)"));
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let who = "SELECT relowner::regrole, relacl FROM pg_class WHERE oid = 'a'::regclass";
    let copy = dozo.restore_into(cluster, "owned_copy");
    assert_eq!(cluster.psql(&copy, who), database.psql(who));

    // The same backup where these roles do not exist: said before anything is loaded, with the lines that help.
    let other = shared(17);
    let target = format!("roles_{}", fresh());
    dozo.set("COPY_URL", &other.url("postgres", &target));
    let run = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(1);
    assert!(
        run.stderr.contains(&format!("CREATE ROLE \"{owner}\";")) && run.stderr.contains(&format!("CREATE ROLE \"{reader}\";")),
        "{}",
        run.stderr
    );
    assert_eq!(other.psql(&target, "SELECT to_regclass('a') IS NULL"), "t");
    let _ = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--no-owner", "--no-privileges"]).exits(0);
    assert_eq!(other.psql(&target, who), "postgres|");
    let third = format!("role_{}", fresh());
    let limited = format!("limited_{}", fresh());
    other.psql("postgres", &format!("CREATE ROLE {limited}; CREATE DATABASE {third} OWNER {limited} TEMPLATE template0"));
    dozo.set("COPY_URL", &other.url("postgres", &third));
    let _ = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--role", &limited, "--no-privileges"]).exits(0);
    assert_eq!(other.psql(&third, who), format!("{limited}|"));
}

/// Trees of several levels come whole, from the root, from the middle, and under another name.
#[test]
fn trees_of_several_levels() {
    let cluster = shared(17);
    let database = cluster.database("levels");
    database.psql(
        "CREATE TABLE vv (id int, k text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
         CREATE TABLE aa PARTITION OF vv FOR VALUES IN ('a') PARTITION BY RANGE (id);
         CREATE TABLE leafx PARTITION OF aa FOR VALUES FROM (0) TO (100);
         CREATE TABLE zz (k text NOT NULL, id int NOT NULL); ALTER TABLE vv ATTACH PARTITION zz FOR VALUES IN ('z');
         INSERT INTO vv VALUES (1, 'a'), (2, 'z'), (3, 'z');
         CREATE TABLE p (a int); CREATE TABLE c (b int) INHERITS (p); INSERT INTO c VALUES (1, 2);",
    );
    let mut dozo = Dozo::new(&database, Place::Local);
    let _ = dozo.backup();
    let target = format!("levels_copy_{}", fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    let _ = dozo.run(&["restore", "shop@latest", "--table", "public.vv", "--to", "env:COPY_URL", "--create-db"]).exits(0);
    assert_eq!(cluster.psql(&target, "SELECT count(*), count(*) FILTER (WHERE k = 'a') FROM vv"), "3|1");
    for to in ["env:COPY_URL", "shop"] {
        let _ = dozo.run(&["restore", "shop@latest", "--table", "vv", "--as", "vv_copy", "--to", to]).exits(0);
        let _ = dozo.run(&["restore", "shop@latest", "--table", "aa", "--as", "new schema.aa", "--to", to]).exits(0);
        let _ = dozo.run(&["restore", "shop@latest", "--table", "zz", "--as", "alone", "--to", to]).exits(0);
    }
    for name in [&target, &database.name] {
        assert_eq!(
            cluster.psql(
                name,
                "SELECT (SELECT count(*) FROM vv_copy), (SELECT count(*) FROM \"new schema\".aa), (SELECT count(*) FROM alone)"
            ),
            "3|1|2"
        );
    }
    // Each came with its key, also where that of its tree is not there.
    let keys = "SELECT string_agg(conrelid::regclass::text, ' ' ORDER BY conrelid::regclass::text COLLATE \"C\") FROM (SELECT conrelid FROM pg_constraint WHERE contype = 'p'
        AND conrelid::regclass::text IN ('vv_copy', 'alone', '\"new schema\".aa', '\"new schema\".leafx')) k";
    for name in [&target, &database.name] {
        assert_eq!(cluster.psql(name, keys), "\"new schema\".aa \"new schema\".leafx alone vv_copy");
    }
    // A copy of a child would show its rows in the live parent.
    let run = dozo.run(&["restore", "shop@latest", "--table", "public.c", "--as", "c_old", "--to", "shop"]).exits(2);
    assert!(run.stderr.contains("inherits from another table"), "{}", run.stderr);
    let _ = dozo.run(&["restore", "shop@latest", "--schema", "public", "--as", "then", "--to", "shop"]).exits(2);
    assert_eq!(database.psql("SELECT count(*) FROM p"), "1");
}

/// What is no row and easily lost: carriage returns, texts that look like a dump, event triggers, views that need keys, the
/// locale of the database.
#[test]
fn definitions_come_back_to_the_letter() {
    let cluster = shared(17);
    let name = format!("letters_source_{}", fresh());
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'"),
    );
    cluster.psql(
        &name,
        "DO $x$ BEGIN
           EXECUTE E'CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$SELECT \\'a\\r\\nb\\'::text$$';
         END $x$;
         CREATE TABLE t (a int PRIMARY KEY);
         COMMENT ON TABLE t IS 'x
--
-- TOC entry 9999 (class 1259 OID 101)
-- Name: zz; Type: TABLE; Schema: public; Owner: me
--

drop table t;
';
         CREATE TABLE b (aid int REFERENCES t, n int);
         INSERT INTO t VALUES (1); INSERT INTO b VALUES (1, 2);
         CREATE MATERIALIZED VIEW pkm AS SELECT t.a, sum(n) s FROM t JOIN b ON aid = a GROUP BY a;
         CREATE UNIQUE INDEX ON pkm (a);
         CREATE MATERIALIZED VIEW cold AS SELECT 1 one WITH NO DATA;
         CREATE TABLE hid (x int GENERATED ALWAYS AS IDENTITY);
         CREATE FUNCTION nodrop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no drop'; END $$;
         CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION nodrop();",
    );
    let mut dozo = Dozo::with_url(&cluster.url("postgres", &name), cluster, Place::Local, "exclude = [\"hid\"]");
    let _ = dozo.backup();
    let copy = dozo.restore_into(cluster, "letters_copy");
    for sql in [
        "SELECT length(f()), f()",
        "SELECT obj_description('t'::regclass)",
        "SELECT * FROM pkm",
        "SELECT relispopulated FROM pg_class WHERE relname = 'cold'",
        "SELECT evtname FROM pg_event_trigger",
        "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()",
    ] {
        assert_eq!(cluster.psql(&copy, sql), cluster.psql(&name, sql), "{sql}");
    }
    assert_eq!(
        cluster.psql(&copy, "SELECT to_regclass('zz') IS NULL, to_regclass('hid') IS NULL, to_regnamespace('dozo') IS NULL"),
        "t|t|t"
    );
}
