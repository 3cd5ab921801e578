//! Writes `RESTORE.md`: how to restore exactly this backup with `gunzip`, `psql` and, for Parquet, DuckDB, and nothing else.
//!
//! Every `sh` block runs as it stands, in order; tests execute them. It is written from the manifest's typed fields.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use dozo_model::{
    Dataset, DatasetKind, Manifest, PgType, PostgresContent, QualifiedName, ScriptFiles, TableFormat, human_bytes, human_count,
    quote_literal,
};
use dozo_postgres::{
    client_encoding, copy_csv_into, copy_text_into, database_statements, dataset_fingerprint_sql, exact_only_through_dozo,
    fingerprint_settings, names_relations, subscription_statements, text_from_parquet,
};

/// Returns the text.
pub(crate) fn write(manifest: &Manifest, pg: &PostgresContent, script: &ScriptFiles, url: &str) -> String {
    let mut out = String::new();
    let m = manifest;
    let file = |key: &str| format!("\"$REPO/{key}\"");
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "# Restore backup {source}@{id} without dozo

Database `{database}` of Postgres {version}, as it was at {started} (server's clock). {rows} rows in {tables} tables and
partitions. Needed: {needed}.

All commands are for a POSIX shell. Set these first; the repository was at `{url}`. If it lies in a bucket, copy the folder of
this file and the keys listed under *Objects* to a folder first, keeping their paths (for example with `aws s3 cp --recursive`).

    export REPO=/path/to/the/repository    # the folder that holds dozo-repository.json
    export TARGET='host=… user=… dbname=…' # an empty database, made with TEMPLATE template0 ENCODING '{encoding}'
    export WORK=/path/to/a/scratch/folder

## 1. Roles
",
        source = m.source,
        id = m.id,
        database = plain(&pg.server.database),
        version = pg.server.version,
        started = m.started,
        rows = human_count(m.rows()),
        tables = pg.datasets.len(),
        needed = needed(pg),
        encoding = pg.server.encoding,
    );
    match &pg.files.globals_sql {
        Some(key) => {
            let _ = writeln!(
                out,
                "\nRoles, without passwords, are in `{key}`. Run it as a superuser if they are missing:\n\n    psql -d \"$TARGET\" -f {}\n",
                file(key)
            );
        }
        None => {
            let _ =
                writeln!(out, "\nRoles could not be read. These own or may use something: {}.\n", plain(&pg.roles.join(", ")));
        }
    }
    if pg.datasets.iter().all(|d| d.format == TableFormat::SqlGz) {
        one_script(&mut out, pg, script);
    } else {
        step_by_step(&mut out, pg, script);
    }
    owners(&mut out, pg, script);
    proof(&mut out, pg);
    ending(out, m, pg)
}

/// Makes definitions, loads each table by its form, makes the rest.
fn step_by_step(out: &mut String, pg: &PostgresContent, script: &ScriptFiles) {
    let _ = writeln!(
        out,
        "## 2. Definitions, before the rows\n\n```sh\n{}ln -sfn \"$REPO\" repo\n{}```\n\n## 3. Rows\n",
        beginning(pg),
        piped(&format!("gunzip -c \"$REPO/{}\"\n", script.before), "")
    );
    if pg.datasets.iter().any(|d| d.format == TableFormat::Parquet) {
        let _ = writeln!(
            out,
            "DuckDB turns each Parquet file into lines for COPY, `psql` loads them. Values that a readable column cannot hold come from the column\n`_dozo_exact`."
        );
    }
    if pg.datasets.iter().any(|d| d.format == TableFormat::CsvGz) {
        let _ = writeln!(
            out,
            "\nThe objects of a table, one behind the other, are one CSV file. A line that is only `\\.` within a value would end it for\n`psql`: then Python writes the lines anew.\n\n```sh"
        );
        heredoc(out, "cat > \"$WORK/dozo-csv.py\"", CSV_TO_TEXT);
        let _ = writeln!(out, "```");
    }
    let (late, early): (Vec<&Dataset>, Vec<&Dataset>) = pg.datasets.iter().partition(|d| names_relations(&d.columns));
    for dataset in early {
        rows_of(out, dataset, "", &pg.server.encoding);
    }
    let _ = writeln!(
        out,
        "\n## 4. Sequences, indexes, keys, triggers, views\n\n```sh\n{}",
        piped(&format!("gunzip -c \"$REPO/{}\"\n", script.after), " > /dev/null")
    );
    if !late.is_empty() {
        let _ = writeln!(
            out,
            "```\n\nThese rows name relations, perhaps indexes, which had to be there first. No trigger acts on them."
        );
        for dataset in late {
            rows_of(out, dataset, " SET session_replication_role = replica;", &pg.server.encoding);
        }
        let _ = writeln!(out, "\n```sh");
    }
    let _ = writeln!(out, "{}```", piped(&format!("gunzip -c \"$REPO/{}\"\n", script.last), " > /dev/null"));
}

