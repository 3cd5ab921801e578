"""Turns the results of a run into docs/benchmarks.md and compares its ratios with benches/baseline.json."""
import json
import pathlib
import platform
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
digest, peers, lake = (json.load(open(p)) for p in sys.argv[1:4])
gzips = [json.loads(line) for line in open(sys.argv[4])]
scale, baseline = sys.argv[5], "--baseline" in sys.argv
cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.processor())
best = min((v["seconds-for-lineitem"], k) for k, v in digest.items() if k != "md-5 crate")
mb = lambda n: f"{n / 1e6:.1f} MB"
d, duck, raw = peers["dozo"], peers["DuckDB"], peers["raw COPY"]
stages = ", ".join(f"{k} {v:.2f} s" for k, v in sorted(peers["stages"].items()))
whole = ", ".join(f"{k} {v:.2f} s" for k, v in peers["seconds"].items())


def backends():
    """Size beside that of gzip -6, and speed, by library and level."""
    first, lines = gzips[0]["gzip-6"], []
    for library in dict.fromkeys(g["library"] for g in gzips[1:]):
        cells = {g["level"]: f"{g['bytes'] / first:.3f}, {g['mb-per-second']:.0f} MB/s" for g in gzips[1:] if g["library"] == library}
        lines.append(f"| {library} | " + " | ".join(cells[n] for n in range(3, 8)) + " |\n")
    return "".join(lines)


