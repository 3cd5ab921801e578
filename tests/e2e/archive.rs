//! Cold partitions leave, proven: the whole quarter on `shop`, readers beside it, and the night after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use dozo_model::Fingerprint;
use dozo_testkit::{Database, S3Server, services, shared};
use serde_json::Value;

use crate::harness::{Dozo, Place, nightly};
use crate::lock::boto3;

/// Trees of `shop`, and the columns that they are partitioned by.
const TREES: [(&str, &str); 12] = [
    ("orders", "ordered_at"),
    ("order_status_history", "changed_at"),
    ("inventory_transactions", "created_at"),
    ("user_auth_events", "created_at"),
    ("audit_logs", "created_at"),
    ("system_events", "created_at"),
    ("payments", "created_at"),
    ("payment_transactions", "created_at"),
    ("shipments", "created_at"),
    ("shipment_trackings", "created_at"),
    ("returns", "requested_at"),
    ("coupon_usages", "used_at"),
];

/// The moment that the three years of `shop` are looked at from: two years are old then, or five months.
fn now() -> &'static str {
    if nightly() { "2026-01-15T03:00:00Z" } else { "2024-06-15T03:00:00Z" }
}

/// Adds a job for each of these trees; `more` are keys of all of them.
pub(crate) fn with_jobs(dozo: &Dozo, trees: &[(&str, &str)], more: &str) {
    dozo.reconfigure(|mut text| {
        for (table, column) in trees {
            let _ = write!(
                text,
                "\n[archive.{}]\nsource = \"shop\"\ntable = \"public.{table}\"\ncolumn = \"{column}\"\nolder-than = \"12 months\"\n\
                 time-zone = \"UTC\"\n{more}\n",
                table.replace('_', "-")
            );
        }
        text
    });
}

/// Returns the outcome of each partition of a run.
pub(crate) fn outcomes(report: &Value) -> BTreeMap<String, String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let units = report["units"].as_array().unwrap();
    units.iter().map(|u| (text(&u["partition"]["name"]), text(&u["outcome"]))).collect()
}

/// The fingerprint of each leaf of trees, by the server.
pub(crate) fn leaves(database: &Database<'_>, dozo: &Dozo, trees: &[(&str, &str)]) -> BTreeMap<String, Fingerprint> {
    let mut found = BTreeMap::new();
    for (tree, _) in trees {
        let sql = format!("SELECT relid::regclass::text FROM pg_partition_tree('{tree}') WHERE isleaf ORDER BY 1");
        let names: Vec<String> = database.psql(&sql).lines().map(|l| format!("public.{l}")).collect();
        let mut args = vec!["--json", "fingerprint", "shop"];
        args.extend(names.iter().map(String::as_str));
        for line in dozo.run(&args).exits(0).json()["tables"].as_array().unwrap() {
            let name = line["table"]["name"].as_str().unwrap().to_owned();
            found.insert(name, line["fingerprint"].as_str().unwrap().parse().unwrap());
        }
    }
    found
}

/// What is archived of each partition that has left, by the ledger.
pub(crate) fn archived(dozo: &Dozo) -> BTreeMap<String, Fingerprint> {
    let list = dozo.run(&["--json", "archive", "list"]).exits(0).json();
    let published = list.as_array().unwrap().iter().filter(|u| u["published"] == true);
    published
        .map(|u| (u["partition"]["name"].as_str().unwrap().to_owned(), u["fingerprint"].as_str().unwrap().parse().unwrap()))
        .collect()
}

/// Runs a script in the environment of the other readers.
pub(crate) fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(services().join("venv/bin/python"));
    command.arg("-c").arg(script).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Reads the folder of an archive by DuckDB and by pyarrow in turn, again and again, until the file `stop` is there; after each time asks
/// the database: no key may be there twice, none in both. Prints how often it looked, and the keys at the end.
const READER: &str = r#"
import sys, os, glob, subprocess, duckdb, pyarrow.dataset as ds
root, stop, psql, live, keys = sys.argv[1:6]
names = keys.split(",")
looks = 0
while True:
    ended = os.path.exists(stop)
    found = []
    if glob.glob(root + "/*/*.parquet"):
        if looks % 2 == 0:
            try:
                found = duckdb.sql(f"SELECT {keys} FROM read_parquet('{root}/*/*.parquet', hive_partitioning = true)").fetchall()
            except duckdb.IOException as e:
                raise SystemExit(f"a file went away: {e}")
        else:
            table = ds.dataset(root, format="parquet", partitioning="hive").to_table(columns=names)
            found = list(zip(*[table.column(n).to_pylist() for n in names]))
    archived = {str(row[0]) for row in found}
    if len(archived) != len(found):
        raise SystemExit("a row is there twice")
    out = subprocess.run(["sh", "-c", psql], input=live, capture_output=True, text=True, check=True).stdout
    both = archived & set(out.split())
    if both:
        raise SystemExit(f"live and archived: {sorted(both)[:5]}")
    looks += 1
    if ended:
        print(looks, len(archived))
        break
