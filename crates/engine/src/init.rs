//! `init --from`: looks at a database and drafts its part of the configuration.

use dozo_model::QualifiedName;
use dozo_postgres::{Session, UrlRef, suggest_tables, tables};
use serde::Serialize;

use crate::Result;

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Draft {
    /// Database; the source is named after it.
    pub database: String,
    /// Server version.
    pub version: String,
    /// Time zone of the server, before the session was pinned.
    pub time_zone: String,
    /// Tables and trees: name, number of partitions, bytes, estimated rows; largest first.
    pub tables: Vec<(QualifiedName, usize, u64, u64)>,
    /// Trees whose old partitions could be archived.
    pub archives: Vec<ArchiveDraft>,
}

/// A tree that is partitioned by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ArchiveDraft {
    /// Its root.
    pub table: QualifiedName,
    /// Column of its partition key.
    pub column: String,
    /// Partitions with two ends.
    pub partitions: usize,
    /// Width of the partitions.
    pub granularity: &'static str,
    /// Calendar by which they are whole.
    pub time_zone: String,
}

/// Looks at a database.
///
/// # Errors
/// When it cannot be reached or read.
pub async fn inspect_for_init(url: &UrlRef) -> Result<Draft> {
    let info = url.resolve()?;
    let session = Session::connect(&info).await?;
    let facts = session.facts().await?;
    let all = tables(&session).await?;
    let time_zone = session.server_time_zone().await?;
    let mut archives = Vec::new();
    for root in all.iter().filter(|t| t.kind == 'p' && t.parent.is_none() && t.extension.is_none()) {
        archives.extend(crate::archive::draft(&session, &root.name, &time_zone).await?);
    }
    Ok(Draft { database: facts.database, version: facts.version, time_zone, tables: suggest_tables(&all), archives })
}
