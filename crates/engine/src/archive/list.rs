//! What is archived, and where each partition stands: by both ledgers and the catalogs of the database.

use std::collections::{BTreeMap, BTreeSet};

use dozo_catalog::{ArchivedUnit, Repository};
use dozo_model::{CheckEvent, Content, Fingerprint, Manifest, QualifiedName, SourceName, Timestamp, UnitState, VerifyLevel};
use dozo_postgres::{LedgerRow, LedgerState, Session, ledger_rows, tree};
use dozo_store::Layout;
use serde::Serialize;

use super::has_left;
use super::job::ArchiveJob;
use super::publish::as_published;
use crate::context::{Context, SourceSettings};
use crate::verify::examine;
use crate::{EngineError, Result};

/// A unit of an archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveLine {
    /// Job.
    pub job: String,
    /// Source.
    pub source: String,
    /// Table.
    pub table: QualifiedName,
    /// Partition.
    pub partition: QualifiedName,
    /// Folder.
    pub label: String,
    /// Unit.
    pub unit: String,
    /// Newest state.
    pub state: UnitState,
    /// Whether readers see its rows.
    pub published: bool,
    /// Rows and digests.
    pub fingerprint: Option<Fingerprint>,
    /// Stored bytes where readers look.
    pub bytes: u64,
    /// When its state was reached.
    pub at: Timestamp,
}

/// Lists the units of a source, oldest first.
///
/// # Errors
/// What the repository says.
pub async fn archive_list(repository: &Repository, source: &SourceName) -> Result<Vec<ArchiveLine>> {
    let mut bytes: BTreeMap<String, u64> = BTreeMap::new();
    for object in repository.store().list(&format!("{}/{source}", Layout::ARCHIVE)).await? {
        if !object.key.contains("/_")
            && let Some(unit) = Layout::owner(&object.key)
        {
            *bytes.entry(unit.to_string()).or_default() += object.bytes;
        }
    }
    let units = repository.archive_units(source).await?;
    Ok(units
        .into_iter()
        .map(|u| ArchiveLine {
            job: u.plan.job.clone(),
            source: source.to_string(),
            table: u.plan.table.clone(),
            partition: u.plan.partition.clone(),
            label: u.plan.label.clone(),
            unit: u.plan.unit.to_string(),
            state: u.last.state,
            published: u.is_published(),
            fingerprint: u.last.fingerprint,
            bytes: bytes.get(u.plan.unit.as_str()).copied().unwrap_or(0),
            at: u.last.at,
        })
        .collect())
}

/// Returns the published units of a job.
async fn published(repository: &Repository, job: &ArchiveJob) -> Result<Vec<ArchivedUnit>> {
    let units = repository.archive_units(&job.source).await?;
    let of_job = |u: &ArchivedUnit| u.plan.job == job.name && u.plan.root == job.root() && u.is_published();
    let units: Vec<ArchivedUnit> = units.into_iter().filter(of_job).collect();
    if units.is_empty() {
        return Err(EngineError::Options(format!("archive `{}` has no published unit: dozo archive list", job.name)));
    }
    Ok(units)
}

/// Returns all published units of a job as one manifest: what a query asks.
///
/// # Errors
/// What the repository says; when nothing is published.
pub async fn archive_manifest(repository: &Repository, job: &ArchiveJob) -> Result<Manifest> {
    let mut whole: Option<Manifest> = None;
    for unit in published(repository, job).await? {
        let manifest = as_published(&unit, repository.unit_manifest(&unit).await?);
        match &mut whole {
            None => whole = Some(manifest),
            Some(whole) => {
                whole.objects.extend(manifest.objects.clone());
                if let (Content::Postgres(all), Some(pg)) = (&mut whole.content, manifest.postgres()) {
                    all.datasets.extend(pg.datasets.iter().cloned());
                }
            }
        }
    }
    whole.ok_or_else(|| EngineError::Internal("no unit is none".into()))
}

