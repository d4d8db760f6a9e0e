use std::io;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::identity::{KeyPair, Soul};
use rcgen::{CertificateParams, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::server::TlsStream as ServerStream;

use super::certificate::CertificateKind::{self, RawPublicKey, X509};
use super::client::connect;
use super::config::Identity;
use super::*;

/// The two ends of a connection, each with the proof of its channel.
struct Pair {
    client: (ClientStream<DuplexStream>, SecureChannel),
    server: (ServerStream<DuplexStream>, SecureChannel),
}

impl Pair {
    /// Sends a word each way, so that both ends have read all earlier data.
    async fn talk(&mut self) {
        let (client, server) = (&mut self.client.0, &mut self.server.0);
        let mut word = [0; 4];
        client.write_all(b"ping").await.unwrap();
        server.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        server.write_all(b"pong").await.unwrap();
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pong");
    }

    fn is_resumed(&self) -> bool {
        let client = self.client.0.get_ref().1.handshake_kind();
        let server = self.server.0.get_ref().1.handshake_kind();
        assert_eq!(client, server);
        client == Some(HandshakeKind::Resumed)
    }
}

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "nara"))
}

fn alice() -> KeyPair {
    keypair(1)
}

fn bob() -> KeyPair {
    keypair(2)
}

type Connected = (
    Result<(ClientStream<DuplexStream>, SecureChannel), TlsFailure>,
    io::Result<(ServerStream<DuplexStream>, SecureChannel)>,
);

/// Connects a client to a server; a failure of one end closes the connection for the other.
async fn call(
    client: &ClientTls,
    server: &ServerTls,
    expected: Option<&PublicKey>,
    kind: CertificateKind,
) -> Connected {
    let (near, far) = duplex(64 << 10);
    tokio::join!(client.connect(near, expected, kind), server.accept(far))
}

async fn call_with(config: ClientConfig, server: &ServerTls, kind: CertificateKind) -> Connected {
    let (near, far) = duplex(64 << 10);
    let key = bob().public_key();
    tokio::join!(
        connect(Arc::new(config), near, Some(&key), kind),
        server.accept(far)
    )
}

fn pair((client, server): Connected) -> Pair {
    Pair {
        client: client.unwrap(),
        server: server.unwrap(),
    }
}

fn both() -> (ClientTls, ServerTls) {
    (ClientTls::new(&alice()), ServerTls::new(&bob()))
}

#[tokio::test]
async fn each_end_learns_the_key_of_the_other_and_both_the_same_binding() {
    let (client, server) = both();
    for kind in [X509, RawPublicKey] {
        let mut pair = pair(call(&client, &server, Some(&bob().public_key()), kind).await);
        pair.talk().await;
        let (at_client, at_server) = (&pair.client.1, &pair.server.1);
        assert_eq!(at_client.peer_key, bob().public_key());
        assert_eq!(at_server.peer_key, alice().public_key());
        assert_eq!(at_client.certificate, kind);
        assert_eq!(at_server.certificate, kind);
        assert_eq!(at_client.binding, at_server.binding);
        assert_ne!(at_client.binding, [0; 32]);
    }
}

#[tokio::test]
async fn a_server_serves_every_combination_of_certificates() {
    let server = ServerTls::new(&bob());
    let identity = Identity::new(&alice());
    for own in [X509, RawPublicKey] {
        for peers in [X509, RawPublicKey] {
            let config = identity.client(own, peers);
            let mut pair = pair(call_with(config, &server, peers).await);
            pair.talk().await;
            assert_eq!(pair.client.1.peer_key, bob().public_key());
            assert_eq!(pair.server.1.peer_key, alice().public_key());
            assert_eq!(
                (pair.server.1.certificate, pair.client.1.certificate),
                (own, peers)
            );
        }
    }
}

#[tokio::test]
async fn a_client_refuses_another_key_than_the_expected_one() {
    let (client, server) = both();
    for kind in [X509, RawPublicKey] {
        let (at_client, at_server) = call(&client, &server, Some(&keypair(3).public_key()), kind).await;
        let got = bob().public_key();
        assert!(matches!(at_client, Err(TlsFailure::OtherKey(other)) if other.got == got));
        assert!(at_server.is_err());
    }
}

#[tokio::test]
async fn a_client_that_expects_no_key_learns_which_one_it_is() {
    let (client, server) = both();
    let pair = pair(call(&client, &server, None, X509).await);
    assert_eq!(pair.client.1.peer_key, bob().public_key());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let server = ServerTls::new(&bob());
    let identity = Identity::new(&alice());
    let mut config = identity.client(X509, X509);
    config.client_auth_cert_resolver = ClientConfig::builder_with_provider(config.crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
        .client_auth_cert_resolver;
    let (at_client, at_server) = call_with(config, &server, X509).await;
    assert!(at_server.is_err());
    // In TLS 1.3 a client finishes before the server has verified it, so it reads the refusal afterwards.
    let (mut stream, _) = at_client.unwrap();
    assert!(stream.read_u8().await.is_err());
}

/// Returns the certified key of a client or a server with another algorithm.
fn p256() -> Arc<CertifiedKey> {
    let key = rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::default().self_signed(&key).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], private, &provider).unwrap())
}

