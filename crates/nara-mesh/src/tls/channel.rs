//! What a connection itself proves about its other end.

use nara_proto::identity::PublicKey;

use super::{CertificateKind, Security};

/// A mutually authenticated connection (TLS 1.3): both ends have proven their keys.
///
/// On the server it travels in the extensions of each request of the connection.
#[derive(Clone, Debug)]
pub(crate) struct SecureChannel {
    /// The key that the other end has proven to hold.
    pub(crate) peer_key: PublicKey,
    /// The envelope in which it showed the key.
    pub(crate) certificate: CertificateKind,
    /// What only the two ends of this very connection know (RFC 9266 in spirit: keying material exported from
    /// TLS). Signatures cover it, so that none can be used on another connection.
    pub(crate) binding: [u8; 32],
}

impl SecureChannel {
    /// How a connection with this channel, or without any, is protected.
    pub(crate) fn security(channel: Option<&Self>) -> Security {
        channel.map_or(Security::Plain, |channel| Security::Tls(channel.certificate))
    }
}
