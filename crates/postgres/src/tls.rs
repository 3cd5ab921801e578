//! TLS by libpq's modes, with rustls.
//!
//! `prefer` and `require` encrypt without checking the certificate, `verify-ca` checks the chain, `verify-full` also
//! the host name. Without `sslrootcert` the system's certificates are trusted.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::conninfo::{ConnInfo, SslMode};

/// Makes the TLS connector that a connection asks for.
pub(crate) fn connector(info: &ConnInfo) -> Result<MakeRustlsConnect, String> {
    client_config(info).map(MakeRustlsConnect::new)
}

/// Returns how TLS is spoken on a connection.
pub(crate) fn client_config(info: &ConnInfo) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(match info.ssl_mode {
        SslMode::Disable | SslMode::Prefer | SslMode::Require => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, inner: None }))
            .with_no_client_auth(),
        SslMode::VerifyCa => {
            let roots = Arc::new(roots(info.ssl_root_cert.as_deref())?);
            let inner =
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build().map_err(|e| e.to_string())?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Verifier { provider, inner: Some(inner) }))
                .with_no_client_auth()
        }
        SslMode::VerifyFull => builder.with_root_certificates(roots(info.ssl_root_cert.as_deref())?).with_no_client_auth(),
    })
}

fn roots(file: Option<&str>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match file {
        None | Some("system") => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
        }
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(|e| format!("sslrootcert {path}: {e}"))? {
                let certificate = certificate.map_err(|e| format!("sslrootcert {path}: {e}"))?;
                store.add(certificate).map_err(|e| format!("sslrootcert {path}: {e}"))?;
            }
        }
    }
    if store.is_empty() {
        return Err(format!("sslrootcert {} holds no certificate", file.unwrap_or("system")));
    }
    Ok(store)
}

/// Checks the chain (`inner`), or nothing, and never the host name.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    inner: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
