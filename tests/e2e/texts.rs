//! Tables kept as texts, `csv.gz` and `sql.gz`: everything of the zoo comes back, through dozo and without it, and every reader
//! computes the same fingerprint.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use dozo_testkit::{Cluster, majors, services, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, files, fingerprints, fresh};
use crate::readers::restore_by_hand;
use crate::types::difference;

const FORMS: [&str; 2] = ["csv.gz", "sql.gz"];

fn kept_as(url: &str, cluster: &Cluster, place: Place, form: &str) -> Dozo {
    Dozo::with_url(url, cluster, place, &format!("format = \"{form}\""))
}

fn datasets(manifest: &Value) -> &Vec<Value> {
    manifest["datasets"].as_array().unwrap()
}

fn objects(dozo: &Dozo, suffix: &str) -> Vec<PathBuf> {
    files(&dozo.repository()).into_iter().filter(|f| f.to_string_lossy().ends_with(suffix)).collect()
}

/// What `gunzip -c` prints of some files.
fn gunzip(files: &[PathBuf]) -> String {
    let out = Command::new("gunzip").arg("-c").args(files).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Every type and object, in both forms, on every server: proven by the server, verified, restored by dozo and by hand, compared by
/// the strict fingerprint over bytes and by pg_dump's text.
#[test]
fn the_zoo_comes_back_as_texts() {
    for major in majors() {
        let cluster = shared(major);
        let database = cluster.zoo(false);
        // A value that the server prints and does not read: named, and nothing is kept that could not be restored.
        let refused = kept_as(&database.url(), cluster, Place::Local, "sql.gz").run(&["backup", "shop"]).exits(1);
        let words = "public.times.iv holds an interval that prints as -2562047788:00:54.775808, which no server reads back";
        assert!(
            refused.stderr.contains(words) && refused.stderr.contains("formats = { \"public.times\" = \"parquet\" }"),
            "{refused:?}"
        );
        database.psql("DELETE FROM times WHERE iv::text LIKE '%-2562047788:00:54.775808%'");
        for form in FORMS {
            let mut dozo = kept_as(&database.url(), cluster, Place::Local, form);
            let report = dozo.run(&["--json", "backup", "shop", "--prove", "100%"]).exits(0).json();
            assert_eq!(report["outcome"], "done", "{report}");
            let manifest = dozo.manifest();
            for dataset in datasets(&manifest) {
                let print = dataset["fingerprint"].as_str().unwrap();
                let nothing = dataset["columns"].as_array().unwrap().iter().all(|c| c["generated"] == true);
                let texts = nothing || print.starts_with("t1:");
                assert!(texts && dataset["source-match"]["whole"] == true && dataset["format"] == form, "{dataset}");
            }
            let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
            let stored = objects(&dozo, ".gz");
            assert!(stored.len() > 20, "{stored:?}");
            let tested = Command::new("gunzip").arg("-t").args(&stored).output().unwrap();
            assert!(tested.status.success() && tested.stderr.is_empty(), "{}", String::from_utf8_lossy(&tested.stderr));
            let copy = dozo.restore_into(cluster, "texts_copy");
            assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &copy), "{form} on {major}");
            let password = "password=''ge heim'' ";
            let (source, restored) = (cluster.dump(&database.name).replace(password, ""), cluster.dump(&copy));
            assert!(source == restored, "{form} on {major}: {}", difference(&source, &restored));
            let by_hand = restore_by_hand(&dozo, cluster);
            assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &by_hand), "{form} on {major}");
            let count = "SELECT count(*), count(*) FILTER (WHERE contype = 'f') FROM pg_constraint";
            assert_eq!(cluster.psql(&database.name, count), cluster.psql(&by_hand, count));
            let large = "SELECT count(*), md5(string_agg(md5(lo_get(oid)), ',' ORDER BY oid)) FROM pg_largeobject_metadata";
            assert_eq!(cluster.psql(&database.name, large), cluster.psql(&by_hand, large));
            if let Some(owners) = manifest["files"]["script"]["owners"].as_str() {
                // With owners and grants it is the whole database.
                let sql = gunzip(&[dozo.repository().join(owners)]);
                cluster.psql(&by_hand, &sql);
                // Subscriptions are shown for people.
                let md = dozo.repository().join(manifest["files"]["restore-md"].as_str().unwrap());
                let text = fs::read_to_string(md).unwrap();
                let shown = text.split("Subscriptions (switched off)").nth(1).unwrap().split("\n## ").next().unwrap();
                let statements: Vec<&str> = shown.lines().filter(|l| l.contains("SUBSCRIPTION")).collect();
                cluster.psql(&by_hand, &statements.join("\n"));
                let restored = cluster.dump(&by_hand);
                assert!(source == restored, "{form} on {major}: {}", difference(&source, &restored));
            }
        }
    }
}

