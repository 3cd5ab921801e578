//! `dozo canary`: a row in each source, so that a drill can tell from the rows themselves how fresh a restore is.

use std::time::Duration;

use dozo_model::{SourceName, Timestamp};
use dozo_postgres::{Session, write_canary};
use serde::Serialize;

use crate::context::{Context, SourceSettings};
use crate::{EngineError, Result};

/// Rows older than this are forgotten.
pub(crate) const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// A row that was written.
#[derive(Debug, Clone, Serialize)]
pub struct CanaryReport {
    /// Source.
    pub source: SourceName,
    /// Its time, by the server's clock.
    pub at: Timestamp,
}

/// Writes a row into the canary of a source.
///
/// # Errors
/// What the server says; [`EngineError::Options`] for a source that is no database.
pub async fn canary(ctx: &Context, source: &SourceSettings) -> Result<CanaryReport> {
    let Some(postgres) = source.postgres() else {
        return Err(EngineError::Options(format!(
            "source `{}` is no Postgres database: there is no canary in files",
            source.name
        )));
    };
    let session = Session::connect_as(&postgres.connection()?, "dozo canary").await?;
    let at = write_canary(&session, &ctx.operator.host, KEPT).await?;
    Ok(CanaryReport { source: source.name.clone(), at })
}
