//! Archives: cold partitions leave the database for Parquet that people query where it lies, and nobody ever loses a row.
//!
//! Place in the flow: `[archive.NAME]` → survey → plan → per unit: export, prove, detach, publish, drop. *Invariants*: a row is in the
//! database or in the archive, never in neither, never in both where readers look; nothing is dropped that was not read back and equal
//! to what the server itself counts under a lock. *Crash behaviour*: two ledgers, of which the database's is right ([`apply`]).

mod apply;
mod ddl;
mod detach;
mod disk;
mod export;
mod job;
mod label;
mod list;
mod partitions;
mod plan;
mod point;
mod publish;
mod restore;
mod survey;

use dozo_catalog::{ArchivedUnit, Repository};
use dozo_model::{QualifiedName, UnitState};
use dozo_postgres::Session;

pub use apply::{ArchiveOptions, ArchiveReport, ArchivedLine, archive_apply};
pub use ddl::{DdlEngine, archive_ddl};
pub use job::{ArchiveJob, Granularity, Leftover, Protocol, Then};
pub use list::{ArchiveLine, PartitionLine, archive_list, archive_manifest, archive_verify, partitions_list};
pub use partitions::{CreatedPartition, partitions_create, partitions_drop};
pub use plan::{ArchivePlan, JobLine, UnitAction, UnitLine};
pub(crate) use publish::as_published;
pub use restore::{Keep, RestoreUnitOptions, archive_resolve, archive_restore};

use crate::context::{Context, SourceSettings};
use crate::init::ArchiveDraft;
use crate::{EngineError, Result};

/// Tells whether a unit has left its table at some time.
pub(crate) fn has_left(unit: &ArchivedUnit) -> bool {
    unit.was(UnitState::Detached) || unit.was(UnitState::Dropped)
}

/// Says what the jobs of a source would do; changes nothing. Without a repository nothing was archived yet.
///
/// # Errors
/// See [`EngineError`].
pub async fn archive_plan(
    ctx: &Context,
    repository: Option<&Repository>,
    source: &SourceSettings,
    jobs: &[&ArchiveJob],
) -> Result<ArchivePlan> {
    Ok(survey::Survey::look(repository, source, jobs, ctx.clock.fixed()).await?.plan())
}

/// Drafts the archive job of a tree, if it is partitioned by time: by the first calendar in which its partitions are whole.
pub(crate) async fn draft(session: &Session, table: &QualifiedName, server_zone: &str) -> Result<Option<ArchiveDraft>> {
    let Some(found) = dozo_postgres::tree(session, table).await? else { return Ok(None) };
    let Some((column, Some(kind))) = found.root().key.clone() else { return Ok(None) };
    let ranges: Vec<_> = found.tables.iter().filter_map(|t| label::range(&t.bound, kind).ok()).collect();
    let host = jiff::tz::TimeZone::system().iana_name().unwrap_or("UTC").to_owned();
    let whole = ["UTC", server_zone, &host].into_iter().find_map(|name| {
        let zone = jiff::tz::TimeZone::get(name).ok()?;
        let widths: Option<Vec<Granularity>> = ranges.iter().map(|r| label::width(*r, &zone)).collect();
        let width = widths?.into_iter().next()?;
        label::label(ranges[0], width, &zone).ok().map(|_| (width, name.to_owned()))
    });
    Ok(whole.map(|(width, time_zone)| ArchiveDraft {
        table: table.clone(),
        column,
        partitions: ranges.len(),
        granularity: width.as_str(),
        time_zone,
    }))
}

/// Puts the plans of several sources together.
#[must_use]
pub fn joined_plan(plans: Vec<ArchivePlan>) -> Option<ArchivePlan> {
    plans.into_iter().reduce(|mut all, next| {
        all.add(next);
        all
    })
}

/// Returns how many percent of the data disk of a source are in use.
///
/// # Errors
/// [`EngineError::Options`] where nobody can tell.
pub async fn disk_used(source: &SourceSettings, job: &ArchiveJob) -> Result<u8> {
    let Some(postgres) = source.postgres() else {
        return Err(EngineError::Options(format!("source `{}` is no Postgres database", source.name)));
    };
    let session = Session::connect(&postgres.connection()?).await?;
    disk::used(&session, &job.disk_command).await?.ok_or_else(|| {
        EngineError::Options(format!(
            "the data disk of {} cannot be seen from here: archive.{}.disk-command prints its percentage",
            session.info().target(),
            job.name
        ))
    })
}
