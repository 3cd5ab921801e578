//! One copy: which objects it shares, which it brings, and its manifest.
//!
//! *Keys*: of the copy's id and the object's SHA-256, so that an interrupted copy finds what it had brought. *Proof*: every object is digested
//! while it is read; what does not match its manifest does not appear. *Cancellation*: uploads are tasks that abort themselves.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use dozo_catalog::{BackupState, CatalogError, Repository, this_process};
use dozo_model::{BackupId, FORMAT_VERSION, Intent, Manifest, ManifestForm, ObjectRef, ReplicaOf, Sha256Digest, random_suffix};
use dozo_store::{Layout, Store};
use futures::{StreamExt, TryStreamExt};

use super::rewrite::Rewrite;
use super::{ReplicatedBackup, There};
use crate::context::Context;
use crate::{EngineError, Result};

/// Objects copied at the same time.
const COPIES: usize = 2;

/// Where the copy of each object lies.
pub(super) struct CopyPlan {
    pub(super) intent: Intent,
    /// The intent stands already: an interrupted run put it.
    resumed: bool,
    /// Objects of the parent, by their bytes.
    shared: HashMap<(Sha256Digest, u64), ObjectRef>,
}

impl CopyPlan {
    pub(super) fn new(ctx: &Context, there: &There, manifest: &Manifest, replica_of: &ReplicaOf, again: bool) -> Self {
        let begun = there.entries.iter().find_map(|e| match &e.state {
            BackupState::Uncommitted(Some(intent))
                if intent.replica_of.as_ref() == Some(replica_of) && !(again && intent.parent.is_some()) =>
            {
                Some(intent.as_ref().clone())
            }
            _ => None,
        });
        let resumed = begun.is_some();
        let intent = begun.unwrap_or_else(|| {
            let taken = there.entries.iter().any(|e| e.id == manifest.id);
            let other = || BackupId::parse(&format!("{}-{}", manifest.id.second(), random_suffix(&mut rand::rng(), 6)));
            let id = if taken { other().unwrap_or_else(|_| manifest.id.clone()) } else { manifest.id.clone() };
            Intent {
                format: FORMAT_VERSION,
                id,
                source: manifest.source.clone(),
                // A copy that is made again has nothing of one that may be damaged.
                parent: there.parent(manifest, replica_of).filter(|_| !again).map(|m| m.id.clone()),
                started: ctx.clock.now(),
                holder: this_process(),
                replica_of: Some(replica_of.clone()),
            }
        });
        let parent = intent.parent.as_ref().and_then(|id| there.committed().map(|(_, m)| m).find(|m| &m.id == id));
        let data = parent.into_iter().flat_map(|m| &m.objects).filter(|o| Layout::owner(&o.key).is_some());
        let shared = data.map(|o| ((o.sha256, o.bytes), o.clone())).collect();
        Self { intent, resumed, shared }
    }

