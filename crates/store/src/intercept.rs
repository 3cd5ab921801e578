//! Something between a store and its server: it sees every request, may hold it back, and may answer in its place.
//!
//! Place in the flow: right in front of the object store. Protocol tests stop a process between any two requests with it, and
//! make stores fail, lose what they acknowledged, or cut what they return. *Invariant*: without an interceptor nothing of this
//! is on the path.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart,
};

use serde::Serialize;

use crate::Store;

/// What a request is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Write an object.
    Put,
    /// Begin a multipart upload.
    Begin,
    /// Write one part of it.
    Part,
    /// End it: the object appears.
    Complete,
    /// Give it up.
    Abort,
    /// Read an object, or look at it.
    Get,
    /// List.
    List,
    /// Delete an object.
    Delete,
}

impl Operation {
    /// All of them, in order.
    pub const ALL: [Self; 8] =
        [Self::Put, Self::Begin, Self::Part, Self::Complete, Self::Abort, Self::Get, Self::List, Self::Delete];
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub operation: Operation,
    /// Key, or prefix of a listing, with the store's own prefix.
    pub path: String,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interference {
    /// It is carried out.
    Pass,
    /// It fails and does nothing.
    Fail,
    /// It is carried out, and its answer is lost.
    LoseAnswer,
    /// A write is acknowledged and does nothing; everything else is carried out.
    LoseWrite,
    /// A read returns so many bytes fewer than it should; everything else is carried out.
    Truncate(u64),
    /// A read answers as if nothing were there yet; everything else is carried out.
    Old,
    /// A put replaces what stands there, as with servers that do not know If-None-Match; everything else is carried out.
    Overwrite,
}

/// Stands between a store and its server.
#[async_trait]
pub trait Intercept: fmt::Debug + Send + Sync {
    /// Is asked before every request; the request waits for the answer.
    async fn before(&self, request: Request) -> Interference;
}

impl Store {
    /// Returns this store with somebody in between.
    #[must_use]
    pub fn intercepted(&self, by: Arc<dyn Intercept>) -> Self {
        Self { inner: Arc::new(Intercepted { inner: Arc::clone(&self.inner), by }), ..self.clone() }
    }
}

#[derive(Debug)]
struct Intercepted {
    inner: Arc<dyn ObjectStore>,
    by: Arc<dyn Intercept>,
}

impl fmt::Display for Intercepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "intercepted {}", self.inner)
    }
}

type Result<T> = object_store::Result<T>;

fn failed<T>() -> Result<T> {
    Err(object_store::Error::Generic { store: "intercepted", source: "the connection was lost".into() })
}

async fn ask(by: &Arc<dyn Intercept>, operation: Operation, path: Option<&Path>) -> Interference {
    by.before(Request { operation, path: path.map(ToString::to_string).unwrap_or_default() }).await
}

/// Carries out a write as the interference says; `acknowledged` is the answer of a server that does nothing.
async fn write<T>(interference: Interference, acknowledged: T, request: impl Future<Output = Result<T>>) -> Result<T> {
    match interference {
        Interference::Fail => failed(),
        Interference::LoseWrite => Ok(acknowledged),
        Interference::LoseAnswer => {
            let _ = request.await;
            failed()
        }
        Interference::Pass | Interference::Truncate(_) | Interference::Old | Interference::Overwrite => request.await,
    }
}

#[async_trait]
impl ObjectStore for Intercepted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut opts: PutOptions) -> Result<PutResult> {
        let interference = ask(&self.by, Operation::Put, Some(location)).await;
        if interference == Interference::Overwrite {
            opts.mode = PutMode::Overwrite;
        }
        let acknowledged = PutResult { e_tag: None, version: None, extensions: Default::default() };
        write(interference, acknowledged, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        match ask(&self.by, Operation::Begin, Some(location)).await {
            Interference::Fail | Interference::LoseAnswer => failed(),
            _ => {
                let inner = self.inner.put_multipart_opts(location, opts).await?;
                Ok(Box::new(InterceptedUpload { inner, by: Arc::clone(&self.by), location: location.clone() }))
            }
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let interference = ask(&self.by, Operation::Get, Some(location)).await;
        match interference {
            Interference::Fail | Interference::LoseAnswer => return failed(),
            Interference::Old => {
                return Err(object_store::Error::NotFound { path: location.to_string(), source: "it is not there yet".into() });
            }
            _ => {}
        }
        let got = self.inner.get_opts(location, options).await?;
        let Interference::Truncate(missing) = interference else { return Ok(got) };
        let (meta, range, attributes, extensions) =
            (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
        let mut bytes = got.bytes().await?;
        bytes.truncate(bytes.len().saturating_sub(usize::try_from(missing).unwrap_or(usize::MAX)));
        let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        match ask(&self.by, Operation::Get, Some(location)).await {
            Interference::Fail | Interference::LoseAnswer => failed(),
            _ => self.inner.get_ranges(location, ranges).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (inner, by) = (Arc::clone(&self.inner), Arc::clone(&self.by));
        let delete = move |location: Result<Path>| {
            let (inner, by) = (Arc::clone(&inner), Arc::clone(&by));
            async move {
                let location = location?;
                let interference = ask(&by, Operation::Delete, Some(&location)).await;
                write(interference, (), inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, by, prefix) = (Arc::clone(&self.inner), Arc::clone(&self.by), prefix.cloned());
        let listing = async move {
            match ask(&by, Operation::List, prefix.as_ref()).await {
                Interference::Fail | Interference::LoseAnswer => failed(),
                Interference::Old => Ok(futures::stream::empty().boxed()),
                _ => Ok(inner.list(prefix.as_ref())),
            }
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        match ask(&self.by, Operation::List, prefix).await {
            Interference::Fail | Interference::LoseAnswer => failed(),
            _ => self.inner.list_with_delimiter(prefix).await,
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let interference = ask(&self.by, Operation::Put, Some(to)).await;
        write(interference, (), self.inner.copy_opts(from, to, options)).await
    }
}

#[derive(Debug)]
struct InterceptedUpload {
    inner: Box<dyn MultipartUpload>,
    by: Arc<dyn Intercept>,
    location: Path,
}

#[async_trait]
impl MultipartUpload for InterceptedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, by, location) = (self.inner.put_part(data), Arc::clone(&self.by), self.location.clone());
        Box::pin(async move { write(ask(&by, Operation::Part, Some(&location)).await, (), part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let interference = ask(&self.by, Operation::Complete, Some(&self.location)).await;
        let acknowledged = PutResult { e_tag: None, version: None, extensions: Default::default() };
        write(interference, acknowledged, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let interference = ask(&self.by, Operation::Abort, Some(&self.location)).await;
        write(interference, (), self.inner.abort()).await
    }
}