text = f"""# Benchmarks

Written by `scripts/bench`: one run, peers interleaved, medians of {peers['rounds']} rounds after a warm-up, on {cpu}, 2 cores that the server
shares with its client. Wall times differ from machine to machine and from minute to minute; the ratios are what counts.

## TPC-H lineitem, scale {scale}: {peers['rows']:,} rows out of Postgres 15 into one folder

| | wall | / DuckDB | CPU of the client | peak memory | file size |
|---|---|---|---|---|---|
| `psql`, COPY (FORMAT binary) to /dev/null, one connection | {raw['wall']:.2f} s | {raw['wall'] / duck['wall']:.2f} | {raw['cpu']:.2f} s | {mb(raw['rss'])} | - |
| DuckDB 1.5.5, Postgres extension, COPY to Parquet zstd, 2 threads (digests nothing) | {duck['wall']:.2f} s | 1.00 | {duck['cpu']:.2f} s | {mb(duck['rss'])} | {mb(duck['bytes'])} |
| **dozo, default settings, data stage** (copy, row digests, encode, SHA-256, store) | **{d['wall']:.2f} s** | **{peers['data / DuckDB']:.2f}** | {d['cpu']:.2f} s | {mb(d['rss'])} | {mb(d['bytes'])} |
| dozo, whole backup with token scan, schema and commit | {d['whole']:.2f} s | {d['whole'] / duck['wall']:.2f} | | | |

Stages of the whole backup: {whole}. On the workers, seconds summed over both: {stages}.

## The same as gzip: pg_dump beside the forms that hold texts, all with their digests and fingerprints

| | wall | times faster | peak memory | file size |
|---|---|---|---|---|
| `pg_dump -t lineitem \\| gzip` | {peers['pg_dump | gzip']['wall']:.2f} s | 1.00 | | {mb(peers['pg_dump | gzip']['bytes'])} |
| **dozo, `format = "sql.gz"`, whole backup** | **{peers['sql.gz']['wall']:.2f} s** | **{peers['pg_dump / sql.gz']:.2f}** | {mb(peers['sql.gz']['rss'])} | {mb(peers['sql.gz']['bytes'])} |
| **dozo, `format = "csv.gz"`, whole backup** | **{peers['csv.gz']['wall']:.2f} s** | **{peers['pg_dump / csv.gz']:.2f}** | {mb(peers['csv.gz']['rss'])} | {mb(peers['csv.gz']['bytes'])} |

Which library, at which level: 2,000,000 rows as COPY writes them ({mb(gzips[0]['raw'])}), gzip members of 4 MiB, one thread. `gzip -6` makes {mb(gzips[0]['gzip-6'])} of them at
{gzips[0]['mb-per-second']:.0f} MB/s; the fastest that is no larger, whatever is compressed, is libdeflate's level 6 (its level 5 is larger by a hundredth on source code).

| | level 3 | 4 | 5 | 6 | 7 |
|---|---|---|---|---|---|
{backends()}
## TPC-H, scale {scale}, in a DuckDB file of {mb(lake['database']['bytes'])}; two threads each

| | wall | | peak memory | stored |
|---|---|---|---|---|
| DuckDB 2.0.0, EXPORT DATABASE (parquet, zstd) | {lake['EXPORT']['wall']:.2f} s | 1.00 | {mb(lake['EXPORT']['rss'])} | {mb(lake['EXPORT']['stored'])} |
| **dozo, `format = "parquet"`, data stage** (digests every row) | **{lake['parquet']['data']:.2f} s** | **{lake['ratios']['parquet form / EXPORT']:.2f}** | {mb(lake['parquet']['rss'])} | {mb(lake['parquet']['stored'])} |
| `pigz -p2 -6` | {lake['pigz']['wall']:.2f} s | 1.00 | {mb(lake['pigz']['rss'])} | {mb(lake['pigz']['stored'])} |
| **dozo, `format = "duckdb.gz"`, whole backup** (digests every row; throughput) | **{lake['file']['wall']:.2f} s** | **{lake['ratios']['pigz / file form']:.2f}** | {mb(lake['file']['rss'])} | {mb(lake['file']['stored'])} |

## {lake['set']['files']:,} files, {mb(lake['set']['bytes'])}

| | wall | | peak memory | stored |
|---|---|---|---|---|
| `tar`, `zstd -1 -T2` | {lake['tar']['wall']:.2f} s | 1.00 | {mb(lake['tar']['rss'])} | {mb(lake['tar']['stored'])} |
| **dozo, first backup** (digests every file) | **{lake['first']['wall']:.2f} s** | **{lake['ratios']['first / tar, zstd']:.2f}** | {mb(lake['first']['rss'])} | {mb(lake['first']['stored'])} |
| **dozo, second backup, {lake['set']['changed']} files changed** (of the first) | **{lake['second']['wall']:.2f} s** | **{lake['ratios']['second / first']:.2f}** | {mb(lake['second']['rss'])} | {mb(lake['second']['stored'])} |
| dozo, restore of all | {lake['restore']['wall']:.2f} s | | {mb(lake['restore']['rss'])} | |

## Row digests: {6001215:,} rows of about 211 bytes, one thread

| | ns a row | seconds of CPU |
|---|---|---|
""" + "".join(f"| {k} | {v['ns-per-row']} | {v['seconds-for-lineitem']} |\n" for k, v in digest.items())
(ROOT / "docs/benchmarks.md").write_text(text)
print(text)
ratios = {
    "data / DuckDB": peers["data / DuckDB"],
    "size / DuckDB": peers["size / DuckDB"],
    "parquet form / EXPORT": lake["ratios"]["parquet form / EXPORT"],
    "file form / pigz": 1 / lake["ratios"]["pigz / file form"],
    "sql.gz / pg_dump": 1 / peers["pg_dump / sql.gz"],
    "csv.gz / pg_dump": 1 / peers["pg_dump / csv.gz"],
    "second backup of files / first": lake["ratios"]["second / first"],
    "digests / md-5 crate": best[0] / digest["md-5 crate"]["seconds-for-lineitem"],
}
file = ROOT / "benches/baseline.json"
if baseline or not file.exists():
    file.write_text(json.dumps({k: round(v, 3) for k, v in ratios.items()}, indent=1) + "\n")
worse = {k: (v, b) for k, b in json.loads(file.read_text()).items() if (v := ratios[k]) > b * 1.15}
for k, (v, b) in worse.items():
    print(f"worse: {k} is {v:.3f}, was {b:.3f}")
sys.exit(bool(worse))
