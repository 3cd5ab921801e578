"""TPC-H lineitem out of Postgres: dozo beside raw COPY and DuckDB's Postgres extension, and, as gzip, beside pg_dump, interleaved in
one run.

    benches/peers.py DOZO PG_BIN URL SCALE ROUNDS > result.json

Wall seconds are medians over the rounds; every peer meets the same server, which shares the two cores with it.
"""
import glob
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

dozo, pg_bin, url, scale, rounds = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
work = pathlib.Path(tempfile.mkdtemp(prefix="dozo-bench-"))
SERVER = subprocess.run([f"{pg_bin}/psql", "-XqAt", "-d", url, "-c", "SHOW data_directory"], capture_output=True, text=True, check=True).stdout.strip()


def psql(sql):
    subprocess.run([f"{pg_bin}/psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql], check=True, stdout=subprocess.DEVNULL)


LOAD = r"""
import sys, glob, os, duckdb, duckdb_extension_tpch
con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
con.execute("SET memory_limit='4GB'; SET threads=2")
file = glob.glob(os.path.join(os.path.dirname(duckdb_extension_tpch.__file__), "**", "tpch.duckdb_extension*"), recursive=True)[0]
con.execute(f"LOAD '{file}'"); con.execute(f"CALL dbgen(sf={sys.argv[2]})")
con.execute(f"COPY lineitem TO '{sys.argv[1]}' (FORMAT csv, HEADER false)")
"""
COLUMNS = (
    "l_orderkey bigint, l_partkey bigint, l_suppkey bigint, l_linenumber bigint, l_quantity numeric(15,2), l_extendedprice numeric(15,2), "
    "l_discount numeric(15,2), l_tax numeric(15,2), l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, "
    "l_receiptdate date, l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44)"
)
csv = work / "lineitem.csv"
subprocess.run([sys.executable, "-c", LOAD, csv, scale], check=True, stdout=subprocess.DEVNULL)
psql(f"CREATE TABLE lineitem ({COLUMNS})")
psql(f"\\copy lineitem FROM '{csv}' WITH (FORMAT csv)")
psql("VACUUM (FREEZE, ANALYZE) lineitem")
csv.unlink()

DUCK = r"""
import sys, glob, os, time, duckdb, duckdb_extension_postgres_scanner as e
con = duckdb.connect(config={"allow_unsigned_extensions": "true"})
file = glob.glob(os.path.join(os.path.dirname(e.__file__), "**", "postgres_scanner.duckdb_extension*"), recursive=True)[0]
con.execute(f"LOAD '{file}'"); con.execute("SET threads=2; SET enable_progress_bar=false")
con.execute(f"ATTACH '{sys.argv[1]}' AS pg (TYPE postgres, READ_ONLY)")
began = time.time()
con.execute(f"COPY (FROM pg.lineitem) TO '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
print(time.time() - began)
"""


def measured(args, env=None, stdout=subprocess.PIPE):
    """Runs a program: wall, user + system seconds, peak resident bytes, output."""
    began = time.time()
    child = subprocess.Popen(args, stdout=stdout, stderr=subprocess.PIPE, env=env, cwd=work)
    out = child.stdout.read() if stdout == subprocess.PIPE else b""
    err = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.time() - began
    if status != 0:
        sys.exit(f"{args}: {err.decode()}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out


(work / "dozo.toml").write_text(
    f'[repository]\nurl = "file://{work}/repo"\nmin-free = "0%"\n'
    + "".join(
        f'[source.{name}]\nkind = "postgres"\nurl = "env:BENCH_URL"\npg-tools = "{pg_bin}"\nformat = "{form}"\n'
        for name, form in [("tpch", "parquet"), ("texts", "sql.gz"), ("csv", "csv.gz")]
    )
)
ENV = {"PATH": f"{pg_bin}:/usr/bin:/bin", "BENCH_URL": url}
rows = {"raw COPY": [], "DuckDB": [], "dozo": []}
last = {}
for n in range(rounds + 1):
    wall, cpu, rss, _ = measured([f"{pg_bin}/psql", "-Xq", "-d", url, "-c", "COPY lineitem TO STDOUT (FORMAT binary)"], stdout=subprocess.DEVNULL)
    raw = {"wall": wall, "cpu": cpu, "rss": rss}
    target = work / "duck.parquet"
    target.unlink(missing_ok=True)
    _, cpu, rss, out = measured([sys.executable, "-c", DUCK, url, str(target)])
    duck = {"wall": float(out), "cpu": cpu, "rss": rss, "bytes": target.stat().st_size}
    shutil.rmtree(work / "repo", ignore_errors=True)
    wall, cpu, rss, out = measured([dozo, "--json", "backup", "tpch"], env=ENV)
    report = json.loads(out)
    data = sum(f.stat().st_size for f in (work / "repo/data").rglob("*.parquet"))
    mine = {"wall": report["seconds"]["data"], "cpu": cpu, "rss": rss, "bytes": data, "whole": wall, "seconds": report["seconds"], "rows": report["rows"], "stages": report["tables"][0]["seconds"]}
    dump = work / "dump.sql.gz"
    wall, _, _, _ = measured(["sh", "-c", f"{pg_bin}/pg_dump -d '{url}' -t lineitem | gzip > '{dump}'"])
    gzipped = {"pg_dump | gzip": {"wall": wall, "bytes": dump.stat().st_size}}
    for source, form in [("texts", "sql.gz"), ("csv", "csv.gz")]:
        shutil.rmtree(work / "repo", ignore_errors=True)
        wall, _, rss, _ = measured([dozo, "--json", "backup", source], env=ENV)
        stored = sum(f.stat().st_size for f in (work / "repo/data").rglob(f"*.{form}"))
        gzipped[form] = {"wall": wall, "bytes": stored, "rss": rss}
    if n == 0:
        continue  # warm-up
    for name, numbers in gzipped.items():
        rows.setdefault(name, []).append(numbers)
    rows["raw COPY"].append(raw)
    rows["DuckDB"].append(duck)
    rows["dozo"].append(mine)
    print(f"round {n}: raw {raw['wall']:.2f} s, DuckDB {duck['wall']:.2f} s, dozo data {mine['wall']:.2f} s of {mine['whole']:.2f} s", file=sys.stderr)


def median(name, key):
    return statistics.median(r[key] for r in rows[name])


result = {
    "rows": rows["dozo"][-1]["rows"],
    "rounds": rounds,
    "raw COPY": {k: median("raw COPY", k) for k in ("wall", "cpu", "rss")},
    "DuckDB": {k: median("DuckDB", k) for k in ("wall", "cpu", "rss", "bytes")},
    "dozo": {k: median("dozo", k) for k in ("wall", "cpu", "rss", "bytes", "whole")},
    "stages": rows["dozo"][-1]["stages"],
    "seconds": rows["dozo"][-1]["seconds"],
    "data / DuckDB": statistics.median(m["wall"] / d["wall"] for m, d in zip(rows["dozo"], rows["DuckDB"])),
    "data / raw COPY": statistics.median(m["wall"] / d["wall"] for m, d in zip(rows["dozo"], rows["raw COPY"])),
}
for form in ["sql.gz", "csv.gz"]:
    result[form] = {k: median(form, k) for k in ("wall", "rss", "bytes")}
    result[f"pg_dump / {form}"] = statistics.median(d["wall"] / m["wall"] for d, m in zip(rows["pg_dump | gzip"], rows[form]))
result["pg_dump | gzip"] = {k: median("pg_dump | gzip", k) for k in ("wall", "bytes")}
result["size / DuckDB"] = result["dozo"]["bytes"] / result["DuckDB"]["bytes"]
print(json.dumps(result, indent=1))
shutil.rmtree(work)
