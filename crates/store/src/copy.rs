//! From one store to another, digesting on the way; within a store, on the server's side, and read back.

use dozo_model::{ObjectRef, Sha256Hasher};
use object_store::{GetOptions, GetRange, ObjectStoreExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Operation, Result, Store, StoreError, UploadPart};

/// Storage class of archives, unless the repository has one: they are read rarely, and at once.
const ARCHIVE_CLASS: &str = "STANDARD_IA";

impl Store {
    /// Copies an object within the store, on the server's side, and reads the copy back. Returns whether it holds the bytes that were
    /// expected. A copy that is there already counts, if it does. In a folder on disk it appears as a whole, under its own name at once.
    ///
    /// # Errors
    /// [`crate::StoreError::NotFound`] when neither is there, or what the store says.
    pub async fn copy_within(&self, object: &ObjectRef, to: &str) -> Result<bool> {
        if self.size(to).await?.is_none() {
            let (source, target) = (self.path(&object.key)?, self.path(to)?);
            match (&self.local, &self.bucket) {
                (Some(root), _) => {
                    let (source, target) = (root.join(&object.key), root.join(to));
                    tokio::task::spawn_blocking(move || link(&source, &target))
                        .await
                        .map_err(|e| self.error("copy", to, e.into()))?
                        .map_err(|e| match e.kind() {
                            std::io::ErrorKind::NotFound => {
                                StoreError::NotFound { key: object.key.clone(), url: self.url.clone() }
                            }
                            _ => StoreError::io("copy", to, &self.url, e),
                        })?;
                }
                (None, Some(bucket)) => {
                    let class = self.class.as_deref().unwrap_or(ARCHIVE_CLASS);
                    let copy = || bucket.copy(&source, &target, class);
                    self.again(Operation::Put, copy).await.map_err(|e| self.error("copy", to, e))?;
                }
                (None, None) => {
                    let copy = || self.inner.copy(&source, &target);
                    self.again(Operation::Put, copy).await.map_err(|e| self.error("copy", to, e))?;
                }
            }
        }
        let found = self.fetch(to).await?;
        Ok(found.bytes == object.bytes && found.sha256 == object.sha256)
    }

    /// Copies the object to another store, under another key. Tells whether its bytes are those that were expected; if not, nothing
    /// appears there. *Memory*: that of an upload, and one part.
    ///
    /// # Errors
    /// As [`Store::fetch`] and [`Store::upload`].
    pub async fn copy_to(&self, object: &ObjectRef, to: &Self, key: &str, stop: &CancellationToken) -> Result<bool> {
        let (sender, parts) = mpsc::channel(1);
        let (read, written) = futures::join!(self.feed(object, to.parts.bytes, sender), to.upload(key, parts, stop));
        match (read, written) {
            (Ok(true), written) => written.map(|_| true),
            // The reason for an upload that ended early is the reading's.
            (read, _) => read,
        }
    }

    /// Reads an object into the queue of an upload, part by part, so that no request is held open while the other store is slow; ends the
    /// upload only if the bytes are those that were expected.
    async fn feed(&self, object: &ObjectRef, part_bytes: usize, sender: mpsc::Sender<UploadPart>) -> Result<bool> {
        let path = self.path(&object.key)?;
        let mut hasher = Sha256Hasher::default();
        let mut from = 0;
        while from < object.bytes {
            let to = object.bytes.min(from + part_bytes as u64);
            let read = || async {
                let options = GetOptions { range: Some(GetRange::Bounded(from..to)), ..GetOptions::default() };
                let got = self.inner.get_opts(&path, options).await?;
                Ok((got.meta.size, got.bytes().await?))
            };
            let (size, part) = self.again(Operation::Get, read).await.map_err(|e| self.error("read", &object.key, e))?;
            if size != object.bytes || part.len() as u64 != to - from {
                return Ok(false);
            }
            hasher.update(&part);
            if sender.send(UploadPart::Data(part)).await.is_err() {
                // The upload says why.
                return Ok(true);
            }
            from = to;
        }
        if hasher.finish() != object.sha256 {
            return Ok(false);
        }
        let _ = sender.send(UploadPart::End).await;
        Ok(true)
    }
}

/// Gives a file a second name in one step; where the file system has no links, the copy gets its name when it is whole.
fn link(source: &std::path::Path, target: &std::path::Path) -> std::io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    std::fs::create_dir_all(folder)?;
    match std::fs::hard_link(source, target) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(e),
        Err(_) => {
            let beside = source.with_extension("copy");
            std::fs::copy(source, &beside)?;
            std::fs::File::open(&beside)?.sync_all()?;
            std::fs::rename(&beside, target)?;
        }
        Ok(()) => {}
    }
    std::fs::File::open(folder)?.sync_all()
}
