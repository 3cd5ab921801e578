//! `dozo restore`: exit 3 when a restored table differs, 6 when one could not be compared, 4 when the backup is partial.

use std::time::Duration;

use dozo_engine::{
    BackupSelector, CompareOptions, CompareSide, Content, Existing, FolderOptions, FolderReport, Repository, RestoreOptions,
    RestorePreview, RestoreReport, ToolChoice, compare, preview, restore, restore_folder,
};
use dozo_model::{Manifest, human_bytes, human_count, human_duration};

use super::{Outcome, Session, database};
use crate::args::{OnExisting, Restore};
use crate::config::{Config, default_workers};
use crate::error::{CliError, Usage};

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;
const PARTIAL: u8 = 4;
const FAILED: u8 = 1;
/// Locks of live tables are waited for this long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory for files of a source that is not configured any more.
const MEMORY: u64 = 256_000_000;
/// Differing keys that are told after a restore beside the live table.
const DIFFERENCES: usize = 20;

pub(super) async fn run(session: &Session, args: Restore) -> Outcome {
    let config = session.config()?;
    let selectors = args.backups.iter().map(|b| b.parse()).collect::<Result<Vec<BackupSelector>, _>>()?;
    let repository = config.repository.open().await?;
    let mut manifests = Vec::new();
    for selector in &selectors {
        manifests.push(repository.resolve(selector).await?);
    }
    if manifests.iter().all(|m| m.postgres().is_none()) {
        return into_folder(session, &config, &repository, &manifests, &args).await;
    }
    let [manifest] = manifests.as_slice() else {
        let text = "several backups are restored at once only where all are of files".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "restore each database by itself".into()));
    };
    let target = database(session, &args.to)?;
    let pg_tools = config
        .owner(&manifest.source)
        .map_or(ToolChoice::Auto, |s| s.postgres().map_or(ToolChoice::Auto, |pg| pg.pg_tools.clone()));
    let options = RestoreOptions {
        schemas: args.schema,
        tables: args.table,
        rename: args.rename,
        skip_unsupported: args.skip_unsupported,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        role: args.role,
        create_db: args.create_db,
        verify: !args.no_verify,
        workers: args.jobs.unwrap_or_else(default_workers).max(1),
        pg_tools,
        existing: match args.existing {
            _ if args.swap => Existing::Replace,
            OnExisting::Refuse => Existing::Refuse,
            OnExisting::Append => Existing::Append,
            OnExisting::Replace => Existing::Replace,
        },
        content: match (args.schema_only, args.data_only) {
            (true, _) => Content::Schema,
            (_, true) => Content::Data,
            _ => Content::All,
        },
        filter: args.filter,
        keep_replaced: args.swap,
        beside: args.beside,
        lock_timeout: LOCK_TIMEOUT,
    };
    if args.plan {
        let plan = preview(&repository, manifest, &target, &options).await?;
        session.output.result(&plan, || plan_text(&plan))?;
        if session.output.quiet() {
            plan.obstacles.iter().for_each(|o| session.output.message(&format!("in the way: {}", o.replace('\n', " "))));
        }
        return Ok(if plan.obstacles.is_empty() { 0 } else { FAILED });
    }
    let report = restore(&session.ctx, &repository, manifest, &target, &options).await?;
    session.output.result(&report, || text(&report))?;
    for warning in &report.warnings {
        session.output.message(&format!("warning: {}", warning.replace('\n', " ")));
    }
    let bad: Vec<_> = report.tables.iter().filter(|t| t.verdict == "differs").collect();
    for table in &bad {
        let found = table.found.map_or_else(|| "other columns".into(), |f| f.to_string());
        session.output.message(&format!("finding: {} differs: {found} instead of {}", table.restored_as, table.expected));
    }
    if options.beside {
        let limits = CompareOptions {
            tables: options.tables.clone(),
            limit: DIFFERENCES,
            workers: options.workers,
            lock_timeout: LOCK_TIMEOUT,
        };
        let (live, stored) = (CompareSide::Database(target), CompareSide::Backup(Box::new(manifest.clone())));
        // A single partition has no counterpart by itself: its tree would be compared.
        let found = match compare(&session.ctx, Some(&repository), &live, &stored, &limits).await {
            Ok(found) => found.tables,
            Err(dozo_engine::EngineError::NoMatch { .. }) => Vec::new(),
            Err(e) => return Err(e.into()),
        };
        for table in found.iter().filter(|t| t.verdict == "differs") {
            session.output.message(&format!("the live table and the restored one:{}", super::compare::table_text(table)));
        }
    }
    let unchecked = options.verify && options.content != Content::Schema && report.tables.iter().any(|t| t.verdict == "not run");
    Ok(if !bad.is_empty() {
        FINDING
    } else if unchecked {
        NOT_RUN
    } else if report.outcome == "partial" {
        PARTIAL
    } else {
        0
    })
}

