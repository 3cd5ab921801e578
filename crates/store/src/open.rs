//! From a URL and settings to a store: `file://`, `s3://`, `gs://` (Google Cloud Storage), `az://` (Azure Blob Storage).

use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::HttpConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use crate::http::Connector;
use crate::s3::Bucket;
use crate::{Parts, Result, Store, StoreError};

/// Settings of a store, from `[repository]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// S3 endpoint; without it AWS.
    pub endpoint: Option<String>,
    /// S3 region; else `AWS_REGION`, else `us-east-1`.
    pub region: Option<String>,
    /// `true` = `https://endpoint/bucket/key`, as most S3 servers other than AWS want it.
    pub path_style: Option<bool>,
    /// Profile in the credentials file; else `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, a web identity, the instance's role.
    pub profile: Option<String>,
    /// File of profiles; else `$AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`. With it, the profile is `default`.
    pub credentials_file: Option<PathBuf>,
    /// PEM file of certificate authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Encryption at rest by the server: `AES256` or `aws:kms`; else the bucket's own.
    pub encryption: Option<String>,
    /// Key for `aws:kms`; else the account's own.
    pub kms_key: Option<String>,
    /// Storage class of data objects; manifests and what stands beside them are in the bucket's own.
    pub storage_class: Option<String>,
    /// Deadline of one request.
    pub request_timeout: Option<Duration>,
    /// For how long a request that failed is tried again.
    pub retry_for: Option<Duration>,
    /// Size of the parts of an upload, in bytes.
    pub part_bytes: Option<u64>,
    /// Parts of one upload that travel at the same time.
    pub parts_in_flight: Option<usize>,
    /// Bytes per second that all uploads together take at most.
    pub upload_rate: Option<u64>,
    /// `false` = no SHA-256 is sent for the server to check what it received, beside the signature's.
    pub checksums: Option<bool>,
}

