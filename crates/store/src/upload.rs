//! Uploads: parts come through a bounded queue from the thread that encodes them.
//!
//! One part is one create-only put; more become a multipart upload with several parts in flight. *Crash behaviour*:
//! the object appears only when the last part is there and [`UploadPart::End`] was said; a queue that closes before
//! that aborts the upload. *Cancellation*: dropping the sender.

use bytes::Bytes;
use object_store::{Attribute, Attributes, MultipartUpload, PutPayload};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::{Result, Store, StoreError};

/// Size of all parts but the last. S3 wants at least 5 MiB and at most 10,000 parts: 80 GB an object.
pub const PART_BYTES: usize = 8 << 20;

/// Parts that travel at the same time.
pub const PARTS_IN_FLIGHT: usize = 2;

/// What comes through the queue.
#[derive(Debug)]
pub enum UploadPart {
    /// [`PART_BYTES`] bytes, or fewer in the last one.
    Data(Bytes),
    /// The object is complete.
    End,
}

impl Store {
    /// Writes the object `key` from a queue of parts. Returns its size.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when the queue closes before its end; else what the store says. In both cases a
    /// multipart upload was aborted.
    pub async fn upload(&self, key: &str, mut parts: mpsc::Receiver<UploadPart>) -> Result<u64> {
        let stopped = || StoreError::Cancelled { key: key.to_owned() };
        let (first, next) = match parts.recv().await {
            Some(UploadPart::Data(first)) => (first, parts.recv().await),
            Some(UploadPart::End) => (Bytes::new(), Some(UploadPart::End)),
            None => return Err(stopped()),
        };
        match next {
            Some(UploadPart::End) => {
                let size = first.len() as u64;
                let outcome = self.put_with(key, first, self.attributes()).await?;
                self.own(key, outcome)?;
                Ok(size)
            }
            Some(UploadPart::Data(second)) => {
                let path = self.path(key)?;
                let mut upload = self
                    .inner
                    .put_multipart_opts(&path, self.attributes().into())
                    .await
                    .map_err(|e| self.error("write", key, e))?;
                match self.parts(key, upload.as_mut(), first, second, &mut parts).await {
                    Ok(size) => Ok(size),
                    Err(error) => {
                        // The first error counts; an upload that cannot be aborted is found by `gc plan`.
                        let _ = upload.abort().await;
                        Err(error)
                    }
                }
            }
            None => Err(stopped()),
        }
    }

    /// The storage class counts from the first byte: moving an object later costs a request and a minimum stay.
    fn attributes(&self) -> Attributes {
        self.class.iter().map(|class| (Attribute::StorageClass, class.clone())).collect()
    }

    async fn parts(
        &self,
        key: &str,
        upload: &mut dyn MultipartUpload,
        first: Bytes,
        second: Bytes,
        parts: &mut mpsc::Receiver<UploadPart>,
    ) -> Result<u64> {
        let mut flying = JoinSet::new();
        let mut size = 0;
        let mut waiting = vec![second, first];
        loop {
            let data = match waiting.pop() {
                Some(data) => data,
                None => match parts.recv().await {
                    Some(UploadPart::Data(data)) => data,
                    Some(UploadPart::End) => break,
                    None => return Err(StoreError::Cancelled { key: key.to_owned() }),
                },
            };
            size += data.len() as u64;
            if flying.len() >= PARTS_IN_FLIGHT {
                self.landed(key, flying.join_next().await)?;
            }
            flying.spawn(upload.put_part(PutPayload::from_bytes(data)));
        }
        while let Some(done) = flying.join_next().await {
            self.landed(key, Some(done))?;
        }
        upload.complete().await.map_err(|e| self.error("write", key, e))?;
        Ok(size)
    }

    fn landed(
        &self,
        key: &str,
        done: Option<std::result::Result<object_store::Result<()>, tokio::task::JoinError>>,
    ) -> Result<()> {
        match done {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(e))) => Err(self.error("write", key, e)),
            Some(Err(e)) => Err(self.error("write", key, e.into())),
        }
    }
}
