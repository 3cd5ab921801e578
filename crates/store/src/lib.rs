//! Object stores: a URL becomes a [`Store`] that puts, gets and lists objects by key.
//!
//! Place in the flow: encode → **store** → catalog. It is the only crate that names `object_store`.
//! *Invariants*: no key is ever overwritten ([`Store::put_new`] is create-only, uploads go to keys that carry a
//! random part); local files are written to a staging name, synced together with their folder, then renamed.
//! *Crash behaviour*: a killed upload leaves a staging file (`…#1`, listed by [`Store::staged`]) or an unfinished
//! multipart upload (listed by [`Store::unfinished`]), never an object. *Memory*: an upload holds at most [`Parts::bytes`] ×
//! [`Parts::in_flight`].

mod copy;
mod error;
mod fetch;
mod http;
mod intercept;
mod layout;
mod open;
mod probe;
mod requests;
mod retry;
mod s3;
mod upload;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dozo_model::Timestamp;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

pub use error::StoreError;
pub use fetch::{Fetched, ObjectData};
pub use intercept::{Intercept, Interference, Operation, Request};
pub use layout::{Layout, encode_name};
pub use open::StoreOptions;
pub use requests::RequestCounts;
pub use upload::{Parts, UploadPart};
pub use versions::{LockMode, Tampered};

use crate::requests::{Limiter, Requests};
use crate::s3::{Bucket, Unfinished};

type Result<T> = std::result::Result<T, StoreError>;

/// How long another process of this host may hold up a put, where processes take turns.
const TURN: Duration = Duration::from_secs(60);

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
    parts: Parts,
    requests: Arc<Requests>,
    limiter: Option<Arc<Limiter>>,
    /// How long a request is tried again.
    retry_for: Duration,
    /// Deadline of one request.
    request_timeout: Duration,
    /// The bucket, where it is one of S3.
    bucket: Option<Arc<Bucket>>,
    /// Objects are the oldest versions of their keys.
    by_version: bool,
    /// Held while a key is looked at and written, where the store itself lets a second put replace the first.
    one_at_a_time: Option<PathBuf>,
}