/// Storage classes out of which an object is read at once.
const INSTANT: [&str; 6] = ["STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "EXPRESS_ONEZONE"];
/// Deadline of one request: a part of 8 MiB at 30 kB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// After this long no request is tried again: longer than a server's restart, shorter than somebody waits who mistyped its name.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Sizes of parts that S3 takes, but for the last.
const PART_SIZES: std::ops::RangeInclusive<u64> = 5 << 20..=1 << 30;
/// Why az:// reads no file.
const NO_FILE_FOR_AZURE: &str = "az:// takes its credentials from AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, \
                                 or from the identity of the machine";
/// Settings of S3 alone.
const ONLY_S3: &str = "region, path-style, profile, encryption, kms-key, storage-class and checksums are settings of s3://";

impl Store {
    /// Checks the form of a URL, without credentials and without opening anything.
    ///
    /// # Errors
    /// [`StoreError::Config`].
    pub fn check_url(url: &str) -> Result<()> {
        let config = |reason: &str| Err(StoreError::Config { url: without_secret(url), reason: reason.to_owned() });
        match url.split_once("://") {
            Some(("s3", rest)) if rest.starts_with('/') || rest.is_empty() || rest.contains('@') => {
                config("it must be s3://bucket/prefix; credentials come from the environment or a profile")
            }
            Some(("gs" | "az", rest)) if rest.starts_with('/') || rest.is_empty() || rest.contains('@') => {
                config("it must be gs://bucket/prefix or az://container/prefix; credentials come from the environment")
            }
            Some(("file" | "s3" | "gs" | "az", _)) => Ok(()),
            Some((scheme, _)) => config(&format!("scheme `{scheme}` is not supported (file://, s3://, gs:// or az://)")),
            None => config("it is not a URL (file:///folder or s3://bucket/prefix)"),
        }
    }

    /// Opens a store. Nothing is read or written; a missing local folder is not an error here.
    ///
    /// # Errors
    /// [`StoreError::Config`] when the URL or a setting is wrong.
    pub fn open(url: &str, options: &StoreOptions, base: &FsPath) -> Result<Self> {
        Self::check_url(url)?;
        let config = |reason: String| StoreError::Config { url: without_secret(url), reason };
        if let Some(size) = options.part_bytes.filter(|size| !PART_SIZES.contains(size)) {
            return Err(config(format!("part-size is {size} bytes; it must be from 5MiB to 1GiB")));
        }
        let mut store = match url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Self::local(FsPath::new(path))?,
            Some(("file", path)) => Self::local(&base.join(path))?,
            Some((scheme, rest)) => Self::remote(scheme, rest, options, base).map_err(config)?,
            None => return Err(config("it is not a URL".into())),
        };
        let parts = Parts::default();
        store.parts = Parts {
            bytes: options.part_bytes.and_then(|b| usize::try_from(b).ok()).unwrap_or(parts.bytes),
            in_flight: options.parts_in_flight.unwrap_or(parts.in_flight).max(1),
        };
        Ok(match options.upload_rate {
            Some(rate) => store.limited(rate),
            None => store,
        })
    }

    fn local(path: &FsPath) -> Result<Self> {
        let mut clean = PathBuf::new();
        for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
            match part {
                std::path::Component::ParentDir => drop(clean.pop()),
                part => clean.push(part),
            }
        }
        let path = clean;
        let url = format!("file://{}", path.display());
        let config = |reason: String| StoreError::Config { url: url.clone(), reason };
        let text = path.to_str().ok_or_else(|| config("the path is not UTF-8".into()))?;
        let prefix = Path::from_absolute_path(&path).or_else(|_| Path::parse(text.trim_start_matches('/')));
        let prefix = prefix.map_err(|e| config(e.to_string()))?;
        let inner = LocalFileSystem::new().with_fsync(true);
        Ok(Self { local: Some(path), ..Self::new(Arc::new(inner), prefix, url.clone()) })
    }

    fn remote(scheme: &str, rest: &str, options: &StoreOptions, base: &FsPath) -> std::result::Result<Self, String> {
        let (bucket, prefix) = rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
        let retry_for = options.retry_for.unwrap_or(RETRY_FOR);
        let deadline = options.request_timeout.unwrap_or(REQUEST_TIMEOUT);
        // A request may take as long as its deadline and still be tried again; how often follows from the pauses, which double.
        let pauses = std::iter::successors(Some(BackoffConfig::default().init_backoff), |p| Some(*p * 2));
        let times =
            pauses.scan(Duration::ZERO, |sum, p| Some(std::mem::replace(sum, *sum + p))).take_while(|sum| *sum < retry_for);
        let retry = RetryConfig {
            backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
            max_retries: times.count(),
            retry_timeout: deadline + retry_for,
        };
        let connect = deadline.min(Duration::from_secs(10));
        let mut client = ClientOptions::new().with_connect_timeout(connect).with_timeout(deadline);
        if let Some(endpoint) = &options.endpoint {
            client = client.with_allow_http(endpoint.starts_with("http://"));
        }
        if let Some(file) = &options.ca_file {
            let file = base.join(file);
            let bad = |e: &dyn std::fmt::Display| format!("ca-file {}: {e}", file.display());
            let pem = std::fs::read(&file).map_err(|e| bad(&e))?;
            let all = Certificate::from_pem_bundle(&pem).map_err(|e| bad(&e))?;
            if all.is_empty() {
                return Err(bad(&"it holds no certificate"));
            }
            client = all.into_iter().fold(client, ClientOptions::with_root_certificate);
        }
        let only_s3 = options.region.is_some()
            || options.path_style.is_some()
            || options.profile.is_some()
            || options.encryption.is_some()
            || options.kms_key.is_some()
            || options.storage_class.is_some()
            || options.checksums.is_some();
        let mut s3_bucket = None;
        let built: object_store::Result<Arc<dyn ObjectStore>> = match scheme {
            "s3" => {
                let (store, bucket) = s3(bucket, options, base, &client, retry)?;
                s3_bucket = Some(Arc::new(bucket));
                Ok(Arc::new(store))
            }
            _ if only_s3 => return Err(ONLY_S3.into()),
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                if let Some(file) = &options.credentials_file {
                    builder = builder.with_service_account_path(base.join(file).display().to_string());
                }
                if let Some(endpoint) = &options.endpoint {
                    builder = builder.with_config(GoogleConfigKey::BaseUrl, endpoint);
                }
                let builder = builder.with_http_connector(Connector).with_retry(retry).with_client_options(client);
                builder.build().map(|store| Arc::new(store) as _)
            }
            _ if options.credentials_file.is_some() => return Err(NO_FILE_FOR_AZURE.into()),
            _ => {
                let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
                if let Some(endpoint) = &options.endpoint {
                    builder = builder.with_endpoint(endpoint.clone());
                }
                let builder = builder.with_http_connector(Connector).with_retry(retry).with_client_options(client);
                builder.build().map(|store| Arc::new(store) as _)
            }
        };
        let inner = built.map_err(|e| e.to_string())?;
        let prefix = Path::parse(prefix).map_err(|e| e.to_string())?;
        let class = options.storage_class.clone();
        Ok(Self {
            class,
            retry_for,
            request_timeout: deadline,
            bucket: s3_bucket,
            ..Self::new(inner, prefix, format!("{scheme}://{rest}"))
        })
    }
}

