"""DuckDB files and sets of files: dozo beside DuckDB's own EXPORT DATABASE, pigz, and tar with zstd, interleaved in one run.

    benches/lake.py DOZO SERVICES SCALE ROUNDS > result.json

Wall seconds are medians over the rounds, on two threads each, with what is read in the page cache.
"""
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

dozo, services, scale, rounds = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
work = pathlib.Path(tempfile.mkdtemp(prefix="dozo-bench-"))
MAKE = r"""
import sys, glob, os, duckdb, duckdb_extension_tpch
con = duckdb.connect(sys.argv[1], config={"allow_unsigned_extensions": "true"})
con.execute("SET memory_limit='4GB'; SET threads=2")
file = glob.glob(os.path.join(os.path.dirname(duckdb_extension_tpch.__file__), "**", "tpch.duckdb_extension*"), recursive=True)[0]
con.execute(f"LOAD '{file}'"); con.execute(f"CALL dbgen(sf={sys.argv[2]})")
con.execute("CHECKPOINT")
"""
EXPORT = r"""
import sys, time, duckdb
con = duckdb.connect(sys.argv[1], read_only=True, config={"threads": 2})
con.execute("SET enable_progress_bar = false")
began = time.time()
con.execute(f"EXPORT DATABASE '{sys.argv[2]}' (FORMAT parquet, COMPRESSION zstd)")
print(time.time() - began)
"""
FILES, CHANGED = 20_000, 10


def measured(args, **more):
    """Runs a program: wall seconds, peak resident bytes, output."""
    began = time.time()
    child = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work, env={"PATH": "/usr/bin:/bin"}, **more)
    out, err = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"{args}: {err.decode()}")
    return time.time() - began, usage.ru_maxrss * 1024, out


def backup(source):
    wall, rss, out = measured([dozo, "--json", "backup", source])
    report = json.loads(out)
    return {"wall": wall, "data": report["seconds"]["data"], "rss": rss, "stored": report["bytes-written"], "files": report.get("files")}


def size(path):
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


(work / "dozo.toml").write_text(
    '[repository]\nurl = "file://repo"\nmin-free = "0%"\n'
    '[source.parquet]\nkind = "duckdb"\npath = "tpch.duckdb"\nworkers = 2\n'
    '[source.file]\nkind = "duckdb"\npath = "tpch.duckdb"\nformat = "duckdb.gz"\nworkers = 2\n'
    '[source.set]\nkind = "files"\nroot = "set"\nworkers = 2\n'
)
subprocess.run([services / "venv/bin/python", "-c", MAKE, work / "tpch.duckdb", scale], check=True, stdout=subprocess.DEVNULL)
random.seed(7)
words = [f"{random.getrandbits(20):05x}" for _ in range(4000)]
for i in range(FILES):
    folder = work / f"set/{i % 200:03}/{i % 7}"
    folder.mkdir(parents=True, exist_ok=True)
    length = random.choice([1_000, 5_000, 20_000, 60_000, 160_000])
    text = " ".join(random.choices(words, k=length // 6 + 1)).encode()[:length] if i % 3 else random.randbytes(length)
    (folder / f"{i}.dat").write_bytes(text)
time.sleep(3)

rows = {name: [] for name in ("EXPORT", "parquet", "pigz", "file", "tar", "first", "second", "restore")}
for n in range(rounds + 1):
    shutil.rmtree(work / "repo", ignore_errors=True)
    shutil.rmtree(work / "out", ignore_errors=True)
    _, rss, out = measured([services / "duckdb2/bin/python", "-c", EXPORT, "tpch.duckdb", "out"])
    found = {"EXPORT": {"wall": float(out), "rss": rss, "stored": size(work / "out")}, "parquet": backup("parquet")}
    wall, rss, _ = measured(["sh", "-c", "pigz -p2 -6 -c tpch.duckdb > tpch.gz"])
    found |= {"pigz": {"wall": wall, "rss": rss, "stored": (work / "tpch.gz").stat().st_size}, "file": backup("file")}
    wall, rss, _ = measured(["sh", "-c", "tar -cf - set | zstd -q -1 -T2 -o set.tar.zst -f"])
    found |= {"tar": {"wall": wall, "rss": rss, "stored": (work / "set.tar.zst").stat().st_size}, "first": backup("set")}
    for i in range(CHANGED):
        (work / f"set/{i:03}/{i % 7}/{i}.dat").write_text(f"round {n}")
    found["second"] = backup("set")
    assert found["second"]["files"]["stored"] == CHANGED, found["second"]
    shutil.rmtree(work / "back", ignore_errors=True)
    wall, rss, _ = measured([dozo, "--quiet", "restore", "set@latest", "--to", "back"])
    found["restore"] = {"wall": wall, "rss": rss, "stored": 0}
    if n == 0:
        continue  # warm-up
    for name, value in found.items():
        rows[name].append(value)
    print(f"round {n}: " + ", ".join(f"{k} {v['wall']:.2f} s" for k, v in found.items()), file=sys.stderr)

result = {name: {k: statistics.median(r[k] for r in all) for k in ("wall", "rss", "stored")} for name, all in rows.items()}
result["parquet"]["data"] = statistics.median(r["data"] for r in rows["parquet"])
result["set"] = {"files": FILES, "bytes": size(work / "set"), "changed": CHANGED}
result["database"] = {"bytes": (work / "tpch.duckdb").stat().st_size}
paired = lambda a, b, key="wall": statistics.median(x[key] / y["wall"] for x, y in zip(rows[a], rows[b]))
result["ratios"] = {
    "parquet form / EXPORT": paired("parquet", "EXPORT", "data"),
    "pigz / file form": paired("pigz", "file"),
    "second / first": paired("second", "first"),
    "first / tar, zstd": paired("first", "tar"),
}
result["rounds"] = rounds
print(json.dumps(result, indent=1))
shutil.rmtree(work)
