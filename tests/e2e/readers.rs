//! Others read what dozo writes: pyarrow, DuckDB's library, and `RESTORE.md` with gunzip, psql and the DuckDB command line.

use std::process::Command;

use dozo_testkit::{majors, services, shared};

use crate::harness::{Dozo, Place, fingerprints, fresh};

#[test]
fn pyarrow_and_duckdb_count_and_sum_the_same() {
    let cluster = shared(17);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    std::fs::write(dozo.folder.path().join("manifest.json"), dozo.manifest().to_string()).unwrap();
    let script = r#"
import json, sys, duckdb, pyarrow.parquet as pq
repo, manifest = sys.argv[1], json.load(open(sys.argv[2]))
files = sorted({p["object"] for d in manifest["datasets"] for p in d["parts"]})
assert files
arrow_rows = {f: pq.read_table(f"{repo}/{f}").num_rows for f in files}
duck_rows = {f: duckdb.execute(f"SELECT count(*) FROM read_parquet('{repo}/{f}')").fetchone()[0] for f in files}
expected = {f: 0 for f in files}
for d in manifest["datasets"]:
    for p in d["parts"]:
        expected[p["object"]] += int(p["fingerprint"].split(":")[1])
assert arrow_rows == duck_rows == expected, (arrow_rows, duck_rows, expected)
def of(table):
    return sorted({f"{repo}/{p['object']}" for d in manifest["datasets"] for p in d["parts"] if (d["root"] or d)["name"] == table})
con = duckdb.connect()
for table, what in [("orders", "sum(total), sum(id), min(ordered_at AT TIME ZONE 'UTC')::text, count(DISTINCT status)"), ("order_lines", "sum(amount), sum(price), count(*)"),
                    ("users", "sum(len(tags)), count(birthday), max(email)"), ("shipments", "count(*), count(weight)"), ("fact_order_daily", "sum(revenue), sum(average), max(process_date)::text")]:
    print(table, *con.execute(f"SELECT {what} FROM read_parquet(?)", [of(table)]).fetchone(), sep="|")
sums = [pq.read_table(f).column("total") for f in of("orders")]
print("arrow", sum(v.as_py() for c in sums for v in c), sep="|")
"#;
    let out = Command::new(services().join("venv/bin/python"))
        .args(["-c", script])
        .arg(dozo.repository())
        .arg(dozo.folder.path().join("manifest.json"))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let seen = String::from_utf8(out.stdout).unwrap();
    let wanted = shop.psql(
        "SET TimeZone = 'UTC';
         SELECT 'orders', sum(total), sum(id), min(ordered_at AT TIME ZONE 'UTC'), count(DISTINCT status) FROM orders;
         SELECT 'order_lines', sum(amount), sum(price), count(*) FROM order_lines;
         SELECT 'users', sum(cardinality(tags)), count(birthday), max(email COLLATE \"C\") FROM users;
         SELECT 'shipments', count(*), count(weight) FROM shipments;
         SELECT 'fact_order_daily', sum(revenue), sum(average ORDER BY process_date), max(process_date) FROM fact_order_daily;
         SELECT 'arrow', sum(total) FROM orders;",
    );
    // Floating-point sums depend on the order: compared with a tolerance, everything else to the letter.
    for (seen, wanted) in seen.lines().zip(wanted.lines()) {
        for (a, b) in seen.split('|').zip(wanted.split('|')) {
            let close = match (a.parse::<f64>(), b.parse::<f64>()) {
                (Ok(x), Ok(y)) => (x - y).abs() <= 1e-9 * y.abs(),
                _ => false,
            };
            assert!(a == b || close, "{seen}\n{wanted}");
        }
    }
    assert_eq!(seen.lines().count(), wanted.lines().count());
}

/// Other readers open every file of the zoo, see its rows, and see these types and values.
#[test]
fn pyarrow_and_duckdb_read_the_zoo() {
    let script = r#"
import json, sys, duckdb, pyarrow.parquet as pq
repo, manifest = sys.argv[1], json.load(open(sys.argv[2]))
seen = {}
for d in manifest["datasets"]:
    files = sorted({p["object"] for p in d["parts"]})
    for f in files:
        arrow = pq.read_table(f"{repo}/{f}")
        duck = duckdb.execute(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM read_parquet('{repo}/{f}')").fetchall()
        assert arrow.num_rows == len(duck), f
        names = duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet('{repo}/{f}')").fetchall()
        for c in d["columns"]:
            duck_type = next(n[1] for n in names if n[0] == c["parquet-name"])
            seen[c["type-name"]] = (c["parquet"], str(arrow.schema.field(c["parquet-name"]).type), duck_type)
    rows = sum(int(p["fingerprint"].split(":")[1]) for p in d["parts"])
    of_files = sum(pq.read_metadata(f"{repo}/{f}").num_rows for f in files)
    assert of_files >= rows, d["name"]
for name, what in sorted(seen.items()):
    print(name, *what, sep="\t")
def one(table, expression, where="true"):
    d = next(d for d in manifest["datasets"] if d["name"] == table)
    return duckdb.execute(f"SELECT {expression} FROM read_parquet('{repo}/{d['parts'][0]['object']}') WHERE {where} LIMIT 1").fetchone()
assert one("composites", 'p.a, p."A__2"', "p.a = 1") == (1, 'a "q" \\ (,)'), one("composites", 'p.a, p."A__2"', "p.a = 1")
assert one("composites", "d.p IS NULL, d.iv.months, d.d", "d.iv.months = 1") == (False, 1, 5)
assert one("extended", "h['a'], len(hs), c", "h['a'] IS NOT NULL")[0] in ("1", ["1"])
assert one("addresses", "i, c", "i = '10.0.0.1/8'") == ("10.0.0.1/8", "10.0.0.0/8")
assert one("numerics", "two, json_extract_string(_dozo_exact, '/two')", "free = '1.00'") == (None, "NaN")
assert one("times", "json_extract_string(_dozo_exact, '/d')", "d IS NULL AND _dozo_exact LIKE '%\"d\":%'")[0] == "infinity"
"#;
    for major in majors() {
        let cluster = shared(major);
        let dozo = Dozo::new(&cluster.zoo(true), Place::Local);
        let _ = dozo.backup();
        let manifest = dozo.folder.path().join("manifest.json");
        std::fs::write(&manifest, dozo.manifest().to_string()).unwrap();
        let python =
            Command::new(services().join("venv/bin/python")).args(["-c", script]).arg(dozo.repository()).arg(&manifest).output();
        let out = python.unwrap();
        assert!(out.status.success(), "on {major}: {}", String::from_utf8_lossy(&out.stderr));
        let seen = String::from_utf8(out.stdout).unwrap();
        println!("PostgreSQL {major}\n{seen}");
        for line in [
            "numeric(12,2)\tDECIMAL(12,2)\tdecimal128(12, 2)\tDECIMAL(12,2)",
            "integer[]\tLIST<INT32>\tlist<element: int32>\tINTEGER[]",
            "inet\tSTRING\tstring\tVARCHAR",
            "public.hstore\tMAP<STRING,STRING>\tmap<string, string ('h')>\tMAP(VARCHAR, VARCHAR)",
        ] {
            assert!(seen.lines().any(|l| l == line), "{line}: {seen}");
        }
    }
}

/// Runs every `sh` block of `RESTORE.md`, in order, in one shell, with nothing of dozo in reach.
pub(crate) fn restore_by_hand(dozo: &Dozo, cluster: &dozo_testkit::Cluster) -> String {
    let manifest = dozo.manifest();
    let target = format!("by_hand_{}", fresh());
    let ascii = manifest["server"]["encoding"] == "SQL_ASCII";
    let encoding = if ascii { "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'" } else { "" };
    cluster.psql("postgres", &format!("CREATE DATABASE {target} TEMPLATE template0 {encoding}"));
    run_by_hand(dozo, cluster, &target).unwrap();
    target
}

/// Runs them into a database that is there; the error is what they printed.
pub(crate) fn run_by_hand(dozo: &Dozo, cluster: &dozo_testkit::Cluster, target: &str) -> Result<(), String> {
    let manifest = dozo.manifest();
    let text = std::fs::read_to_string(dozo.repository().join(manifest["files"]["restore-md"].as_str().unwrap())).unwrap();
    let blocks: Vec<&str> = text.split("```sh\n").skip(1).map(|b| b.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 2, "{text}");
    let work = dozo.folder.path().join("work");
    std::fs::create_dir_all(&work).unwrap();
    let script = dozo.folder.path().join("by-hand.sh");
    std::fs::write(&script, blocks.join("\n")).unwrap();
    let out = Command::new("sh")
        .arg(&script)
        .env_clear()
        .env("PATH", format!("{}:{}:/usr/bin:/bin", services().display(), cluster.tools().display()))
        .env("HOME", &work)
        .env("REPO", dozo.repository())
        .env("WORK", &work)
        .env("TARGET", format!("host=127.0.0.1 port={} user=postgres dbname={target}", cluster.port()))
        .output()
        .unwrap();
    if !out.status.success() {
        return Err(format!("{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)));
    }
    let proof = std::fs::read_to_string(work.join("dozo-proof.txt")).unwrap();
    assert_eq!(
        proof.lines().filter(|l| l.starts_with("b1:") || l.starts_with("t1:")).count(),
        manifest["datasets"].as_array().unwrap().len()
    );
    Ok(())
}

#[test]
fn restore_md_restores_without_dozo() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let _ = dozo.backup();
    let target = restore_by_hand(&dozo, cluster);
    assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &target));
    let keys = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace";
    assert_eq!(shop.psql(keys), cluster.psql(&target, keys));
    let sequence = "SELECT last_value, is_called FROM users_id_seq";
    assert_eq!(shop.psql(sequence), cluster.psql(&target, sequence));

    // The next night one partition of a shared object has changed: the others lie where they lay.
    let _ = dozo.run(&["verify", "shop@latest"]).exits(0);
    shop.psql("UPDATE orders SET note = 'changed' WHERE ordered_at < '2023-02-01'");
    let report = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!(report["copied"], 1, "{report}");
    let target = restore_by_hand(&dozo, cluster);
    assert_eq!(fingerprints(&dozo, cluster, &shop.name), fingerprints(&dozo, cluster, &target));
}

#[test]
fn restore_md_restores_the_zoo() {
    for major in majors() {
        let cluster = shared(major);
        let database = cluster.zoo(false);
        let dozo = Dozo::new(&database, Place::Local);
        let _ = dozo.backup();
        let target = restore_by_hand(&dozo, cluster);
        assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &target));
    }
}

