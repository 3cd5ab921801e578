//! Writes `RESTORE.md` of a backup of DuckDB files: how to restore exactly this one with DuckDB's command line, and nothing else.
//!
//! Every `sh` block runs as it stands, in order; tests execute them.

use std::fmt::Write as _;
use std::path::Path;

use dozo_duckdb::TableInfo;
use dozo_model::{Content, DuckdbFile, Manifest, human_count, quote_ident};

use crate::restore_md::{plain, shell};

/// Returns the text.
pub(super) fn write(manifest: &Manifest, url: &str) -> String {
    let mut out = String::new();
    let Content::Duckdb(content) = &manifest.content else { return out };
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "# Restore backup {source}@{id} without dozo

{files} DuckDB files as they were at {started}, {rows} rows in {tables} tables, read by DuckDB {engine}. Needed: the DuckDB command
line of that version or newer.

All commands are for a POSIX shell. Set these first; the repository was at `{url}`. If it lies in a bucket, copy the keys
listed under *Objects* to a folder first, keeping their paths (for example with `aws s3 cp --recursive`).

    export REPO=/path/to/the/repository    # the folder that holds dozo-repository.json
    export TARGET=/path/to/a/new/folder
",
        source = manifest.source,
        id = manifest.id,
        files = content.files.len(),
        started = manifest.started,
        rows = human_count(manifest.rows()),
        tables = content.tables().count(),
        engine = content.engine,
    );
    for file in &content.files {
        one(&mut out, file);
    }
    if !manifest.left_out.is_empty() {
        let _ = writeln!(out, "\n## Not in this backup\n");
        for left in &manifest.left_out {
            let _ = writeln!(out, "- {}", plain(&format!("{}: {}", left.name, left.reason)));
        }
    }
    let _ = writeln!(out, "\n## Objects\n\nSizes and SHA-256 stand in `manifest.json` under `objects`. Data files:\n");
    let stored = content.files.iter().filter_map(|f| f.stored.as_ref()).map(|s| &s.object);
    let parts = content.tables().flat_map(|(_, t)| &t.parts).map(|p| &p.object);
    for key in stored.chain(parts) {
        let _ = writeln!(out, "- `{key}`");
    }
    out
}

fn one(out: &mut String, file: &DuckdbFile) {
    let place = format!("\"$TARGET\"/{}", shell(&file.path));
    // A schema of the file's own name would be ambiguous while it is made.
    let stem = Path::new(&file.path).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.split('.').next().unwrap_or_default().to_owned();
    let ambiguous = file.tables.iter().any(|t| t.schema.eq_ignore_ascii_case(&stem));
    let work = if ambiguous { "\"$TARGET\"/dozo_restored.duckdb".to_owned() } else { place.clone() };
    let folder = Path::new(&file.path).parent().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let _ = writeln!(out, "\n## `{}`\n\n```sh\nset -eu\nmkdir -p \"$TARGET\"/{}", plain(&file.path), shell(&folder));
    let prints: Vec<String> = file
        .tables
        .iter()
        .map(|t| {
            let info = TableInfo::described(t);
            let catalog = if t.schema.eq_ignore_ascii_case(&stem) { format!("{}.", quote_ident(&stem)) } else { String::new() };
            let from = format!("{catalog}{}.{}", quote_ident(&t.schema), quote_ident(&t.name));
            format!(
                "SELECT fingerprint, '{}', '{}' FROM ({});",
                t.fingerprint,
                plain(&t.name).replace('\'', "''"),
                info.fingerprint_sql(&from)
            )
        })
        .collect();
    match (&file.stored, &file.schema_sql) {
        (Some(stored), _) => {
            let tool = stored.compression.unpacker();
            let _ =
                writeln!(out, "{tool} \"$REPO/{}\" > {place}\necho \"{}  \"{place} | sha256sum -c", stored.object, stored.sha256);
        }
        (None, schema) => {
            let (schema, after) = (schema.as_deref().unwrap_or_default(), file.after_sql.as_deref().unwrap_or_default());
            let _ = writeln!(out, "duckdb -bail {work} < \"$REPO/{schema}\"");
            let loaded = file.tables.iter().filter(|t| !t.parts.is_empty()).map(|t| {
                let info = TableInfo::described(t);
                let columns: Vec<String> = t.columns.iter().map(|c| quote_ident(&c.name)).collect();
                let parts: Vec<String> = t.parts.iter().map(|p| format!("getenv('REPO') || '/{}'", p.object)).collect();
                format!(
                    "INSERT INTO {}.{} ({}) {};",
                    quote_ident(&t.schema),
                    quote_ident(&t.name),
                    columns.join(", "),
                    info.rows_sql(&format!("read_parquet([{}])", parts.join(", ")))
                )
            });
            let loaded: Vec<String> = loaded.collect();
            heredoc(out, &format!("duckdb -bail {work}"), &format!("SET TimeZone = 'UTC';\n{}", loaded.join("\n")));
            let _ = writeln!(out, "duckdb -bail {work} < \"$REPO/{after}\"");
            if work != place {
                let _ = writeln!(out, "mv {work} {place}");
            }
        }
    }
    let _ = writeln!(
        out,
        "```\n\nProof: the first column is computed by DuckDB, the second is that of the backup. The block fails if one differs.\n\n```sh"
    );
    heredoc(
        out,
        &format!("duckdb -bail -csv -noheader {place} > \"$TARGET/dozo-proof.txt\""),
        &format!("SET TimeZone = 'UTC';\n{}", prints.join("\n")),
    );
    let _ = writeln!(
        out,
        "cat \"$TARGET/dozo-proof.txt\"\nawk -F , '$1 == $2 {{ same += 1 }} END {{ exit same != {} }}' \"$TARGET/dozo-proof.txt\"\nrm \"$TARGET/dozo-proof.txt\"\n```",
        file.tables.len()
    );
}

fn heredoc(out: &mut String, command: &str, text: &str) {
    let mut mark = String::from("DOZO");
    while text.lines().any(|l| l == mark) {
        mark.push('_');
    }
    let _ = writeln!(out, "{command} <<'{mark}'\n{text}\n{mark}");
}
