//! From one store to another, digesting on the way.

use bytes::{Bytes, BytesMut};
use dozo_model::{ObjectRef, Sha256Digest, Sha256Hasher};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
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

    /// Reads an object into the queue of an upload, and ends that only if its bytes are those that were expected.
    async fn feed(&self, object: &ObjectRef, part_bytes: usize, sender: mpsc::Sender<UploadPart>) -> Result<bool> {
        let failed = |e| self.error("read", &object.key, e);
        let path = self.path(&object.key)?;
        let mut stream = self.again(Operation::Get, || self.inner.get(&path)).await.map_err(failed)?.into_stream();
        let mut hasher = Sha256Hasher::default();
        let (mut part, mut size) = (BytesMut::new(), 0);
        while let Some(mut chunk) = stream.try_next().await.map_err(failed)? {
            hasher.update(&chunk);
            size += chunk.len() as u64;
            while part.len() + chunk.len() >= part_bytes {
                part.extend_from_slice(&chunk.split_to(part_bytes - part.len()));
                if sender.send(UploadPart::Data(part.split().freeze())).await.is_err() {
                    // The upload says why.
                    return Ok(true);
                }
            }
            part.extend_from_slice(&chunk);
        }
        let found: (u64, Sha256Digest) = (size, hasher.finish());
        if found != (object.bytes, object.sha256) {
            return Ok(false);
        }
        let last: Bytes = part.freeze();
        if last.is_empty() || sender.send(UploadPart::Data(last)).await.is_ok() {
            let _ = sender.send(UploadPart::End).await;
        }
        Ok(true)
    }
}