"#;

/// Starts a reader of an archive beside a run.
fn reader(dozo: &Dozo, database: &Database<'_>, tree: &str, key: &str) -> Child {
    let root = dozo.repository().join(format!("archive/shop/public/{tree}/v1"));
    let stop = dozo.folder.path().join("stop");
    let psql = format!("psql -XAtq '{}'", database.url());
    let live = format!("SELECT {key} FROM {tree};");
    python(READER, &[root.to_str().unwrap(), stop.to_str().unwrap(), &psql, &live, key]).spawn().unwrap()
}

#[test]
fn a_quarter_of_shop() {
    let cluster = shared(15);
    let shop = cluster.shop(if nightly() { "5" } else { "0.02" });
    let dozo = Dozo::new(&shop, Place::Local);
    with_jobs(&dozo, &TREES, "then = \"drop\"\nquarantine = \"0\"");
    let _ = dozo.backup();
    let before = leaves(&shop, &dozo, &TREES);
    let keys = "SELECT count(*), string_agg(conname || conrelid::regclass || pg_get_constraintdef(oid), ',' ORDER BY conname, conrelid::regclass::text) FROM pg_constraint
        WHERE contype = 'f' AND conparentid = 0 AND convalidated";
    let foreign_keys = shop.psql(keys);
    let plan = dozo.run(&["--json", "--now", now(), "archive", "plan"]).exits(0).json();
    let lines = plan["units"].as_array().unwrap();
    let ordered: Vec<&Value> = lines.iter().filter(|u| u["action"] == "archive").collect();
    assert!(ordered.windows(2).all(|w| w[0]["order"].as_u64() < w[1]["order"].as_u64()));
    assert!(ordered.iter().all(|u| u["bytes"].as_u64().unwrap() > 0));
    // Whatever refers comes first.
    let place = |name: &str| ordered.iter().position(|u| u["partition"]["name"] == name);
    for (child, parent) in [("payment_transactions", "payments"), ("payments", "orders"), ("shipment_trackings", "shipments")] {
        let of = |tree: &str| place(&format!("{tree}_2023_01")).unwrap();
        assert!(of(child) < of(parent), "{plan}");
    }
    let staying: Vec<&Value> = lines.iter().filter(|u| u["reasons"].to_string().contains("refer to it")).collect();
    assert!(!staying.is_empty(), "some child always falls in a later month than its parent");
    for line in &staying {
        assert!(line["reasons"].to_string().contains("rows of public."), "{line}");
    }
    // A reader of orders and one of an audit log beside it.
    let readers = [reader(&dozo, &shop, "orders", "id"), reader(&dozo, &shop, "audit_logs", "id")];
    let report = dozo.run(&["--json", "--now", now(), "archive", "apply"]).exits(0).json();
    std::fs::write(dozo.folder.path().join("stop"), "").unwrap();
    let after = leaves(&shop, &dozo, &TREES);
    let gone = archived(&dozo);
    for (child, tree) in readers.into_iter().zip(["orders", "audit_logs"]) {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        let numbers: Vec<u64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let of_tree = gone.iter().filter(|(name, _)| name.starts_with(&format!("{tree}_2")));
        assert_eq!(numbers[1], of_tree.map(|(_, f)| f.rows).sum::<u64>(), "{tree}: exactly the archived rows at the end");
        assert!(numbers[0] > 1, "it never looked");
    }
    // Live and archived are what there was: each partition by itself, and all of them by adding.
    let names: BTreeSet<&String> = after.keys().chain(gone.keys()).collect();
    assert_eq!(names, before.keys().collect());
    assert!(after.keys().all(|name| !gone.contains_key(name)));
    for (name, print) in &before {
        assert_eq!(after.get(name).or(gone.get(name)), Some(print), "{name}");
    }
    assert_eq!(after.values().chain(gone.values()).copied().sum::<Fingerprint>(), before.values().copied().sum::<Fingerprint>());
    assert_eq!(gone.len(), ordered.len());
    assert_eq!(outcomes(&report).values().filter(|o| *o == "dropped").count(), ordered.len());
    let told = report["units"].as_array().unwrap().iter().filter(|u| u["outcome"] == "stays").count();
    assert_eq!(told, staying.len(), "the rest is named");
    assert!(report["freed"].as_u64().unwrap() > 0);
    assert_eq!(shop.psql(keys), foreign_keys);
    eprintln!(
        "{} of {} partitions archived, {} rows, {} stay because rows refer to them",
        gone.len(),
        before.len(),
        gone.values().map(|f| f.rows).sum::<u64>(),
        staying.len()
    );
    // The night after: nothing was lost.
    let night = dozo.run(&["--json", "backup", "shop"]).exits(0).json();
    assert_eq!((&night["outcome"], night["losses"].as_array().unwrap().len()), (&"done".into(), 0));
    // What is archived can be asked and read again.
    let _ = dozo.run(&["verify", "--archive", "orders"]).exits(0);
    let count = dozo.run(&["sql", "archive:orders", "SELECT count(*) n FROM orders", "--format", "csv"]).exits(0).stdout;
    let orders: u64 = gone.iter().filter(|(n, _)| n.starts_with("orders_2")).map(|(_, f)| f.rows).sum();
    assert_eq!(count.lines().nth(1), Some(orders.to_string().as_str()));
    // Once more: nothing is left to do.
    let again = dozo.run(&["--json", "--now", now(), "archive", "apply"]).exits(0).json();
    assert!(outcomes(&again).values().all(|o| o == "stays"), "{again}");
}