/// What the definition says, written once more: rows framed by their columns' `::text`. Neither dozo's SQL nor its Rust.
#[test]
fn the_fingerprint_is_over_each_columns_text() {
    let cluster = shared(17);
    let database = cluster.database("t1");
    database.psql(
        "CREATE TABLE mixed (id int, yes bool, fixed char(5), loose bpchar, at inet, note text, kind \"char\", f float8, b bytea, ts timestamptz, list bool[]);
         INSERT INTO mixed VALUES (1, true, 'ab', 'cd  ', '10.0.0.1', E'a\\tb\\\\N\\n\"q\",', 'x', '-0', '\\x00ff', '2020-01-01 00:00+00', '{t,NULL}'),
             (2, NULL, NULL, NULL, NULL, '', NULL, 'NaN', '', 'infinity', '{}'), (3, false, '', '', '::1/64', '\\.', '', 1e-300, NULL, '0044-03-15 BC', NULL);
         INSERT INTO mixed SELECT g, g % 2 = 0, g::text, g::text, '10.0.0.0/8', repeat('x', g % 90), 'k', g / 7.0, NULL, now(), NULL FROM generate_series(4, 5000) g",
    );
    let wanted = database.psql(
        "SET TimeZone = 'UTC'; SET extra_float_digits = 1; SET DateStyle = ISO; SET bytea_output = hex;
         CREATE FUNCTION pg_temp.field(t text) RETURNS bytea LANGUAGE sql AS $$ SELECT coalesce(int4send(octet_length(t)) || convert_to(t, 'UTF8'), '\\xffffffff') $$;
         CREATE FUNCTION pg_temp.lane(h text) RETURNS numeric LANGUAGE sql AS $$ SELECT ('x' || h)::bit(64)::int8::numeric $$;
         WITH rows AS (SELECT md5(pg_temp.field(id::text) || pg_temp.field(yes::text) || pg_temp.field(fixed::text) || pg_temp.field(loose::text)
                 || pg_temp.field(at::text) || pg_temp.field(note::text) || pg_temp.field(kind::text) || pg_temp.field(f::text) || pg_temp.field(b::text)
                 || pg_temp.field(ts::text) || pg_temp.field(list::text)) h FROM mixed),
              sums AS (SELECT count(*) n, mod(mod(sum(pg_temp.lane(left(h, 16))), 2^64::numeric) + 2^64::numeric, 2^64::numeric) hi,
                  mod(mod(sum(pg_temp.lane(right(h, 16))), 2^64::numeric) + 2^64::numeric, 2^64::numeric) lo FROM rows)
         SELECT n || ' ' || hi::numeric(20, 0) || ' ' || lo::numeric(20, 0) FROM sums",
    );
    let decimal = |print: &str| {
        let (rows, hex) = print.strip_prefix("t1:").unwrap().split_once(':').unwrap();
        let lane = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
        format!("{rows} {} {}", lane(&hex[..16]), lane(&hex[16..]))
    };
    let wanted = wanted.lines().last().unwrap().to_owned();
    for form in FORMS {
        let dozo = kept_as(&database.url(), cluster, Place::Local, form);
        let _ = dozo.backup();
        let manifest = dozo.manifest();
        assert_eq!(manifest["fingerprint"], "t1");
        assert_eq!(decimal(datasets(&manifest)[0]["fingerprint"].as_str().unwrap()), wanted, "{form}, from the stream");
        let live = dozo.run(&["--json", "fingerprint", "shop", "--text"]).exits(0).json();
        assert_eq!(decimal(live["tables"][0]["fingerprint"].as_str().unwrap()), wanted, "from the server");
        let sql = dozo.run(&["fingerprint", "shop", "--text", "--sql"]).exits(0).stdout;
        assert_eq!(decimal(&database.psql(&sql)), wanted, "in psql");
        // Blanks at the end of a bpchar without a length are no part of its text; they come back all the same.
        let mut dozo = dozo;
        let copy = dozo.restore_into(cluster, "t1_copy");
        assert_eq!(
            cluster.psql(&copy, "SELECT octet_length(loose::bytea) FROM (SELECT loose FROM mixed WHERE id = 1) m(loose)"),
            "4"
        );
    }
}

