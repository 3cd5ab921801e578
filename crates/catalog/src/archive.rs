//! The ledger of archives: what became of each unit, step by step.
//!
//! *Ordering*: the plan is put before the first object, the manifest before `proven`; every event is a create-only record that carries
//! its number and its state in its name, so a listing tells where each unit stands. *Invariant*: one run writes to a source's
//! ledger at a time (its lease); a number that is taken ends the run. *Crash behaviour*: what the database has done and the ledger does
//! not know yet is added by the next run.

use std::collections::BTreeMap;

use bytes::Bytes;
use dozo_model::{BackupId, Manifest, ManifestForm, SourceName, UnitEvent, UnitPlan, UnitState};
use dozo_store::Layout;
use futures::{StreamExt, TryStreamExt};

use crate::repository::{FETCHES, from_json, to_json};
use crate::{CatalogError, Repository, Result};

/// A unit of an archive, as the ledger of the repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedUnit {
    /// What it is.
    pub plan: UnitPlan,
    /// Its states so far, in order.
    pub states: Vec<UnitState>,
    /// The newest event.
    pub last: UnitEvent,
}

impl ArchivedUnit {
    /// Tells whether a state was ever reached.
    #[must_use]
    pub fn was(&self, state: UnitState) -> bool {
        self.states.contains(&state)
    }

    /// Tells whether its rows stand where readers look.
    #[must_use]
    pub fn is_published(&self) -> bool {
        let last = self.states.iter().rev().find(|s| matches!(s, UnitState::Published | UnitState::Withdrawn));
        last == Some(&UnitState::Published) && !self.last.state.is_last()
    }

    /// Returns the folder of its records.
    #[must_use]
    pub fn folder(&self) -> String {
        Layout::ledger(&self.plan.source, &self.plan.table, &self.plan.unit)
    }

    /// Returns the key under which one of its objects is published.
    #[must_use]
    pub fn published_key(&self, staged: &str) -> Option<String> {
        Layout::published(staged, &self.plan.root, &self.plan.label)
    }
}

impl Repository {
    /// Loads the units of a source, oldest first.
    ///
    /// # Errors
    /// What the store says, or a record that cannot be read.
    pub async fn archive_units(&self, source: &SourceName) -> Result<Vec<ArchivedUnit>> {
        let mut found: BTreeMap<BackupId, Vec<(u32, UnitState, String)>> = BTreeMap::new();
        for object in self.store().list(&format!("{}/{source}", Layout::ARCHIVE)).await? {
            let parts: Vec<&str> = object.key.split('/').collect();
            let [_, _, _, _, "_ledger", unit, name] = parts.as_slice() else { continue };
            let (Ok(unit), Some((number, state))) = (BackupId::parse(unit), event_of(name)) else { continue };
            found.entry(unit).or_default().push((number, state, object.key.clone()));
        }
        futures::stream::iter(found.into_values().map(|events| self.archived(events))).buffered(FETCHES).try_collect().await
    }

    async fn archived(&self, mut events: Vec<(u32, UnitState, String)>) -> Result<ArchivedUnit> {
        events.sort();
        let record = async |key: &str| -> Result<UnitEvent> { from_json(key, &self.store().get(key).await?) };
        let (first_key, last_key) = (&events[0].2, &events[events.len() - 1].2);
        let first = record(first_key).await?;
        let Some(plan) = first.plan.clone().filter(|_| events[0].0 == 0) else {
            return Err(CatalogError::Record { key: first_key.clone(), reason: "it does not say what was planned".into() });
        };
        let last = if first_key == last_key { first } else { record(last_key).await? };
        Ok(ArchivedUnit { plan, states: events.into_iter().map(|(_, state, _)| state).collect(), last })
    }

    /// Begins a unit.
    ///
    /// # Errors
    /// What the store says.
    pub async fn plan_unit(&self, plan: UnitPlan, event: UnitEvent) -> Result<ArchivedUnit> {
        let event = UnitEvent { plan: Some(plan.clone()), state: UnitState::Planned, ..event };
        let unit = ArchivedUnit { plan, states: Vec::new(), last: event.clone() };
        self.put_event(unit, event).await
    }

    /// Adds an event.
    ///
    /// # Errors
    /// When somebody else has added one, or what the store says.
    pub async fn put_event(&self, mut unit: ArchivedUnit, event: UnitEvent) -> Result<ArchivedUnit> {
        let key = format!("{}/{:06}-{}.json", unit.folder(), unit.states.len(), event.state);
        self.store().put_own(&key, to_json(&key, &event)?).await?;
        unit.states.push(event.state);
        unit.last = event;
        Ok(unit)
    }

    /// Puts a file beside the events.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_beside_unit(&self, key: &str, bytes: Bytes) -> Result<()> {
        Ok(self.store().put_own(key, bytes).await?)
    }

    /// Puts the manifest of a unit: what its objects are, before they are called proven. Returns its bytes.
    ///
    /// # Errors
    /// What the store says.
    pub async fn put_unit_manifest(&self, unit: &ArchivedUnit, manifest: &Manifest) -> Result<Bytes> {
        let key = format!("{}/manifest.json", unit.folder());
        let bytes = manifest.to_bytes().map_err(|e| CatalogError::Record { key: key.clone(), reason: e.to_string() })?;
        let bytes = Bytes::from(bytes);
        self.store().put_own(&key, bytes.clone()).await?;
        Ok(bytes)
    }

    /// Loads the manifest of a unit, checking its digest, its version, its place and every key that it names.
    ///
    /// # Errors
    /// [`CatalogError::Manifest`] when it cannot be believed.
    pub async fn unit_manifest(&self, unit: &ArchivedUnit) -> Result<Manifest> {
        let plan = &unit.plan;
        let bytes = self.store().get(&format!("{}/manifest.json", unit.folder())).await?;
        let manifest = Manifest::from_bytes(&bytes).map_err(|e| CatalogError::Manifest {
            source_name: plan.source.clone(),
            id: plan.unit.clone(),
            source: e,
        })?;
        let misplaced =
            |found: String| CatalogError::Misplaced { source_name: plan.source.clone(), id: plan.unit.clone(), found };
        if manifest.id != plan.unit || manifest.source != plan.source {
            return Err(misplaced(format!("{}@{}", manifest.source, manifest.id)));
        }
        let foreign = manifest.objects.iter().find(|o| !Layout::may_archive(&plan.source, &plan.table, &plan.unit, &o.key));
        match foreign {
            Some(foreign) => Err(misplaced(format!("a unit that names `{}`", foreign.key))),
            None => Ok(manifest),
        }
    }
}

/// Reads the name of an event: its number and its state.
fn event_of(name: &str) -> Option<(u32, UnitState)> {
    let (number, state) = name.strip_suffix(".json")?.split_once('-')?;
    Some((number.parse().ok().filter(|_| number.len() == 6)?, state.parse().ok()?))
}