fn s3(
    bucket: &str,
    options: &StoreOptions,
    base: &FsPath,
    client: &ClientOptions,
    retry: RetryConfig,
) -> std::result::Result<(AmazonS3, Bucket), String> {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_http_connector(Connector)
        .with_retry(retry)
        .with_client_options(client.clone());
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    let path_style = options.path_style.unwrap_or(options.endpoint.is_some());
    builder = builder.with_virtual_hosted_style_request(!path_style);
    let by_server: AmazonS3ConfigKey = "aws_server_side_encryption".parse().map_err(|e: object_store::Error| e.to_string())?;
    match (options.encryption.as_deref(), &options.kms_key) {
        (None, None) => {}
        (Some("AES256"), None) => builder = builder.with_config(by_server, "AES256"),
        (Some("aws:kms"), Some(key)) => builder = builder.with_sse_kms_encryption(key),
        (Some("aws:kms"), None) => builder = builder.with_config(by_server, "aws:kms"),
        (Some("AES256") | None, Some(_)) => return Err("kms-key needs encryption = \"aws:kms\"".into()),
        (Some(other), _) => return Err(format!("encryption `{other}` is not known (AES256 or aws:kms)")),
    }
    if let Some(class) = options.storage_class.as_deref().filter(|c| !INSTANT.contains(c)) {
        let all = INSTANT.join(", ");
        return Err(format!("storage-class `{class}` is not one that objects are read out of at once ({all})"));
    }
    let default = || options.credentials_file.is_some().then(|| "default".to_owned());
    let profile = options
        .profile
        .clone()
        .or_else(default)
        .or_else(|| std::env::var("AWS_ACCESS_KEY_ID").is_err().then(|| std::env::var("AWS_PROFILE").ok()).flatten());
    if let Some(profile) = profile {
        let (id, secret, token) =
            credentials_of_profile(&profile, options.credentials_file.as_ref().map(|file| base.join(file)))?;
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        if let Some(token) = token {
            builder = builder.with_token(token);
        }
    }
    if options.checksums.unwrap_or(true) {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".into());
    let host = match builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
        Some(endpoint) if path_style => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        // As object_store reads it: such an endpoint names the bucket.
        Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
        None if path_style => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        None => format!("https://{bucket}.s3.{region}.amazonaws.com"),
    };
    let store = builder.build().map_err(|e| e.to_string())?;
    let client = Connector.connect(client).map_err(|e| e.to_string())?;
    let credentials = Arc::clone(store.credentials());
    Ok((store, Bucket { client, credentials, url: host, region, name: bucket.to_owned() }))
}

/// Reads key id, secret and session token of a profile from a file, else `$AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
///
/// # Errors
/// A text that names the file and what is missing in it.
fn credentials_of_profile(profile: &str, file: Option<PathBuf>) -> std::result::Result<(String, String, Option<String>), String> {
    let path = file
        .or_else(|| std::env::var_os("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from))
        .or_else(|| std::env::var_os("HOME").map(|home| FsPath::new(&home).join(".aws/credentials")));
    let path = path.ok_or("no HOME, so no ~/.aws/credentials")?;
    let file = ini::Ini::load_from_file(&path).map_err(|e| format!("profile `{profile}`: {}: {e}", path.display()))?;
    let section = file.section(Some(profile)).ok_or_else(|| format!("profile `{profile}` is not in {}", path.display()))?;
    let key = |name: &str| {
        section.get(name).map(str::to_owned).ok_or_else(|| format!("profile `{profile}` in {} has no {name}", path.display()))
    };
    Ok((key("aws_access_key_id")?, key("aws_secret_access_key")?, section.get("aws_session_token").map(str::to_owned)))
}

/// Masks whatever stands before an `@` in the authority of a URL.
fn without_secret(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.split_once('@') {
            Some((_, host)) => format!("{scheme}://***@{host}"),
            None => url.to_owned(),
        },
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(url: &str) -> String {
        Store::open(url, &StoreOptions::default(), FsPath::new("/base")).unwrap_err().to_string()
    }

    #[test]
    fn urls() {
        let open = |url: &str| Store::open(url, &StoreOptions::default(), FsPath::new("/base")).unwrap().url().to_owned();
        assert_eq!(open("file:///var/lib/dozo"), "file:///var/lib/dozo");
        assert_eq!(open("file://repo"), "file:///base/repo");
        assert_eq!(open("file://../a/./b"), "file:///a/b");
        assert!(reason("/var/lib/dozo").contains("not a URL"));
        assert!(reason("ftp://x/y").contains("`ftp` is not supported"));
        let s3 = |options: StoreOptions| Store::open("s3://bucket/x", &options, FsPath::new("/base")).unwrap_err().to_string();
        let text = |s: &str| Some(s.to_owned());
        assert!(s3(StoreOptions { encryption: text("rot13"), ..Default::default() }).contains("`rot13` is not known"));
        assert!(s3(StoreOptions { kms_key: text("k"), ..Default::default() }).contains("kms-key needs"));
        assert!(s3(StoreOptions { storage_class: text("DEEP_ARCHIVE"), ..Default::default() }).contains("DEEP_ARCHIVE"));
        assert!(s3(StoreOptions { ca_file: Some("ca.pem".into()), ..Default::default() }).contains("ca-file /base/ca.pem"));
        let file = StoreOptions { credentials_file: Some("keys".into()), ..Default::default() };
        assert!(s3(file).contains("profile `default`: /base/keys"));
        let secret = reason("s3://AKIA:hunter2@bucket/x");
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