/// Writes a pipe into psql. A shell does not see that the left side of a pipe failed: it leaves a mark when it came to its end.
fn piped(commands: &str, to: &str) -> String {
    format!("{{\n{commands}: > dozo-whole\n}} | {PSQL}{to}\nrm dozo-whole\n")
}

/// What every first block begins with.
fn beginning(pg: &PostgresContent) -> String {
    format!("set -eu\nexport PGCLIENTENCODING={}\ncd \"$WORK\"\nrm -f dozo-whole\n", client_encoding(&pg.server.encoding))
}

/// What needs roles, or a name of the new database.
fn owners(out: &mut String, pg: &PostgresContent, script: &ScriptFiles) {
    let _ = writeln!(
        out,
        "\n## 5. Owners and grants\n\nEverything belongs to whoever ran this. Where the roles exist:\n\n    gunzip -c \"$REPO/{}\" | {PSQL}",
        script.owners
    );
    let database =
        [subscription_statements(&pg.database.subscriptions, true), database_statements(&pg.database, "…", true)].concat();
    if !database.is_empty() {
        let _ = writeln!(out, "\nSubscriptions (switched off) and settings of the database, whose name stands for `…`:\n");
        indented(out, &database);
    }
}

/// What holds for every backup: what to know, what is missing, which objects there are.
fn ending(mut out: String, m: &Manifest, pg: &PostgresContent) -> String {
    let lossy: Vec<String> = pg
        .datasets
        .iter()
        .filter(|d| d.format == TableFormat::Parquet)
        .flat_map(|d| {
            exact_only_through_dozo(&d.columns).into_iter().map(move |c| format!("`{}.{c}`", d.root.as_ref().unwrap_or(&d.name)))
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    if !lossy.is_empty() {
        let _ = writeln!(out, "\nOnly `dozo restore` keeps the payload bits of a NaN in: {}.", plain(&lossy.join(", ")));
    }
    if foreign_money(pg.datasets.iter().filter(|d| d.format == TableFormat::Parquet)) {
        let _ =
            writeln!(out, "\n`money` does not have two decimals here: load it with `lc_monetary = '{}'`.", pg.server.lc_monetary);
    }
    if !m.left_out.is_empty() {
        let _ = writeln!(out, "\n## Not in this backup\n");
        for left in &m.left_out {
            let needed =
                if left.needed_by.is_empty() { String::new() } else { format!("; needed by {}", left.needed_by.join(", ")) };
            let line = plain(&format!("{}: {}{needed}", left.name, left.reason));
            let _ = writeln!(out, "- {line}");
        }
    }
    let _ = writeln!(out, "\n## Objects\n\nSizes and SHA-256 stand in `manifest.json` under `objects`. Data files:\n");
    for key in pg.datasets.iter().flat_map(|d| &d.parts).map(|p| &p.object).collect::<BTreeSet<_>>() {
        let _ = writeln!(out, "- `{key}`");
    }
    out
}

/// Shows statements that nobody runs unread.
fn indented(out: &mut String, statements: &[String]) {
    for line in statements.iter().flat_map(|s| s.lines()) {
        let _ = writeln!(out, "    {line}");
    }
}

/// Feeds a program from a here-document. Names may hold any character, so the delimiter is one that no line is.
fn heredoc(out: &mut String, command: &str, text: &str) {
    let mut delimiter = "DOZO_SQL".to_owned();
    while text.lines().any(|line| line == delimiter) {
        delimiter.push('_');
    }
    let _ = writeln!(out, "{command} <<'{delimiter}'\n{text}\n{delimiter}");
}

const PSQL: &str = "psql -X -q -v ON_ERROR_STOP=1 -d \"$TARGET\"";

/// Lists the programs that a restore needs, and the room.
fn needed(pg: &PostgresContent) -> String {
    let largest = pg.datasets.iter().filter(|d| d.format == TableFormat::Parquet).map(|d| d.bytes_read * 2).max();
    let duckdb = largest.map(|room| {
        let room = human_bytes(room);
        format!(",\nthe DuckDB command line (any version from 1.1), about {room} of room in `$WORK` for the largest table")
    });
    let python = if pg.datasets.iter().any(|d| d.format == TableFormat::CsvGz) { ", seldom `python3`" } else { "" };
    format!("`gunzip`, `psql` of any version{python}{}", duckdb.unwrap_or_default())
}

/// Feeds everything to one `psql`, file after file.
fn one_script(out: &mut String, pg: &PostgresContent, script: &ScriptFiles) {
    let (late, early): (Vec<&Dataset>, Vec<&Dataset>) = pg.datasets.iter().partition(|d| names_relations(&d.columns));
    let objects = |datasets: Vec<&'_ Dataset>| -> Vec<String> {
        datasets.iter().flat_map(|d| &d.parts).filter(|p| p.fingerprint.rows > 0).map(|p| p.object.clone()).collect()
    };
    let keys =
        [vec![script.before.clone()], objects(early), vec![script.after.clone()], objects(late), vec![script.last.clone()]];
    let gunzip: String = keys.concat().iter().map(|key| format!("gunzip -c \"$REPO/{key}\"\n")).collect();
    let _ = writeln!(
        out,
        "## 2. to 4. Everything\n\nThe files are scripts, one behind the other: definitions, rows, indexes and keys, views.\n\n```sh\n{}{}```",
        beginning(pg),
        piped(&gunzip, " > /dev/null")
    );
}

fn rows_of(out: &mut String, dataset: &Dataset, first: &str, encoding: &str) {
    if dataset.fingerprint.rows == 0 {
        return;
    }
    let _ = writeln!(out, "\n### {} ({} rows)\n\n```sh", plain(&dataset.name.to_string()), human_count(dataset.fingerprint.rows));
    if dataset.columns.iter().all(|c| !c.loaded()) {
        heredoc(
            out,
            PSQL,
            &format!("INSERT INTO {} SELECT FROM generate_series(1, {});", dataset.name.sql(), dataset.fingerprint.rows),
        );
        let _ = writeln!(out, "```");
        return;
    }
    if dataset.format != TableFormat::Parquet {
        rows_of_texts(out, dataset, first, encoding);
        let _ = writeln!(out, "```");
        return;
    }
    for part in dataset.parts.iter().filter(|p| p.fingerprint.rows > 0) {
        // A shared object holds its partitions one after the other, also such that this backup does not name any more.
        let rows = part.first_row.map(|start| start..start + part.fingerprint.rows);
        let sql = text_from_parquet(&dataset.columns, &format!("repo/{}", part.object), "dozo-rows.txt", rows);
        // Otherwise DuckDB would make values of its own out of the bytes.
        let geo = dataset.columns.iter().any(|c| matches!(c.wire, PgType::Geometry { .. }));
        let setting = if geo { "SET enable_geoparquet_conversion = false;\n" } else { "" };
        heredoc(out, "duckdb", &format!(".bail on\n{setting}{sql}"));
        let _ = writeln!(out, "{{");
        let money = if foreign_money(std::iter::once(dataset)) { "" } else { " SET lc_monetary = 'C';" };
        let settings = format!("SET TimeZone = 'UTC'; SET xmloption = 'content';{money}{first}");
        if dataset.kind == DatasetKind::LargeObjects {
            heredoc(
                out,
                "cat",
                &format!(
                    "{settings}\nCREATE TEMPORARY TABLE dozo_large (loid oid, at bigint, data bytea);\nCOPY dozo_large FROM STDIN;"
                ),
            );
            let _ = writeln!(out, "cat dozo-rows.txt\nprintf '\\\\.\\n'");
            heredoc(out, "cat", LARGE_OBJECTS_FROM_STAGE);
            let _ = writeln!(out, "}} | {PSQL}");
            continue;
        }
        heredoc(out, "cat", &format!("{settings}\n{}", copy_text_into(&dataset.name, &dataset.columns)));
        let _ = writeln!(out, "cat dozo-rows.txt\nprintf '\\\\.\\n'\n}} | {PSQL}");
    }
    let _ = writeln!(out, "```");
}

/// Loads a table from its texts: all its files, one behind the other, are one.
fn rows_of_texts(out: &mut String, dataset: &Dataset, first: &str, encoding: &str) {
    let rows = dataset.parts.iter().filter(|p| p.fingerprint.rows > 0 || p.blocks.from == 0);
    let files: Vec<String> = rows.map(|p| format!("\"$REPO/{}\"", p.object)).collect();
    let files = files.join(" \\\n    ");
    if dataset.format == TableFormat::SqlGz {
        out.push_str(&piped(&format!("gunzip -c {files}\n"), ""));
        return;
    }
    let settings = format!("{}{first}", fingerprint_settings(encoding));
    let (name, stage) = match dataset.kind {
        DatasetKind::LargeObjects => {
            let stage = "\nCREATE TEMPORARY TABLE dozo_large (loid oid, at bigint, data bytea);";
            (QualifiedName::new("pg_temp", "dozo_large"), stage)
        }
        _ => (dataset.name.clone(), ""),
    };
    let into = |copy: String, rows: String| {
        let mut commands = String::new();
        heredoc(&mut commands, "cat", &format!("{settings}{stage}\n{copy}"));
        let _ = writeln!(commands, "{rows}\nprintf '\\\\.\\n'");
        if dataset.kind == DatasetKind::LargeObjects {
            heredoc(&mut commands, "cat", LARGE_OBJECTS_FROM_STAGE);
        }
        piped(&commands, "")
    };
    let gunzip = format!("gunzip -c {files}");
    let _ = writeln!(
        out,
        "if {gunzip} | grep -a -q '^\\\\\\.$'; then\n{}else\n{}fi",
        into(
            copy_text_into(&name, &dataset.columns),
            format!("{gunzip} > dozo-rows.csv\npython3 dozo-csv.py < dozo-rows.csv\nrm dozo-rows.csv")
        ),
        into(copy_csv_into(&name, &dataset.columns), gunzip.clone())
    );
}

/// Turns a CSV file of COPY into lines of its text form, without the header.
const CSV_TO_TEXT: &str = r#"import re, sys
FIELD = re.compile(rb'"((?:[^"]|"")*)"(?=[,\n])|([^",\n]*)(?=[,\n])')
def text(match):
    if match[1] is None and not match[2]:
        return b"\\N"
    value = match[2] if match[1] is None else match[1].replace(b'""', b'"')
    value = value.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return value.replace(b"\t", b"\\t")
row, head = b"", True
for line in sys.stdin.buffer:
    row += line
    if row.count(b'"') % 2 == 0:
        fields, at = [], 0
        while at < len(row):
            match = FIELD.match(row, at)
            fields.append(text(match))
            at = match.end() + 1
        if not head:
            sys.stdout.buffer.write(b"\t".join(fields) + b"\n")
        row, head = b"", False
"#;

/// Makes large objects of what was loaded into a table of pieces.
const LARGE_OBJECTS_FROM_STAGE: &str = "SELECT lo_create(loid) FROM (SELECT DISTINCT loid FROM dozo_large) d \\g /dev/null
SELECT lo_put(loid, at, data) FROM dozo_large \\g /dev/null";

/// Tells whether there are amounts that only the source's own locale reads.
fn foreign_money<'a>(mut datasets: impl Iterator<Item = &'a Dataset>) -> bool {
    let foreign = |wire: &PgType| match wire {
        PgType::Money { scale } => *scale != 2,
        PgType::Array(inner) => matches!(**inner, PgType::Money { scale } if scale != 2),
        _ => false,
    };
    datasets.any(|d| d.columns.iter().any(|c| foreign(&c.wire)))
}

