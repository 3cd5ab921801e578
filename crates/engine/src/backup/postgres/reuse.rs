//! Which tables need not be copied again: the parent, what it offers, and what must be true of each object.
//!
//! *Invariant*: an object is named again only when the table has the same change token in the same server process, the object
//! is there with its size, no check has an open finding about it, and its content was read by a check not long ago. Until a
//! month has a good full backup, every backup of it copies everything, so that monthly backups are physical copies of their
//! own. *Crash behaviour*: the parent's fate is read again after the intent and before the manifest.

use std::collections::HashMap;
use std::time::Duration;

use dozo_catalog::{History, Repository};
use dozo_model::{BackupId, ChangeToken, Dataset, Manifest, ObjectRef, QualifiedName, RowVersions, Timestamp};
use dozo_postgres::ServerFacts;

use super::plan::PlannedTable;
use crate::Result;
use crate::backup::lean::{self, Offers};
use crate::context::SourceSettings;

/// A backup whose objects may be named again.
pub(crate) struct Parent {
    pub(crate) id: BackupId,
    datasets: HashMap<QualifiedName, Dataset>,
    objects: Offers,
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
        let parent = match lean::newest(source, history, now, full)? {
            Ok(parent) => parent,
            Err(why) => return Ok(Self::Nothing(why)),
        };
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
        if let Err(why) = lean::stands(repository, parent).await? {
            return Ok(Self::Nothing(why));
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
        Ok(Self {
            id: manifest.id.clone(),
            datasets: manifest.datasets().iter().map(|d| (d.name.clone(), d.clone())).collect(),
            objects: Offers::of(repository, source, history, manifest, now, Duration::ZERO).await?,
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
        if token.shape != shape || dataset.columns != table.columns || dataset.format != table.format {
            return Err("its definition has changed".into());
        }
        for part in &dataset.parts {
            self.objects.get(&part.object)?;
        }
        Ok(dataset)
    }

    /// Returns the objects of a dataset.
    pub(crate) fn objects_of<'a>(&'a self, dataset: &'a Dataset) -> impl Iterator<Item = &'a ObjectRef> {
        dataset.parts.iter().filter_map(|p| self.objects.get(&p.object).ok())
    }
}

/// Returns the token of a table.
pub(crate) fn token(table: &PlannedTable, versions: RowVersions) -> Option<ChangeToken> {
    table.shape.ok().map(|shape| ChangeToken { filenode: table.locked.filenode, versions, shape })
}
