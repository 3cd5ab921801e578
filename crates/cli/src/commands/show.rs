//! `dozo show`: one backup in full.

use dozo_engine::{BackupSelector, Repository, list_files};
use dozo_model::{
    CommandContent, Content, DuckdbContent, DuckdbTable, FileEntry, FileKind, FilesContent, Manifest, Pack, Timestamp,
    human_bytes, human_count,
};
use serde::Serialize;
use serde_json::json;

use super::{Outcome, Session, when};
use crate::args::Show;
use crate::output::table;

pub(super) async fn run(session: &Session, args: Show) -> Outcome {
    let config = session.config()?;
    let selector: BackupSelector = args.backup.parse()?;
    let repository = config.repository.open().await?;
    let manifest = repository.resolve(&selector).await?;
    if args.types {
        return types(session, &manifest);
    }
    if args.files {
        return files(session, &repository, &manifest).await;
    }
    let history = repository.history(&manifest.source).await?;
    let copies = history.physical_copies(&manifest);
    let record = repository.record(Box::new(manifest.clone())).await?;
    let checks = &record.checks;
    let copies_by_name: std::collections::BTreeMap<String, usize> =
        copies.iter().map(|(name, n)| (name.to_string(), *n)).collect();
    let value = json!({
        "manifest": manifest, "checks": checks, "state": record.state(), "good": record.good(),
        "accepted": record.accepted, "copies": copies_by_name,
    });
    session.output.result(&value, || {
        let mut text = head(&manifest, record.state());
        for loss in &manifest.losses {
            text.push_str(&format!("suspect     {loss}\n"));
        }
        if let Some(accepted) = &record.accepted {
            let reason = accepted.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            text.push_str(&format!("accepted    by {} at {}{reason}\n", accepted.operator.user, when(Some(accepted.at))));
        }
        for check in checks {
            text.push_str(&format!(
                "check {} at {}: {:?}, {} findings\n",
                check.level.as_str(),
                when(Some(check.at)),
                check.verdict,
                check.findings.len()
            ));
        }
        let rows = manifest
            .datasets()
            .iter()
            .map(|d| {
                let range = d.key_range.as_ref().map_or_else(String::new, |r| format!("{} {} … {}", r.column, r.min, r.max));
                vec![
                    d.name.to_string(),
                    human_count(d.fingerprint.rows),
                    d.fingerprint.to_string(),
                    d.parts.len().to_string(),
                    d.copied_by.as_ref().map_or_else(|| "copied".into(), |id| format!("reused, copied by {id}")),
                    copies.get(&d.name).copied().unwrap_or(1).to_string(),
                    match d.source_match {
                        None => "-".into(),
                        Some(m) if m.whole => "all".into(),
                        Some(m) => human_count(m.rows),
                    },
                    range,
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&match &manifest.content {
            Content::Postgres(_) => table(
                &["TABLE", "ROWS", "FINGERPRINT", "PARTS", "HOW", "COPIES", "SOURCE-MATCHED", "KEY RANGE"],
                &[1, 3, 5],
                rows,
            ),
            Content::Duckdb(content) => duckdb_tables(content),
            Content::Files(content) => packs(content),
            Content::Command(content) => output(content),
        });
        for left in &manifest.left_out {
            text.push_str(&format!("\nnot in it: {} ({})", left.name, left.reason));
        }
        text
    })?;
    Ok(0)
}

fn duckdb_tables(content: &DuckdbContent) -> String {
    let line = |(file, t): (&str, &DuckdbTable)| {
        let print = t.fingerprint;
        vec![
            file.to_owned(),
            format!("{}.{}", t.schema, t.name),
            human_count(print.rows),
            print.to_string(),
            t.parts.len().to_string(),
        ]
    };
    table(&["FILE", "TABLE", "ROWS", "FINGERPRINT", "PARTS"], &[2, 4], content.tables().map(line).collect())
}

fn packs(content: &FilesContent) -> String {
    let line = |p: &Pack| vec![p.object.clone(), p.members.to_string(), human_bytes(p.bytes)];
    let table = table(&["TAR OBJECT", "MEMBERS", "BEFORE COMPRESSION"], &[1, 2], content.packs.iter().map(line).collect());
    format!("{table}\nthe files themselves: dozo show --files")
}

fn output(content: &CommandContent) -> String {
    let stored = &content.stored;
    let line = vec![content.name.clone(), human_bytes(stored.bytes), stored.sha256.to_string()];
    table(&["FILE", "SIZE", "SHA256"], &[1], vec![line])
}

/// Lists the files of a set.
async fn files(session: &Session, repository: &Repository, manifest: &Manifest) -> Outcome {
    let entries = list_files(repository, manifest).await?;
    session.output.result(&entries, || {
        let line = |e: &FileEntry| {
            let (kind, size, more) = match &e.kind {
                FileKind::File(data) => ("-", data.size.to_string(), format!("sha256:{}", data.sha256)),
                FileKind::Folder => ("d", String::new(), String::new()),
                FileKind::Symlink { target } => ("l", String::new(), format!("-> {target}")),
                FileKind::Hardlink { target } => ("h", String::new(), format!("= {target}")),
                FileKind::Fifo => ("p", String::new(), String::new()),
            };
            let owner = format!(
                "{}:{}",
                e.meta.user.clone().unwrap_or_else(|| e.meta.uid.to_string()),
                e.meta.group.clone().unwrap_or_else(|| e.meta.gid.to_string())
            );
            let time = Timestamp::from_second(e.meta.mtime.seconds).ok();
            vec![format!("{kind}{:04o}", e.meta.mode), owner, size, when(time), e.path.to_string(), more]
        };
        table(&["MODE", "OWNER", "SIZE", "CHANGED", "PATH", "CONTENT"], &[2], entries.iter().map(line).collect())
    })?;
    Ok(0)
}

/// A column of a backup.
#[derive(Serialize)]
struct ColumnLine<'a> {
    table: String,
    column: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    parquet: &'a str,
    profile: &'static str,
    /// `binary`, `text`, or `not loaded`.
    travels: &'static str,
    rows: u64,
    escaped: u64,
}

fn types(session: &Session, manifest: &Manifest) -> Outcome {
    let lines: Vec<ColumnLine<'_>> = manifest
        .datasets()
        .iter()
        .flat_map(|d| {
            d.columns.iter().map(|c| ColumnLine {
                table: d.name.to_string(),
                column: &c.name,
                type_name: &c.type_name,
                parquet: &c.parquet,
                profile: c.profile.as_str(),
                travels: match (c.loaded(), c.wire.travels_as_text()) {
                    (false, _) => "not loaded",
                    (true, true) => "text",
                    (true, false) => "binary",
                },
                rows: d.fingerprint.rows,
                escaped: d.escaped.get(&c.name).copied().unwrap_or(0),
            })
        })
        .collect();
    session.output.result(&lines, || {
        let row = |l: &ColumnLine<'_>| {
            let exact = match (l.travels, l.escaped) {
                ("not loaded", _) => "for readers only".into(),
                (_, 0) => "exact".into(),
                (_, n) => format!("{} of {} escaped", human_count(n), human_count(l.rows)),
            };
            let travels = if l.travels == "text" { "as text" } else { l.travels };
            let words = [&l.table, l.column, l.type_name, l.parquet, l.profile, travels, &exact];
            words.map(str::to_owned).to_vec()
        };
        let rows = lines.iter().map(row).collect();
        table(&["TABLE", "COLUMN", "TYPE", "PARQUET", "PROFILE", "TRAVELS", "VALUES"], &[], rows)
    })?;
    Ok(0)
}

