//! `SOURCE@latest`, `SOURCE@ID`, or a unique prefix of an id.

use std::fmt;
use std::str::FromStr;

use dozo_model::{BackupId, Manifest, ManifestError, SourceName};

use crate::repository::Repository;
use crate::{CatalogError, Result};

/// Names one backup on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSelector {
    /// Source; without it all sources are searched.
    pub source: Option<SourceName>,
    /// Prefix of an id; `None` = latest.
    pub prefix: Option<String>,
}

impl FromStr for BackupSelector {
    type Err = CatalogError;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || CatalogError::BadSelector(text.to_owned());
        let (source, id) = match text.split_once('@') {
            Some((source, id)) => (Some(SourceName::parse(source).map_err(|_| bad())?), id),
            None => (None, text),
        };
        let prefix = match id {
            "latest" => None,
            _ if !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') => Some(id.to_owned()),
            _ => return Err(bad()),
        };
        Ok(Self { source, prefix })
    }
}

impl fmt::Display for BackupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}@")?;
        }
        f.write_str(self.prefix.as_deref().unwrap_or("latest"))
    }
}

impl Repository {
    /// Finds the one backup that a selector names and loads its manifest. `latest` is the newest committed one; a
    /// newer one that cannot be read is an error, never silently passed over.
    ///
    /// # Errors
    /// [`CatalogError::NoBackup`], [`CatalogError::Ambiguous`], or why its manifest cannot be used.
    pub async fn resolve(&self, selector: &BackupSelector) -> Result<Manifest> {
        let sources = match &selector.source {
            Some(source) => vec![source.clone()],
            None => self.sources().await?,
        };
        let none = || CatalogError::NoBackup { selector: selector.to_string() };
        let mut found: Vec<(SourceName, BackupId)> = Vec::new();
        for source in sources {
            let mut ids = self.ids(&source).await?;
            if let Some(prefix) = &selector.prefix {
                // The random part is enough: it is what people read out to each other.
                ids.retain(|id| id.as_str().starts_with(prefix) || id.as_str().rsplit('-').next() == Some(prefix));
            } else {
                ids.reverse();
                // Ids tell the second; the recorded start tells which of two in one second is the later.
                let mut latest: Option<Manifest> = None;
                for id in ids {
                    if latest.as_ref().is_some_and(|l| l.id.second() != id.second()) {
                        break;
                    }
                    match self.manifest(&source, &id).await {
                        Err(
                            CatalogError::NoBackup { .. }
                            | CatalogError::Doomed { .. }
                            | CatalogError::Manifest { source: ManifestError::Aborted, .. },
                        ) => {}
                        other => {
                            let found = other?;
                            if latest.as_ref().is_none_or(|l| l.started < found.started) {
                                latest = Some(found);
                            }
                        }
                    }
                }
                ids = latest.into_iter().map(|m| m.id).collect();
            }
            found.extend(ids.into_iter().map(|id| (source.clone(), id)));
        }
        match found.as_slice() {
            [] => Err(none()),
            [(source, id)] => self.manifest(source, id).await,
            [(s1, i1), (s2, i2), ..] => Err(CatalogError::Ambiguous {
                selector: selector.to_string(),
                count: found.len(),
                first: format!("{s1}@{i1}"),
                second: format!("{s2}@{i2}"),
            }),
        }
    }
}