    pub(super) async fn carry_out(
        &self,
        ctx: &Context,
        from: &Repository,
        to: &Repository,
        manifest: &Manifest,
        bytes: &Bytes,
    ) -> Result<(ReplicatedBackup, Manifest)> {
        let (source, id) = (&manifest.source, &self.intent.id);
        if !self.resumed {
            to.begin(&self.intent).await?;
        }
        if let Some(parent) = &self.intent.parent {
            to.parent_stands(source, parent).await?;
        }
        let mut rewrite = Rewrite::new(from.store().url(), to.store().url(), &manifest.id, id);
        let mut objects: Vec<ObjectRef> = Vec::new();
        let mut copies: Vec<(ObjectRef, String)> = Vec::new();
        let (mut found, mut found_bytes) = (0, 0);
        let listed = to.store().list(&format!("{}/{source}", Layout::DATA)).await?;
        let stands: HashMap<&str, u64> = listed.iter().map(|o| (o.key.as_str(), o.bytes)).collect();
        let mut beside: Vec<&ObjectRef> = Vec::new();
        let mut planned: HashSet<String> = HashSet::new();
        for object in &manifest.objects {
            let mark = &object.sha256.to_string()[..16];
            let Some(key) = Layout::copied(&object.key, id, mark) else {
                beside.push(object);
                continue;
            };
            let shared = self.shared.get(&(object.sha256, object.bytes));
            let key = shared.map_or(key, |o| o.key.clone());
            rewrite.moved(&object.key, &key);
            if !planned.insert(key.clone()) {
                continue;
            }
            objects.push(ObjectRef { key: key.clone(), bytes: object.bytes, sha256: object.sha256 });
            // What stands under a key of this copy was put there by an earlier run of it, after it was digested.
            if shared.is_some() || stands.get(key.as_str()) == Some(&object.bytes) {
                found += 1;
                found_bytes += object.bytes;
            } else {
                copies.push((object.clone(), key));
            }
        }
        let (mut count, mut copied_bytes) = (0, 0);
        copy_objects(ctx, from.store(), to.store(), copies, |bytes| {
            count += 1;
            copied_bytes += bytes;
        })
        .await?;
        for object in beside {
            let text = from.store().get(&object.key).await?;
            if (text.len() as u64, Sha256Digest::of(&text)) != (object.bytes, object.sha256) {
                return Err(damaged(&object.key));
            }
            let name = object.key.rsplit('/').next().unwrap_or_default();
            let key = Layout::file(source, id, name);
            rewrite.moved(&object.key, &key);
            // The instructions name keys and the repository; everything else is what it was.
            let text = if name == "RESTORE.md" { rewrite.text(&text) } else { text };
            objects.push(ObjectRef { key: key.clone(), bytes: text.len() as u64, sha256: Sha256Digest::of(&text) });
            count += 1;
            copied_bytes += text.len() as u64;
            to.store().put_own(&key, text).await?;
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let sealed = rewrite.manifest(bytes, &self.intent, &to.marker().id, &objects)?;
        let copy = Manifest::from_bytes(&sealed).map_err(|source| CatalogError::Manifest {
            source_name: manifest.source.clone(),
            id: id.clone(),
            source,
        })?;
        to.everything_stands(&copy).await?;
        if let Some(parent) = &self.intent.parent {
            to.parent_stands(source, parent).await?;
        }
        to.commit_bytes(source, id, sealed.into()).await?;
        let done = ReplicatedBackup {
            source: source.clone(),
            id: manifest.id.clone(),
            copy: id.clone(),
            objects: count,
            bytes: copied_bytes,
            found,
            found_bytes,
            seconds: 0.0,
        };
        Ok((done, copy))
    }
}

fn damaged(key: &str) -> EngineError {
    let reason = "its size or sha256 is not that of the manifest: it was not copied".into();
    EngineError::Damaged { object: key.to_owned(), reason }
}

/// Copies objects, several at the same time, each by a task that aborts its upload when the run is stopped.
async fn copy_objects(
    ctx: &Context,
    from: &Store,
    to: &Store,
    copies: Vec<(ObjectRef, String)>,
    mut done: impl FnMut(u64),
) -> Result<()> {
    let stop = ctx.cancel.child_token();
    let unless_done = stop.clone().drop_guard();
    let mut running = futures::stream::iter(copies)
        .map(|(object, key)| {
            let (from, to, stop, progress) = (from.clone(), to.clone(), stop.clone(), Arc::clone(&ctx.progress));
            let task = ctx.uploads.spawn(async move {
                let same = from.copy_to(&object, &to, &key, &stop).await?;
                progress.advance(&object.key, 0, object.bytes);
                Ok::<_, EngineError>((same, object))
            });
            async move { task.await.map_err(|e| EngineError::Internal(e.to_string()))? }
        })
        .buffer_unordered(COPIES);
    while let Some((same, object)) = running.try_next().await? {
        if !same {
            return Err(damaged(&object.key));
        }
        done(object.bytes);
    }
    unless_done.disarm();
    Ok(())
}
