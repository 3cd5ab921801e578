//! What a store can do, found out by doing it. Answers of documents are not believed: stores claim what they do not keep.
//!
//! *Left behind*: everything lies below `probe-<12 letters>/` and is deleted at the end; a host that may not delete leaves it to
//! `gc apply`.

use std::time::Duration;

use bytes::Bytes;
use dozo_model::{Ability, Capabilities, Sha256Digest, Timestamp};
use http::Method;
use object_store::{Attribute, Attributes, MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload, UpdateVersion};

use crate::s3::{Bucket, base64};
use crate::{PutOutcome, Result, Store};

/// A SHA-256, in base64, that no probe has.
const WRONG_SHA256: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// How long the probe of object locks is locked.
const LOCKED: Duration = Duration::from_secs(3);

impl Store {
    /// Finds out what the store can do. `random` are twelve letters or digits that nobody else has.
    ///
    /// # Errors
    /// When objects cannot be written or read at all. Whether they can be deleted is among the answers.
    pub async fn probe(&self, random: &str) -> Result<Capabilities> {
        let folder = format!("probe-{random}");
        let create_only = self.two_writers(&format!("{folder}/race")).await?;
        let listed = self.list(&folder).await?.iter().any(|o| o.key.ends_with("/race"));
        let mut found = Capabilities {
            create_only: create_only.into(),
            list_after_write: listed.into(),
            if_match: self.if_match(&format!("{folder}/match")).await.into(),
            multipart: self.multipart(&format!("{folder}/parts")).await?,
            delete: Ability::Unknown,
            checksums: Ability::Unknown,
            storage_class: Ability::Unknown,
            versioning: Ability::Unknown,
            object_lock: Ability::Unknown,
        };
        if let Some(bucket) = &self.bucket {
            let key = |name: &str| self.path(&format!("{folder}/{name}")).map(|p| p.to_string());
            found.checksums = refuses_wrong_checksum(bucket, &key("sum")?).await;
            if let Some(class) = &self.class {
                found.storage_class = self.keeps_class(bucket, &format!("{folder}/class"), class).await?;
            }
            let versioned = bucket.versioned().await;
            found.versioning = versioned.map_or(Ability::Unknown, Ability::from);
            found.object_lock = match bucket.lockable().await {
                Ok(true) => keeps_locked(bucket, &key("lock")?).await,
                Ok(false) => Ability::No,
                Err(_) => Ability::Unknown,
            };
        }
        // Where versions are kept, a plain delete frees nothing.
        let cleared = if found.versioning == Ability::Yes { self.by_version() } else { self.clone() };
        found.delete = cleared.clear(&folder).await.into();
        Ok(found)
    }

    /// Returns the time by the store's own clock, by what it says of an object that is written now; none for local stores, whose clock is
    /// that of this host. `random` are twelve letters or digits that nobody else has.
    ///
    /// # Errors
    /// When an object cannot be written or listed.
    pub async fn clock(&self, random: &str) -> Result<Option<Timestamp>> {
        if self.local.is_some() {
            return Ok(None);
        }
        let folder = format!("probe-{random}");
        self.put_own(&format!("{folder}/clock"), Bytes::from_static(b"clock")).await?;
        let at = self.list(&folder).await?.first().map(|o| o.modified);
        self.clear(&folder).await;
        Ok(at)
    }

    /// Two writers at the same time: of a store with create-only puts one wins, its bytes stand, and no later one replaces them.
    async fn two_writers(&self, key: &str) -> Result<bool> {
        let (one, other) = (Bytes::from_static(b"one"), Bytes::from_static(b"other"));
        let (first, second) = futures::join!(self.put_new(key, one.clone()), self.put_new(key, other.clone()));
        let winner = match (first?, second?) {
            (PutOutcome::Created, PutOutcome::Exists) => Some(one),
            (PutOutcome::Exists, PutOutcome::Created) => Some(other),
            _ => None,
        };
        let late = self.put_new(key, Bytes::from_static(b"late")).await?;
        Ok(late == PutOutcome::Exists && winner.is_some() && self.get_opt(key).await? == winner)
    }

