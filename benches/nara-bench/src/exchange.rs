//! Round trips of `POST /events/sync` with a small answer: signed, unsigned, and over bare hyper.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::{PeerProtocol, PeerRegistry};
use nara_mesh::server::MeshServer;
use nara_mesh::tls::ChannelTrust;
use nara_proto::go_json;
use nara_proto::identity::Soul;
use nara_proto::sync::{SyncRequest, SyncResponse};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::bare::Bare;
use crate::resources::Resources;

type Error = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Plan {
    pub(crate) requests: u64,
    pub(crate) in_flight: u64,
    pub(crate) warmup: u64,
    pub(crate) unsigned: bool,
    pub(crate) bare: bool,
    pub(crate) tls: bool,
    pub(crate) handshake_only: bool,
}

pub(crate) fn measure(plan: &Plan) -> Result<Value, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if plan.bare {
            let exchange = Bare::start(plan.in_flight, plan.tls).await?;
            repeat(plan, move || exchange.clone().once()).await
        } else if plan.unsigned {
            let exchange = Unsigned::start().await?;
            repeat(plan, move || exchange.clone().once()).await
        } else {
            let exchange = Signed::start(plan).await?;
            repeat(plan, move || exchange.clone().once()).await
        }
    })
}

/// The capabilities of a peer that accepts TLS.
pub(crate) fn x509() -> PeerProtocol {
    let mut protocol = PeerProtocol::default();
    protocol.tls = true;
    protocol
}

/// The capabilities of a peer that accepts TLS with raw public keys.
pub(crate) fn raw_keys() -> PeerProtocol {
    let mut protocol = x509();
    protocol.raw_public_key = true;
    protocol
}

/// Both ends sign: the client signs, the server verifies and signs, the client verifies.
#[derive(Clone)]
struct Signed {
    client: MeshClient,
    server: Arc<LocalNara>,
    tls: bool,
    /// The server runs while this is held.
    _running: Arc<nara_mesh::server::RunningServer>,
}

impl Signed {
    async fn start(plan: &Plan) -> Result<Self, Error> {
        let trust = if plan.handshake_only {
            ChannelTrust::Handshake
        } else {
            ChannelTrust::default()
        };
        let nara =
            |seed, name: &str| LocalNara::new(&Soul::bond([seed; 32], name), name.parse().expect("a name"));
        let (alice, bob) = (nara(1, "alice")?, nara(2, "bob")?);
        let registry = PeerRegistry::default();
        registry.pin(crate::store::configured(&alice))?;
        let ledger = Arc::new(MemoryLedger::new());
        let running = MeshServer::builder(bob.clone(), ledger)
            .registry(registry)
            .limits(crate::mesh::tireless())
            .channel_trust(trust)
            .serve(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await?;
        let client = MeshClient::builder(alice).channel_trust(trust).build();
        client.registry().pin(crate::store::configured(&bob))?;
        let peer = client.register_peer(bob.id(), running.local_addr())?;
        if plan.tls {
            let mut protocol = raw_keys();
            protocol.v2 = true;
            client.registry().learn_protocol(&peer, protocol);
        }
        Ok(Self {
            client,
            server: Arc::new(bob),
            tls: plan.tls,
            _running: Arc::new(running),
        })
    }

    async fn once(self) -> Result<(), Error> {
        let answer = self
            .client
            .fetch_sync_events(self.server.id(), SyncRequest::recent(1))
            .await?;
        let proof = answer.verification();
        let proven = if self.tls {
            proof.channel
        } else {
            // A v2 signature covers the whole answer and its request, so the answer has no inner signature.
            proof.header && (proof.inner || proof.bound)
        };
        if !proven {
            return Err("the answer was not verified".into());
        }
        Ok(())
    }
}

/// A bare hyper client and a bare axum server with the same bodies.
#[derive(Clone)]
struct Unsigned {
    client: Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>,
    uri: http::Uri,
}

impl Unsigned {
    async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let uri = format!("http://{}/events/sync", listener.local_addr()?).parse()?;
        let router = axum::Router::new().route("/events/sync", axum::routing::post(answer));
        tokio::spawn(async move {
            axum::serve(
                axum::serve::ListenerExt::tap_io(listener, |io| {
                    let _ = io.set_nodelay(true);
                }),
                router,
            )
            .await
        });
        let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            uri,
        })
    }

    async fn once(self) -> Result<(), Error> {
        let body = go_json::to_vec(&SyncRequest {
            from: "alice".to_owned(),
            ..SyncRequest::recent(1)
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let body = self
            .client
            .request(request)
            .await?
            .into_body()
            .collect()
            .await?
            .to_bytes();
        let _: SyncResponse = go_json::from_slice(&body)?;
        Ok(())
    }
}

async fn answer(body: Bytes) -> Vec<u8> {
    let request: SyncRequest = go_json::from_slice(&body).unwrap_or_default();
    go_json::to_body(&SyncResponse {
        from: request.from,
        ..SyncResponse::default()
    })
}

async fn repeat<F, Fut>(plan: &Plan, once: F) -> Result<Value, Error>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    many(plan.warmup, plan.in_flight, once.clone()).await?;
    let (start, resources) = (Instant::now(), Resources::now());
    let future_bytes = size_of::<Fut>();
    let latencies = many(plan.requests, plan.in_flight, once).await?;
    let seconds = start.elapsed().as_secs_f64();
    let each = resources.per_round_trip(plan.requests);
    Ok(json!({
        "requests": plan.requests,
        "seconds": seconds,
        "rps": plan.requests as f64 / seconds,
        "p50_us": latencies.value_at_quantile(0.5) as f64 / 1e3,
        "p99_us": latencies.value_at_quantile(0.99) as f64 / 1e3,
        "cpu_us_per_round_trip": each.cpu_us,
        "allocations_per_round_trip": each.allocations,
        "future_bytes": future_bytes,
        "unsigned": plan.unsigned,
        "bare": plan.bare,
        "tls": plan.tls,
        "handshake_only": plan.handshake_only,
        "cores": std::thread::available_parallelism()?.get(),
    }))
}

/// Makes `count` round trips, `in_flight` concurrently; the histogram is in nanoseconds.
async fn many<F, Fut>(count: u64, in_flight: u64, once: F) -> Result<Histogram<u64>, Error>
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    let left = Arc::new(AtomicU64::new(count));
    let workers: Vec<_> = (0..in_flight)
        .map(|_| {
            let (left, once) = (left.clone(), once.clone());
            tokio::spawn(async move {
                let mut latencies = Histogram::<u64>::new(3)?;
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                    .is_ok()
                {
                    let start = Instant::now();
                    once().await?;
                    latencies.record(u64::try_from(start.elapsed().as_nanos())?)?;
                }
                Ok::<_, Error>(latencies)
            })
        })
        .collect();
    let mut all = Histogram::new(3)?;
    for worker in workers {
        all.add(worker.await??)?;
    }
    Ok(all)
}
