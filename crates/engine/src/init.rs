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
    Ok(Draft {
        database: facts.database,
        version: facts.version,
        time_zone: session.server_time_zone().await?,
        tables: suggest_tables(&all),
    })
}
