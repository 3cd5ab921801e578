//! `backup`: one source, read consistently, into the repository; the manifest last.
//!
//! The kinds of source have a module each; what they share is the [`frame::Frame`] around them and the way of objects to the store.

mod frame;
mod gate;
mod lean;
mod postgres;
mod report;
mod uploads;
mod warnings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dozo_catalog::Repository;
use dozo_model::{BackupId, Stage};

pub(crate) use frame::Frame;
pub(crate) use frame::{Draft, Work};
pub(crate) use gate::Gate;
pub(crate) use lean::{Offers, newest, stands};
pub(crate) use postgres::{
    Copier, FLUSH, OurBackends, Outcome, Place, Plan, Proving, Readable, Watch, readable, server_identity, too_large,
    wanted_sequences,
};
pub use report::{BackupReport, Bottleneck, FilesReport, TableReport};
pub(crate) use uploads::{Upload, UploadSink, Uploads};
pub(crate) use warnings::Warnings;

use crate::context::{CommandSettings, Context, OnBlock, RepositorySettings, SourceKind, SourceSettings};
use crate::{EngineError, Result, command, duckdb, files, hooks};

/// How often a backup starts over because others waited behind its locks.
const RELEASES: usize = 3;

/// How a backup is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupOptions {
    /// How long another backup of the same source is waited for.
    pub wait: Duration,
    /// Copy everything.
    pub full: bool,
    /// Percent of the rows that the server is to confirm by its own fingerprint; none = none.
    pub prove: Option<u8>,
}

/// Backs up a source.
///
/// # Errors
/// See [`EngineError`]; nothing is committed then.
pub async fn backup(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    options: &BackupOptions,
) -> Result<BackupReport> {
    settings.check_space(repository.store())?;
    if let Some(hook) = &source.hooks.before {
        hooks::run("before", hook, &[("SOURCE", source.name.to_string())]).await?;
    }
    let pg = source.postgres();
    let mut done = once(ctx, repository, settings, source, options).await;
    for _ in 1..RELEASES {
        match &done {
            Err(e @ EngineError::Blocking { .. }) if pg.is_some_and(|pg| pg.on_block == OnBlock::Release) => {
                ctx.progress.warn(&format!("{}: {e}: it gave them back and starts over", source.name));
                // Whoever waited is through as soon as the transaction is gone; others may be in line.
                tokio::time::sleep(pg.map_or(Duration::ZERO, |pg| pg.max_block)).await;
                done = once(ctx, repository, settings, source, options).await;
            }
            _ => break,
        }
    }
    if let Some(hook) = &source.hooks.after {
        let outcome = done.as_ref().map_or("failed", |r| r.outcome);
        let id = done.as_ref().map(|r| r.id.to_string()).unwrap_or_default();
        let facts = [("SOURCE", source.name.to_string()), ("OUTCOME", outcome.to_owned()), ("BACKUP", id)];
        if let Err(e) = hooks::run("after", hook, &facts).await {
            // The backup is what it is; the hook's failure is told.
            ctx.progress.warn(&format!("{}: {e}", source.name));
            if let Ok(report) = &mut done {
                report.warnings.push(e.to_string());
            }
        }
    }
    done
}

async fn once(
    ctx: &Context,
    repository: &Repository,
    settings: &RepositorySettings,
    source: &SourceSettings,
    options: &BackupOptions,
) -> Result<BackupReport> {
    let started = Instant::now();
    let requests_before = repository.store().requests();
    ctx.progress.stage(Stage::Prepare, 0, 0);
    // A wrong password is told before another backup is waited for.
    let opened = match &source.kind {
        SourceKind::Postgres(settings) => Opened::Postgres(Box::new(postgres::Opened::open(source, settings).await?)),
        SourceKind::Duckdb(settings) => Opened::Duckdb(duckdb::Found::look(source, settings)?),
        SourceKind::Files(settings) => Opened::Files(Box::new(files::Set::look(source, settings)?)),
        SourceKind::Command(settings) => Opened::Command(settings),
    };
    let id = BackupId::new(ctx.clock.now(), &mut rand::rng());
    let lease = repository.lease(&source.name, &id, Arc::clone(&ctx.clock), options.wait).await?;
    let warnings = Warnings::new(source.name.as_str(), Arc::clone(&ctx.progress));
    if let Some(broken) = &lease.broken {
        warnings
            .add(format!("took over from backup {} of a dead process (pid {} on {})", broken.backup, broken.pid, broken.host));
    }
    let work = async {
        let history = repository.history(&source.name).await?;
        let frame = Frame { ctx, repository, settings, source, options, id, started, warnings, history, requests_before };
        match opened {
            Opened::Postgres(opened) => postgres::run(&frame, *opened).await,
            Opened::Duckdb(found) => duckdb::run(&frame, found).await,
            Opened::Files(set) => files::run(&frame, *set).await,
            Opened::Command(settings) => command::run(&frame, settings).await,
        }
    };
    let done = tokio::select! {
        biased;
        () = ctx.cancel.cancelled() => Err(EngineError::Cancelled),
        done = work => done,
    };
    // The backup's own outcome counts; a lease that cannot be given back is found dead by the next run.
    let released = lease.release().await;
    let report = done?;
    if let Err(e) = released {
        ctx.progress.warn(&format!("the lease could not be given back: {e}"));
    }
    Ok(report)
}

/// A source that was looked at.
enum Opened<'a> {
    Postgres(Box<postgres::Opened<'a>>),
    Duckdb(duckdb::Found<'a>),
    Files(Box<files::Set<'a>>),
    Command(&'a CommandSettings),
}