/// Bytes of which nobody knows the encoding pass as they are.
#[test]
fn texts_without_an_encoding() {
    let cluster = shared(17);
    let name = format!("ascii_{}", fresh());
    cluster
        .psql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"));
    cluster.psql(
        &name,
        "CREATE TABLE t (id int, c char(4), loose bpchar, list text[], \"n,\" text);
         INSERT INTO t VALUES (1, E'\\xe9', E'\\x83\\x5c  ', ARRAY[E'\\xff', NULL, E'a\\\\'], E'\\x83\\x5c\\t\\n,\"'), (2, NULL, '', '{}', '\\N')",
    );
    for form in FORMS {
        let mut dozo = kept_as(&cluster.url("postgres", &name), cluster, Place::Local, form);
        let report = dozo.run(&["--json", "backup", "shop", "--prove", "100%"]).exits(0).json();
        assert_eq!(report["outcome"], "done", "{report}");
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let copy = dozo.restore_into(cluster, "ascii_copy");
        assert_eq!(fingerprints(&dozo, cluster, &name), fingerprints(&dozo, cluster, &copy));
        let by_hand = restore_by_hand(&dozo, cluster);
        assert_eq!(
            cluster.psql(&name, "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM t"),
            cluster.psql(&by_hand, "SELECT md5(string_agg(t::text, ';' ORDER BY id)) FROM t")
        );
    }
}

/// Many chunks of one table are one CSV file; others read it, with the names of its columns.
#[test]
fn chunks_are_one_csv_file() {
    let cluster = shared(15);
    let database = cluster.database("chunks");
    database.psql(
        "CREATE TABLE big (id int PRIMARY KEY, \"a,b\" text, padding text);
         INSERT INTO big SELECT g, CASE g % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'line\\nand \"quote\", ' || g END, repeat(md5(g::text), 20) FROM generate_series(1, 120000) g",
    );
    let dozo = kept_as(&database.url(), cluster, Place::Local, "csv.gz");
    let _ = dozo.backup();
    let manifest = dozo.manifest();
    let parts = datasets(&manifest)[0]["parts"].as_array().unwrap();
    assert!(parts.len() > 1, "{}", parts.len());
    let paths: Vec<PathBuf> = parts.iter().map(|p| dozo.repository().join(p["object"].as_str().unwrap())).collect();
    let text = gunzip(&paths);
    assert!(text.starts_with("id,\"a,b\",padding\n") && text.matches("padding").count() == 1);
    let python = "import sys, csv\nrows = list(csv.DictReader(sys.stdin))\nprint(len(rows), sum(int(r['id']) for r in rows), sum(r['a,b'].startswith('line\\nand \"quote\", ') for r in rows))";
    let all = dozo.folder.path().join("all.csv");
    fs::write(&all, &text).unwrap();
    let out = Command::new(services().join("venv/bin/python"))
        .args(["-c", python])
        .stdin(fs::File::open(&all).unwrap())
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).trim(),
        "120000 7200060000 40000",
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let duckdb = format!(
        "import duckdb\nprint(*duckdb.execute('''SELECT count(*), sum(id), count(\"a,b\"), count(DISTINCT padding) FROM read_csv('{}', header = true, quote = '\"', escape = '\"', all_varchar = false)''').fetchone())",
        all.display()
    );
    let out = Command::new(services().join("venv/bin/python")).args(["-c", &duckdb]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).starts_with("120000 7200060000"), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Each table in its own form; what did not change lies where it lay; a backup is compared, restored in part, and asked.
