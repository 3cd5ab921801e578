//! The HTTP client of remote stores: reqwest, but for one class of errors.
//!
//! A certificate that is not trusted today will not be in a moment: it is told at once instead of being tried again like a connection that
//! was refused.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};

use crate::error::causes;

/// Makes clients.
#[derive(Debug, Default)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Client(HttpClient);

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.execute(request).await.map_err(|e| {
            if causes(&e).any(|cause| cause.to_string().contains("certificate")) {
                // The one kind that nobody tries again.
                return HttpError::new(HttpErrorKind::Decode, e);
            }
            e
        })
    }
}
