//! `dozo restore` of backups of files: into a folder, and a command's output into a stream.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use dozo_engine::{FolderOptions, FolderReport, Repository, SourceKind, restore_folder, restore_into, restore_stream};
use dozo_model::{Content, Manifest, SourceName, human_bytes, human_count, human_duration};

use super::{FINDING, NOT_RUN, PARTIAL};
use crate::args::{OnExisting, Restore};
use crate::commands::{Outcome, Session};
use crate::config::{Config, default_workers};
use crate::error::{CliError, Usage};

/// Exit code of an interrupted run.
const INTERRUPTED: u8 = 130;
/// Memory for files of a source that is not configured any more.
const MEMORY: u64 = 256_000_000;

/// Names the latest backup of every source that is no database server.
pub(super) fn all(config: &Config) -> Result<Vec<String>, CliError> {
    let of_files = config.sources.iter().filter(|s| !matches!(s.kind, SourceKind::Postgres(_)));
    let names: Vec<String> = of_files.map(|s| format!("{}@latest", s.name)).collect();
    if names.is_empty() {
        let text = format!("{} has no source of files", config.file.display());
        return Err(CliError::Usage(Usage::NoSource, text, "name a backup: dozo restore SOURCE@latest --to …".into()));
    }
    Ok(names)
}

pub(super) async fn run(
    session: &Session,
    config: &Config,
    repository: &Repository,
    manifests: &[Manifest],
    args: &Restore,
) -> Outcome {
    let parts = [args.schema.is_empty(), args.table.is_empty(), args.rename.is_none(), args.filter.is_none()];
    let of_database = [args.swap, args.beside, args.schema_only, args.data_only, args.plan, args.create_db];
    if parts.contains(&false) || of_database.contains(&true) || matches!(args.existing, OnExisting::Append) {
        let text = "of the options, only --path, --existing replace, --no-owner, --no-verify and --jobs are for files";
        return Err(CliError::Usage(Usage::Options, text.into(), "restore into a new folder, and take what is wanted".into()));
    }
    let set = |m: &Manifest| matches!(m.content, Content::Files(_));
    if !args.path.is_empty() && !manifests.iter().all(set) {
        let text = "--path is for backups of file sets".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "restore the others by themselves".into()));
    }
    let to = match args.to.as_deref() {
        Some(to) if to != "-" => to,
        to => return stream(session, repository, manifests, args, to.is_none()).await,
    };
    let folder = std::path::absolute(to).map_err(CliError::Output)?;
    no_two_alike(manifests)?;
    let (mut reports, mut codes) = (Vec::new(), Vec::new());
    for manifest in manifests {
        match one(session, config, repository, manifest, &folder, args).await {
            Ok(report) => reports.push(report),
            // What there is of the others is restored; alone, it is the outcome.
            Err(e) if manifests.len() > 1 && e.exit_code() != INTERRUPTED => {
                session.output.message(&format!("{}@{}: {}", manifest.source, manifest.id, e.text()));
                codes.push(e.exit_code());
            }
            Err(e) => return Err(e),
        }
    }
    if reports.is_empty() {
        return Ok(codes.into_iter().max().unwrap_or(PARTIAL));
    }
    let lines = || reports.iter().map(text).collect::<Vec<_>>().join("\n");
    match reports.as_slice() {
        [one] => session.output.result(one, lines)?,
        all => session.output.result(&serde_json::json!({ "restored": all }), lines)?,
    }
    let unchecked = !args.no_verify && reports.iter().flat_map(|r| &r.files).any(|f| f.verdict == "not run");
    Ok(if codes.contains(&FINDING) {
        FINDING
    } else if unchecked {
        NOT_RUN
    } else if !codes.is_empty() || reports.iter().any(|r| r.outcome == "partial") {
        PARTIAL
    } else {
        0
    })
}

/// Makes sure that no two backups make the same file.
fn no_two_alike(manifests: &[Manifest]) -> Result<(), CliError> {
    let mut places: BTreeMap<&str, &SourceName> = BTreeMap::new();
    for manifest in manifests {
        let names: Vec<&str> = match &manifest.content {
            Content::Duckdb(content) => content.files.iter().map(|f| f.path.as_str()).collect(),
            Content::Command(content) => vec![content.name.as_str()],
            Content::Files(_) | Content::Postgres(_) => Vec::new(),
        };
        for name in names {
            if let Some(other) = places.insert(name, &manifest.source) {
                let text = format!("{other} and {} would both restore `{name}`", manifest.source);
                return Err(CliError::Usage(Usage::Options, text, "restore them into folders of their own".into()));
            }
        }
    }
    Ok(())
}

async fn one(
    session: &Session,
    config: &Config,
    repository: &Repository,
    manifest: &Manifest,
    folder: &Path,
    args: &Restore,
) -> Result<FolderReport, CliError> {
    let options = FolderOptions {
        replace: matches!(args.existing, OnExisting::Replace),
        verify: !args.no_verify,
        paths: args.path.clone(),
        no_owner: args.no_owner,
        threads: args.jobs.unwrap_or_else(default_workers).max(1),
        memory: config.owner(&manifest.source).map_or(MEMORY, |s| s.memory.0),
    };
    Ok(restore_folder(&session.ctx, repository, manifest, folder, &options).await?)
}

/// Writes a command's output to stdout, or into another command.
async fn stream(
    session: &Session,
    repository: &Repository,
    manifests: &[Manifest],
    args: &Restore,
    into_command: bool,
) -> Outcome {
    let [manifest] = manifests else {
        let text = "one backup at a time goes into a stream".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "restore the others by themselves, or into a folder".into()));
    };
    if !args.path.is_empty()
        || !matches!(args.existing, OnExisting::Refuse)
        || args.no_verify
        || args.no_owner
        || args.jobs.is_some()
    {
        let text = "a stream has no files: --path, --existing, --no-verify, --no-owner and --jobs are for folders".to_owned();
        return Err(CliError::Usage(Usage::Options, text, "leave them out".into()));
    }
    let report = if into_command {
        restore_into(&session.ctx, repository, manifest, &args.command).await?
    } else {
        let mut stdout = std::io::stdout();
        restore_stream(&session.ctx, repository, manifest, move |bytes| {
            stdout.write_all(bytes)?;
            stdout.flush()
        })
        .await?
    };
    let took = human_duration(Duration::from_secs_f64(report.seconds));
    if !session.output.quiet() {
        session.output.message(&format!("{}: {} in {took}", report.backup, human_bytes(report.bytes)));
    }
    Ok(0)
}

fn text(r: &FolderReport) -> String {
    let took = human_duration(Duration::from_secs_f64(r.seconds));
    if let Some(set) = &r.set {
        let (files, others) = (human_count(set.files), human_count(set.others));
        let size = human_bytes(set.bytes);
        return format!(
            "{} restored into {}: {files} files ({size}), {others} folders and links, every sha256 as in the list, {took}",
            r.backup, r.target
        );
    }
    let (tables, rows) = r.files.iter().fold((0, 0), |(t, n), f| (t + f.tables, n + f.rows));
    let equal = r.files.iter().all(|f| f.verdict == "equal");
    let compared = match (equal, tables) {
        (true, 0) => "sha256 as in the manifest".to_owned(),
        (true, _) => format!("{} rows, all {tables} tables equal the manifest", human_count(rows)),
        (false, _) => "nothing was compared".into(),
    };
    format!("{} restored into {}: {} files, {compared}, {took}", r.backup, r.target, r.files.len())
}
