//! The TLS client: trusts the root certificates of the system and of the settings, and relay certificates that the
//! control server has pinned.

use std::io;
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::settings::{EmbeddedError, EmbeddedSettings};

/// The TLS client of a node.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    provider: Arc<CryptoProvider>,
    trusted: Arc<ClientConfig>,
}

/// The SHA-256 of the only accepted certificate.
pub(super) type Pin = [u8; 32];

impl Tls {
    /// Creates a client that trusts the root certificates of the system and of the settings.
    ///
    /// On a system without root certificates, such as a bare container, the compiled-in Mozilla list replaces them.
    pub(super) fn new(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        // Loaded once: loading is slow, and a process may run many nodes.
        static SYSTEM: OnceLock<RootCertStore> = OnceLock::new();
        let mut roots = SYSTEM.get_or_init(system_roots).clone();
        for path in &settings.root_certificates {
            let failed = |detail: String| EmbeddedError::Certificates {
                path: path.clone(),
                detail,
            };
            let mut found = false;
            for certificate in
                CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?
            {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| failed(error.to_string()))?;
                found = true;
            }
            if !found {
                return Err(failed("the file contains no certificate".to_owned()));
            }
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
            .build()
            .map_err(|error| EmbeddedError::Tls(error.into()))?;
        let trusted = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| EmbeddedError::Tls(error.into()))?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        Ok(Self {
            provider,
            trusted: Arc::new(trusted),
        })
    }

    /// Performs a handshake with the server of this name, or with a server that presents the pinned certificate.
    pub(super) async fn connect<S>(&self, name: &str, pin: Option<Pin>, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = match pin {
            None => Arc::clone(&self.trusted),
            Some(pin) => Arc::new(
                ClientConfig::builder_with_provider(Arc::clone(&self.provider))
                    .with_safe_default_protocol_versions()
                    .map_err(io::Error::other)?
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(Pinned {
                        pin,
                        provider: Arc::clone(&self.provider),
                    }))
                    .with_no_client_auth(),
            ),
        };
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// A verifier that accepts exactly one certificate, regardless of issuer and name: the pin comes from the control
/// server.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if <[u8; 32]>::from(Sha256::digest(end_entity)) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