/// Reads what is published of a job again; returns the partition and what was found of each unit.
///
/// # Errors
/// What the repository says; when nothing is published.
pub async fn archive_verify(
    ctx: &Context,
    repository: &Repository,
    job: &ArchiveJob,
    level: VerifyLevel,
) -> Result<Vec<(QualifiedName, CheckEvent)>> {
    let mut found = Vec::new();
    for unit in published(repository, job).await? {
        let manifest = as_published(&unit, repository.unit_manifest(&unit).await?);
        found.push((unit.plan.partition.clone(), examine(ctx, repository, &manifest, level, None).await?));
    }
    Ok(found)
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PartitionLine {
    /// Table.
    pub table: QualifiedName,
    /// Partition.
    pub partition: QualifiedName,
    /// Bound.
    pub bound: String,
    /// Rows: counted where it was archived, else as the server estimates them.
    pub rows: u64,
    /// Bytes with indexes and TOAST in the database.
    pub bytes: u64,
    /// `live`, `detaching`, `quarantined`, `dropped`, `archived`; several where two ledgers say different things.
    pub states: Vec<&'static str>,
    /// Its unit, where it was archived.
    pub unit: Option<String>,
}

/// Lists the partitions of the trees of a source: those that are there, and those that left.
///
/// # Errors
/// What the server or the repository says.
pub async fn partitions_list(
    repository: &Repository,
    source: &SourceSettings,
    tables: &[QualifiedName],
) -> Result<Vec<PartitionLine>> {
    let Some(postgres) = source.postgres() else {
        return Err(EngineError::Options(format!("source `{}` is no Postgres database", source.name)));
    };
    let session = Session::connect(&postgres.connection()?).await?;
    let _ = session.facts().await?;
    let units = repository.archive_units(&source.name).await?;
    let rows = ledger_rows(&session).await?;
    let mut roots: BTreeSet<QualifiedName> = tables.iter().cloned().collect();
    if tables.is_empty() {
        let all = dozo_postgres::tables(&session).await?;
        roots.extend(all.into_iter().filter(|t| t.kind == 'p' && t.parent.is_none() && t.extension.is_none()).map(|t| t.name));
        roots.extend(units.iter().filter(|u| u.is_published()).map(|u| u.plan.table.clone()));
    }
    let mut lines = Vec::new();
    for root in roots {
        let found = tree(&session, &root).await?;
        if found.is_none() && !tables.is_empty() && !units.iter().any(|u| u.plan.table == root) {
            return Err(EngineError::NoTable(root));
        }
        let mut seen: BTreeSet<QualifiedName> = BTreeSet::new();
        for table in found.iter().flat_map(|t| t.tables.iter().skip(1)) {
            seen.insert(table.name.clone());
            let unit = archived_as(&units, &root, &table.name);
            let mut states = vec![if table.pending { "detaching" } else { "live" }];
            // Somebody archived it, and this database does not know: a copy of an earlier point in time.
            states.extend(unit.filter(|u| !rows.iter().any(|r| r.unit == u.plan.unit.as_str())).map(|_| "archived"));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate, never negative")]
            lines.push(PartitionLine {
                table: root.clone(),
                partition: table.name.clone(),
                bound: table.bound.clone(),
                rows: table.rows_estimate.max(0.0) as u64,
                bytes: table.bytes,
                unit: unit.filter(|_| states.len() > 1).map(|u| u.plan.unit.to_string()),
                states,
            });
        }
        for unit in units.iter().filter(|u| u.plan.table == root && u.plan.root == "v1" && !u.last.state.is_last() && has_left(u))
        {
            if seen.contains(&unit.plan.partition) {
                continue;
            }
            let row = rows.iter().find(|r| r.unit == unit.plan.unit.as_str());
            lines.push(PartitionLine {
                table: root.clone(),
                partition: unit.plan.partition.clone(),
                bound: unit.plan.bound.clone(),
                rows: row.map_or_else(|| unit.last.fingerprint.map_or(0, |f| f.rows), |r| r.fingerprint.rows),
                bytes: quarantined_bytes(&session, row).await?,
                states: left_states(unit, row),
                unit: Some(unit.plan.unit.to_string()),
            });
        }
    }
    Ok(lines)
}

async fn quarantined_bytes(session: &Session, row: Option<&LedgerRow>) -> Result<u64> {
    match row.filter(|r| r.state == LedgerState::Detached) {
        Some(row) => Ok(dozo_postgres::bytes_of(session, &row.details.moved.iter().map(|m| m.oid).collect::<Vec<_>>()).await?),
        None => Ok(0),
    }
}

fn left_states(unit: &ArchivedUnit, row: Option<&LedgerRow>) -> Vec<&'static str> {
    let of_database = match row.map(|r| r.state) {
        Some(LedgerState::Detaching) => Some("detaching"),
        Some(LedgerState::Detached) => Some("quarantined"),
        Some(LedgerState::Dropped) => Some("dropped"),
        Some(LedgerState::Restored) => Some("restored"),
        None => None,
    };
    of_database.into_iter().chain(unit.is_published().then_some("archived")).collect()
}

/// Returns the unit that a partition is archived as.
fn archived_as<'a>(units: &'a [ArchivedUnit], root: &QualifiedName, partition: &QualifiedName) -> Option<&'a ArchivedUnit> {
    let is = |u: &&ArchivedUnit| {
        &u.plan.table == root && &u.plan.partition == partition && u.plan.root == "v1" && has_left(u) && !u.last.state.is_last()
    };
    units.iter().rev().find(is)
}
