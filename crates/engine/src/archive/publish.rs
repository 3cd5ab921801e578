//! Published or not: where readers look, objects stand only of rows that the database does not hold any more.
//!
//! *Ordering*: copy on the server's side, read back, `published`, then the staged objects go; and the other way round: staged again,
//! read back, then taken away from readers, `withdrawn`. *Invariant*: at every moment each object stands in one of the two places.
//! *Crash behaviour*: both ways can be gone again from the start.

use dozo_catalog::ArchivedUnit;
use dozo_model::{Content, Manifest, ObjectRef, UnitState};
use dozo_store::Layout;

use super::export::Run;
use crate::{EngineError, Result};

/// Tells whether an object of a unit holds rows.
fn is_data(unit: &ArchivedUnit, object: &ObjectRef) -> bool {
    !object.key.starts_with(&unit.folder())
}

/// Returns the manifest of a unit with the keys under which its objects are published.
pub(crate) fn as_published(unit: &ArchivedUnit, mut manifest: Manifest) -> Manifest {
    let moved = |key: &mut String| {
        if let Some(published) = unit.published_key(key) {
            *key = published;
        }
    };
    manifest.objects.iter_mut().for_each(|o| moved(&mut o.key));
    if let Content::Postgres(pg) = &mut manifest.content {
        pg.datasets.iter_mut().flat_map(|d| &mut d.parts).for_each(|p| moved(&mut p.object));
    }
    manifest
}

impl Run<'_> {
    /// Loads the manifest of a unit, with keys where its objects stand now.
    pub(crate) async fn manifest(&self, unit: &ArchivedUnit) -> Result<Manifest> {
        let manifest = self.repository.unit_manifest(unit).await?;
        Ok(if unit.is_published() { as_published(unit, manifest) } else { manifest })
    }

    /// Puts the objects of a unit where readers look.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when a staged object is not what was proven.
    pub(crate) async fn publish(&self, unit: ArchivedUnit) -> Result<ArchivedUnit> {
        let manifest = self.repository.unit_manifest(&unit).await?;
        for object in manifest.objects.iter().filter(|o| is_data(&unit, o)) {
            let to = unit
                .published_key(&object.key)
                .ok_or_else(|| EngineError::Internal(format!("`{}` is not staged", object.key)))?;
            if !self.repository.store().copy_within(object, &to).await? {
                // What readers would misread must not stand there.
                self.repository.store().delete(&to).await?;
                return Err(EngineError::Damaged {
                    object: object.key.clone(),
                    reason: "its copy does not hold what was proven".into(),
                });
            }
            super::point::point("publishing", &unit.plan.partition);
        }
        let fingerprint = unit.last.fingerprint.or_else(|| Some(manifest.datasets().iter().map(|d| d.fingerprint).sum()));
        let event = dozo_model::UnitEvent { fingerprint, ..self.event(UnitState::Published) };
        let unit = self.record(unit, event).await?;
        self.clear_staging(&unit).await?;
        Ok(unit)
    }

    /// Takes the objects of a unit away from readers, and keeps them beside; also what an interrupted run has left of that.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when a published object is not what was proven.
    pub(crate) async fn withdraw(&self, mut unit: ArchivedUnit) -> Result<ArchivedUnit> {
        let manifest = self.repository.unit_manifest(&unit).await?;
        let data: Vec<&ObjectRef> = manifest.objects.iter().filter(|o| is_data(&unit, o)).collect();
        let published = |unit: &ArchivedUnit, o: &ObjectRef| unit.published_key(&o.key).unwrap_or_else(|| o.key.clone());
        if unit.is_published() {
            for object in &data {
                let from = ObjectRef { key: published(&unit, object), ..(*object).clone() };
                if !self.repository.store().copy_within(&from, &object.key).await? {
                    return Err(EngineError::Damaged { object: from.key, reason: "it does not hold what was proven".into() });
                }
            }
            // Before the first is deleted: from here on the staged ones count.
            unit = self.record(unit, self.event(UnitState::Withdrawn)).await?;
        }
        for object in &data {
            super::point::point("withdrawing", &unit.plan.partition);
            self.repository.store().delete(&published(&unit, object)).await?;
        }
        Ok(unit)
    }

    /// Deletes what is still staged of a published unit, once everything is seen to stand where readers look.
    pub(crate) async fn settle(&self, unit: &ArchivedUnit) -> Result<()> {
        let plan = &unit.plan;
        let folder = format!("{}/_staging/{}", Layout::archive(&plan.source, &plan.table), plan.unit);
        if self.repository.store().list(&folder).await?.is_empty() {
            return Ok(());
        }
        let manifest = self.repository.unit_manifest(unit).await?;
        for object in manifest.objects.iter().filter(|o| is_data(unit, o)) {
            let published = unit.published_key(&object.key).unwrap_or_default();
            if self.repository.store().size(&published).await? != Some(object.bytes) {
                return Err(EngineError::Damaged { object: published, reason: "it is missing, or of another size".into() });
            }
        }
        self.clear_staging(unit).await
    }
}
