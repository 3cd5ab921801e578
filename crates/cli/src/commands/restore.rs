//! `dozo restore`: exit 3 when a restored table differs, 6 when one could not be compared, 4 when the backup is partial.

mod folder;

use std::time::Duration;

use dozo_engine::{
    BackupSelector, CompareOptions, CompareSide, Content, Existing, RestoreOptions, RestorePreview, RestoreReport, ToolChoice,
    compare, preview, restore,
};
use dozo_model::{human_bytes, human_count, human_duration};

use super::{Outcome, Session, database};
use crate::args::{OnExisting, Restore};
use crate::config::default_workers;
use crate::error::{CliError, Usage};

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;
const PARTIAL: u8 = 4;
const FAILED: u8 = 1;
/// Locks of live tables are waited for this long.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Differing keys that are told after a restore beside the live table.
const DIFFERENCES: usize = 20;

pub(super) async fn run(session: &Session, args: Restore) -> Outcome {
    let config = session.config()?;
    if let (Some(archive), Some(partition)) = (&args.archive, &args.partition) {
        return super::archive::restore(session, &config, archive, partition, &args).await;
    }
    let names = if args.all { folder::all(&config)? } else { args.backups.clone() };
    let selectors = names.iter().map(|b| b.parse()).collect::<Result<Vec<BackupSelector>, _>>()?;
    let repository = config.repository.open().await?;
    let mut manifests = Vec::new();
    let mut missing = None;
    for selector in &selectors {
        match repository.resolve(selector).await {
            Ok(manifest) => manifests.push(manifest),
            // What there is of all of them is restored.
            Err(e) if args.all => {
                let error = CliError::from(e);
                session.output.message(&format!("warning: {}", error.text()));
                missing.get_or_insert(error);
            }
            Err(e) => return Err(e.into()),
        }
    }
    if let Some(error) = missing.take_if(|_| manifests.is_empty()) {
        return Err(error);
    }
    if manifests.iter().all(|m| m.postgres().is_none()) {
        let code = folder::run(session, &config, &repository, &manifests, &args).await?;
        return Ok(if missing.is_some() && code == 0 { PARTIAL } else { code });
    }
    let [manifest] = manifests.as_slice() else {
        let text = "several backups are restored at once only where all are of files".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "restore each database by itself".into()));
    };
    let Some(to) = args.to.as_deref().filter(|_| args.path.is_empty()) else {
        let text = "a database is restored into one: --to, and no --path or command".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "dozo help restore".into()));
    };
    let target = database(session, to)?;
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
        alone: false,
        cut_off: false,
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
