//! Which tables need not be copied again: the parent, what it offers, and what must be true of each object.
//!
//! *Invariant*: an object is named again only when the table has the same change token in the same server process, the object
//! is there with its size, no check has an open finding about it, and its content was read by a check not long ago. Until a
//! month has a good full backup, every backup of it copies everything, so that monthly backups are physical copies of their
//! own. *Crash behaviour*: the parent's fate is read again after the intent and before the manifest.

use std::collections::{HashMap, HashSet};

use dozo_catalog::{CatalogError, History, Repository};
use dozo_model::{BackupId, ChangeToken, Dataset, Manifest, ObjectRef, QualifiedName, RowVersions, Timestamp, human_duration};
use dozo_postgres::ServerFacts;
use dozo_store::Layout;

use super::plan::PlannedTable;
use crate::context::SourceSettings;
use crate::{EngineError, Result};

/// A backup whose objects may be named again.
pub(crate) struct Parent {
    pub(crate) id: BackupId,
    datasets: HashMap<QualifiedName, Dataset>,
    objects: HashMap<String, Offer>,
}

struct Offer {
    object: ObjectRef,
    refused: Option<String>,
}

/// Whether there is something to lean on.
pub(crate) enum Reuse {
    From(Box<Parent>),
    Nothing(String),
}

impl Reuse {
    /// Looks for a backup to lean on. `now` is the start of this one.
    pub(crate) async fn find(
        repository: &Repository,
        source: &SourceSettings,
        history: &History,
        facts: &ServerFacts,
        now: Timestamp,
        full: bool,
    ) -> Result<Self> {
        let nothing = |why: &str| Ok(Self::Nothing(why.to_owned()));
        if full {
            return nothing("--full");
        }
        let Some(parent) = history.records.last().map(|r| r.manifest.as_ref()) else {
            return nothing("it is the first backup");
        };
        let zone = jiff::tz::TimeZone::get(&source.time_zone).map_err(|e| EngineError::Options(e.to_string()))?;
        let month = |t: Timestamp| {
            let date = t.to_zoned(zone.clone()).date();
            (date.year(), date.month())
        };
        let full_this_month =
            history.records.iter().any(|r| r.manifest.parent.is_none() && r.good() && month(r.manifest.started) == month(now));
        if !full_this_month {
            return nothing("this month has no good full backup yet");
        }
        if parent.started > now {
            return nothing("the newest backup is dated in the future");
        }
        let Some(server) = parent.postgres().map(|pg| &pg.server) else {
            return nothing("the last backup is of another kind of source");
        };
        if facts.system_identifier.is_none() || server.system_identifier != facts.system_identifier {
            return nothing("the server is not the one of the last backup");
        }
        if server.database_oid != facts.database_oid || facts.database_oid == 0 {
            return nothing("the database is not the one of the last backup");
        }
        if server.postmaster_start != facts.postmaster_start {
            return nothing("the server was restarted since the last backup");
        }
        match repository.parent_stands(&source.name, &parent.id).await {
            Ok(()) => {}
            Err(CatalogError::ParentGone { .. }) => return nothing("the last backup is being deleted"),
            Err(e) => return Err(e.into()),
        }
        Ok(Self::From(Box::new(Parent::new(repository, source, history, parent, now).await?)))
    }

    pub(crate) fn parent(&self) -> Option<&Parent> {
        match self {
            Self::From(parent) => Some(parent),
            Self::Nothing(_) => None,
        }
    }
}

impl Parent {
    async fn new(
        repository: &Repository,
        source: &SourceSettings,
        history: &History,
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<Self> {
        let checked = history.content_checked();
        let distrusted = history.distrusted();
        let listed = repository.store().list(&format!("{}/{}", Layout::DATA, source.name)).await?;
        let sizes: HashMap<&str, u64> = listed.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
        let used: HashSet<&str> = manifest.datasets().iter().flat_map(|d| &d.parts).map(|p| p.object.as_str()).collect();
        let offers = manifest.objects.iter().filter(|o| used.contains(o.key.as_str())).map(|o| {
            let key = o.key.as_str();
            let age = checked.get(key).map(|at| now.duration_since(*at).unsigned_abs());
            let refused = match (sizes.get(key), age) {
                (None, _) => Some("its object is missing".to_owned()),
                (Some(size), _) if *size != o.bytes => Some("its object has another size".to_owned()),
                _ if distrusted.contains(key) => Some("a check has a finding about its object".to_owned()),
                (_, None) => Some("its object was never verified by content".to_owned()),
                (_, Some(age)) if age > source.reuse_max_age => {
                    Some(format!("its object was not verified within {}", human_duration(source.reuse_max_age)))
                }
                _ => None,
            };
            (o.key.clone(), Offer { object: o.clone(), refused })
        });
        Ok(Self {
            id: manifest.id.clone(),
            datasets: manifest.datasets().iter().map(|d| (d.name.clone(), d.clone())).collect(),
            objects: offers.collect(),
        })
    }

    /// Returns what this table may lean on if its rows are the same; else why it must be copied.
    pub(crate) fn candidate(&self, table: &PlannedTable) -> std::result::Result<&Dataset, String> {
        let dataset = self.datasets.get(&table.locked.name).ok_or("it is new")?;
        let shape = table.shape.map_err(str::to_owned)?;
        let token = dataset.change_token.ok_or("the last backup has no change token for it")?;
        if token.filenode != table.locked.filenode {
            return Err("it was rewritten".into());
        }
        if token.shape != shape || dataset.columns != table.columns {
            return Err("its definition has changed".into());
        }
        for part in &dataset.parts {
            match self.objects.get(&part.object) {
                None => return Err("its object is not in the last backup".into()),
                Some(Offer { refused: Some(why), .. }) => return Err(why.clone()),
                Some(_) => {}
            }
        }
        Ok(dataset)
    }

    /// Returns the objects of a dataset.
    pub(crate) fn objects_of<'a>(&'a self, dataset: &'a Dataset) -> impl Iterator<Item = &'a ObjectRef> {
        dataset.parts.iter().filter_map(|p| self.objects.get(&p.object)).map(|o| &o.object)
    }
}

/// Returns the token of a table.
pub(crate) fn token(table: &PlannedTable, versions: RowVersions) -> Option<ChangeToken> {
    table.shape.ok().map(|shape| ChangeToken { filenode: table.locked.filenode, versions, shape })
}