impl Store {
    /// Returns an empty store in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), Path::default(), "memory://".into())
    }

    fn new(inner: Arc<dyn ObjectStore>, prefix: Path, url: String) -> Self {
        Self {
            inner,
            prefix,
            url,
            local: None,
            class: None,
            parts: Parts::default(),
            requests: Arc::default(),
            limiter: None,
            retry_for: Duration::ZERO,
            request_timeout: Duration::ZERO,
            bucket: None,
            by_version: false,
            one_at_a_time: None,
        }
    }

    /// Returns this store, of which a put to an existing key is refused also if the server would let it replace the object: all
    /// processes of this host that give the same `name` take turns. Another host is not seen.
    #[must_use]
    pub fn one_at_a_time(&self, name: &str) -> Self {
        // A folder that all users and services of the host see: a service may have a temporary folder of its own.
        let shared = ["/run/lock", "/var/lock"].iter().map(PathBuf::from).find(|p| p.is_dir());
        let folder = self.local.clone().or(shared).unwrap_or_else(std::env::temp_dir);
        Self { one_at_a_time: Some(folder.join(format!("dozo-{name}.lock"))), ..self.clone() }
    }

    /// Returns this store of a bucket that keeps versions: of each key the oldest version is the object, and deletes are by version. Other
    /// stores stay as they are.
    #[must_use]
    pub fn by_version(&self) -> Self {
        match &self.bucket {
            Some(bucket) => {
                let versioned = versions::Versioned { inner: Arc::clone(&self.inner), bucket: Arc::clone(bucket) };
                Self { inner: Arc::new(versioned), by_version: true, ..self.clone() }
            }
            None => self.clone(),
        }
    }

    /// As [`Store::by_version`], where the bucket says that it keeps versions; none where it does not say.
    ///
    /// # Errors
    /// When the bucket cannot be asked.
    pub async fn as_kept(&self) -> Result<Option<Self>> {
        let Some(bucket) = &self.bucket else { return Ok(Some(self.clone())) };
        match self.again(Operation::Get, || bucket.versioned()).await.map_err(|e| self.error("look at the versioning of", "", e))
        {
            Ok(versioned) => Ok(Some(if versioned { self.by_version() } else { self.clone() })),
            Err(StoreError::Denied { .. } | StoreError::Unsupported { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the keys below `folder` over which somebody put a delete marker or another version; none where the store keeps no
    /// versions.
    ///
    /// # Errors
    /// When the versions cannot be listed.
    pub async fn tampered(&self, folder: &str) -> Result<Vec<Tampered>> {
        let Some(bucket) = self.bucket.as_ref().filter(|_| self.by_version) else { return Ok(Vec::new()) };
        let prefix = format!("{}/", self.path(folder)?);
        let listed = self.again(Operation::List, || bucket.versions(&prefix)).await.map_err(|e| self.error("list", folder, e))?;
        let mut found: std::collections::BTreeMap<String, Tampered> = std::collections::BTreeMap::new();
        for version in listed {
            let key = self.key(&Path::from(version.key));
            let one = found.entry(key.clone()).or_insert(Tampered { key, markers: 0, versions: 0, newest: version.modified });
            if version.marker { one.markers += 1 } else { one.versions += 1 }
        }
        for one in found.values_mut() {
            // The first is the object.
            one.versions = one.versions.saturating_sub(1);
        }
        Ok(found.into_values().filter(|t| t.markers > 0 || t.versions > 0).collect())
    }

    /// Locks an object until then; a lock that lasts longer stays.
    ///
    /// # Errors
    /// When the store has no locks, refuses, or the object is missing.
    pub async fn lock(&self, key: &str, mode: LockMode, until: Timestamp) -> Result<()> {
        let lock = || async {
            let (bucket, version) = self.version(key).await?;
            let mode = match bucket.lock_of(&version).await? {
                Some(standing) if standing.until >= until && (standing.mode == mode || standing.mode == LockMode::Compliance) => {
                    return Ok(());
                }
                // What stands is never weakened.
                Some(standing) if standing.mode == LockMode::Compliance => LockMode::Compliance,
                _ => mode,
            };
            bucket.lock_until(&version, mode, until).await
        };
        self.again(Operation::Put, lock).await.map_err(|e| self.error("lock", key, e))
    }

    /// Returns until when an object is locked.
    ///
    /// # Errors
    /// When the store has no locks, refuses, or the object is missing.
    pub async fn locked_until(&self, key: &str) -> Result<Option<Timestamp>> {
        let ask = || async {
            let (bucket, version) = self.version(key).await?;
            Ok(bucket.lock_of(&version).await?.map(|lock| lock.until))
        };
        self.again(Operation::Get, ask).await.map_err(|e| self.error("look at the lock of", key, e))
    }

    /// Returns the lock that ends last, of all versions of a key.
    async fn longest_lock(&self, path: &Path) -> Option<Timestamp> {
        let bucket = self.bucket.as_ref()?;
        let mut longest = None;
        for version in bucket.versions(path.as_ref()).await.ok()?.iter().filter(|v| v.key == path.as_ref() && !v.marker) {
            let lock = bucket.lock_of(version).await.ok().flatten();
            longest = longest.max(lock.map(|lock| lock.until));
        }
        longest
    }

    /// Returns the version of a key that is the object.
    async fn version(&self, key: &str) -> object_store::Result<(&Bucket, s3::Version)> {
        let Some(bucket) = self.bucket.as_deref().filter(|_| self.by_version) else {
            return Err(object_store::Error::NotSupported {
                source: "the bucket keeps no versions, so nothing can be locked".into(),
            });
        };
        let path = self.path(key).map_err(|e| object_store::Error::Generic { store: "S3", source: e.into() })?;
        let mut found = versions::oldest(bucket.versions(path.as_ref()).await?);
        let missing = || object_store::Error::NotFound { path: path.to_string(), source: "no version of it is there".into() };
        found.remove(path.as_ref()).map(|version| (bucket, version)).ok_or_else(missing)
    }

    /// Waits for our turn, where turns are taken.
    async fn turn(&self, key: &str) -> Result<Option<std::fs::File>> {
        let Some(path) = self.one_at_a_time.clone() else { return Ok(None) };
        let wait = move || -> std::io::Result<std::fs::File> {
            // Whoever comes first makes it for all users. It is only locked, never written.
            let file = std::fs::File::open(&path).or_else(|_| {
                let file = std::fs::File::options().create(true).append(true).open(&path)?;
                file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
                Ok::<_, std::io::Error>(file)
            })?;
            let began = Instant::now();
            while let Err(e) = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                if e != rustix::io::Errno::WOULDBLOCK || began.elapsed() > TURN {
                    return Err(e.into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(file)
        };
        let waited = tokio::task::spawn_blocking(wait).await.map_err(|e| self.error("lock", key, e.into()))?;
        waited.map(Some).map_err(|e| StoreError::io("lock", key, &self.url, e))
    }

    /// Returns how uploads are cut.
    #[must_use]
    pub fn parts(&self) -> Parts {
        self.parts
    }

    /// Returns how many requests were made so far, by this store and its clones.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.requests.so_far()
    }

    /// Returns this store, of which uploads take at most so many bytes per second.
    #[must_use]
    pub fn limited(&self, bytes_per_second: u64) -> Self {
        Self { limiter: Some(Arc::new(Limiter::new(bytes_per_second))), ..self.clone() }
    }

    async fn pass(&self, bytes: usize) {
        if let Some(limiter) = &self.limiter {
            limiter.pass(bytes).await;
        }
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
        let path = self.path(key)?;
        self.pass(bytes.len()).await;
        let turn = self.turn(key).await?;
        if turn.is_some()
            && let Some(found) = self.get_opt(key).await?
        {
            return Ok(if found == bytes { PutOutcome::Created } else { PutOutcome::Exists });
        }
        let put = || async {
            let options = PutOptions { mode: PutMode::Create, attributes: attributes.clone(), ..PutOptions::default() };
            match self.inner.put_opts(&path, PutPayload::from_bytes(bytes.clone()), options).await {
                Ok(_) => Ok(PutOutcome::Created),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    self.requests.count(Operation::Get);
                    match self.read(&path).await {
                        Ok(found) => Ok(if found == bytes { PutOutcome::Created } else { PutOutcome::Exists }),
                        // Another writer is about to create it, or it is gone by now: nothing is decided yet.
                        Err(object_store::Error::NotFound { .. }) => {
                            let source = "the store says that the key exists, and it does not".into();
                            Err(object_store::Error::Generic { store: "conflict", source })
                        }
                        Err(e) => Err(e),
                    }
                }
                Err(e) => Err(e),
            }
        };
        self.again(Operation::Put, put).await.map_err(|e| self.error("write", key, e))
    }

    async fn read(&self, path: &Path) -> object_store::Result<Bytes> {
        self.inner.get(path).await?.bytes().await
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
        let path = self.path(key)?;
        self.again(Operation::Get, || self.read(&path)).await.map_err(|e| self.error("read", key, e))
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
        let path = self.path(key)?;
        match self.again(Operation::Get, || self.inner.head(&path)).await {
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
        let listed = self.again(Operation::List, || self.inner.list(Some(&prefix)).try_collect::<Vec<_>>()).await;
        let mut found: Vec<ObjectInfo> = listed
            .map_err(|e| self.error("list", folder, e))?
            .into_iter()
            .map(|meta| ObjectInfo {
                key: self.key(&meta.location),
                bytes: meta.size,
                modified: Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MAX),
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// Lists the names of the folders directly below `folder`, sorted.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = self.path(folder)?;
        let listing = self.again(Operation::List, || self.inner.list_with_delimiter(Some(&prefix))).await;
        let listing = listing.map_err(|e| self.error("list", folder, e))?;
        let mut names: Vec<String> = listing.common_prefixes.iter().filter_map(|p| p.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object. Nothing but leases is deleted without a won doom or a won abort.
    ///
    /// # Errors
    /// When the store refuses; a missing object is not an error.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.again(Operation::Delete, || self.inner.delete(&path)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            // Is it a lock that forbids it? Servers say so in different ways.
            Err(e) if self.by_version => match self.longest_lock(&path).await {
                Some(until) if until > Timestamp::now() => Err(StoreError::Locked { key: key.to_owned(), until }),
                _ => Err(self.error("delete", key, e)),
            },
            Err(e) => Err(self.error("delete", key, e)),
        }
    }

    /// Lists what uploads left behind that were killed: staging files of a local store, multipart uploads of S3 that were begun and
    /// neither completed nor aborted. Their `key` tells one from the others; the size of a multipart upload is not known.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn unfinished(&self) -> Result<Vec<ObjectInfo>> {
        let Some(bucket) = &self.bucket else { return self.staged() };
        let listed = self
            .again(Operation::List, || self.begun(bucket))
            .await
            .map_err(|e| self.error("list unfinished uploads of", "", e))?;
        let mut found: Vec<ObjectInfo> = listed
            .into_iter()
            .map(|u| ObjectInfo { key: format!("{}#{}", self.key(&Path::from(u.key)), u.upload), bytes: 0, modified: u.begun })
            .collect();
        found.sort();
        Ok(found)
    }

    async fn begun(&self, bucket: &Bucket) -> object_store::Result<Vec<Unfinished>> {
        let prefix = self.prefix.to_string();
        let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
        bucket.unfinished(&prefix).await
    }

    /// Removes what [`Store::unfinished`] listed. An upload that is still being written then fails.
    ///
    /// # Errors
    /// When the store refuses; what is gone already is not an error.
    pub async fn remove_unfinished(&self, key: &str) -> Result<()> {
        match (&self.bucket, &self.local) {
            (Some(bucket), _) => {
                let (object, upload) = key.rsplit_once('#').ok_or_else(|| StoreError::BadKey { key: key.to_owned() })?;
                let path = self.path(object)?.to_string();
                let upload = Unfinished { key: path, upload: upload.to_owned(), begun: Timestamp::MAX };
                self.again(Operation::Abort, || bucket.abort(&upload))
                    .await
                    .map_err(|e| self.error("abort the upload of", object, e))
            }
            (None, Some(root)) => match std::fs::remove_file(root.join(key)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("delete", key, &self.url, e)),
                _ => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }

    /// Lists staging files of killed uploads, with their sizes.
    fn staged(&self) -> Result<Vec<ObjectInfo>> {
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

    /// Returns the folder of a local store.
    #[must_use]
    pub fn folder(&self) -> Option<&std::path::Path> {
        self.local.as_deref()
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