/// A week in quarantine, by the ledger's clock: out of the table at once, in the archive at once, dropped when the week is over.
#[test]
fn a_week_in_quarantine() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    let trees = [("audit_logs", "created_at"), ("system_events", "created_at")];
    with_jobs(&dozo, &trees, "then = \"drop\"\nquarantine = \"7d\"");
    let before = leaves(&shop, &dozo, &trees);
    let run = |now: &str| dozo.run(&["--json", "--now", now, "archive", "apply"]).exits(0).json();
    let first = run("2024-03-15T03:00:00Z");
    assert_eq!(outcomes(&first).values().filter(|o| *o == "quarantined").count(), 4, "{first}");
    assert_eq!(
        shop.psql("SELECT count(*) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace AND relkind = 'r'"),
        "4"
    );
    let states = |dozo: &Dozo| {
        let list = dozo.run(&["--json", "partitions", "list", "public.audit_logs"]).exits(0).json();
        let of = |p: &Value| (p["partition"]["name"].as_str().unwrap().to_owned(), p["states"].to_string());
        list.as_array().unwrap().iter().map(of).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(states(&dozo)["audit_logs_2023_01"], r#"["quarantined","archived"]"#);
    assert_eq!(states(&dozo)["audit_logs_2024_01"], r#"["live"]"#);
    let plan = dozo.run(&["--json", "--now", "2024-03-20T03:00:00Z", "archive", "plan"]).exits(0).json();
    let waiting: Vec<&Value> = plan["units"].as_array().unwrap().iter().filter(|u| u["action"] == "wait").collect();
    assert!(waiting.len() == 4 && waiting[0]["reasons"][0] == "in quarantine until 2024-03-22 03:00Z", "{plan}");
    // A backup takes the ledger, and not what is in quarantine.
    let _ = dozo.backup();
    let manifest = dozo.manifest();
    let has = |schema: &str| manifest["datasets"].as_array().unwrap().iter().any(|d| d["schema"] == schema);
    assert!(has("dozo") && !has("dozo_quarantine"));
    assert!(outcomes(&run("2024-03-21T03:00:00Z")).values().all(|o| o == "stays"));
    let last = run("2024-03-22T03:00:00Z");
    assert_eq!(outcomes(&last).values().filter(|o| *o == "dropped").count(), 4, "{last}");
    assert_eq!(states(&dozo)["audit_logs_2023_01"], r#"["dropped","archived"]"#);
    assert_eq!(shop.psql("SELECT count(*) FROM pg_class WHERE relnamespace = 'dozo_quarantine'::regnamespace"), "0");
    let (after, gone) = (leaves(&shop, &dozo, &trees), archived(&dozo));
    for (name, print) in &before {
        assert_eq!(after.get(name).or(gone.get(name)), Some(print), "{name}");
    }
    let _ = dozo.backup();
}

/// Into a bucket: copied on the server's side, in the class of archives; asked there, read again, damaged, and brought back.
#[test]
fn into_a_bucket() {
    let cluster = shared(17);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::S3);
    with_jobs(&dozo, &TREES[4..5], "then = \"drop\"\nquarantine = \"0\"");
    let before = leaves(&shop, &dozo, &TREES[4..5]);
    let run = dozo.run(&["--json", "--now", "2024-03-15T03:00:00Z", "archive", "apply"]).exits(0).json();
    assert_eq!(outcomes(&run).values().filter(|o| *o == "dropped").count(), 2);
    let prefix = format!("{}/archive/shop/public/audit_logs", dozo.prefix());
    let listed = |folder: &str| {
        let script = "print(json.dumps([[o['Key'], o['StorageClass']] for o in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get('Contents', [])]))";
        boto3(S3Server::BUCKET, &format!("{prefix}/{folder}"), script).as_array().unwrap().clone()
    };
    assert_eq!(listed("_staging").len(), 0, "nothing stays beside the archive");
    let published = listed("v1/");
    assert_eq!(published.len(), 2, "{published:?}");
    let january = |o: &&Value| o[0].as_str().unwrap().contains("v1/created_at_month=2023-01/");
    assert!(published.iter().find(january).is_some_and(|o| o[1] == "STANDARD_IA"), "{published:?}");
    let sql = "SELECT count(*) n, min(id) a FROM audit_logs";
    let rows: u64 = archived(&dozo).values().map(|f| f.rows).sum();
    let answer = dozo.run(&["sql", "archive:audit-logs", sql, "--format", "csv"]).exits(0).stdout;
    assert_eq!(answer.lines().nth(1), Some(format!("{rows},1").as_str()));
    let _ = dozo.run(&["verify", "--archive", "audit-logs"]).exits(0);
    for engine in ["athena", "trino", "spark", "duckdb"] {
        let ddl = dozo.run(&["archive", "ddl", "audit-logs", "--engine", engine]).exits(0).stdout;
        assert!(
            ddl.contains("archive/shop/public/audit_logs/v1") && (engine == "duckdb" || ddl.contains("created_at_month")),
            "{ddl}"
        );
    }
    let back = dozo.run(&["--json", "restore", "--archive", "audit-logs", "--partition", "2023-01"]).exits(0).json();
    assert_eq!(back[0]["outcome"], "restored", "{back}");
    assert_eq!(listed("v1/").len(), 1, "what is live again is not where readers look");
    let after = leaves(&shop, &dozo, &TREES[4..5]);
    assert_eq!(after["audit_logs_2023_01"], before["audit_logs_2023_01"]);
}

/// The definition that `ddl` prints for DuckDB runs, and finds the folders.
#[test]
fn duckdb_reads_what_the_definition_says() {
    let cluster = shared(15);
    let shop = cluster.shop("0.02");
    let dozo = Dozo::new(&shop, Place::Local);
    with_jobs(&dozo, &TREES[..1], "then = \"keep\"");
    let run = dozo.run(&["--json", "--now", "2024-03-15T03:00:00Z", "archive", "apply"]).exits(0).json();
    assert_eq!(outcomes(&run).values().filter(|o| *o == "copied").count(), 2, "{run}");
    assert_eq!(
        shop.psql("SELECT count(*) FROM pg_class WHERE relname IN ('orders_2023_01', 'ledger')"),
        "1",
        "nothing left, no ledger"
    );
    let ddl = dozo.run(&["archive", "ddl", "orders", "--engine", "duckdb"]).exits(0).stdout;
    assert!(ddl.starts_with("-- A copy:") && ddl.contains("/copy/v1/"), "{ddl}");
    let script = "import sys, duckdb\nc = duckdb.connect()\nc.execute(sys.argv[1])\n\
                  print(c.sql('SELECT ordered_at_month, count(*) FROM orders GROUP BY 1 ORDER BY 1').fetchall())";
    let out = python(script, &[&ddl]).output().unwrap();
    let expected = shop.psql("SELECT format('(''%s'', %s)', to_char(ordered_at AT TIME ZONE 'UTC', 'YYYY-MM'), count(*)) FROM orders WHERE ordered_at < '2023-03-01 UTC' GROUP BY to_char(ordered_at AT TIME ZONE 'UTC', 'YYYY-MM') ORDER BY 1");
    let expected = format!("[{}]", expected.lines().collect::<Vec<_>>().join(", "));
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), expected, "{}", String::from_utf8_lossy(&out.stderr));
    // A copy that stands is not made again.
    let again = dozo.run(&["--json", "--now", "2024-03-15T03:00:00Z", "archive", "apply"]).exits(0).json();
    assert!(outcomes(&again).values().all(|o| o == "stays"), "{again}");
    assert!(Path::new(&dozo.repository()).join("archive/shop/public/orders/copy/v1/ordered_at_month=2023-01").is_dir());
}
