use std::io;
use std::sync::Arc;

use nara_proto::identity::{KeyId, KeyPair, PublicKey};
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::SecureChannel;
use super::certificate::CertificateKind;
use super::config::Identity;
use super::expected::server_name;
use super::secure_channel;
use super::verifier::OtherKey;

/// The TLS client. Clones share the sessions.
#[derive(Clone, Debug)]
pub(crate) struct ClientTls {
    x509: Arc<ClientConfig>,
    raw: Arc<ClientConfig>,
}

/// The error for a peer that holds another key than the pinned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {} is pinned, but the peer holds key {}",
    KeyId::from(pinned),
    KeyId::from(got)
)]
pub(crate) struct KeyMismatch {
    /// The pinned key.
    pub(crate) pinned: PublicKey,
    /// The presented key.
    pub(crate) got: PublicKey,
}

/// The reason why a TLS handshake failed.
#[derive(Debug)]
pub(crate) enum TlsFailure {
    /// The peer holds another key than expected.
    OtherKey(KeyMismatch),
    /// The peer ended the handshake because it has too many connections. This is unauthenticated.
    Busy,
    /// The connection ended before the handshake began.
    Cut(io::Error),
    /// The peer does not support our version of TLS.
    Handshake(io::Error),
}

impl ClientTls {
    pub(crate) fn new(keypair: &KeyPair) -> Self {
        let identity = Identity::new(keypair);
        let config = |kind| Arc::new(identity.client(kind, kind));
        Self {
            x509: config(CertificateKind::X509),
            raw: config(CertificateKind::RawPublicKey),
        }
    }

    /// Performs the handshake. Without an expected key, the channel contains the Ed25519 key that the peer holds, and
    /// the caller must check it.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        expected: Option<&PublicKey>,
        kind: CertificateKind,
    ) -> Result<(TlsStream<S>, SecureChannel), TlsFailure> {
        let config = match kind {
            CertificateKind::X509 => &self.x509,
            CertificateKind::RawPublicKey => &self.raw,
        };
        connect(config.clone(), stream, expected, kind).await
    }
}

pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    stream: S,
    expected: Option<&PublicKey>,
    kind: CertificateKind,
) -> Result<(TlsStream<S>, SecureChannel), TlsFailure> {
    let connecting = TlsConnector::from(config).connect(server_name(expected), stream);
    let stream = connecting
        .await
        .map_err(|error| TlsFailure::new(error, expected))?;
    let channel = secure_channel(stream.get_ref().1, kind)
        .map_err(|error| TlsFailure::Handshake(io::Error::other(error)))?;
    Ok((stream, channel))
}

impl TlsFailure {
    fn new(error: io::Error, expected: Option<&PublicKey>) -> Self {
        let cause: Option<&rustls::Error> = error.get_ref().and_then(|cause| cause.downcast_ref());
        if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(cause))) = cause
            && let (Some(OtherKey(got)), Some(pinned)) = (cause.0.downcast_ref(), expected)
        {
            return Self::OtherKey(KeyMismatch {
                pinned: *pinned,
                got: *got,
            });
        }
        if cause == Some(&rustls::Error::AlertReceived(AlertDescription::UserCanceled)) {
            return Self::Busy;
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Cut(error),
            _ => Self::Handshake(error),
        }
    }
}
