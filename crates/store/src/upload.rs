//! Uploads: parts come through a bounded queue from the thread that encodes them.
//!
//! One part is one create-only put; more become a multipart upload with several parts in flight. *Crash behaviour*:
//! the object appears only when the last part is there and [`UploadPart::End`] was said; a queue that closes before
//! that aborts the upload. *Cancellation*: the token; what is on its way is given up at once, and the upload aborted.

use bytes::Bytes;
use object_store::{Attribute, Attributes, MultipartUpload, PutPayload};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Operation, Result, Store, StoreError};

/// How an object is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// Size of all parts but the last. S3 wants at least 5 MiB and at most 10,000 parts: 80 GB an object by default.
    pub bytes: usize,
    /// Parts that travel at the same time.
    pub in_flight: usize,
}

impl Default for Parts {
    fn default() -> Self {
        Self { bytes: 8 << 20, in_flight: 2 }
    }
}

/// What comes through the queue.
#[derive(Debug)]
pub enum UploadPart {
    /// [`Parts::bytes`] bytes, or fewer in the last one.
    Data(Bytes),
    /// The object is complete.
    End,
}

impl Store {
    /// Writes the object `key` from a queue of parts. Returns its size.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when it was stopped, or the queue closes before its end; else what the store says. In both cases a
    /// multipart upload was aborted.
    pub async fn upload(&self, key: &str, mut parts: mpsc::Receiver<UploadPart>, stop: &CancellationToken) -> Result<u64> {
        let stopped = || StoreError::Cancelled { key: key.to_owned() };
        let beginning = async {
            match parts.recv().await? {
                UploadPart::Data(first) => Some((first, parts.recv().await?)),
                UploadPart::End => Some((Bytes::new(), UploadPart::End)),
            }
        };
        let (first, next) = stop.run_until_cancelled(beginning).await.flatten().ok_or_else(stopped)?;
        match next {
            UploadPart::End => {
                let size = first.len() as u64;
                let put = stop.run_until_cancelled(self.put_with(key, first, self.attributes())).await;
                let outcome = put.ok_or_else(stopped)??;
                self.own(key, outcome)?;
                Ok(size)
            }
            UploadPart::Data(second) => {
                let path = self.path(key)?;
                let begin = || self.inner.put_multipart_opts(&path, self.attributes().into());
                let mut upload = self.again(Operation::Begin, begin).await.map_err(|e| self.error("write", key, e))?;
                let sending = self.all_parts(key, upload.as_mut(), first, second, &mut parts);
                match stop.run_until_cancelled(sending).await.unwrap_or_else(|| Err(stopped())) {
                    Ok(size) => Ok(size),
                    Err(error) => {
                        // The first error counts; an upload that cannot be aborted is found by `gc plan`.
                        self.requests.count(Operation::Abort);
                        let _ = upload.abort().await;
                        Err(error)
                    }
                }
            }
        }
    }

    /// The storage class counts from the first byte: moving an object later costs a request and a minimum stay.
    fn attributes(&self) -> Attributes {
        self.class.iter().map(|class| (Attribute::StorageClass, class.clone())).collect()
    }

    async fn all_parts(
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
            if flying.len() >= self.parts.in_flight {
                self.landed(key, flying.join_next().await)?;
            }
            self.pass(data.len()).await;
            // What is lost on the way, the HTTP client sends again: a part is a number of an upload, whoever sends it how often.
            self.requests.count(Operation::Part);
            flying.spawn(upload.put_part(PutPayload::from_bytes(data)));
        }
        while let Some(done) = flying.join_next().await {
            self.landed(key, Some(done))?;
        }
        self.requests.count(Operation::Complete);
        if let Err(error) = upload.complete().await {
            // An answer that was lost, and then "there is no such upload": the key is this run's own, so its size tells.
            if self.size(key).await? != Some(size) {
                return Err(self.error("write", key, error));
            }
        }
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
