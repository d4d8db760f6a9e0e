use std::fmt;

use nara_proto::identity::{KeyId, KeyPair, PublicKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, PKCS_ED25519, PublicKeyData};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;

/// The prefix of the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410, section 4). Neither the algorithm
/// nor the length varies, so this is the only DER encoding.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The maximum size of a certificate that is parsed. A self-signed one with an Ed25519 key has less than 500 bytes;
/// other fields of foreign tools are ignored.
const MAX_CERTIFICATE: usize = 8 << 10;

/// The form in which TLS carries a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CertificateKind {
    /// A self-signed X.509 certificate. Only its key counts.
    X509,
    /// A raw public key (RFC 7250).
    RawPublicKey,
}

impl CertificateKind {
    /// Returns the certificate of a nara.
    pub(super) fn certificate(self, keypair: &KeyPair) -> CertificateDer<'static> {
        match self {
            Self::X509 => self_signed(keypair),
            Self::RawPublicKey => CertificateDer::from(spki(&keypair.public_key()).to_vec()),
        }
    }

    /// Returns the key in a certificate of this kind, unverified.
    pub(super) fn public_key(self, certificate: &CertificateDer<'_>) -> Result<PublicKey, CertificateError> {
        if certificate.len() > MAX_CERTIFICATE {
            return Err(CertificateError::BadEncoding);
        }
        match self {
            Self::X509 => {
                let parsed =
                    ParsedCertificate::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
                key_of_spki(&parsed.subject_public_key_info())
            }
            Self::RawPublicKey => key_of_spki(certificate),
        }
    }
}

impl fmt::Display for CertificateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::X509 => "x509",
            Self::RawPublicKey => "raw key",
        })
    }
}

/// Encodes a key as SubjectPublicKeyInfo.
pub(super) fn spki(key: &PublicKey) -> [u8; 44] {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&SPKI_PREFIX);
    spki[12..].copy_from_slice(key.as_bytes());
    spki
}

fn key_of_spki(spki: &[u8]) -> Result<PublicKey, CertificateError> {
    let key = spki.strip_prefix(&SPKI_PREFIX);
    let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
    // A key of another algorithm is not a key of a nara, nor is a point of small order, for which anybody can sign.
    let key = key.and_then(|key| PublicKey::from_bytes(key).ok());
    key.ok_or(CertificateError::ApplicationVerificationFailure)
}

/// Returns a certificate that contains only the key. Its subject is the key id, for other tools; it is deterministic,
/// and it does not expire, like the key.
fn self_signed(keypair: &KeyPair) -> CertificateDer<'static> {
    let key = CertificateKey(keypair, keypair.public_key());
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let subject = KeyId::from(&key.1).to_string();
    parameters.distinguished_name.push(DnType::CommonName, subject);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = parameters.self_signed(&key);
    certificate
        .expect("all of its parameters are valid")
        .der()
        .clone()
}

/// The keypair, as rcgen asks for it.
struct CertificateKey<'a>(&'a KeyPair, PublicKey);

impl PublicKeyData for CertificateKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.1.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_bytes().to_vec())
    }
}
