//! Requests, counted, and made again when that may help.
//!
//! Two layers. The HTTP client of `object_store` repeats what is the same request whoever sends it how often: reads, parts of an upload, and whatever
//! never reached the server or was answered with 408, 429 or 5xx, a few times. Here is what takes longer, and what it may not repeat by itself: a
//! create-only put whose answer was lost compares what it finds. *Final* is what the server refused (not found, denied, bad request, an
//! untrusted certificate). Pauses grow and are jittered; a request is given up when `retry-for` has passed since its first failure, and at the
//! latest when the deadline of one request and `retry-for` have passed since it began. Disks do not heal: local stores try once.

use std::time::{Duration, Instant};

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::causes;
use crate::{Operation, Store};

/// The first pause.
const PAUSE: Duration = Duration::from_millis(100);
/// Tries that a request has at least, where requests are tried again at all.
const TRIES: u32 = 3;
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Store {
    /// Carries a request out, again while that may help.
    pub(crate) async fn again<T, F>(&self, operation: Operation, request: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let began = Instant::now();
        let mut failed: Option<Instant> = None;
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            self.requests.count(operation);
            let error = match request().await {
                Ok(done) => {
                    self.requests.reached();
                    return Ok(done);
                }
                Err(e) => e,
            };
            // A slow request that was cut off has had no second chance yet, however long it took.
            let since = failed.get_or_insert_with(Instant::now).elapsed();
            let patient = since + pause <= self.retry_for || tries < TRIES && !self.retry_for.is_zero();
            // Where nothing has ever answered, a name is mistyped more often than a server is about to come back.
            let answers = self.requests.was_reached() || !is_unreachable(&error);
            if !may_help(&error) || !answers || !patient || began.elapsed() > self.request_timeout + self.retry_for {
                return Err(error);
            }
            self.requests.repeat();
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0)).min(self.retry_for)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Errors of a body that the network damaged, by S3's names.
const DAMAGED_ON_THE_WAY: [&str; 4] = ["RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"];

/// Tells whether the same request, made once more here, may succeed.
fn may_help(error: &object_store::Error) -> bool {
    use object_store::Error;
    match error {
        Error::Generic { .. } => {
            for cause in causes(error) {
                if let Some(http) = cause.downcast_ref::<HttpError>() {
                    // What could not be decoded, and certificates that are not trusted (`http.rs`).
                    return http.kind() != HttpErrorKind::Decode;
                }
                if cause.is::<std::io::Error>() {
                    return false;
                }
            }
            let text = error.to_string();
            // One of many deletes was refused: the code tells why, the status of the whole is 200.
            if let Some((_, code)) = text.split_once("(code: ") {
                return ["InternalError", "SlowDown", "ServiceUnavailable"].iter().any(|c| code.starts_with(c));
            }
            // The type that holds the status is private to the library; its text is not.
            match text.split_once("status code: ") {
                Some((_, status)) if ["5", "408", "429"].iter().any(|s| status.starts_with(s)) => true,
                Some((_, status)) => {
                    status.starts_with("400") && DAMAGED_ON_THE_WAY.iter().any(|code| text.contains(&format!("<Code>{code}<")))
                }
                // The bucket lies in another region.
                None => !text.contains("redirect without LOCATION"),
            }
        }
        _ => false,
    }
}

/// Tells whether nobody was there to be asked.
fn is_unreachable(error: &object_store::Error) -> bool {
    causes(error).any(|e| e.downcast_ref::<HttpError>().is_some_and(|http| http.kind() == HttpErrorKind::Connect))
}

/// Tells whether an error is a refusal that the library does not tell from others.
pub(crate) fn is_denied(error: &object_store::Error) -> bool {
    error.to_string().contains("(code: AccessDenied")
}

/// Tells whether "not found" is said of the bucket.
pub(crate) fn bucket_is_missing(error: &object_store::Error) -> bool {
    let text = error.to_string();
    text.contains("NoSuchBucket") || text.contains("ContainerNotFound")
}

#[cfg(test)]
mod tests {
    use object_store::Error;

    use super::*;

    #[test]
    fn classes() {
        let generic = |source: &str| Error::Generic { store: "S3", source: source.into() };
        assert!(may_help(&generic("the connection was lost")));
        for (text, again) in [
            ("Server returned non-2xx status code: 400 Bad Request: <Code>BadDigest</Code>", true),
            ("Server returned non-2xx status code: 400 Bad Request: <Code>InvalidArgument</Code>", false),
            ("Server returned non-2xx status code: 503 Slow Down: ", true),
            ("Server returned non-2xx status code: 404 Not Found: ", false),
            ("Received redirect without LOCATION, this normally indicates an incorrectly configured region", false),
            ("DeleteObjects request failed for key a: Access Denied (code: AccessDenied)", false),
            ("DeleteObjects request failed for key a: later (code: SlowDown)", true),
        ] {
            assert_eq!(may_help(&generic(text)), again, "{text}");
        }
        assert!(is_denied(&generic("DeleteObjects request failed for key a: Access Denied (code: AccessDenied)")));
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(!may_help(&Error::Generic { store: "local", source: io.into() }));
        let missing = |what: &str| Error::NotFound { path: "k".into(), source: format!("404: <Code>{what}</Code>").into() };
        assert!(bucket_is_missing(&missing("NoSuchBucket")) && !bucket_is_missing(&missing("NoSuchKey")));
    }
}