    /// A put that names the version it replaces is refused when it names another.
    async fn if_match(&self, key: &str) -> bool {
        let Ok(path) = self.path(key) else { return false };
        let put = |mode, text: &'static str| {
            self.inner.put_opts(&path, PutPayload::from_static(text.as_bytes()), PutOptions { mode, ..PutOptions::default() })
        };
        let version = |e_tag: Option<String>| PutMode::Update(UpdateVersion { e_tag, version: None });
        let Ok(first) = put(PutMode::Create, "1").await else { return false };
        let wrong = put(version(Some("\"00000000000000000000000000000000\"".into())), "2").await;
        let right = put(version(first.e_tag), "3").await;
        let stands = self.get_opt(key).await.is_ok_and(|b| b.as_deref() == Some(b"3".as_slice()));
        wrong.is_err() && right.is_ok() && stands
    }

    async fn multipart(&self, key: &str) -> Result<Ability> {
        let path = self.path(key)?;
        let parts = async {
            let mut upload = self.inner.put_multipart_opts(&path, PutMultipartOptions::default()).await?;
            let sent = async {
                upload.put_part(PutPayload::from_static(b"part")).await?;
                upload.complete().await
            };
            let sent = sent.await;
            if sent.is_err() {
                let _ = upload.abort().await;
            }
            sent
        };
        Ok((parts.await.is_ok() && self.get_opt(key).await?.as_deref() == Some(b"part".as_slice())).into())
    }

    async fn keeps_class(&self, bucket: &Bucket, key: &str, class: &str) -> Result<Ability> {
        let attributes: Attributes = [(Attribute::StorageClass, class.to_owned())].into_iter().collect();
        if self.put_with(key, Bytes::from_static(b"class"), attributes).await.is_err() {
            return Ok(Ability::No);
        }
        let head = bucket.send(Method::HEAD, self.path(key)?.as_ref(), &[], &[], &b""[..]).await;
        Ok(head.map_or(Ability::Unknown, |a| (class == "STANDARD" || a.header("x-amz-storage-class") == Some(class)).into()))
    }

    /// Deletes what a probe left. Tells whether that was possible.
    async fn clear(&self, folder: &str) -> bool {
        let mut all = true;
        for object in self.list(folder).await.unwrap_or_default() {
            all &= self.delete(&object.key).await.is_ok();
        }
        if let Some(root) = &self.local {
            all &= std::fs::remove_dir(root.join(folder)).is_ok();
        }
        all
    }
}

/// A body whose SHA-256 is not the one that was announced is refused.
async fn refuses_wrong_checksum(bucket: &Bucket, key: &str) -> Ability {
    let headers = [("x-amz-checksum-sha256", WRONG_SHA256)];
    match bucket.send(Method::PUT, key, &[], &headers, &b"sum"[..]).await {
        Ok(answer) => (400..500).contains(&answer.status).into(),
        Err(_) => Ability::Unknown,
    }
}

/// A locked version cannot be deleted before its time.
async fn keeps_locked(bucket: &Bucket, key: &str) -> Ability {
    let until = Timestamp::now() + LOCKED;
    let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let digest = base64(Sha256Digest::of(b"lock").as_bytes());
    let headers = [
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-object-lock-retain-until-date", until.as_str()),
        // Without a checksum S3 refuses a put with a lock.
        ("x-amz-checksum-sha256", digest.as_str()),
    ];
    let Ok(Ok(put)) = bucket.send(Method::PUT, key, &[], &headers, &b"lock"[..]).await.map(super::s3::Answer::ok) else {
        return Ability::No;
    };
    let Some(version) = put.header("x-amz-version-id").map(str::to_owned) else { return Ability::No };
    let version = [("versionId", version.as_str())];
    let send = |method| bucket.send(method, key, &version, &[], &b""[..]);
    // Some answer 403, some 400: what counts is that it is still there.
    let kept = match (send(Method::DELETE).await, send(Method::HEAD).await) {
        (Ok(refused), Ok(there)) => (400..500).contains(&refused.status) && there.status == 200,
        _ => return Ability::Unknown,
    };
    tokio::time::sleep(LOCKED + Duration::from_secs(1)).await;
    // When its time has passed it goes; otherwise a marker hides it, and the bucket's own rules remove it.
    let _ = send(Method::DELETE).await;
    kept.into()
}
