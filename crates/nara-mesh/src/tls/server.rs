use std::io;
use std::sync::Arc;

use nara_proto::identity::KeyPair;
use rustls::ServerConfig;
use rustls::server::{Acceptor, CertificateType, ClientHello};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::SecureChannel;
use super::certificate::CertificateKind;
use super::config::Identity;
use super::secure_channel;

/// The TLS server. Cloning is cheap.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls(Arc<Configs>);

/// One configuration per combination of our own certificate and the client's.
#[derive(Debug)]
struct Configs {
    x509_x509: Arc<ServerConfig>,
    x509_raw: Arc<ServerConfig>,
    raw_x509: Arc<ServerConfig>,
    raw_raw: Arc<ServerConfig>,
}

impl ServerTls {
    pub(crate) fn new(keypair: &KeyPair) -> Self {
        use CertificateKind::{RawPublicKey, X509};
        let identity = Identity::new(keypair);
        let config = |own, peers| Arc::new(identity.server(own, peers));
        Self(Arc::new(Configs {
            x509_x509: config(X509, X509),
            x509_raw: config(X509, RawPublicKey),
            raw_x509: config(RawPublicKey, X509),
            raw_raw: config(RawPublicKey, RawPublicKey),
        }))
    }

    /// Performs the handshake, with raw public keys if the client offers them. The caller limits its time.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, SecureChannel)> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let (config, kind) = self.0.for_client(&start.client_hello());
        let stream = start.into_stream(config).await?;
        let channel = secure_channel(stream.get_ref().1, kind).map_err(io::Error::other)?;
        Ok((stream, channel))
    }
}

impl Configs {
    /// Returns the configuration for a client, and the kind of certificate that the client presents.
    fn for_client(&self, hello: &ClientHello<'_>) -> (Arc<ServerConfig>, CertificateKind) {
        let server = hello.server_cert_types().unwrap_or_default();
        let client = hello.client_cert_types().unwrap_or_default();
        let raw = CertificateType::RawPublicKey;
        match (server.contains(&raw), client.contains(&raw)) {
            (false, false) => (self.x509_x509.clone(), CertificateKind::X509),
            (false, true) => (self.x509_raw.clone(), CertificateKind::RawPublicKey),
            (true, false) => (self.raw_x509.clone(), CertificateKind::X509),
            (true, true) => (self.raw_raw.clone(), CertificateKind::RawPublicKey),
        }
    }
}
