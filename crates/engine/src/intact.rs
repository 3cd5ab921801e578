//! Are fetched bytes those that the manifest names?

use std::collections::HashMap;

use dozo_catalog::Repository;
use dozo_model::{Manifest, Sha256Digest};
use dozo_store::ObjectData;

use crate::context::Context;
use crate::{EngineError, Result};

/// Size and digest of each object of a manifest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests(HashMap<String, (u64, Sha256Digest)>);

impl Digests {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        Self(manifest.objects.iter().map(|o| (o.key.clone(), (o.bytes, o.sha256))).collect())
    }

    /// Returns the size of an object; none = the manifest does not name it.
    pub(crate) fn bytes(&self, key: &str) -> Option<u64> {
        self.0.get(key).map(|(bytes, _)| *bytes)
    }

    /// Fetches an object, and makes sure that it is the one that the manifest names.
    ///
    /// # Errors
    /// [`EngineError::Damaged`]; [`EngineError::Cancelled`]; what the store says.
    pub(crate) async fn fetch(&self, ctx: &Context, repository: &Repository, key: &str) -> Result<ObjectData> {
        let fetched = tokio::select! {
            biased;
            () = ctx.cancel.cancelled() => return Err(EngineError::Cancelled),
            fetched = repository.store().fetch(key) => fetched?,
        };
        self.check(key, fetched.bytes, fetched.sha256)?;
        Ok(fetched.data)
    }

    /// Makes sure that bytes of this size and digest are the object's.
    ///
    /// # Errors
    /// [`EngineError::Damaged`].
    pub(crate) fn check(&self, key: &str, bytes: u64, sha256: Sha256Digest) -> Result<()> {
        if self.0.get(key) == Some(&(bytes, sha256)) {
            return Ok(());
        }
        let reason = "its size or sha256 is not that of the manifest".into();
        Err(EngineError::Damaged { object: key.to_owned(), reason })
    }
}