#[test]
fn a_form_for_each_table() {
    let cluster = shared(17);
    let shop = cluster.shop("0.02");
    for place in [Place::Local, Place::S3] {
        let more = "formats = { \"public.orders\" = \"sql.gz\", \"users\" = \"csv.gz\", \"gone_*\" = \"csv.gz\" }";
        let mut dozo = Dozo::with_url(&shop.url(), cluster, place, more);
        let run = dozo.run(&["backup", "shop"]).exits(0);
        assert!(run.stderr.contains("`gone_*` matches no table"), "{}", run.stderr);
        let manifest = dozo.manifest();
        assert_eq!(manifest["fingerprint"], "b1,t1");
        for dataset in datasets(&manifest) {
            let wanted = match dataset["root"]["name"].as_str().or(dataset["name"].as_str()).unwrap() {
                "orders" => "sql.gz",
                "users" => "csv.gz",
                _ => "parquet",
            };
            assert_eq!(dataset["format"].as_str().unwrap_or("parquet"), wanted, "{dataset}");
            let suffix = format!(".{wanted}");
            assert!(dataset["parts"].as_array().unwrap().iter().all(|p| p["object"].as_str().unwrap().ends_with(&suffix)));
        }
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        // The next night one partition has changed.
        shop.psql("UPDATE orders SET note = 'changed ' || now() WHERE ordered_at < '2023-02-01'");
        let report = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
        assert_eq!(report["copied"], 1, "{report}");
        let _ = dozo.run(&["compare", "shop@latest", "shop"]).exits(0);
        let copy = dozo.restore_into(cluster, "forms_copy");
        assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &copy));
        if place == Place::Local {
            let by_hand = restore_by_hand(&dozo, cluster);
            assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &by_hand));
        }
        // Row by row, in the other database: keys are named, and put back.
        cluster.psql(&copy, "UPDATE users SET email = 'x' || email WHERE id = 7; UPDATE orders SET note = 'other' WHERE id = 11");
        let differs = dozo.run(&["--json", "compare", "shop@latest", "env:COPY_URL"]).exits(3).json();
        let table = |name: &str| differs["tables"].as_array().unwrap().iter().find(|t| t["table"] == name).unwrap().clone();
        assert_eq!(table("public.users")["changed"][0]["key"][0], "7", "{differs}");
        assert_eq!(table("public.orders")["changed"][0]["key"][0], "11", "{differs}");
        let restore = ["restore", "shop@latest", "--to", "env:COPY_URL", "--existing", "replace", "--table"];
        for table in ["public.users", "public.orders"] {
            let _ = dozo.run(&[&restore[..], &[table]].concat()).exits(0);
        }
        let _ = dozo.run(&["compare", "shop@latest", "env:COPY_URL"]).exits(0);
        let beside = ["restore", "shop@latest", "--to", "env:COPY_URL", "--table", "public.users", "--as", "public.users_back"];
        let _ = dozo.run(&[&beside[..], &["--where", "id < 10"]].concat()).exits(0);
        assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM users_back"), shop.psql("SELECT count(*) FROM users WHERE id < 10"));
        let refused = dozo.run(&["sql", "shop@latest", "SELECT count(*) FROM users"]).exits(2);
        assert!(refused.stderr.contains("public.users is kept as csv.gz"), "{}", refused.stderr);
        let _ = dozo.run(&["sql", "shop@latest", "SELECT count(*) FROM order_lines"]).exits(0);
    }
    let two =
        Dozo::with_url(&shop.url(), cluster, Place::Local, "formats = { \"ord*\" = \"sql.gz\", \"public.*\" = \"csv.gz\" }");
    let refused = two.run(&["backup", "shop"]).exits(2);
    assert!(refused.stderr.contains("is to be kept in two formats, by `ord*` and by `public.*`"), "{}", refused.stderr);
    let bad = Dozo::with_url(&shop.url(), cluster, Place::Local, "format = \"csv\"\nformats = { \"x\" = 1 }");
    let refused = bad.run(&["backup", "shop"]).exits(2);
    assert!(
        refused.stderr.contains("`csv` is not parquet, csv.gz or sql.gz") && refused.stderr.contains("formats"),
        "{}",
        refused.stderr
    );
}

