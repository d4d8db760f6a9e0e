//! Bob's server with his own routes, and callers that sign by hand.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::server::{MeshServer, MeshServerBuilder, RunningServer};
use nara_proto::identity::Signature;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, RequestAuth, ResponseAuth};
use nara_proto::v2::{
    AcceptSignature, ChannelBinding, ContentDigest, Nonce, Recipient, RequestLine, RequestToSign,
    ResponseSignature, SignedBody,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub(crate) use crate::naras::nara;
use crate::naras::{registry, seed_of};

/// The time of the tests.
pub(crate) const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

/// Returns bob's server, which knows alice.
pub(crate) fn bob() -> MeshServerBuilder {
    MeshServer::builder(nara("bob"), Arc::new(MemoryLedger::new()))
        .without_client()
        .registry(registry(&[&nara("alice")]))
}

pub(crate) async fn serve(builder: MeshServerBuilder) -> RunningServer {
    // It has been running for longer than the age of any request of a test.
    let clock = ManualClock::new(NOW.saturating_sub(2 * FRESHNESS_WINDOW).to_nanos());
    let built = builder.clock(Arc::new(clock.clone())).build().unwrap();
    clock.advance(2 * FRESHNESS_WINDOW);
    built.serve((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

/// How a caller authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    V1,
    V2,
    Tls,
    /// Without any proof.
    Unsigned,
}

pub(crate) const SIGNED: [Profile; 3] = [Profile::V1, Profile::V2, Profile::Tls];

/// A connection from alice to bob.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    channel: Option<ChannelBinding>,
    profile: Profile,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    proven: bool,
}

impl Answer {
    /// Returns whether bob has proven it as requested.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An answer whose body is not read yet.
pub(crate) struct Head {
    pub(crate) response: Response<Incoming>,
    request: Option<Signature>,
    profile: Profile,
}

impl Head {
    /// Returns the signed statement about the body in bob's v2 signature, if valid.
    pub(crate) fn signed_body(&self) -> Option<SignedBody> {
        let signed = ResponseSignature::from_headers(self.response.headers()).ok()?;
        let (key, request) = (nara("bob").public_key(), self.request?);
        let verified = signed.verify_signature(&key, self.response.status(), &request);
        verified.ok().map(|()| signed.body())
    }

    pub(crate) async fn read(self) -> Result<Answer, hyper::Error> {
        let covered = self.signed_body();
        let (parts, body) = self.response.into_parts();
        let body = body.collect().await?.to_bytes();
        let name = parts.headers.get("x-nara-name").map(HeaderValue::as_bytes);
        let proven = match self.profile {
            Profile::V1 => ResponseAuth::from_headers(&parts.headers)
                .is_ok_and(|auth| auth.verify(&nara("bob").public_key(), &body, NOW).is_ok()),
            Profile::V2 => match covered {
                Some(SignedBody::Digest(digest)) => digest.check(&body).is_ok(),
                Some(SignedBody::Streamed) | None => false,
            },
            Profile::Tls => name == Some(b"bob"),
            Profile::Unsigned => false,
        };
        Ok(Answer {
            status: parts.status,
            body,
            proven,
        })
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, profile: Profile) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        match profile {
            Profile::Tls => {
                let config = client_config(&nara("alice"));
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                let name = ServerName::try_from("bob.invalid").unwrap();
                let stream = connector.connect(name, stream).await.unwrap();
                let (_, connection) = stream.get_ref();
                let exported = connection.export_keying_material([0; 32], b"EXPORTER-nara-mesh-v2", None);
                let channel = Some(ChannelBinding::new(exported.unwrap()));
                Self::over(stream, channel, profile).await
            }
            _ => Self::over(stream, None, profile).await,
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        channel: Option<ChannelBinding>,
        profile: Profile,
    ) -> Self {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self {
            sender,
            channel,
            profile,
        }
    }

    /// Sends a request with the signature of this connection's profile.
    pub(crate) async fn call(&mut self, method: &str, target: &str, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let (headers, signature) = self.sign(method, target, Some(&body), |_| {});
        let head = self
            .send(method, target, headers, signature, Body::from(body))
            .await;
        head.unwrap().read().await.unwrap()
    }

    /// Returns the headers of a request to bob; without `body` it is streamed.
    pub(crate) fn sign(
        &self,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
        change: impl FnOnce(&mut HeaderMap),
    ) -> (HeaderMap, Option<Signature>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let alice = nara("alice");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let mut headers = HeaderMap::new();
        let mut signature = None;
        match self.profile {
            Profile::Unsigned => {}
            Profile::V1 => {
                // A separate millisecond per request.
                let at = UnixMillis::new(NOW.get() - i64::try_from(number).unwrap());
                RequestAuth::sign(alice.keypair(), alice.name(), at, method, path).write_to(&mut headers);
            }
            Profile::V2 | Profile::Tls => {
                let mut random = [0; 10];
                random[..8].copy_from_slice(&number.to_be_bytes());
                let signed = alice.signer().sign_request(&RequestToSign {
                    line: RequestLine { method, path, query },
                    to: &Recipient::Id(nara("bob").id().clone()),
                    body: body.map_or(SignedBody::Streamed, |body| {
                        SignedBody::Digest(ContentDigest::of(body))
                    }),
                    now: NOW,
                    nonce: Nonce::new(NOW, random),
                    channel: self.channel,
                });
                signed.write_to(&mut headers);
                signature = Some(*signed.signature());
            }
        }
        change(&mut headers);
        (headers, signature)
    }

    /// Sends a request unchanged.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: HeaderMap,
        signature: Option<Signature>,
        body: Body,
    ) -> Result<Head, hyper::Error> {
        let mut request = Request::builder().method(method).uri(target).body(body).unwrap();
        *request.headers_mut() = headers;
        request
            .headers_mut()
            .insert("host", HeaderValue::from_static("nara"));
        poll_fn(|cx| self.sender.poll_ready(cx)).await?;
        Ok(Head {
            response: self.sender.send_request(request).await?,
            request: signature,
            profile: self.profile,
        })
    }

    /// Requests an answer that may be signed at its head only.
    pub(crate) async fn ask_for_stream(&mut self, target: &str) -> Head {
        let (headers, signature) = self.sign("GET", target, Some(b""), |headers| {
            if self.profile == Profile::V2 {
                AcceptSignature::Streamed.write_to(headers);
            }
        });
        let head = self.send("GET", target, headers, signature, Body::empty()).await;
        head.unwrap()
    }
}

/// Sends one request on a new connection.
pub(crate) async fn call(
    server: &RunningServer,
    profile: Profile,
    method: &str,
    target: &str,
    body: &'static str,
) -> Answer {
    let mut connection = Connection::open(server.local_addr(), profile).await;
    connection.call(method, target, body).await
}

pub(crate) fn insert(headers: &mut HeaderMap, name: &'static str, value: &'static str) {
    headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
}

fn client_config(nara: &LocalNara) -> ClientConfig {
    // PKCS#8 of an Ed25519 key (RFC 8410, section 7): 16 bytes, then the seed.
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend(seed_of(nara.name().as_str()));
    let key = rcgen::KeyPair::try_from(der).unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_client_auth_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap()
}

/// Accepts every server: these tests do not check its key.
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
