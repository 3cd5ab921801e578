//! TPC-H: backup, verify and restore at scale 1 stay within memory, and others read the same sums. Scale 0.01 in the ordinary tier.

use std::process::Command;

use dozo_testkit::{services, shared};

use crate::harness::{Dozo, Place, fingerprints, fresh, nightly};

const TABLES: [(&str, &str); 8] = [
    ("region", "r_regionkey integer, r_name char(25), r_comment varchar(152)"),
    ("nation", "n_nationkey integer, n_name char(25), n_regionkey integer, n_comment varchar(152)"),
    (
        "supplier",
        "s_suppkey bigint, s_name char(25), s_address varchar(40), s_nationkey integer, s_phone char(15), s_acctbal numeric(15,2), s_comment varchar(101)",
    ),
    (
        "customer",
        "c_custkey bigint, c_name varchar(25), c_address varchar(40), c_nationkey integer, c_phone char(15), c_acctbal numeric(15,2), c_mktsegment char(10), c_comment varchar(117)",
    ),
    (
        "part",
        "p_partkey bigint, p_name varchar(55), p_mfgr char(25), p_brand char(10), p_type varchar(25), p_size integer, p_container char(10), p_retailprice numeric(15,2), p_comment varchar(23)",
    ),
    (
        "partsupp",
        "ps_partkey bigint, ps_suppkey bigint, ps_availqty bigint, ps_supplycost numeric(15,2), ps_comment varchar(199)",
    ),
    (
        "orders",
        "o_orderkey bigint, o_custkey bigint, o_orderstatus char(1), o_totalprice numeric(15,2), o_orderdate date, o_orderpriority char(15), o_clerk char(15), o_shippriority integer, o_comment varchar(79)",
    ),
    (
        "lineitem",
        "l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber bigint, l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44)",
    ),
];

/// Peak resident memory of a run in bytes.
fn measured(dozo: &Dozo, args: &[&str]) -> u64 {
    let mut child = dozo.command(args).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        if let Ok(text) = std::fs::read_to_string(&status)
            && let Some(line) = text.lines().find(|l| l.starts_with("VmHWM:"))
        {
            let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            peak = peak.max(kilobytes * 1024);
        }
        if let Some(exit) = child.try_wait().unwrap() {
            let out = child.wait_with_output().unwrap();
            assert!(exit.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(peak > 0);
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn stays_within_memory_and_others_agree() {
    let scale = if nightly() { "1" } else { "0.01" };
    let cluster = shared(15);
    let database = cluster.database("tpch");
    let folder = tempfile::tempdir().unwrap();
    let python = services().join("venv/bin/python");
    let script = r#"
import sys, glob, os, duckdb, duckdb_extension_tpch
out, scale = sys.argv[1], sys.argv[2]
con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
con.execute("SET memory_limit='4GB'; SET threads=2")
file = glob.glob(os.path.join(os.path.dirname(duckdb_extension_tpch.__file__), "**", "tpch.duckdb_extension*"), recursive=True)[0]
con.execute(f"LOAD '{file}'")
con.execute(f"CALL dbgen(sf={scale})")
for (t,) in con.execute("SHOW TABLES").fetchall():
    con.execute(f"COPY {t} TO '{out}/{t}.csv' (FORMAT csv, HEADER false)")
"#;
    let made = Command::new(&python).args(["-c", script]).arg(folder.path()).arg(scale).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for (table, columns) in TABLES {
        database.psql(&format!(
            "CREATE TABLE {table} ({columns});\n\\copy {table} FROM '{}/{table}.csv' WITH (FORMAT csv)",
            folder.path().display()
        ));
    }
    database.psql("ANALYZE");
    let expected = if nightly() { "6001215|1500000" } else { "60175|15000" };
    assert_eq!(database.psql("SELECT (SELECT count(*) FROM lineitem), (SELECT count(*) FROM orders)"), expected);

    let mut dozo = Dozo::new(&database, Place::Local);
    let target = format!("tpch_copy_{}", fresh());
    dozo.set("COPY_URL", &cluster.url("postgres", &target));
    for args in
        [&["backup", "shop"][..], &["verify", "shop@latest"], &["restore", "shop@latest", "--to", "env:COPY_URL", "--create-db"]]
    {
        let peak = measured(&dozo, args);
        println!("{}: peak {} MB", args[0], peak / 1_000_000);
        assert!(peak <= 512_000_000, "{} took {} MB", args[0], peak / 1_000_000);
    }
    assert_eq!(fingerprints(&dozo, cluster, &database.name), fingerprints(&dozo, cluster, &target));

    let read = r#"
import sys, duckdb
con = duckdb.connect()
f = sys.argv[1] + "/data/shop/public/"
print(*con.execute(f"SELECT count(*), sum(l_quantity), sum(l_extendedprice), sum(l_tax), max(l_shipdate), count(DISTINCT l_shipmode), sum(length(l_comment)) FROM read_parquet('{f}lineitem/*.parquet')").fetchone(), sep="|")
print(*con.execute(f"SELECT count(*), sum(o_totalprice), min(o_orderdate), sum(o_orderkey) FROM read_parquet('{f}orders/*.parquet')").fetchone(), sep="|")
"#;
    let out = Command::new(&python).args(["-c", read]).arg(dozo.repository()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let wanted = database.psql(
        "SELECT count(*), sum(l_quantity), sum(l_extendedprice), sum(l_tax), max(l_shipdate), count(DISTINCT l_shipmode), sum(length(l_comment)) FROM lineitem;
         SELECT count(*), sum(o_totalprice), min(o_orderdate), sum(o_orderkey) FROM orders",
    );
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), wanted);
}
