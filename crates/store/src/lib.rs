//! Object stores: a URL becomes a [`Store`] that puts, gets and lists objects by key.
//!
//! Place in the flow: encode → **store** → catalog. It is the only crate that names `object_store`.
//! *Invariants*: no key is ever overwritten ([`Store::put_new`] is create-only, uploads go to keys that carry a
//! random part); local files are written to a staging name, synced together with their folder, then renamed.
//! *Crash behaviour*: a killed upload leaves a staging file (`…#1`, listed by [`Store::staged`]) or an unfinished
//! multipart upload, never an object. *Memory*: an upload holds at most [`PART_BYTES`] × [`PARTS_IN_FLIGHT`].

mod error;
mod fetch;
mod intercept;
mod layout;
mod open;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use dozo_model::Timestamp;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

pub use error::StoreError;
pub use fetch::{Fetched, ObjectData};
pub use intercept::{Intercept, Operation, Request, Verdict};
pub use layout::{Layout, encode_name};
pub use open::StoreOptions;
pub use upload::{PART_BYTES, PARTS_IN_FLIGHT, UploadPart};

type Result<T> = std::result::Result<T, StoreError>;

/// What a create-only put did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// The key did not exist and now holds these bytes.
    Created,
    /// The key exists; nothing was written.
    Exists,
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// Key under the repository's URL.
    pub key: String,
    /// Size.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: Timestamp,
}

/// A place for objects. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    local: Option<PathBuf>,
    /// Storage class of uploads.
    class: Option<String>,
}

impl Store {
    /// Returns an empty store in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), Path::default(), "memory://".into())
    }

    fn new(inner: Arc<dyn ObjectStore>, prefix: Path, url: String) -> Self {
        Self { inner, prefix, url, local: None, class: None }
    }

    /// Returns the URL, without secrets.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    fn path(&self, key: &str) -> Result<Path> {
        let relative = Path::parse(key).map_err(|_| StoreError::BadKey { key: key.to_owned() })?;
        Ok(self.prefix.parts().chain(relative.parts()).collect())
    }

    fn key(&self, path: &Path) -> String {
        let skip = self.prefix.parts().count();
        path.parts().skip(skip).map(|p| p.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    }

    fn error(&self, action: &'static str, key: &str, source: object_store::Error) -> StoreError {
        StoreError::from_source(action, key, &self.url, source)
    }

    /// Puts `bytes` under a key that must not exist. A request that was repeated after its answer was lost finds its own bytes:
    /// that counts as created, so two writers must never put the same bytes and mean different things.
    ///
    /// # Errors
    /// When the store cannot be reached or refuses the write. A key with other bytes is not an error but
    /// [`PutOutcome::Exists`].
    pub async fn put_new(&self, key: &str, bytes: Bytes) -> Result<PutOutcome> {
        self.put_with(key, bytes, Attributes::new()).await
    }

    async fn put_with(&self, key: &str, bytes: Bytes, attributes: Attributes) -> Result<PutOutcome> {
        let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
        match self.inner.put_opts(&self.path(key)?, PutPayload::from_bytes(bytes.clone()), options).await {
            Ok(_) => Ok(PutOutcome::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(if self.get_opt(key).await? == Some(bytes) { PutOutcome::Created } else { PutOutcome::Exists })
            }
            Err(e) => Err(self.error("write", key, e)),
        }
    }

    /// Puts `bytes` under a key that only this run can have written.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key holds other bytes, else as [`Store::put_new`].
    pub async fn put_own(&self, key: &str, bytes: Bytes) -> Result<()> {
        let outcome = self.put_new(key, bytes).await?;
        self.own(key, outcome)
    }

    fn own(&self, key: &str, outcome: PutOutcome) -> Result<()> {
        match outcome {
            PutOutcome::Created => Ok(()),
            PutOutcome::Exists => Err(StoreError::Conflict { key: key.to_owned(), url: self.url.clone() }),
        }
    }

    /// Returns a whole (small) object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is missing.
    pub async fn get(&self, key: &str) -> Result<Bytes> {
        let got = self.inner.get(&self.path(key)?).await.map_err(|e| self.error("read", key, e))?;
        got.bytes().await.map_err(|e| self.error("read", key, e))
    }

    /// Returns a whole object, or `None` when it is missing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn get_opt(&self, key: &str) -> Result<Option<Bytes>> {
        match self.get(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the size of an object, or `None` when it is missing.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn size(&self, key: &str) -> Result<Option<u64>> {
        match self.inner.head(&self.path(key)?).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.error("look at", key, e)),
        }
    }

    /// Lists all objects below `folder`, sorted by key.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        let prefix = self.path(folder)?;
        let mut found: Vec<ObjectInfo> = self
            .inner
            .list(Some(&prefix))
            .map_ok(|meta| ObjectInfo {
                key: self.key(&meta.location),
                bytes: meta.size,
                modified: Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MAX),
            })
            .try_collect()
            .await
            .map_err(|e| self.error("list", folder, e))?;
        found.sort();
        Ok(found)
    }

    /// Lists the names of the folders directly below `folder`, sorted.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = self.path(folder)?;
        let listing = self.inner.list_with_delimiter(Some(&prefix)).await.map_err(|e| self.error("list", folder, e))?;
        let mut names: Vec<String> = listing.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object. Nothing but leases is deleted without a won doom or a won abort.
    ///
    /// # Errors
    /// When the store refuses; a missing object is not an error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        match self.inner.delete(&self.path(key)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("delete", key, e)),
        }
    }

    /// Removes a staging file that [`Store::staged`] listed. An upload that is still being written then fails.
    ///
    /// # Errors
    /// When the file system refuses; a missing file is not an error.
    pub fn remove_staged(&self, key: &str) -> Result<()> {
        let Some(root) = &self.local else { return Ok(()) };
        match std::fs::remove_file(root.join(key)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("delete", key, &self.url, e)),
            _ => Ok(()),
        }
    }

    /// Lists staging files of killed uploads (local stores only), with their sizes.
    ///
    /// # Errors
    /// When a folder cannot be read.
    pub fn staged(&self) -> Result<Vec<ObjectInfo>> {
        let Some(root) = &self.local else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut open = vec![root.clone()];
        while let Some(folder) = open.pop() {
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("list", &folder.display().to_string(), &self.url, e)),
            };
            for entry in entries.flatten() {
                let path = entry.path();
                let name = entry.file_name().to_string_lossy().into_owned();
                // Links are not followed: they may lead out of the repository.
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push(path);
                } else if name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit())) {
                    let key = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                    let meta = entry.metadata().ok();
                    let modified = meta.as_ref().and_then(|m| Timestamp::try_from(m.modified().ok()?).ok());
                    let (bytes, modified) = (meta.map_or(0, |m| m.len()), modified.unwrap_or(Timestamp::MAX));
                    found.push(ObjectInfo { key, bytes, modified });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns the free bytes of the file system of a local store, and how many it would have if it were empty, both for
    /// a user without privileges, as `df` counts them.
    #[must_use]
    pub fn space(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statvfs(self.local.as_ref()?).ok()?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Some((stat.f_bavail * stat.f_frsize, (used + stat.f_bavail) * stat.f_frsize))
    }
}
