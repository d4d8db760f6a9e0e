//! An independent TLS client: its own verifier, and every handshake that a server must accept or refuse.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::identity::LocalNara;
use nara_proto::identity::{KeyPair, PublicKey, Signature};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureAlgorithm,
    SignatureScheme,
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::wire::{Connection, dial};

/// The prefix of the 32 key bytes (docs/protocol/tls.md, section 3).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// The label of the channel binding (docs/protocol/tls.md, section 4).
const BINDING: &[u8] = b"EXPORTER-nara-mesh-v2";

/// A TLS connection.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) connection: Connection,
    pub(super) binding: [u8; 32],
    /// The key that the server has proven.
    pub(super) key: PublicKey,
}

/// How the server presents its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    X509,
    RawPublicKey,
}

/// Opens a TLS connection. Without a nara, no client certificate is sent.
pub(super) async fn open(
    address: SocketAddr,
    nara: Option<&LocalNara>,
    form: Form,
    limit: Duration,
) -> io::Result<Channel> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyNara(form)));
    let mut config = match nara {
        None => builder.with_no_client_auth(),
        Some(nara) => {
            let certificate = CertificateDer::from(spki(&nara.public_key()).to_vec());
            let key = Arc::new(CertifiedKey::new(
                vec![certificate],
                Arc::new(Key(nara.keypair().clone())),
            ));
            builder.with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)))
        }
    };
    config.enable_sni = false;
    let stream = dial(address, limit).await?;
    let name = ServerName::from(address.ip());
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the handshake timed out");
    let stream = timeout(limit, connecting).await.map_err(late)??;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("the server showed no key"))?;
    let key = form
        .key(certificate)
        .map_err(|error| io::Error::other(Error::from(error)))?;
    let binding = session
        .export_keying_material([0; 32], BINDING, None)
        .map_err(io::Error::other)?;
    Ok(Channel {
        connection: Connection::over(Box::new(stream), address, limit).await?,
        binding,
        key,
    })
}

impl Form {
    fn key(self, certificate: &CertificateDer<'_>) -> Result<PublicKey, CertificateError> {
        let bad = CertificateError::BadEncoding;
        let spki = match self {
            Self::RawPublicKey => certificate.to_vec(),
            Self::X509 => ParsedCertificate::try_from(certificate)
                .map_err(|_| bad.clone())?
                .subject_public_key_info()
                .to_vec(),
        };
        let key = spki
            .strip_prefix(&SPKI_PREFIX)
            .and_then(|key| key.try_into().ok());
        PublicKey::from_bytes(key.ok_or_else(|| bad.clone())?).map_err(|_| bad)
    }
}

fn spki(key: &PublicKey) -> [u8; 44] {
    let mut spki = [0; 44];
    spki[..12].copy_from_slice(&SPKI_PREFIX);
    spki[12..].copy_from_slice(key.as_bytes());
    spki
}

/// Accepts any server that proves an Ed25519 key: the check examines the key itself.
#[derive(Debug)]
struct AnyNara(Form);

impl ServerCertVerifier for AnyNara {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.key(certificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let bad = CertificateError::BadSignature;
        let signature = signed.signature().try_into().map_err(|_| bad.clone())?;
        let key = self.0.key(certificate)?;
        key.verify(message, &Signature::from_bytes(signature))
            .map_err(|_| bad)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0 == Form::RawPublicKey
    }
}

/// The keypair of a nara as a rustls signing key.
#[derive(Clone)]
struct Key(KeyPair);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::ED25519);
        offered.then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki(&self.0.public_key()).to_vec().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign(message).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Returns a ClientHello that offers TLS 1.2 only.
pub(super) fn hello_of_tls12() -> Vec<u8> {
    #[rustfmt::skip]
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29,          // supported_groups: x25519
        0, 11, 0, 2, 1, 0,                 // ec_point_formats: uncompressed
        0, 13, 0, 6, 0, 4, 8, 7, 4, 3,     // signature_algorithms: ed25519, ecdsa_secp256r1_sha256
        0, 23, 0, 0,                       // extended_master_secret
    ];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![0x16, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}
