//! A whole server at once: every database is a source of its own, found when the run begins.

use std::collections::BTreeSet;

use dozo_catalog::{BackupSelector, Repository};
use dozo_model::SourceName;
use dozo_postgres::{Session, databases};
use dozo_store::encode_name;

use crate::context::{PostgresSettings, SourceKind, SourceSettings};
use crate::select::glob;
use crate::{EngineError, Result};

/// The databases of a source.
#[derive(Debug, Default)]
pub struct Expanded {
    /// A source for each database.
    pub sources: Vec<SourceSettings>,
    /// Databases that were asked for and cannot be connected to, and why.
    pub refused: Vec<(String, String)>,
}

/// Turns a source with `databases` into one source for each database, named `SOURCE-DATABASE`. `taken` are the names of other
/// configured sources.
///
/// # Errors
/// What the server says; a name that is taken or too long.
pub async fn expand(source: &SourceSettings, taken: &[SourceName]) -> Result<Expanded> {
    let Some((settings, choice)) = source.postgres().and_then(|pg| Some((pg, pg.databases.as_ref()?))) else {
        return Ok(Expanded { sources: vec![source.clone()], refused: vec![] });
    };
    let info = settings.connection()?;
    let session = Session::connect(&info).await?;
    let found = databases(&session).await?;
    let mut chosen = BTreeSet::new();
    let mut expanded = Expanded::default();
    for pattern in &choice.include {
        let matcher = glob(pattern)?;
        let matching: Vec<&str> = found.iter().filter(|d| matcher.is_match(&d.name)).map(|d| d.name.as_str()).collect();
        if matching.is_empty() {
            // One that is gone does not stop the others.
            expanded.refused.push((pattern.clone(), "no database of that name".into()));
        }
        chosen.extend(matching.into_iter().map(str::to_owned));
    }
    for pattern in &choice.exclude {
        let matcher = glob(pattern)?;
        chosen.retain(|name| !matcher.is_match(name));
    }
    for database in found.into_iter().filter(|d| chosen.contains(&d.name)) {
        if let Some(why) = database.refuses {
            expanded.refused.push((database.name, why));
            continue;
        }
        let name = format!("{}-{}", source.name, encode_name(&database.name));
        let name = SourceName::parse(&name)?;
        if taken.contains(&name) {
            return Err(EngineError::Options(format!(
                "database {} of source `{}` would be source `{name}`, which is configured by itself: exclude it here",
                database.name, source.name
            )));
        }
        expanded.sources.push(SourceSettings {
            name,
            kind: SourceKind::Postgres(PostgresSettings { database: Some(database.name), databases: None, ..settings.clone() }),
            // Hooks belong to the whole; the caller runs them once.
            hooks: crate::context::Hooks::default(),
            ..source.clone()
        });
    }
    Ok(expanded)
}

/// Returns the sources of earlier runs whose database is gone: they have a backup and are neither found nor configured.
///
/// # Errors
/// When the repository cannot be read.
pub async fn vanished(
    repository: &Repository,
    source: &SourceSettings,
    found: &Expanded,
    configured: &[SourceName],
) -> Result<Vec<SourceName>> {
    let prefix = format!("{}-", source.name);
    let mut gone = Vec::new();
    for name in repository.sources().await? {
        // What begins with the name of another source, which itself begins with this one's, is that one's.
        let of_another = |other: &SourceName| {
            other.as_str().len() > source.name.as_str().len() && name.as_str().starts_with(&format!("{other}-"))
        };
        let known = configured.contains(&name)
            || configured.iter().any(of_another)
            || found.sources.iter().any(|s| s.name == name)
            || found.refused.iter().any(|(d, _)| format!("{prefix}{}", encode_name(d)) == name.as_str());
        if known || !name.as_str().starts_with(&prefix) {
            continue;
        }
        let latest = repository.resolve(&BackupSelector { source: Some(name.clone()), prefix: None }).await;
        let excluded = |database: &str| {
            let patterns = source.databases().into_iter().flat_map(|c| &c.exclude);
            patterns.filter_map(|p| glob(p).ok()).any(|m| m.is_match(database))
        };
        if latest.is_ok_and(|m| m.postgres().is_none_or(|pg| !excluded(&pg.server.database))) {
            gone.push(name);
        }
    }
    Ok(gone)
}
