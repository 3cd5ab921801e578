//! Writes `RESTORE.md`: how to restore exactly this backup with `psql`, `pg_restore` and DuckDB, and nothing else.
//!
//! Every `sh` block runs as it stands, in order; tests execute them. It is written from the manifest's typed fields.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use dozo_model::{Dataset, Manifest, QualifiedName, human_bytes, human_count, quote_literal};
use dozo_postgres::{FINGERPRINT_SETTINGS, copy_csv_into, csv_from_parquet, exact_only_through_dozo, fingerprint_sql};

/// Returns the text.
pub(crate) fn write(manifest: &Manifest, url: &str) -> String {
    let mut out = String::new();
    let m = manifest;
    let file = |key: &str| format!("\"$REPO/{key}\"");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "# Restore backup {source}@{id} without dozo

Database `{database}` of Postgres {version}, as it was at {started} (server's clock). {rows} rows in {tables} tables and
partitions. Needed: `psql` and `pg_restore` of version {major} or newer, the DuckDB command line (any version from 1.0), about
{csv} of room in `$WORK` for the largest table.

All commands are for a POSIX shell. Set these first; the repository was at `{url}`. If it lies in a bucket, copy the keys
listed under *Objects* to a folder first, keeping their paths (for example with `aws s3 cp --recursive`).

    export REPO=/path/to/the/repository    # the folder that holds dozo-repository.json
    export TARGET='host=… user=… dbname=…' # an empty database, made with TEMPLATE template0 ENCODING '{encoding}'
    export WORK=/path/to/a/scratch/folder

## 1. Roles
",
        source = m.source,
        id = m.id,
        database = m.server.database,
        version = m.server.version,
        started = m.started,
        rows = human_count(m.rows()),
        tables = m.datasets.len(),
        major = m.server.version_num / 10_000,
        csv = human_bytes(m.datasets.iter().map(|d| d.bytes_read * 2).max().unwrap_or(0)),
        encoding = m.server.encoding,
    );
    match &m.files.globals_sql {
        Some(key) => {
            let _ = writeln!(
                out,
                "\nRoles, without passwords, are in `{key}`. Run it as a superuser if they are missing:\n\n    psql -d \"$TARGET\" -f {}\n",
                file(key)
            );
        }
        None => {
            let _ = writeln!(out, "\nRoles could not be read. These own or may use something: {}.\n", m.roles.join(", "));
        }
    }
    let _ = write!(
        out,
        "## 2. Schema, before the rows

```sh
set -eu
pg_restore --section=pre-data --no-owner --no-privileges --exit-on-error -d \"$TARGET\" {dump}
```

Leave out `--no-owner --no-privileges` where the roles exist.

## 3. Rows

DuckDB turns each file into CSV, `psql` loads it. Values that a readable column cannot hold come from the column `_dozo_exact`.
",
        dump = file(&m.files.schema_dump)
    );
    let starts = row_starts(m);
    let _ = writeln!(out, "\n```sh\ncd \"$WORK\"\nln -sfn \"$REPO\" repo\n```");
    for dataset in &m.datasets {
        rows_of(&mut out, &starts, dataset);
    }
    sequences(&mut out, m);
    let _ = write!(
        out,
        "
## 5. Indexes, keys, triggers

```sh
pg_restore --section=post-data --no-owner --no-privileges --exit-on-error -d \"$TARGET\" {dump}
",
        dump = file(&m.files.schema_dump)
    );
    for view in m.materialized_views.iter().filter(|v| v.populated) {
        heredoc(&mut out, &format!("REFRESH MATERIALIZED VIEW {};", view.name.sql()));
    }
    let _ = write!(out, "psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\" -c ANALYZE\n```\n");
    proof(&mut out, m);
    let lossy: Vec<String> = m
        .datasets
        .iter()
        .flat_map(|d| {
            exact_only_through_dozo(&d.columns).into_iter().map(move |c| format!("`{}.{c}`", d.root.as_ref().unwrap_or(&d.name)))
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if !lossy.is_empty() {
        let _ = writeln!(out, "\nOnly `dozo restore` keeps the payload bits of a NaN in: {}.", lossy.join(", "));
    }
    let money = m.datasets.iter().any(|d| d.columns.iter().any(|c| c.type_name.starts_with("money")));
    if money {
        let _ = writeln!(
            out,
            "\n`money` is written with a decimal point: load it with `lc_monetary = '{}'` or `C`.",
            m.server.lc_monetary
        );
    }
    if !m.left_out.is_empty() {
        let _ = writeln!(out, "\n## Not in this backup\n");
        for left in &m.left_out {
            let needed =
                if left.needed_by.is_empty() { String::new() } else { format!("; needed by {}", left.needed_by.join(", ")) };
            let _ = writeln!(out, "- `{}`: {}{needed}", left.name, left.reason);
        }
    }
    let _ = writeln!(out, "\n## Objects\n\nSizes and SHA-256 stand in `manifest.json` under `objects`. Data files:\n");
    for key in m.datasets.iter().flat_map(|d| &d.parts).map(|p| &p.object).collect::<BTreeSet<_>>() {
        let _ = writeln!(out, "- `{key}`");
    }
    out
}

/// Feeds psql from a here-document: names may hold any quote.
fn heredoc(out: &mut String, sql: &str) {
    let _ = writeln!(out, "psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\" <<'DOZO_SQL'\n{sql}\nDOZO_SQL");
}

fn rows_of(out: &mut String, starts: &RowStarts<'_>, dataset: &Dataset) {
    if dataset.fingerprint.rows == 0 {
        return;
    }
    let _ = writeln!(out, "\n### {} ({} rows)\n\n```sh", one_line(&dataset.name), human_count(dataset.fingerprint.rows));
    if dataset.columns.iter().all(|c| c.generated) {
        heredoc(
            out,
            &format!("INSERT INTO {} SELECT FROM generate_series(1, {});", dataset.name.sql(), dataset.fingerprint.rows),
        );
        let _ = writeln!(out, "```");
        return;
    }
    for part in dataset.parts.iter().filter(|p| p.fingerprint.rows > 0) {
        // A shared object holds its partitions one after the other.
        let start = starts.get(&(part.object.as_str(), part.row_groups.0)).copied().unwrap_or(0);
        let shared = starts.keys().filter(|(object, _)| *object == part.object).count() > 1;
        let filter =
            shared.then(|| format!("file_row_number >= {start} AND file_row_number < {}", start + part.fingerprint.rows));
        let sql = csv_from_parquet(&dataset.columns, &[format!("repo/{}", part.object)], "dozo-rows.csv", filter.as_deref());
        let _ = writeln!(out, "duckdb <<'DOZO_SQL'\n.bail on\n{sql}\nDOZO_SQL");
        heredoc(out, &format!("SET TimeZone = 'UTC';\n{}", copy_csv_into(&dataset.name, &dataset.columns, "dozo-rows.csv")));
    }
    let _ = writeln!(out, "```");
}

/// First row of each part within its object.
type RowStarts<'a> = BTreeMap<(&'a str, u32), u64>;

fn row_starts(manifest: &Manifest) -> RowStarts<'_> {
    let mut parts: Vec<_> = manifest.datasets.iter().flat_map(|d| &d.parts).filter(|p| p.fingerprint.rows > 0).collect();
    parts.sort_by_key(|p| (&p.object, p.row_groups.0));
    let mut starts = RowStarts::new();
    let (mut object, mut rows) = ("", 0);
    for part in parts {
        if object != part.object {
            (object, rows) = (&part.object, 0);
        }
        starts.insert((object, part.row_groups.0), rows);
        rows += part.fingerprint.rows;
    }
    starts
}

fn one_line(name: &QualifiedName) -> String {
    name.to_string().replace(['\n', '\r'], " ")
}

fn sequences(out: &mut String, m: &Manifest) {
    let _ = writeln!(out, "\n## 4. Sequences\n\n```sh");
    if m.sequences.is_empty() {
        let _ = writeln!(out, ": # none");
    } else {
        let calls: Vec<String> = m
            .sequences
            .iter()
            .map(|s| format!("SELECT setval({}, {}, {}) \\g /dev/null", quote_literal(&s.name.sql()), s.last_value, s.is_called))
            .collect();
        heredoc(out, &calls.join("\n"));
    }
    let _ = writeln!(out, "```");
}

fn proof(out: &mut String, m: &Manifest) {
    let _ = write!(
        out,
        "
## 6. Proof

Each line of the first column must equal the second: the fingerprint that Postgres computes, and the one of the backup. The
block fails if one differs.

```sh
cat > \"$WORK/dozo-proof.sql\" <<'DOZO_SQL'
{FINGERPRINT_SETTINGS}
"
    );
    for dataset in &m.datasets {
        let sql = fingerprint_sql(&dataset.name, &dataset.columns, true);
        let _ = writeln!(
            out,
            "SELECT f.fingerprint, {}, {} FROM ({sql}) f;",
            quote_literal(&dataset.fingerprint.to_string()),
            quote_literal(&one_line(&dataset.name))
        );
    }
    let _ = write!(
        out,
        "DOZO_SQL
psql -X -q -A -t -F ' ' -v ON_ERROR_STOP=1 -d \"$TARGET\" -f \"$WORK/dozo-proof.sql\" | tee \"$WORK/dozo-proof.txt\"
awk 'NF > 0 && $1 != $2 {{ bad = 1; print \"DIFFERENT: \" $0 }} END {{ exit bad }}' \"$WORK/dozo-proof.txt\"
```
"
    );
}
