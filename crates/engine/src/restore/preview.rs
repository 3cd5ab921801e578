//! `restore --plan`: what a restore would do, what it needs, what it would overwrite. Nothing is changed.

use dozo_catalog::Repository;
use dozo_model::{Manifest, QualifiedName};
use dozo_postgres::ConnInfo;
use serde::Serialize;

use super::{Existing, RestoreOptions, check_options, into, opened, postgres};
use crate::Result;

/// Bytes that a heap takes for each COPY byte of a row, with its indexes: measured on the sample database.
const HEAP_FACTOR: f64 = 1.6;
/// COPY bytes per second that a server takes on one connection, where the backup did not measure more; indexes not included.
const BYTES_PER_SECOND: f64 = 20e6;

/// What a restore would do.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RestorePreview {
    /// Backup.
    pub backup: String,
    /// Where to.
    pub target: String,
    /// Per table that takes rows.
    pub tables: Vec<PreviewTable>,
    /// Rows.
    pub rows: u64,
    /// Bytes to fetch from the repository.
    pub bytes_to_fetch: u64,
    /// Disk that the target needs, about.
    pub bytes_on_target: u64,
    /// Seconds, about: from the rate at which the backup read.
    pub seconds: f64,
    /// What stands in the way.
    pub obstacles: Vec<String>,
}

/// One table of a preview.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PreviewTable {
    /// Table in the target.
    pub table: QualifiedName,
    /// Stored rows.
    pub rows: u64,
    /// `create`, `append`, `replace`, or `refuse`.
    pub action: &'static str,
    /// Rows that are there, about; none = the table is not there.
    pub rows_there: Option<u64>,
}

/// Looks at backup and target.
///
/// # Errors
/// As a restore that cannot begin.
pub async fn preview(
    repository: &Repository,
    manifest: &Manifest,
    info: &ConnInfo,
    options: &RestoreOptions,
) -> Result<RestorePreview> {
    check_options(options)?;
    let pg = postgres(manifest)?;
    let (target, plan) = opened(repository, manifest, info, options).await?;
    let groups = into::groups(&target, &plan).await?;
    let mut obstacles = Vec::new();
    let merging = into::into_existing(&groups, options).unwrap_or_else(|e| {
        obstacles.push(e.to_string());
        true
    });
    let mut tables = Vec::new();
    for group in &groups {
        let action = match (&group.found, merging, options.existing) {
            (None, false, _) => "create",
            (None, true, _) | (Some(_), false, _) => "refuse",
            (Some(_), true, Existing::Replace) => "replace",
            (Some(_), true, _) => "append",
        };
        if let Some(found) = &group.found {
            if !merging {
                obstacles.push(format!("{} exists", group.live));
            } else if !found.differences.is_empty() {
                obstacles.push(format!("{}: {}", group.live, found.differences.join(", ")));
            }
        }
        tables.push(PreviewTable {
            table: group.live.clone(),
            rows: group.stored().rows,
            action,
            rows_there: group.found.as_ref().map(|f| f.rows_estimate),
        });
    }
    if !options.no_owner || !options.no_privileges {
        let missing = target.missing_roles(&plan.roles).await?;
        obstacles.extend((!missing.is_empty()).then(|| format!("roles are missing: {}", missing.join(", "))));
    }
    let used: std::collections::HashSet<&str> =
        plan.datasets.iter().flat_map(|d| &d.dataset.parts).map(|p| p.object.as_str()).collect();
    let bytes: u64 = plan.datasets.iter().map(|d| d.dataset.bytes_read).sum();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "estimates")]
    let (on_target, seconds) = {
        let all: u64 = pg.datasets.iter().filter(|d| d.copied_by.is_none()).map(|d| d.bytes_read).sum();
        let measured = all as f64 / manifest.seconds.get("data").copied().unwrap_or(0.0).max(0.1);
        ((bytes as f64 * HEAP_FACTOR) as u64, bytes as f64 / measured.max(BYTES_PER_SECOND) * 2.0)
    };
    Ok(RestorePreview {
        backup: format!("{}@{}", manifest.source, manifest.id),
        target: info.target(),
        rows: tables.iter().map(|t| t.rows).sum(),
        tables,
        bytes_to_fetch: used.into_iter().filter_map(|key| plan.objects.bytes(key)).sum(),
        bytes_on_target: on_target,
        seconds,
        obstacles,
    })
}
