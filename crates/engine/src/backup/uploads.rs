//! Objects on their way to the store: workers write, tasks upload, a bounded queue between them.
//!
//! The end of an upload (on a disk: until it is safe there) overlaps with the worker's next object, not with more than that. The
//! first upload that fails is what the run fails with.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dozo_encode::{EncodeError, PartSink, SinkClosed};
use dozo_model::ObjectRef;
use dozo_store::{Store, StoreError, UploadPart};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::Context;
use crate::{EngineError, Result};

/// Uploads on their way for each worker: the one that it feeds, and the end of the one before.
const UPLOADS_PER_WORKER: usize = 2;

/// What all uploads of a run share.
pub(crate) struct Uploads {
    store: Store,
    /// How many may be on their way.
    permits: Arc<Semaphore>,
    /// The first that failed.
    failed: Arc<Mutex<Option<EngineError>>>,
    handle: Handle,
    tracker: TaskTracker,
    /// Ends all of them: they outlive the workers that feed them.
    stop: CancellationToken,
}

/// An object whose bytes were all handed over.
pub(crate) struct Upload {
    /// Bytes stored; none = it failed.
    stored: JoinHandle<Option<u64>>,
}

/// Feeds an upload, and counts how long it waits for it.
pub(crate) struct UploadSink {
    parts: mpsc::Sender<UploadPart>,
    waited: Waited,
}

/// How long a worker waited for uploads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waited(Arc<Mutex<Duration>>);

impl Waited {
    fn add(&self, time: Duration) {
        if let Ok(mut waited) = self.0.lock() {
            *waited += time;
        }
    }

    /// Returns the seconds since the last call.
    pub(crate) fn take(&self) -> f64 {
        self.0.lock().map(|mut w| std::mem::take(&mut *w).as_secs_f64()).unwrap_or_default()
    }
}

impl UploadSink {
    /// Returns the clock of this upload.
    pub(crate) fn waited(&self) -> Waited {
        self.waited.clone()
    }

    /// Says that the object is whole; without that it is not stored.
    ///
    /// # Errors
    /// When the upload has failed.
    pub(crate) fn end(self) -> std::result::Result<(), SinkClosed> {
        self.send(UploadPart::End)
    }

    fn send(&self, part: UploadPart) -> std::result::Result<(), SinkClosed> {
        let began = Instant::now();
        let sent = self.parts.blocking_send(part).map_err(|_| SinkClosed);
        self.waited.add(began.elapsed());
        sent
    }
}

impl PartSink for UploadSink {
    fn part(&mut self, part: Bytes) -> std::result::Result<(), SinkClosed> {
        self.send(UploadPart::Data(part))
    }
}

impl Uploads {
    /// Begins nothing yet; `workers` write at the same time.
    pub(crate) fn new(ctx: &Context, store: &Store, workers: usize, stop: CancellationToken) -> Self {
        Self {
            store: store.clone(),
            permits: Arc::new(Semaphore::new(workers * UPLOADS_PER_WORKER)),
            failed: Arc::default(),
            handle: Handle::current(),
            tracker: ctx.uploads.clone(),
            stop,
        }
    }

    /// Stores what `write` puts into the sink as the object `key`. On a worker's thread.
    ///
    /// # Errors
    /// What `write` says; when its sink closed, or before it, why an upload failed.
    pub(crate) fn store<T>(&self, key: &str, write: impl FnOnce(UploadSink) -> Result<T>) -> Result<(T, Upload)> {
        if let Some(error) = self.failed.lock().map_err(|_| broken())?.take() {
            return Err(error);
        }
        let began = Instant::now();
        let permit = self.handle.block_on(Arc::clone(&self.permits).acquire_owned()).map_err(|_| broken())?;
        let waited = Waited::default();
        waited.add(began.elapsed());
        let (sender, parts) = mpsc::channel(1);
        let (store, upload_key, failed, stop) = (self.store.clone(), key.to_owned(), Arc::clone(&self.failed), self.stop.clone());
        let upload = async move {
            let _permit = permit;
            match store.upload(&upload_key, parts, &stop).await {
                Ok(size) => Some(size),
                // Given up because the worker failed: the worker says why.
                Err(StoreError::Cancelled { .. }) if !stop.is_cancelled() => None,
                Err(e) => {
                    if let Ok(mut failed) = failed.lock() {
                        failed.get_or_insert(e.into());
                    }
                    None
                }
            }
        };
        let stored = self.tracker.spawn_on(upload, &self.handle);
        match write(UploadSink { parts: sender, waited }) {
            Ok(written) => Ok((written, Upload { stored })),
            Err(EngineError::Encode { source: EncodeError::Closed, .. }) => {
                // The upload's own error explains a sink that closed.
                self.handle.block_on(stored).map_err(|e| EngineError::Internal(e.to_string()))?;
                Err(self.failed.lock().map_err(|_| broken())?.take().unwrap_or(EngineError::Cancelled))
            }
            Err(e) => Err(e),
        }
    }

    /// Waits until an object is stored.
    ///
    /// # Errors
    /// The first upload that failed, or one that stored another number of bytes than were written.
    pub(crate) async fn stored(&self, upload: &mut Upload, object: &ObjectRef) -> Result<()> {
        let size = (&mut upload.stored).await.map_err(|e| EngineError::Internal(e.to_string()))?;
        match size {
            Some(size) if size == object.bytes => Ok(()),
            Some(size) => {
                let ObjectRef { key, bytes, .. } = object;
                Err(EngineError::Internal(format!("{size} of {bytes} bytes of `{key}` were stored")))
            }
            None => Err(self.failed.lock().map_err(|_| broken())?.take().unwrap_or(EngineError::Cancelled)),
        }
    }
}

fn broken() -> EngineError {
    EngineError::Internal("a worker panicked".into())
}
