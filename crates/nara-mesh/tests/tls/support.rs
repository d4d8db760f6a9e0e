//! Alice calls bob on an in-memory network, with a man in the middle or an impostor.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use nara_mesh::client::{MeshClient, MeshClientBuilder};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::proto::identity::PublicKey;
use nara_mesh::proto::time::UnixNanos;
use nara_mesh::proto::v1::RequestAuth;
use nara_mesh::proto::v2::ChannelBinding;
use nara_mesh::registry::PeerProtocol;
use nara_mesh::server::{MeshServer, MeshServerBuilder};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, Transport as _};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::naras::{known, nara, registry, seed_of};

pub(crate) const ALICE: u8 = 1;
pub(crate) const BOB: u8 = 2;
pub(crate) const MALLORY: u8 = 3;

/// The first byte of a TLS connection.
pub(crate) const TLS: u8 = 0x16;

/// Returns the host `100.64.0.{last}` with the mesh port.
pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([100, 64, 0, last], 9632))
}

pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) clock: ManualClock,
    pub(crate) alice: LocalNara,
    pub(crate) bob: LocalNara,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            network: MemoryNetwork::new(),
            clock: ManualClock::new(UnixNanos::new(1_769_100_000_250_000_000)),
            alice: nara("alice"),
            bob: nara("bob"),
        }
    }

    /// Returns alice's client, which knows no peer.
    pub(crate) fn stranger(&self) -> MeshClientBuilder {
        MeshClient::builder(self.alice.clone())
            .transport(Arc::new(self.network.host(address(ALICE).ip())))
            .clock(Arc::new(self.clock.clone()))
    }

    /// Returns alice's client, which knows bob, his protocols, and his address `at`.
    pub(crate) fn client(&self, at: u8, protocol: PeerProtocol) -> MeshClient {
        let client = self.stranger().build();
        let peer = client.registry().register(known(&self.bob, Some(address(at))));
        client.registry().learn_protocol(&peer.unwrap(), protocol);
        client
    }

    /// Returns bob's server, which knows alice, not yet running.
    pub(crate) fn server(&self) -> MeshServerBuilder {
        MeshServer::builder(self.bob.clone(), Arc::new(MemoryLedger::new()))
            .registry(registry(&[&self.alice]))
            .clock(Arc::new(self.clock.clone()))
            .transport(Arc::new(self.network.host(address(BOB).ip())))
    }

    pub(crate) async fn dial(&self, from: u8) -> BoxMeshStream {
        let host = self.network.host(address(from).ip());
        host.dial(address(BOB)).await.unwrap()
    }

    /// Returns a request signed by alice, as bytes.
    pub(crate) fn signed_by_alice(&self, method: &str, path: &str) -> Vec<u8> {
        let mut headers = http::HeaderMap::new();
        let now = self.clock.now_millis();
        RequestAuth::sign(self.alice.keypair(), self.alice.name(), now, method, path).write_to(&mut headers);
        head_and_body(method, path, &headers, br#"{"from":"alice"}"#)
    }
}

