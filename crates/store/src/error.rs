//! Store errors, by what the caller can do.

use dozo_model::{ErrorClass, Explain};

use crate::retry::{bucket_is_missing, is_denied};

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The URL or its settings are wrong.
    #[error("repository `{url}` cannot be opened: {reason}")]
    Config {
        /// URL.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The object is missing.
    #[error("`{key}` is not in {url}")]
    NotFound {
        /// Key.
        key: String,
        /// Store.
        url: String,
    },
    /// No permission, or a read-only store.
    #[error("cannot {action} `{key}` in {url}: permission denied")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// Key.
        key: String,
        /// Store.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// An object lock forbids to delete it.
    #[error("`{key}` is locked until {until}")]
    Locked {
        /// Key.
        key: String,
        /// Until when.
        until: dozo_model::Timestamp,
    },
    /// No space left.
    #[error("cannot {action} `{key}` in {url}: no space left")]
    Full {
        /// What was tried.
        action: &'static str,
        /// Key.
        key: String,
        /// Store.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// The key exists with other bytes.
    #[error("`{key}` in {url} was written by somebody else")]
    Conflict {
        /// Key.
        key: String,
        /// Store.
        url: String,
    },
    /// The key is not one that dozo writes.
    #[error("`{key}` is not a key of this layout")]
    BadKey {
        /// Key.
        key: String,
    },
    /// The work was stopped.
    #[error("the upload of `{key}` was stopped")]
    Cancelled {
        /// Key.
        key: String,
    },
    /// The bucket is missing.
    #[error("{url}: the bucket does not exist")]
    NoBucket {
        /// Store.
        url: String,
    },
    /// The store knows no such request.
    #[error("{url} cannot {action}")]
    Unsupported {
        /// What was tried.
        action: &'static str,
        /// Store.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Anything else: network, server, disk.
    #[error("cannot {action} `{key}` in {url}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Key.
        key: String,
        /// Store.
        url: String,
        /// Why.
        #[source]
        source: BoxError,
    },
}

/// A boxed cause.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    pub(crate) fn from_source(action: &'static str, key: &str, url: &str, source: object_store::Error) -> Self {
        let (key, url) = (key.to_owned(), url.to_owned());
        match source {
            e if bucket_is_missing(&e) => Self::NoBucket { url },
            object_store::Error::NotFound { .. } => Self::NotFound { key, url },
            object_store::Error::AlreadyExists { .. } => Self::Conflict { key, url },
            e if is_denied(&e) || asks_the_machine(&e) => Self::Denied { action, key, url, source: told(e) },
            e @ object_store::Error::NotSupported { .. } => Self::Unsupported { action, url, source: told(e) },
            e @ (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                Self::Denied { action, key, url, source: told(e) }
            }
            e => match io_kind(&e) {
                Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                    Self::Full { action, key, url, source: told(e) }
                }
                Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
                    Self::Denied { action, key, url, source: told(e) }
                }
                _ => Self::Failed { action, key, url, source: told(e) },
            },
        }
    }

    pub(crate) fn io(action: &'static str, key: &str, url: &str, source: std::io::Error) -> Self {
        Self::from_source(action, key, url, object_store::Error::Generic { store: "local", source: source.into() })
    }
}

/// Where instances and containers are asked for their role.
const METADATA: [&str; 2] = ["://169.254.169.254", "://169.254.170."];

/// Tells whether the machine was asked for credentials, for want of others.
fn asks_the_machine(error: &object_store::Error) -> bool {
    let text = error.to_string();
    METADATA.iter().any(|address| text.contains(address))
}

/// Shortens what a server said to its status, code and message.
fn told(error: object_store::Error) -> BoxError {
    let text = error.to_string();
    if asks_the_machine(&error) {
        return "no credentials: there is no AWS_ACCESS_KEY_ID, no profile, and this machine has no role of its own".into();
    }
    let between = |name: &str| Some(text.split_once(&format!("<{name}>"))?.1.split_once(&format!("</{name}>"))?.0);
    match (text.split_once("status code: "), between("Code")) {
        (Some((_, status)), Some(code)) => {
            let status = status.split(':').next().unwrap_or_default();
            let message = between("Message").map(|m| format!(": {m}")).unwrap_or_default();
            format!("the server answered {status}: {code}{message}").into()
        }
        _ => error.into(),
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    causes(error).find_map(|e| e.downcast_ref::<std::io::Error>()).map(std::io::Error::kind)
}

/// Returns an error and what it came from, one after the other.
pub(crate) fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |e| e.source())
}

impl Explain for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Config { .. } => ErrorClass::Input,
            Self::NotFound { .. }
            | Self::NoBucket { .. }
            | Self::Denied { .. }
            | Self::Locked { .. }
            | Self::Full { .. }
            | Self::Unsupported { .. } => ErrorClass::Failed,
            Self::BadKey { .. } => ErrorClass::Integrity,
            Self::Conflict { .. } => ErrorClass::Conflict,
            Self::Cancelled { .. } => ErrorClass::Cancelled,
            Self::Failed { .. } => ErrorClass::Transient,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Config { .. } => "DOZO-E3001",
            Self::NotFound { .. } => "DOZO-E3002",
            Self::Denied { .. } => "DOZO-E3003",
            Self::Locked { .. } => "DOZO-E3011",
            Self::Full { .. } => "DOZO-E3004",
            Self::Conflict { .. } => "DOZO-E3005",
            Self::BadKey { .. } => "DOZO-E3006",
            Self::Cancelled { .. } => "DOZO-E3007",
            Self::Failed { .. } => "DOZO-E3008",
            Self::Unsupported { .. } => "DOZO-E3009",
            Self::NoBucket { .. } => "DOZO-E3010",
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Config { .. } => "correct [repository] in the configuration file".into(),
            Self::NotFound { .. } => "dozo list".into(),
            Self::NoBucket { .. } => "create the bucket, or correct the url".into(),
            Self::Locked { until, .. } => format!("run it again after {until}"),
            Self::Denied { url, .. } => format!("give this user or key permission on {url}, then run `dozo check`"),
            Self::Full { url, .. } => format!("free space in {url}, or see what can go with `dozo gc plan`"),
            Self::Conflict { .. } => "run the command again: it will use a new key".into(),
            Self::BadKey { .. } => "dozo verify --level exists".into(),
            Self::Cancelled { .. } => return None,
            Self::Failed { .. } | Self::Unsupported { .. } => "dozo check".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_said_is_shortened() {
        let generic = |text: &str| object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        let said = |text: &str| {
            let error = StoreError::from_source("read", "k", "s3://b/p", generic(text));
            (error.code(), std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
        };
        let xml = "status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>later</Message><Resource>/x</Resource></Error>";
        assert_eq!(said(xml), ("DOZO-E3008", "the server answered 403 Forbidden: SlowDown: later".into()));
        assert_eq!(said("status code: 404: <Code>NoSuchBucket</Code>").0, "DOZO-E3010");
        let (code, text) = said("Error performing PUT http://169.254.169.254/latest/api/token in 1ms");
        assert!(code == "DOZO-E3003" && text.contains("no credentials"), "{code} {text}");
        assert!(said("connection reset").1.contains("connection reset"));
    }
}
