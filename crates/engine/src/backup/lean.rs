//! What a backup may lean on: the newest one, and those of its objects that can be believed.
//!
//! *Invariant*: until a month has a good full backup, every backup of it stores everything, so that monthly backups are physical copies of
//! their own; an object with an open finding, of another size or missing is never named again.

use std::collections::HashMap;
use std::time::Duration;

use dozo_catalog::{CatalogError, History, Repository};
use dozo_model::{Manifest, ObjectRef, Timestamp, human_duration};
use dozo_store::Layout;

use crate::context::SourceSettings;
use crate::{EngineError, Result};

/// Returns the newest backup, or why this one stores everything. `now` is its start.
pub(crate) fn newest<'h>(
    source: &SourceSettings,
    history: &'h History,
    now: Timestamp,
    full: bool,
) -> Result<std::result::Result<&'h Manifest, String>> {
    let nothing = |why: &str| Ok(Err(why.to_owned()));
    if full {
        return nothing("--full");
    }
    let Some(newest) = history.records.last().map(|r| r.manifest.as_ref()) else {
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
    if newest.started > now {
        return nothing("the newest backup is dated in the future");
    }
    Ok(Ok(newest))
}

/// Makes sure that nobody deletes the backup that is leaned on; else says so.
pub(crate) async fn stands(repository: &Repository, parent: &Manifest) -> Result<std::result::Result<(), String>> {
    match repository.parent_stands(&parent.source, &parent.id).await {
        Ok(()) => Ok(Ok(())),
        Err(CatalogError::ParentGone { .. }) => Ok(Err("the last backup is being deleted".into())),
        Err(e) => Err(e.into()),
    }
}

/// Objects of a backup, and why some of them cannot be named again.
pub(crate) struct Offers(HashMap<String, (ObjectRef, Option<String>)>);

impl Offers {
    /// Looks at the data objects of a backup. `unverified`: how long one counts that was never verified by content.
    pub(crate) async fn of(
        repository: &Repository,
        source: &SourceSettings,
        history: &History,
        manifest: &Manifest,
        now: Timestamp,
        unverified: Duration,
    ) -> Result<Self> {
        let (checked, distrusted) = (history.content_checked(), history.distrusted());
        let listed = repository.store().list(&format!("{}/{}", Layout::DATA, source.name)).await?;
        let sizes: HashMap<&str, u64> = listed.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
        let offers = manifest.objects.iter().filter_map(|o| {
            let key = o.key.as_str();
            let owner = Layout::owner(key)?;
            let age = |at: Timestamp| now.duration_since(at).unsigned_abs();
            let refused = match (sizes.get(key), checked.get(key)) {
                (None, _) => Some("its object is missing".to_owned()),
                (Some(size), _) if *size != o.bytes => Some("its object has another size".to_owned()),
                _ if distrusted.contains(key) => Some("a check has a finding about its object".to_owned()),
                (_, None) if age(owner.time()) < unverified => None,
                (_, None) => Some("its object was never verified by content".to_owned()),
                (_, Some(at)) if age(*at) > source.reuse_max_age => {
                    Some(format!("its object was not verified within {}", human_duration(source.reuse_max_age)))
                }
                _ => None,
            };
            Some((o.key.clone(), (o.clone(), refused)))
        });
        Ok(Self(offers.collect()))
    }

    /// Returns an object, or why it cannot be named again.
    pub(crate) fn get(&self, key: &str) -> std::result::Result<&ObjectRef, &str> {
        match self.0.get(key) {
            None => Err("its object is not in the last backup"),
            Some((_, Some(why))) => Err(why),
            Some((object, None)) => Ok(object),
        }
    }
}