/// Restores backups of files.
async fn into_folder(
    session: &Session,
    config: &Config,
    repository: &Repository,
    manifests: &[Manifest],
    args: &Restore,
) -> Outcome {
    let parts = [args.schema.is_empty(), args.table.is_empty(), args.rename.is_none(), args.filter.is_none()];
    let of_database = [args.swap, args.beside, args.schema_only, args.data_only, args.plan, args.create_db];
    if parts.contains(&false) || of_database.contains(&true) || matches!(args.existing, OnExisting::Append) {
        let text = "files are restored as a whole: of the options, only --existing replace, --no-verify and --jobs are for them";
        return Err(CliError::Usage(Usage::Options, text.into(), "restore into a new folder, and take what is wanted".into()));
    }
    let folder = std::path::absolute(&args.to).map_err(CliError::Output)?;
    let mut reports = Vec::new();
    for manifest in manifests {
        let options = FolderOptions {
            replace: matches!(args.existing, OnExisting::Replace),
            verify: !args.no_verify,
            threads: args.jobs.unwrap_or_else(default_workers).max(1),
            memory: config.owner(&manifest.source).map_or(MEMORY, |s| s.memory.0),
        };
        reports.push(restore_folder(&session.ctx, repository, manifest, &folder, &options).await?);
    }
    let lines = || reports.iter().map(folder_text).collect::<Vec<_>>().join("\n");
    match reports.as_slice() {
        [one] => session.output.result(one, lines)?,
        all => session.output.result(&serde_json::json!({ "restored": all }), lines)?,
    }
    let unchecked = !args.no_verify && reports.iter().flat_map(|r| &r.files).any(|f| f.verdict == "not run");
    Ok(if unchecked {
        NOT_RUN
    } else if reports.iter().any(|r| r.outcome == "partial") {
        PARTIAL
    } else {
        0
    })
}

fn folder_text(r: &FolderReport) -> String {
    let (tables, rows) = r.files.iter().fold((0, 0), |(t, n), f| (t + f.tables, n + f.rows));
    let compared = if r.files.iter().all(|f| f.verdict == "equal") {
        format!("all {tables} tables equal the manifest")
    } else {
        "nothing was compared".into()
    };
    format!(
        "{} restored into {}: {} files, {} rows, {compared}, {}",
        r.backup,
        r.target,
        r.files.len(),
        human_count(rows),
        human_duration(Duration::from_secs_f64(r.seconds)),
    )
}

fn text(r: &RestoreReport) -> String {
    let equal = r.tables.iter().filter(|t| t.verdict == "equal").count();
    let continued = if r.continued { " (continued)" } else { "" };
    let compared = if equal == r.tables.len() {
        format!("all {equal} tables equal the manifest")
    } else {
        format!("{equal} of {} tables were compared and are equal", r.tables.len())
    };
    let seconds = r.seconds.get("total").copied().unwrap_or(0.0);
    if r.tables.iter().any(|t| t.changes.is_some()) {
        let mut text = format!("{} into tables of {}{continued}:", r.backup, r.target);
        for table in &r.tables {
            let (deleted, updated, inserted) = table.changes.unwrap_or_default();
            text.push_str(&format!(
                "\n  {}: {} inserted, {} updated, {} deleted; it holds what it must ({})",
                table.restored_as,
                human_count(inserted),
                human_count(updated),
                human_count(deleted),
                table.expected
            ));
        }
        return text;
    }
    format!(
        "{} restored into {}{continued}: {} rows, {compared}, {}",
        r.backup,
        r.target,
        human_count(r.rows),
        human_duration(Duration::from_secs_f64(seconds)),
    )
}

fn plan_text(p: &RestorePreview) -> String {
    let mut text = format!(
        "{} into {}: {} rows, {} to fetch, about {} of room in the target, about {}",
        p.backup,
        p.target,
        human_count(p.rows),
        human_bytes(p.bytes_to_fetch),
        human_bytes(p.bytes_on_target),
        human_duration(Duration::from_secs_f64(p.seconds)),
    );
    for table in &p.tables {
        let there = table.rows_there.map(|n| format!(", about {} rows are there", human_count(n))).unwrap_or_default();
        text.push_str(&format!("\n  {} {}: {} rows{there}", table.action, table.table, human_count(table.rows)));
    }
    p.obstacles.iter().for_each(|o| text.push_str(&format!("\nin the way: {o}")));
    text
}
