//! The proof that a connection gives about its other end.

use nara_proto::identity::PublicKey;

use super::{CertificateKind, Security};

/// A mutually authenticated connection (TLS 1.3): both ends have proven their keys.
///
/// On the server it is in the extensions of each request of the connection.
#[derive(Clone, Debug)]
pub(crate) struct SecureChannel {
    /// The key whose possession the other end has proven.
    pub(crate) peer_key: PublicKey,
    /// The form in which it presented the key.
    pub(crate) certificate: CertificateKind,
    /// Keying material exported from TLS that only the two ends of this connection know (in the spirit of RFC 9266).
    /// Signatures cover it, so that none can be used on another connection.
    pub(crate) binding: [u8; 32],
}

impl SecureChannel {
    /// Returns the security of a connection with this channel, or without one.
    pub(crate) fn security(channel: Option<&Self>) -> Security {
        channel.map_or(Security::Plain, |channel| Security::Tls(channel.certificate))
    }
}
