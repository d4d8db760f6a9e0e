//! Mutually authenticated connections: TLS 1.3 with the keys of naras.
//!
//! The identity of a nara is its Ed25519 key, so both ends present that key and prove possession of it, and nothing
//! else matters: no certificate authority, no name, no date. The key travels in one of two forms ([`CertificateKind`]):
//! a self-signed X.509 certificate, which every TLS stack can read, or the raw public key of RFC 7250, which is smaller
//! and needs no parser. The client knows the expected key and refuses every other one; the server accepts any Ed25519
//! key, and compares it with the sender of each request on the connection.
//!
//! Sessions are resumed, always with a fresh key exchange and never with early data, which could be replayed.

mod certificate;
mod channel;
mod client;
mod config;
mod expected;
mod policy;
mod server;
mod signer;
#[cfg(test)]
mod tests;
mod verifier;

pub use certificate::CertificateKind;
pub(crate) use channel::SecureChannel;
pub(crate) use client::{ClientTls, KeyMismatch, TlsFailure};
pub use policy::{ChannelTrust, TlsPolicy};
pub(crate) use server::ServerTls;

use std::fmt;

use nara_proto::identity::PublicKey;
use rustls::pki_types::CertificateDer;
use rustls::{ConnectionCommon, SideData};

/// The first byte of every TLS connection: a record of type handshake (RFC 8446, section 5.1). No HTTP method begins
/// with it, nor with any other control character.
pub(crate) const FIRST_BYTE: u8 = 0x16;

/// The label of the keying material to which signatures are bound (RFC 8446, section 7.5).
const BINDING_LABEL: &[u8] = b"EXPORTER-nara-mesh-v2";

/// The security of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// Plain HTTP: only signatures prove messages.
    #[default]
    Plain,
    /// TLS, mutually authenticated with certificates of this kind.
    Tls(CertificateKind),
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => f.pad("plain"),
            Self::Tls(kind) => write!(f, "tls {kind}"),
        }
    }
}

/// Returns the proof of a finished handshake.
fn secure_channel<S: SideData>(
    connection: &ConnectionCommon<S>,
    kind: CertificateKind,
) -> Result<SecureChannel, rustls::Error> {
    let certificate = connection
        .peer_certificates()
        .and_then(<[CertificateDer<'_>]>::first);
    // Both ends require one, so a missing one means that a check was omitted.
    let certificate = certificate.ok_or(rustls::Error::NoCertificatesPresented)?;
    let peer_key: PublicKey = kind.public_key(certificate)?;
    let binding = connection.export_keying_material([0; 32], BINDING_LABEL, None)?;
    Ok(SecureChannel {
        peer_key,
        certificate: kind,
        binding,
    })
}
