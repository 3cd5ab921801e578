//! What S3 can do and `object_store` does not offer: unfinished multipart uploads, the bucket's settings, deletes by version. Requests are
//! signed by its `AwsAuthorizer` (AWS Signature Version 4) and sent by its HTTP client.

use bytes::Bytes;
use http::{Method, Request};
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::path::Path;
use serde::Deserialize;

use dozo_model::{Sha256Digest, Timestamp};

use crate::error::BoxError;
use crate::versions::LockMode;

/// A bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) client: HttpClient,
    pub(crate) credentials: AwsCredentialProvider,
    /// URL of the bucket, without a slash at its end.
    pub(crate) url: String,
    pub(crate) region: String,
    /// Its name.
    pub(crate) name: String,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn ok(self) -> object_store::Result<Self> {
        let source = || format!("Server returned non-2xx status code: {}: {}", self.status, self.text.trim()).into();
        match self.status {
            200..300 => Ok(self),
            401 | 403 => Err(object_store::Error::PermissionDenied { path: String::new(), source: source() }),
            405 | 501 => Err(object_store::Error::NotSupported { source: source() }),
            _ => Err(failed(source())),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

fn failed(source: BoxError) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source }
}

/// A multipart upload that was begun and neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) key: String,
    pub(crate) upload: String,
    pub(crate) begun: Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Uploads {
    #[serde(default)]
    upload: Vec<Upload>,
    #[serde(default)]
    is_truncated: bool,
    #[serde(default)]
    next_key_marker: String,
    #[serde(default)]
    next_upload_id_marker: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Upload {
    key: String,
    upload_id: String,
    initiated: Option<Timestamp>,
}

/// A version of an object, or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) modified: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) marker: bool,
}

#[derive(Debug, Deserialize)]
struct Versions {
    #[serde(rename = "$value", default)]
    entries: Vec<VersionsEntry>,
}

/// Versions and markers come mixed, in the order of keys, the newest of each first.
#[derive(Debug, Deserialize)]
enum VersionsEntry {
    Version(ListedVersion),
    DeleteMarker(ListedVersion),
    IsTruncated(bool),
    NextKeyMarker(Option<String>),
    NextVersionIdMarker(Option<String>),
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedVersion {
    key: String,
    version_id: String,
    last_modified: Timestamp,
    #[serde(default)]
    size: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Retention {
    mode: String,
    retain_until_date: Timestamp,
}

/// A lock on a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lock {
    pub(crate) mode: LockMode,
    pub(crate) until: Timestamp,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versioning {
    #[serde(default)]
    status: Option<String>,
}

impl Bucket {
    /// Sends a request for `key` (empty = the bucket itself) and returns the answer, whatever its status.
    pub(crate) async fn send(
        &self,
        method: Method,
        key: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> object_store::Result<Answer> {
        let mut url = self.url.clone();
        for part in key.split('/').filter(|p| !p.is_empty()) {
            url.push('/');
            url.push_str(&escape(part));
        }
        for (i, (name, value)) in query.iter().enumerate() {
            url.push_str(&format!("{}{}={}", if i == 0 { "?" } else { "&" }, escape(name), escape(value)));
        }
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body: Bytes = body.into();
        let body = if body.is_empty() { HttpRequestBody::empty() } else { HttpRequestBody::from(body) };
        let mut request = request.body(body).map_err(|e| failed(e.into()))?;
        let credential = self.credentials.get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None)?;
        let (parts, body) = self.client.execute(request).await.map_err(|e| failed(e.into()))?.into_parts();
        let text = String::from_utf8_lossy(&body.bytes().await.map_err(|e| failed(e.into()))?).into_owned();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, text })
    }

