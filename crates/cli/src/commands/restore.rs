//! `dozo restore`: exit 3 when a restored table differs, 6 when one could not be compared, 4 when the backup is partial.

use std::time::Duration;

use dozo_engine::{BackupSelector, RestoreOptions, RestoreReport, ToolChoice, restore};
use dozo_model::{human_count, human_duration};

use super::{Outcome, Session, database};
use crate::args::Restore;
use crate::config::default_workers;

const FINDING: u8 = 3;
const NOT_RUN: u8 = 6;
const PARTIAL: u8 = 4;

pub(super) async fn run(session: &Session, args: Restore) -> Outcome {
    let config = session.config()?;
    let selector: BackupSelector = args.backup.parse()?;
    let target = database(session, &args.to)?;
    let repository = config.repository.open().await?;
    let manifest = repository.resolve(&selector).await?;
    let pg_tools = config.owner(manifest.source.as_str()).map_or(ToolChoice::Auto, |s| s.pg_tools.clone());
    let options = RestoreOptions {
        schemas: args.schema,
        tables: args.table,
        rename: args.rename,
        no_owner: args.no_owner,
        no_privileges: args.no_privileges,
        no_tablespaces: args.no_tablespaces,
        role: args.role,
        create_db: args.create_db,
        verify: !args.no_verify,
        workers: args.jobs.unwrap_or_else(default_workers).max(1),
        pg_tools,
    };
    let report = restore(&session.ctx, &repository, &manifest, &target, &options).await?;
    session.output.result(&report, || text(&report))?;
    for warning in &report.warnings {
        session.output.message(&format!("warning: {warning}"));
    }
    let bad: Vec<_> = report.tables.iter().filter(|t| t.verdict == "differs").collect();
    for table in &bad {
        let found = table.found.map_or_else(|| "other columns".into(), |f| f.to_string());
        session.output.message(&format!("finding: {} differs: {found} instead of {}", table.restored_as, table.expected));
    }
    let unchecked = options.verify && report.tables.iter().any(|t| t.verdict == "not run");
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
    format!(
        "{} restored into {}{continued}: {} rows, {compared}, {}",
        r.backup,
        r.target,
        human_count(r.rows),
        human_duration(Duration::from_secs_f64(seconds)),
    )
}