/// What needs a table that was left out is left out of a restore by hand too.
#[test]
fn restore_md_of_a_part() {
    let cluster = shared(17);
    let database = cluster.database("part");
    database.psql(
        "CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1); CREATE TABLE tmp_x (id serial PRIMARY KEY);
         CREATE TABLE child (id int REFERENCES tmp_x, k int REFERENCES kept); CREATE VIEW peek AS SELECT * FROM tmp_x; CREATE VIEW over AS SELECT * FROM peek;
         CREATE TABLE \"line
DOZO_SQL
touch hacked
\" (id int, \"c
DOZO_SQL
touch hacked\" text); INSERT INTO \"line
DOZO_SQL
touch hacked
\" VALUES (1, E'a\\n\\\\.\\nb');",
    );
    let dozo = Dozo::with_url(&database.url(), cluster, Place::Local, "exclude = [\"*.tmp_*\"]");
    let _ = dozo.backup();
    let target = restore_by_hand(&dozo, cluster);
    assert_eq!(cluster.psql(&target, "SELECT count(*), to_regclass('peek') IS NULL FROM child"), "0|t");
    assert_eq!(cluster.psql(&target, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "1");
    assert!(!crate::harness::files(dozo.folder.path()).iter().any(|f| f.ends_with("hacked")));
    let mut dozo = dozo;
    let copy = dozo.restore_into(cluster, "part_copy");
    assert_eq!(cluster.psql(&copy, "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "1");
}
