//! Every request, counted, and tried again when that may help.
//!
//! Place in the flow: around the object store's own retries, which see single HTTP requests and may not repeat one that is not idempotent
//! by itself. Here a request is: a create-only put compares what it finds, so that a lost answer is found out. *Classes*: what the server
//! refused (not found, denied, bad request) is final; lost connections, timeouts, 5xx, 408, 409 and 429 are tried again with growing,
//! jittered pauses until `retry-for` has passed since the first try. Disks do not heal: local stores try once.

use std::time::{Duration, Instant};

use object_store::client::{HttpError, HttpErrorKind};

use crate::{Operation, Store};

/// The first pause.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Store {
    /// Carries a request out, again while that may help.
    pub(crate) async fn again<T, F>(&self, operation: Operation, request: impl Fn() -> F) -> object_store::Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let began = Instant::now();
        let mut pause = PAUSE;
        loop {
            self.requests.count(operation);
            let error = match request().await {
                Ok(done) => return Ok(done),
                Err(e) => e,
            };
            if !transient(&error) || began.elapsed() + pause > self.retry_for {
                return Err(error);
            }
            self.requests.repeat();
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Tells whether the same request may succeed later.
fn transient(error: &object_store::Error) -> bool {
    use object_store::Error;
    match error {
        // A bucket is missing only while a server starts, or for ever: the key's absence is not what was said.
        Error::NotFound { .. } => bucket_is_missing(error),
        Error::Generic { .. } => {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
            while let Some(e) = cause {
                if let Some(http) = e.downcast_ref::<HttpError>() {
                    return http.kind() != HttpErrorKind::Decode;
                }
                if e.downcast_ref::<std::io::Error>().is_some() {
                    return false;
                }
                cause = e.source();
            }
            // The type that holds the status is private to the library; its text is not.
            match error.to_string().split_once("status code: ") {
                Some((_, status)) => ["5", "408", "409", "429"].iter().any(|s| status.starts_with(s)),
                None => true,
            }
        }
        _ => false,
    }
}

/// Tells whether "not found" is said of the bucket.
pub(crate) fn bucket_is_missing(error: &object_store::Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

#[cfg(test)]
mod tests {
    use object_store::Error;

    use super::*;

    #[test]
    fn classes() {
        let generic = |source: &str| Error::Generic { store: "S3", source: source.into() };
        assert!(transient(&generic("the connection was lost")));
        for (status, again) in [("503 Slow Down", true), ("429", true), ("409", true), ("400 Bad Request", false), ("301", false)]
        {
            let text = format!("Server returned non-2xx status code: {status}: ");
            assert_eq!(transient(&generic(&text)), again, "{status}");
        }
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert!(!transient(&Error::Generic { store: "local", source: io.into() }));
        let missing = |what: &str| Error::NotFound { path: "k".into(), source: format!("404: <Code>{what}</Code>").into() };
        assert!(transient(&missing("NoSuchBucket")) && !transient(&missing("NoSuchKey")));
    }
}