/// Quotes a word for a shell.
pub(crate) fn shell(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Makes text of the database harmless where it is printed for people: one line, no markup.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect()
}

fn proof(out: &mut String, pg: &PostgresContent) {
    let mut sql = fingerprint_settings(&pg.server.encoding);
    for dataset in &pg.datasets {
        let statement = dataset_fingerprint_sql(dataset);
        let expected = quote_literal(&dataset.fingerprint.to_string());
        let name = quote_literal(&plain(&dataset.name.to_string()));
        let _ = write!(sql, "\nSELECT f.fingerprint, {expected}, {name} FROM ({statement}) f;");
    }
    let _ = writeln!(
        out,
        "\n## 6. Proof\n\nThe first column is the fingerprint that Postgres computes, the second that of the backup. The block fails if one differs or is \
         missing.\n\n```sh"
    );
    heredoc(out, "cat > \"$WORK/dozo-proof.sql\"", &sql);
    let _ = writeln!(
        out,
        "{PSQL} -A -t -F ' ' -f \"$WORK/dozo-proof.sql\" > \"$WORK/dozo-proof.txt\"\ncat \"$WORK/dozo-proof.txt\"\n\
         awk '$1 == $2 {{ same += 1 }} $1 != $2 {{ print \"DIFFERENT: \" $0 }} END {{ exit same != {} }}' \"$WORK/dozo-proof.txt\"\n```",
        pg.datasets.len()
    );
}
