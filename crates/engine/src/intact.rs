//! Are fetched bytes those that the manifest names?

use std::collections::HashMap;

use dozo_model::{Manifest, Sha256Digest};

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
