//! The rustls configurations. One configuration negotiates one kind of certificate per end, so there is one per
//! combination.

use std::sync::Arc;

use nara_proto::identity::KeyPair;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, ConfigSide, ServerConfig, WantsVerifier};

use super::certificate::CertificateKind;
use super::signer::IdentityKey;
use super::verifier::PeerVerifier;
use crate::defaults;

/// The key of this nara in both forms.
#[derive(Debug)]
pub(super) struct Identity {
    x509: Arc<CertifiedKey>,
    raw: Arc<CertifiedKey>,
}

impl Identity {
    pub(super) fn new(keypair: &KeyPair) -> Self {
        let key = Arc::new(IdentityKey(keypair.clone()));
        let certified = |kind: CertificateKind| {
            let certificate = kind.certificate(keypair);
            Arc::new(CertifiedKey::new(vec![certificate], key.clone()))
        };
        Self {
            x509: certified(CertificateKind::X509),
            raw: certified(CertificateKind::RawPublicKey),
        }
    }

    /// Returns the configuration of a client that presents its key as `own` and expects the server's as `peers`.
    pub(super) fn client(&self, own: CertificateKind, peers: CertificateKind) -> ClientConfig {
        let resolver: Arc<dyn ResolvesClientCert> = match own {
            CertificateKind::X509 => Arc::new(SingleCertAndKey::from(self.x509.clone())),
            CertificateKind::RawPublicKey => {
                Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.raw.clone()))
            }
        };
        let builder = ClientConfig::builder_with_provider(provider());
        let mut config = only_tls13(builder)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier(peers)))
            .with_client_cert_resolver(resolver);
        config.enable_sni = false;
        config.resumption = Resumption::in_memory_sessions(defaults::TLS_SESSIONS);
        config
    }

    /// Returns the configuration of a server that presents its key as `own` and expects the clients' as `peers`.
    pub(super) fn server(&self, own: CertificateKind, peers: CertificateKind) -> ServerConfig {
        let resolver: Arc<dyn ResolvesServerCert> = match own {
            CertificateKind::X509 => Arc::new(SingleCertAndKey::from(self.x509.clone())),
            CertificateKind::RawPublicKey => {
                Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.raw.clone()))
            }
        };
        let builder = ServerConfig::builder_with_provider(provider());
        let mut config = only_tls13(builder)
            .with_client_cert_verifier(Arc::new(PeerVerifier(peers)))
            .with_cert_resolver(resolver);
        // Session state is in the ticket, encrypted with a key of this process, so no peer can fill our memory with
        // sessions. Each configuration has its own key, so a session is resumed with the kind with which it began.
        config.ticketer = aws_lc_rs::Ticketer::new().expect("the operating system gives random bytes");
        config
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn only_tls13<S: ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> ConfigBuilder<S, WantsVerifier> {
    let builder = builder.with_protocol_versions(&[&TLS13]);
    builder.expect("the provider has cipher suites of TLS 1.3")
}