/// A changed byte is found by its digest; changed rows under a digest that was made to fit, by the fingerprint.
#[test]
fn damage_to_texts_is_found() {
    let cluster = shared(17);
    let database = cluster.database("hurt");
    database.psql("CREATE TABLE t (id int, note text); INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g");
    for form in FORMS {
        let change = |edit: &str| {
            let dozo = kept_as(&database.url(), cluster, Place::Local, form);
            let id = dozo.backup();
            let script = format!(
                r#"
import gzip, hashlib, json, pathlib, sys
repo = pathlib.Path(sys.argv[1])
path = repo / "backups/shop/{id}/manifest.json"
body = path.read_bytes().rsplit(b"sha256:", 1)[0]
m = json.loads(body)
key = m["datasets"][0]["parts"][0]["object"]
data = gzip.decompress((repo / key).read_bytes())
changed = (lambda data: {edit})(data)
assert changed != data
stored = changed if changed[:2] == b"\x1f\x8b" else gzip.compress(changed)
(repo / key).chmod(0o600)
(repo / key).write_bytes(stored)
for o in m["objects"]:
    if o["key"] == key:
        o["bytes"], o["sha256"] = len(stored), hashlib.sha256(stored).hexdigest()
body = (json.dumps(m, indent=2) + "\n").encode()
path.chmod(0o600)
path.write_bytes(body + b"sha256:" + hashlib.sha256(body).hexdigest().encode() + b"\n")
"#
            );
            let out =
                Command::new(services().join("venv/bin/python")).args(["-c", &script]).arg(dozo.repository()).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            dozo
        };
        for (edit, word) in [
            ("data.replace(b'row 7\\n', b'row 8\\n', 1)", "fingerprint"),
            ("data.replace(b'row 8\\n', b'row 8\\n8\\n', 1)", "columns"),
            ("data[:len(data) // 2]", ""),
            ("data.replace(b'row 10\\n', b'', 1)", ""),
            ("gzip.compress(data)[:-9]", "data/shop/public/t/"),
        ] {
            let mut dozo = change(edit);
            let run = dozo.run(&["verify", "shop@latest"]).exits(3);
            assert!(run.stdout.contains(word) || run.stderr.contains(word), "{form} {edit}: {run:?}");
            let target = format!("hurt_{}", fresh());
            dozo.set("COPY_URL", &cluster.url("postgres", &target));
            let run = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]);
            assert_ne!(run.code, 0, "{form} {edit}: {run:?}");
        }
    }
}

/// The other form of the same texts is another object, and no row is ever a command.
#[test]
fn another_form_copies_again() {
    let cluster = shared(17);
    let database = cluster.database("switch");
    database.psql(
        "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t VALUES (1, E'\\\\! touch hacked'), (2, E'x\\n\\\\.\\ny, \\\"q\\\"'), (3, ''), (4, NULL), (5, E'a\\tb\\\\')",
    );
    let dozo = kept_as(&database.url(), cluster, Place::Local, "csv.gz");
    let mut form = "csv.gz";
    for next in ["sql.gz", "csv.gz", "parquet", "csv.gz", "sql.gz"] {
        let _ = dozo.backup();
        let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
        let by_hand = restore_by_hand(&dozo, cluster);
        assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &by_hand), "{form}");
        dozo.reconfigure(|text| text.replace(&format!("format = \"{form}\""), &format!("format = \"{next}\"")));
        let report = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
        assert_eq!(report["copied"], 1, "{form} to {next}: {report}");
        assert_eq!(datasets(&dozo.manifest())[0]["format"].as_str().unwrap_or("parquet"), next);
        form = next;
    }
    assert!(!files(dozo.folder.path()).iter().any(|f| f.ends_with("hacked")));
}