/// Returns the bytes of a request.
pub(crate) fn head_and_body(method: &str, path: &str, headers: &http::HeaderMap, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nHost: nara\r\nContent-Length: {length}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: ").into_bytes());
        bytes.extend(value.as_bytes());
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

pub(crate) fn speaks_tls() -> PeerProtocol {
    let mut protocol = PeerProtocol::default();
    protocol.tls = true;
    protocol
}

pub(crate) fn speaks_raw() -> PeerProtocol {
    let mut protocol = speaks_tls();
    protocol.raw_public_key = true;
    protocol
}

/// Forwards connections to bob, and records the bytes of callers per connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tap(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap {
    pub(crate) async fn start(mesh: &Mesh, at: u8) -> Self {
        let tap = Self::default();
        let host = mesh.network.host(address(at).ip());
        let mut listener = host.listen(address(at)).await.unwrap();
        let running = tap.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = host.dial(address(BOB)).await.unwrap();
                let index = {
                    let mut connections = running.0.lock().unwrap();
                    connections.push(Vec::new());
                    connections.len() - 1
                };
                tokio::spawn(running.clone().pass_on(index, near, far));
            }
        });
        tap
    }

    async fn pass_on(self, index: usize, near: BoxMeshStream, far: BoxMeshStream) {
        let (mut from_near, mut to_near) = tokio::io::split(near);
        let (mut from_far, mut to_far) = tokio::io::split(far);
        let out = async {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from_near.read(&mut piece).await {
                self.0.lock().unwrap()[index].extend_from_slice(&piece[..count]);
                if to_far.write_all(&piece[..count]).await.is_err() {
                    break;
                }
            }
            let _ = to_far.shutdown().await;
        };
        let back = async {
            let _ = tokio::io::copy(&mut from_far, &mut to_near).await;
            let _ = to_near.shutdown().await;
        };
        tokio::join!(out, back);
    }

    /// Returns the bytes that each connection sent.
    pub(crate) fn connections(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    /// Returns whether each connection was TLS, in order.
    pub(crate) fn were_tls(&self) -> Vec<bool> {
        let first = |sent: &Vec<u8>| sent.first() == Some(&TLS);
        self.connections().iter().map(first).collect()
    }
}

/// Mallory, an attacker with her own Ed25519 key.
pub(crate) struct Mallory {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    public_key: PublicKey,
}

impl Mallory {
    pub(crate) fn new() -> Self {
        Self::with(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())
    }

    /// Returns an attacker with the key of a nara whose soul is derived from its name.
    pub(crate) fn with_the_key_of(nara: &LocalNara) -> Self {
        // PKCS#8 of an Ed25519 key (RFC 8410, section 7): 16 bytes, then the seed.
        let mut der = vec![
            0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
        ];
        der.extend(seed_of(nara.name().as_str()));
        Self::with(&rcgen::KeyPair::try_from(der).unwrap())
    }

    fn with(key: &rcgen::KeyPair) -> Self {
        let certificate = rcgen::CertificateParams::default().self_signed(key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
            public_key: PublicKey::from_bytes(key.public_key_raw().try_into().unwrap()).unwrap(),
        }
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Connects to bob.
    pub(crate) async fn connect(&self, stream: BoxMeshStream) -> BoxMeshStream {
        self.connect_bound(stream).await.0
    }

    /// Connects to bob, and returns the binding of the connection.
    pub(crate) async fn connect_bound(&self, stream: BoxMeshStream) -> (BoxMeshStream, ChannelBinding) {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_client_auth_cert(
                vec![self.certificate.clone()],
                PrivatePkcs8KeyDer::from(self.key.clone()).into(),
            )
            .unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("bob.invalid").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (_, tls) = stream.get_ref();
        let binding = tls.export_keying_material([0; 32], b"EXPORTER-nara-mesh-v2", None);
        (Box::new(stream), ChannelBinding::new(binding.unwrap()))
    }

    /// Accepts connections in place of bob, and forwards their contents to the real one, without TLS.
    pub(crate) async fn pose_as_bob(&self, mesh: &Mesh) {
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![self.certificate.clone()],
                PrivatePkcs8KeyDer::from(self.key.clone()).into(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let host = mesh.network.host(address(MALLORY).ip());
        let mut listener = host.listen(address(MALLORY)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(mut near) = acceptor.accept(near).await else {
                    continue;
                };
                let mut far = host.dial(address(BOB)).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        });
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Accepts every server.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Sends bytes and reads one small answer; empty if the connection was closed.
pub(crate) async fn exchange(stream: &mut BoxMeshStream, bytes: &[u8]) -> String {
    // It may be closed already.
    let _ = stream.write_all(bytes).await;
    answer(stream).await
}

/// Reads one small answer; empty if the connection was closed.
pub(crate) async fn answer(stream: &mut BoxMeshStream) -> String {
    let mut buffer = vec![0; 4096];
    let count = stream.read(&mut buffer).await.unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}