fn head(m: &Manifest, state: &str) -> String {
    let escaped: u64 = m.datasets().iter().flat_map(|d| d.escaped.values()).sum();
    let content = match &m.content {
        Content::Postgres(pg) => format!(
            "database    {} of Postgres {} (system {}, timeline {})\n\
             snapshot    {} at {}\n\
             contents    {} tables and partitions, {} rows, {} sequences, {} materialized views, {escaped} values in the exact column",
            pg.server.database,
            pg.server.version,
            pg.server.system_identifier.as_deref().unwrap_or("unknown"),
            pg.server.timeline.map_or_else(|| "unknown".into(), |t| t.to_string()),
            pg.snapshot.snapshot,
            when(Some(m.started)),
            pg.datasets.len(),
            human_count(m.rows()),
            pg.sequences.len(),
            pg.materialized_views.len(),
        ),
        Content::Duckdb(duckdb) => format!(
            "files       {} of DuckDB, read by {} at {}\n\
             contents    {} tables, {} rows",
            duckdb.files.len(),
            duckdb.engine,
            when(Some(m.started)),
            duckdb.tables().count(),
            human_count(m.rows()),
        ),
        Content::Files(files) => format!(
            "root        {} at {}\n\
             contents    {} files ({}), {} folders and links",
            files.root,
            when(Some(m.started)),
            human_count(files.files),
            human_bytes(files.bytes),
            human_count(files.entries.saturating_sub(files.files)),
        ),
        Content::Command(command) => format!(
            "command     {} at {}\n\
             contents    {}, as {}",
            command.command.join(" "),
            when(Some(m.started)),
            human_bytes(command.stored.bytes),
            command.name,
        ),
    };
    format!(
        "backup      {}@{}{}\n\
         {content}\n\
         stored      {} in {} objects{}\n\
         made by     {} {} as {} on {}\n",
        m.source,
        m.id,
        if state == "complete" { String::new() } else { format!(" ({state})") },
        human_bytes(m.stored_bytes()),
        m.objects.len(),
        m.parent.as_ref().map(|p| format!(", some of them shared with {p}")).unwrap_or_default(),
        m.tool.name,
        m.tool.version,
        m.operator.user,
        m.operator.host,
    )
}