#[tokio::test]
async fn keys_of_other_algorithms_are_refused_at_both_ends() {
    use rustls::sign::SingleCertAndKey;
    let (client, server) = both();

    let mut config = Identity::new(&alice()).client(X509, X509);
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(p256()));
    let (_, at_server) = call_with(config, &server, X509).await;
    assert!(at_server.is_err());

    let mut config = Identity::new(&bob()).server(X509, X509);
    config.cert_resolver = Arc::new(SingleCertAndKey::from(p256()));
    let (near, far) = duplex(64 << 10);
    let accepting = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(far);
    let (at_client, at_server) = tokio::join!(client.connect(near, None, X509), accepting);
    assert!(at_client.is_err());
    assert!(at_server.is_err());
}

#[test]
fn only_a_certificate_yields_its_key() {
    for kind in [X509, RawPublicKey] {
        let certificate = kind.certificate(&alice());
        assert_eq!(kind.public_key(&certificate).unwrap(), alice().public_key());
        assert_eq!(
            certificate,
            kind.certificate(&alice()),
            "a second certificate of one key is equal"
        );
        for cut in [0, 1, certificate.len() - 1] {
            assert!(kind.public_key(&certificate[..cut].into()).is_err());
        }
        let mut longer = certificate.to_vec();
        longer.push(0);
        assert!(kind.public_key(&longer.into()).is_err());
        assert!(kind.public_key(&vec![0x30; 1 << 20].into()).is_err());
    }
    assert!(X509.public_key(&RawPublicKey.certificate(&alice())).is_err());
    assert!(RawPublicKey.public_key(&X509.certificate(&alice())).is_err());
    assert!(X509.public_key(&p256().cert[0]).is_err());
}

#[test]
fn a_point_of_small_order_is_no_key() {
    let mut spki = certificate::spki(&alice().public_key()).to_vec();
    spki[12..].fill(0);
    spki[12] = 1;
    assert!(RawPublicKey.public_key(&spki.into()).is_err());
}

#[tokio::test]
async fn a_resumed_session_knows_both_keys_and_has_a_binding_of_its_own() {
    let (client, server) = both();
    for kind in [X509, RawPublicKey] {
        let mut bindings = Vec::new();
        for round in 0..3 {
            let mut pair = pair(call(&client, &server, Some(&bob().public_key()), kind).await);
            assert_eq!(pair.is_resumed(), round > 0);
            pair.talk().await;
            assert_eq!(pair.client.1.peer_key, bob().public_key());
            assert_eq!(pair.server.1.peer_key, alice().public_key());
            assert_eq!(pair.client.1.binding, pair.server.1.binding);
            assert!(!bindings.contains(&pair.client.1.binding));
            bindings.push(pair.client.1.binding);
        }
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_with_another_kind_of_certificate_nor_for_another_key() {
    let (client, server) = both();
    let key = bob().public_key();
    pair(call(&client, &server, Some(&key), X509).await).talk().await;
    assert!(!pair(call(&client, &server, Some(&key), RawPublicKey).await).is_resumed());

    // The next owner of an address cannot resume the sessions of its predecessor.
    let other = ServerTls::new(&keypair(3));
    let (at_client, _) = call(&client, &other, Some(&key), X509).await;
    assert!(matches!(at_client, Err(TlsFailure::OtherKey(_))));
    // A restart of the same nara only costs a full handshake.
    let restarted = ServerTls::new(&bob());
    assert!(!pair(call(&client, &restarted, Some(&key), X509).await).is_resumed());
}

/// Returns a ClientHello of TLS 1.2: its one extension offers signature schemes, and none offers a newer version.
fn client_hello_of_tls12() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 2, 0xc0, 0x2b]);
    hello.extend([1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 8, 7]);
    let mut message = vec![1, 0, 0, hello.len().try_into().unwrap()];
    message.extend(hello);
    let mut record = vec![FIRST_BYTE, 3, 1, 0, message.len().try_into().unwrap()];
    record.extend(message);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused_with_an_alert() {
    let server = ServerTls::new(&bob());
    let (mut near, far) = duplex(64 << 10);
    near.write_all(&client_hello_of_tls12()).await.unwrap();
    assert!(server.accept(far).await.is_err());
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    let (alert, fatal, protocol_version) = (21, 2, 70);
    assert_eq!((answer[0], &answer[5..]), (alert, &[fatal, protocol_version][..]));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_handshake_end_it_at_once() {
    let server = ServerTls::new(&bob());
    for garbage in [
        &[FIRST_BYTE; 600][..],
        b"\x16\x03\x01\xff\xffx",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let (mut near, far) = duplex(64 << 10);
        near.write_all(garbage).await.unwrap();
        let accepting = tokio::time::timeout(Duration::from_secs(1), server.accept(far));
        assert!(accepting.await.expect("it is refused, not waited for").is_err());
    }
}

#[test]
fn a_policy_is_read_as_it_is_written() {
    for policy in [TlsPolicy::Plain, TlsPolicy::Prefer, TlsPolicy::Require] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }
    assert!("TLS".parse::<TlsPolicy>().is_err());
}
