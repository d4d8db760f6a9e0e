//! Broken connections, and peers that are not naras.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::client::{ClientErrorKind, MeshClient};
use nara_mesh::clock::Clock as _;
use nara_mesh::proto::breaker::BreakerState;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::peer::PingResponse;
use nara_mesh::proto::v1::ResponseAuth;
use nara_mesh::registry::PeerInfo;
use nara_mesh::transport::Transport as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Barrier;

use crate::support::{Mesh, address, event, introduce, json, nara};

/// A peer behind a middlebox that loses its connections: on those from before `reset` the next request breaks.
struct Forgetful {
    client: MeshClient,
    id: NaraId,
    generation: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Forgetful {
    /// Starts it with this many idle connections.
    async fn start(mesh: &Mesh, idle: usize) -> Self {
        let (bob, clock) = (nara("bob"), mesh.clock.clone());
        let client = mesh.client();
        let id = introduce(&client, &bob, address(2));
        let this = Self {
            client,
            id,
            generation: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
        };
        let mut listener = mesh
            .network
            .host(address(2).ip())
            .listen(address(2))
            .await
            .unwrap();
        let (generation, connections) = (this.generation.clone(), this.connections.clone());
        let open = this.open.clone();
        let together = Arc::new(Barrier::new(idle));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (generation, bob) = (generation.clone(), bob.clone());
                let (clock, together) = (clock.clone(), together.clone());
                let born = generation.load(Ordering::SeqCst);
                let service = service_fn(move |request: Request<Incoming>| {
                    let now = generation.load(Ordering::SeqCst);
                    let (bob, clock, together) = (bob.clone(), clock.clone(), together.clone());
                    async move {
                        if now != born {
                            return Err(std::io::Error::other("reset"));
                        }
                        request.into_body().collect().await.unwrap();
                        if now == 0 {
                            // So that each of the first calls needs a separate connection.
                            together.wait().await;
                        }
                        let ping = PingResponse {
                            from: bob.name().to_string(),
                            public_key: bob.public_key().to_base64(),
                            ..PingResponse::default()
                        };
                        let body: Bytes = json(&ping);
                        let mut answer = Response::new(Full::new(body.clone()));
                        ResponseAuth::sign(bob.keypair(), bob.name(), clock.now_millis(), &body)
                            .write_to(answer.headers_mut());
                        Ok(answer)
                    }
                });
                let serving =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service);
                let open = open.clone();
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let _ = serving.await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        let pings = join_all((0..idle).map(|_| this.client.ping(&this.id))).await;
        assert!(pings.iter().all(Result::is_ok));
        assert_eq!(this.connections(), idle);
        this
    }

    fn reset(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_takes_its_idle_siblings_with_it_and_an_idempotent_call_tries_a_new_one() {
    let mesh = Mesh::new();
    let peer = Forgetful::start(&mesh, 5).await;
    peer.reset();
    for _ in 0..3 {
        peer.client.ping(&peer.id).await.unwrap();
    }
    assert_eq!(peer.connections(), 6, "one more, and it is used again");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_with_the_key_on_which_it_was_opened() {
    let mesh = Mesh::new();
    let peer = Forgetful::start(&mesh, 3).await;
    // Far less than the time for which idle connections are kept.
    let soon = || tokio::time::sleep(Duration::from_millis(10));
    let registry = peer.client.registry();
    let replace = |name: &str| {
        let other = nara("mallory").public_key();
        registry.reconfigure(PeerInfo::configured(name.parse().unwrap(), other))
    };
    replace("carol").unwrap();
    soon().await;
    assert_eq!(
        peer.open.load(Ordering::SeqCst),
        3,
        "the key of another nara is of no interest"
    );
    replace("bob").unwrap();
    soon().await;
    assert_eq!(peer.open.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_non_idempotent_call_fails_once_and_does_not_open_the_breaker() {
    let mesh = Mesh::new();
    let peer = Forgetful::start(&mesh, 5).await;
    let dm = async || peer.client.send_dm(&peer.id, event(&mesh.alice, 1)).await;
    for _ in 0..4 {
        peer.reset();
        assert_eq!(dm().await.unwrap_err().kind(), ClientErrorKind::Broken);
        dm().await.unwrap();
    }
    let known = peer.client.peer(&peer.id).known().unwrap();
    assert_eq!(known.breaker_state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_protocol_error_is_distinguished_from_a_broken_connection() {
    let mesh = Mesh::new();
    let cases: [(&[u8], ClientErrorKind); 4] = [
        (b"SSH-2.0-OpenSSH_9.6\r\n", ClientErrorKind::NotHttp),
        (b"\x15\x03\x01\x00\x02\x02\x46", ClientErrorKind::NotHttp),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            ClientErrorKind::Broken,
        ),
        (b"", ClientErrorKind::Broken),
    ];
    for (last, (bytes, kind)) in (2..).zip(cases) {
        let mut listener = mesh
            .network
            .host(address(last).ip())
            .listen(address(last))
            .await
            .unwrap();
        tokio::spawn(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = io.read(&mut request).await;
                let _ = io.write_all(bytes).await;
            }
        });
        let error = mesh.client().ping(address(last)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}
