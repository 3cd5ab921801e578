//! From one store to another, digesting on the way.

use dozo_model::{ObjectRef, Sha256Hasher};
use object_store::{GetOptions, GetRange};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Operation, Result, Store, UploadPart};

impl Store {
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