    /// Lists the unfinished multipart uploads of keys that begin with `prefix` (ListMultipartUploads).
    pub(crate) async fn unfinished(&self, prefix: &str) -> object_store::Result<Vec<Unfinished>> {
        let mut found = Vec::new();
        let (mut key, mut upload) = (String::new(), String::new());
        loop {
            let mut query = vec![("uploads", ""), ("prefix", prefix)];
            if !key.is_empty() {
                query.extend([("key-marker", key.as_str()), ("upload-id-marker", upload.as_str())]);
            }
            let answer = self.send(Method::GET, "", &query, &[], &b""[..]).await?.ok()?;
            let page: Uploads = quick_xml::de::from_str(&answer.text).map_err(|e| failed(e.into()))?;
            found.extend(page.upload.into_iter().map(|u| Unfinished {
                key: u.key,
                upload: u.upload_id,
                begun: u.initiated.unwrap_or(Timestamp::MAX),
            }));
            if !page.is_truncated || page.next_key_marker.is_empty() {
                return Ok(found);
            }
            (key, upload) = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    /// Aborts an unfinished upload (AbortMultipartUpload); one that is gone is not an error.
    pub(crate) async fn abort(&self, unfinished: &Unfinished) -> object_store::Result<()> {
        let query = [("uploadId", unfinished.upload.as_str())];
        let answer = self.send(Method::DELETE, &unfinished.key, &query, &[], &b""[..]).await?;
        if answer.status == 404 { Ok(()) } else { answer.ok().map(drop) }
    }

    /// Lists all versions and delete markers of keys that begin with `prefix`, of each key the newest first (ListObjectVersions).
    pub(crate) async fn versions(&self, prefix: &str) -> object_store::Result<Vec<Version>> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (String::new(), String::new());
        loop {
            let mut query = vec![("versions", ""), ("prefix", prefix)];
            if !key_marker.is_empty() {
                query.push(("key-marker", key_marker.as_str()));
            }
            if !id_marker.is_empty() {
                query.push(("version-id-marker", id_marker.as_str()));
            }
            let answer = self.send(Method::GET, "", &query, &[], &b""[..]).await?.ok()?;
            let page: Versions = quick_xml::de::from_str(&answer.text).map_err(|e| failed(e.into()))?;
            let (mut truncated, mut next_key, mut next_id) = (false, String::new(), String::new());
            for entry in page.entries {
                let (listed, marker) = match entry {
                    VersionsEntry::Version(listed) => (listed, false),
                    VersionsEntry::DeleteMarker(listed) => (listed, true),
                    VersionsEntry::IsTruncated(is) => {
                        truncated = is;
                        continue;
                    }
                    VersionsEntry::NextKeyMarker(key) => {
                        next_key = key.unwrap_or_default();
                        continue;
                    }
                    VersionsEntry::NextVersionIdMarker(id) => {
                        next_id = id.unwrap_or_default();
                        continue;
                    }
                    VersionsEntry::Other => continue,
                };
                let (key, id, modified, bytes) = (listed.key, listed.version_id, listed.last_modified, listed.size);
                found.push(Version { key, id, modified, bytes, marker });
            }
            if !truncated || next_key.is_empty() {
                break;
            }
            (key_marker, id_marker) = (next_key, next_id);
        }
        // Within a key the server's order is that of storing; times tell when an upload was begun. Markers may be listed apart.
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Deletes one version of an object (DeleteObject with `versionId`); one that is gone is not an error.
    pub(crate) async fn delete_version(&self, version: &Version) -> object_store::Result<()> {
        let query = [("versionId", version.id.as_str())];
        let answer = self.send(Method::DELETE, &version.key, &query, &[], &b""[..]).await?;
        if answer.status == 404 { Ok(()) } else { answer.ok().map(drop) }
    }

    /// Copies an object within the bucket (CopyObject), with a storage class.
    pub(crate) async fn copy(&self, from: &Path, to: &Path, class: &str) -> object_store::Result<()> {
        let source: Vec<String> = std::iter::once(self.name.as_str()).chain(from.as_ref().split('/')).map(escape).collect();
        let source = source.join("/");
        let headers = [("x-amz-copy-source", source.as_str()), ("x-amz-storage-class", class)];
        let answer = self.send(Method::PUT, to.as_ref(), &[], &headers, &b""[..]).await?;
        if answer.status == 404 {
            return Err(object_store::Error::NotFound { path: from.to_string(), source: answer.text.into() });
        }
        let answer = answer.ok()?;
        // An error may come after the status was sent.
        if answer.text.contains("<Error>") { Err(failed(answer.text.into())) } else { Ok(()) }
    }

    /// Returns how a version is locked (GetObjectRetention).
    pub(crate) async fn lock_of(&self, version: &Version) -> object_store::Result<Option<Lock>> {
        let query = [("retention", ""), ("versionId", version.id.as_str())];
        let answer = self.send(Method::GET, &version.key, &query, &[], &b""[..]).await?;
        if answer.status == 404 || answer.text.contains("NoSuchObjectLockConfiguration") {
            return Ok(None);
        }
        let found: Retention = quick_xml::de::from_str(&answer.ok()?.text).map_err(|e| failed(e.into()))?;
        let mode = if found.mode == LockMode::Compliance.as_str() { LockMode::Compliance } else { LockMode::Governance };
        Ok(Some(Lock { mode, until: found.retain_until_date }))
    }

    /// Locks a version until then (PutObjectRetention).
    pub(crate) async fn lock_until(&self, version: &Version, mode: LockMode, until: Timestamp) -> object_store::Result<()> {
        let mode = mode.as_str();
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
        let body = format!("<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
        let digest = base64(Sha256Digest::of(body.as_bytes()).as_bytes());
        let query = [("retention", ""), ("versionId", version.id.as_str())];
        let headers = [("x-amz-checksum-sha256", digest.as_str()), ("content-type", "application/xml")];
        self.send(Method::PUT, &version.key, &query, &headers, body).await?.ok().map(drop)
    }

    /// Tells whether the bucket keeps versions (GetBucketVersioning).
    pub(crate) async fn versioned(&self) -> object_store::Result<bool> {
        let answer = self.send(Method::GET, "", &[("versioning", "")], &[], &b""[..]).await?.ok()?;
        let found: Versioning = quick_xml::de::from_str(&answer.text).map_err(|e| failed(e.into()))?;
        Ok(found.status.as_deref() == Some("Enabled"))
    }

    /// Tells whether objects of the bucket can be locked (GetObjectLockConfiguration).
    pub(crate) async fn lockable(&self) -> object_store::Result<bool> {
        let answer = self.send(Method::GET, "", &[("object-lock", "")], &[], &b""[..]).await?;
        Ok((200..300).contains(&answer.status) && answer.text.contains("<ObjectLockEnabled>Enabled<"))
    }
}

/// Encodes bytes in base64 (RFC 4648, with padding).
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Encodes all but the unreserved characters of RFC 3986, as signatures want it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_uploads_are_read() {
        let text = r#"<?xml version="1.0" encoding="UTF-8"?><ListMultipartUploadsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Bucket>b</Bucket><IsTruncated>true</IsTruncated><NextKeyMarker>data/x</NextKeyMarker><NextUploadIdMarker>u1</NextUploadIdMarker>
            <Upload><Key>data/x</Key><UploadId>u1</UploadId><Initiated>2026-11-21T02:00:00.000Z</Initiated><StorageClass>STANDARD</StorageClass></Upload>
            <Upload><Key>data/y</Key><UploadId>u2</UploadId></Upload></ListMultipartUploadsResult>"#;
        let page: Uploads = quick_xml::de::from_str(text).unwrap();
        assert!(page.is_truncated && page.next_key_marker == "data/x");
        assert_eq!(page.upload.len(), 2);
        assert_eq!(page.upload[0].initiated, Some("2026-11-21T02:00:00Z".parse().unwrap()));
        assert_eq!(page.upload[1].initiated, None);
        let empty: Uploads = quick_xml::de::from_str("<ListMultipartUploadsResult/>").unwrap();
        assert!(empty.upload.is_empty() && !empty.is_truncated);
    }

    #[test]
    fn unreserved_characters_stay() {
        assert_eq!(escape("a-Z_0.~"), "a-Z_0.~");
        assert_eq!(escape("注 /+"), "%E6%B3%A8%20%2F%2B");
    }
}
