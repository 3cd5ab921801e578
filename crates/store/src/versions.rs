//! A bucket that keeps versions, seen as one that does not: of each key the oldest version is the object.
//!
//! Place in the flow: between [`crate::Store`] and the server, where the bucket keeps versions. *Why*: whoever puts a second version or a delete marker
//! over an object hides it from every ordinary request, and a create-only put to a hidden key succeeds once more; what a
//! create-only put made first is still there. *Invariants*: objects are read, listed and deleted by the id of their version; a put that is
//! not the oldest version of its key has lost. A delete without an id would free nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};

use dozo_model::Timestamp;

use crate::s3::{Bucket, Version};

type Result<T> = object_store::Result<T>;

/// A store of which every key is its oldest version.
#[derive(Debug)]
pub(crate) struct Versioned {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) bucket: Arc<Bucket>,
}

impl fmt::Display for Versioned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions of {}", self.inner)
    }
}

/// Returns the oldest version of each key, without delete markers.
pub(crate) fn oldest(versions: Vec<Version>) -> BTreeMap<String, Version> {
    let mut found: BTreeMap<String, Version> = BTreeMap::new();
    // The newest comes first; two of one second keep that order.
    for version in versions.into_iter().filter(|v| !v.marker) {
        found.insert(version.key.clone(), version);
    }
    found
}

fn not_found(location: &Path) -> object_store::Error {
    object_store::Error::NotFound { path: location.to_string(), source: "no version of it is there".into() }
}

impl Versioned {
    /// Returns the versions of one key, the newest first.
    async fn of(&self, location: &Path) -> Result<Vec<Version>> {
        let key = location.as_ref();
        Ok(self.bucket.versions(key).await?.into_iter().filter(|v| v.key == key).collect())
    }

    async fn oldest_of(&self, location: &Path) -> Result<Version> {
        self.of(location).await?.into_iter().rev().find(|v| !v.marker).ok_or_else(|| not_found(location))
    }

    async fn under(&self, prefix: Option<&Path>) -> Result<BTreeMap<String, Version>> {
        let prefix = prefix.map(|p| format!("{p}/")).filter(|p| p != "/").unwrap_or_default();
        Ok(oldest(self.bucket.versions(&prefix).await?))
    }
}

fn meta(version: Version) -> ObjectMeta {
    let modified = version.modified.as_millisecond();
    ObjectMeta {
        location: Path::from(version.key),
        last_modified: chrono::DateTime::from_timestamp_millis(modified).unwrap_or_default(),
        size: version.bytes,
        e_tag: None,
        version: Some(version.id),
    }
}

#[async_trait]
impl ObjectStore for Versioned {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = matches!(opts.mode, PutMode::Create);
        let put = self.inner.put_opts(location, payload, opts).await?;
        if create {
            // Under a delete marker the server takes the key for free.
            let first = self.oldest_of(location).await?;
            if put.version.as_ref().is_some_and(|own| *own != first.id) {
                let source = "an older version of it is there".into();
                return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
            }
        }
        Ok(put)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        if options.version.is_none() {
            options.version = Some(self.oldest_of(location).await?.id);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = Arc::clone(&self.bucket);
        let delete = move |location: Result<Path>| {
            let bucket = Arc::clone(&bucket);
            async move {
                let location = location?;
                // The oldest last: while it stands, the object does.
                for version in bucket.versions(location.as_ref()).await? {
                    if version.key == location.as_ref() {
                        bucket.delete_version(&version).await?;
                    }
                }
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = Self { inner: Arc::clone(&self.inner), bucket: Arc::clone(&self.bucket) };
        let prefix = prefix.cloned();
        let listing = async move {
            let found = this.under(prefix.as_ref()).await?;
            Ok::<_, object_store::Error>(futures::stream::iter(found.into_values().map(|v| Ok(meta(v)))))
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut result = ListResult { common_prefixes: vec![], objects: vec![], extensions: Default::default() };
        let start = prefix.map(|p| format!("{p}/")).filter(|p| p != "/").unwrap_or_default();
        for version in self.under(prefix).await?.into_values() {
            match version.key[start.len()..].split_once('/') {
                Some((folder, _)) => {
                    let folder = Path::from(format!("{start}{folder}"));
                    if result.common_prefixes.last() != Some(&folder) {
                        result.common_prefixes.push(folder);
                    }
                }
                None => result.objects.push(meta(version)),
            }
        }
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// How an object is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever may bypass governance can delete it.
    Governance,
    /// Nobody can delete it before its time, nor shorten that.
    Compliance,
}

impl LockMode {
    /// Returns S3's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }
}

/// A key over which somebody put something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tampered {
    /// Key.
    pub key: String,
    /// Delete markers over it.
    pub markers: usize,
    /// Versions beside the first.
    pub versions: usize,
    /// When the newest of them was put.
    pub newest: Timestamp,
}