/// What the settings of rows would change in views, what event triggers would do, columns that nobody loads, and pieces that are gone.
#[test]
fn scripts_mean_what_the_source_meant() {
    let cluster = shared(17);
    let database = cluster.database("scripts");
    database.psql(&format!("ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'", database.name));
    database.psql(
        "CREATE TABLE t (id int PRIMARY KEY, ts timestamptz); INSERT INTO t VALUES (1, '2026-01-02 05:00+09');
         CREATE TABLE log (tag text); CREATE TABLE held (n pg_ndistinct); INSERT INTO held VALUES (NULL), (NULL);
         CREATE MATERIALIZED VIEW days AS SELECT ts::date d, ts::text s FROM t;
         CREATE FUNCTION again() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'DROP SCHEMA public CASCADE'; EXECUTE '
CREATE SCHEMA public;
SET transaction_timeout = 0;
'; END $$;
         COMMENT ON TABLE t IS 'made by CREATE SCHEMA public; and so on';
         CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES (tg_tag); END $$;
         CREATE EVENT TRIGGER everything ON ddl_command_end EXECUTE FUNCTION noted(); COMMENT ON EVENT TRIGGER everything IS 'notes';
         TRUNCATE log",
    );
    for form in ["parquet", "csv.gz", "sql.gz"] {
        let more = format!("format = \"{form}\"\ntext-only = [\"public.held.n\"]");
        let mut dozo = Dozo::with_url(&database.url(), cluster, Place::Local, &more);
        let _ = dozo.backup();
        let target = format!("by_script_{}", fresh());
        cluster.psql("postgres", &format!("CREATE DATABASE {target} TEMPLATE template0"));
        cluster.psql("postgres", &format!("ALTER DATABASE {target} SET TimeZone = 'Asia/Tokyo'"));
        crate::readers::run_by_hand(&dozo, cluster, &target).unwrap();
        let manifest = dozo.manifest();
        let owners = dozo.repository().join(manifest["files"]["script"]["owners"].as_str().unwrap());
        cluster.psql(&target, &gunzip(&[owners]));
        let copy = format!("scripts_copy_{}", fresh());
        dozo.set("COPY_URL", &cluster.url("postgres", &copy));
        // A column that no server reads back stays empty: partly done.
        let _ = dozo.run(&["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]).exits(4);
        cluster.psql("postgres", &format!("ALTER DATABASE {copy} SET TimeZone = 'Asia/Tokyo'"));
        for database_there in [&target, &copy] {
            assert_eq!(cluster.psql(database_there, "SELECT count(*) FROM log"), "0", "{form}: an event trigger acted");
            let (source, there) = (cluster.dump(&database.name), cluster.dump(database_there));
            assert!(source == there, "{form}: {}", difference(&source, &there));
        }
        assert_eq!(cluster.psql(&target, "SELECT * FROM days"), database.psql("SELECT * FROM days"), "{form}");
        assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM held"), "2", "{form}");
        // A piece that is gone is an error, not a database without keys.
        fs::remove_file(dozo.repository().join(manifest["files"]["script"]["after"].as_str().unwrap())).unwrap();
        let target = format!("by_script_{}", fresh());
        cluster.psql("postgres", &format!("CREATE DATABASE {target} TEMPLATE template0"));
        let error = crate::readers::run_by_hand(&dozo, cluster, &target).unwrap_err();
        assert!(error.contains("after.sql.gz"), "{form}: {error}");
    }
}
