//! Webhooks and heartbeats over HTTP.

use std::path::Path;

use dozo_model::Timestamp;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Response, StatusCode};
use sha2::Sha256;

use crate::{NotifyError, Result};

/// Returns the seconds since 1970 and `sha256=` with the HMAC-SHA256 (RFC 2104) over these seconds, a point and the body, in hex.
pub(crate) fn signature(key: &str, at: Timestamp, body: &str) -> (String, String) {
    let time = at.as_second().to_string();
    let hex = match Hmac::<Sha256>::new_from_slice(key.as_bytes()) {
        Ok(mut mac) => {
            mac.update(time.as_bytes());
            mac.update(b".");
            mac.update(body.as_bytes());
            mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect()
        }
        // HMAC takes keys of any length.
        Err(_) => String::new(),
    };
    (time, format!("sha256={hex}"))
}

fn client(ca_file: Option<&Path>) -> Result<Client> {
    // Nowhere else than to the server that was named.
    let mut builder =
        Client::builder().user_agent(concat!("dozo/", env!("CARGO_PKG_VERSION"))).redirect(reqwest::redirect::Policy::none());
    if let Some(path) = ca_file {
        let setup = |e: String| NotifyError::Setup(format!("{} cannot be used: {e}", path.display()));
        let pem = std::fs::read(path).map_err(|e| setup(e.to_string()))?;
        for certificate in Certificate::from_pem_bundle(&pem).map_err(|e| setup(reason(&e)))? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|e| NotifyError::Setup(reason(&e)))
}

pub(crate) async fn post(url: &str, body: String, headers: &[(&str, String)], ca_file: Option<&Path>) -> Result<()> {
    let mut request = client(ca_file)?.post(url).header("content-type", "application/json");
    for (name, value) in headers {
        let pair = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value));
        let (Ok(name), Ok(value)) = pair else { return Err(NotifyError::Setup(format!("`{name}` is no header"))) };
        request = request.header(name, value);
    }
    answer(request.body(body).send().await).await
}

pub(crate) async fn get(url: &str, ca_file: Option<&Path>) -> Result<()> {
    answer(client(ca_file)?.get(url).send().await).await
}

async fn answer(answer: reqwest::Result<Response>) -> Result<()> {
    match answer {
        Ok(response) => {
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            // Not its words: some repeat the URL.
            let text = format!("the server answered {status}");
            let again =
                status.is_server_error() || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
            Err(if again { NotifyError::Unreached(text) } else { NotifyError::Refused(text) })
        }
        Err(e) if e.is_builder() => Err(NotifyError::Setup(reason(&e))),
        Err(e) => Err(NotifyError::Unreached(reason(&e))),
    }
}

/// Returns an error and its causes in a line, without the URL: that is a secret.
fn reason(error: &reqwest::Error) -> String {
    let tried = if error.is_builder() { "the URL is not valid" } else { "the server was not reached" };
    // The error itself names the URL.
    std::error::Error::source(error).map_or_else(|| tried.to_owned(), |cause| crate::chain(tried, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `printf '1.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn signatures_are_those_of_openssl() {
        let at = "1970-01-01T00:00:01Z".parse().unwrap();
        let (time, signature) = signature("key", at, "{}");
        assert_eq!(time, "1");
        assert_eq!(signature, "sha256=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224");
    }
}
