use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use nara_mesh::client::MeshClient;
use nara_mesh::clock::Clock;
use nara_mesh::gossip::{GossipConfig, GossipService, GossipStatus};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, Followed, Follower, MemoryLedger};
use nara_mesh::proto::event::{Payload, SocialPayload, SyncEvent};
use nara_mesh::proto::identity::{KeyPair, Soul};
use nara_mesh::proto::sync::EventFilter;
use nara_mesh::proto::time::UnixNanos;
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey, TrustPolicy};
use nara_mesh::server::{MeshServer, MeshServerBuilder, RunningServer};
use nara_mesh::tls::TlsPolicy;
use nara_mesh::transport::{MemoryNetwork, Transport as _};
use tokio::time::Instant;

/// The number of neighbours: fewer than all, so that events take several hops.
pub(crate) const DEGREE: usize = 3;

const NOW: i64 = 1_769_100_000_250_000_000;

/// A wall clock that follows the paused clock.
#[derive(Debug)]
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now_nanos(&self) -> UnixNanos {
        UnixNanos::new(NOW).saturating_add(self.0.elapsed())
    }
}

/// One nara. Its ledger outlives its server.
pub(crate) struct Nara {
    local: LocalNara,
    address: SocketAddr,
    clock: Arc<dyn Clock>,
    pub(crate) client: MeshClient,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) gossip: Option<GossipService>,
    server: Option<RunningServer>,
}

impl Nara {
    /// Makes an event, like the application of this nara, and returns its id.
    pub(crate) async fn make_event(&self, ts: u64) -> String {
        let event = self.event(ts);
        let id = event.id.clone();
        self.ledger.insert_verified(vec![event]).await.unwrap();
        id
    }

    /// Adds a forged event of this nara to the ledger, signed with another key.
    pub(crate) async fn forge_event(&self) {
        let other = Soul::bond([9; 32], "other");
        let mut event = self.event(1);
        event.sign(self.local.name().as_str(), &KeyPair::from_soul(&other));
        self.ledger.insert_verified(vec![event]).await.unwrap();
    }

    /// Returns a signed event, `ts` nanoseconds from now.
    fn event(&self, ts: u64) -> SyncEvent {
        let payload = SocialPayload {
            kind: "tease".to_owned(),
            actor: self.local.name().to_string(),
            target: "bob".to_owned(),
            reason: "comeback".to_owned(),
            ..SocialPayload::default()
        };
        let ts = self.clock.now_nanos().saturating_add(Duration::from_nanos(ts));
        let name = self.local.name().as_str();
        SyncEvent::signed(ts, Payload::Social(payload), name, self.local.keypair())
    }

    /// Waits until the ledger contains an event.
    pub(crate) async fn has(&self, id: &str) {
        let mut follower = Follower::new(self.ledger.clone(), 0, EventFilter::default());
        loop {
            if let Followed::Events(events) = follower.next().await.unwrap()
                && events.iter().any(|arrival| arrival.event.id == id)
            {
                return;
            }
        }
    }

    /// Waits until the status of gossip satisfies a condition.
    pub(crate) async fn wait_for(&self, wanted: impl FnMut(&GossipStatus) -> bool) -> GossipStatus {
        let mut status = self.gossip.as_ref().unwrap().status();
        within(Duration::from_secs(60), status.wait_for(wanted))
            .await
            .unwrap()
            .clone()
    }
}

/// Waits for `work`, at most this long.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, work).await.expect("in time")
}

/// Naras that know each other, on one network.
pub(crate) struct Mesh {
    network: MemoryNetwork,
    clock: Arc<dyn Clock>,
    pub(crate) naras: Vec<Nara>,
}

impl Mesh {
    pub(crate) async fn start(naras: usize) -> Self {
        let mut mesh = Self {
            network: MemoryNetwork::new(),
            clock: Arc::new(VirtualClock(Instant::now())),
            naras: Vec::new(),
        };
        for _ in 0..naras {
            let nara = mesh.nara();
            mesh.naras.push(nara);
        }
        for index in 0..naras {
            mesh.restart(index).await;
        }
        mesh
    }

    /// Creates a nara that knows the earlier ones, which know it; it is not online yet.
    fn nara(&self) -> Nara {
        let index = self.naras.len();
        let name = format!("nara-{index}");
        let mut seed = [7; 32];
        seed[0] = u8::try_from(index).unwrap();
        let local = LocalNara::new(&Soul::bond(seed, &name), name.parse().unwrap()).unwrap();
        let address = SocketAddr::from(([100, 64, 0, seed[0] + 1], 9632));
        // A removed nara stays out, although it calls.
        let registry = PeerRegistry::default().with_trust(TrustPolicy::Closed);
        let info = info(&local, address);
        for other in &self.naras {
            registry
                .register(self::info(&other.local, other.address))
                .unwrap();
            other.client.registry().register(info.clone()).unwrap();
        }
        let client = MeshClient::builder(local.clone())
            .registry(registry)
            .transport(Arc::new(self.network.host(address.ip())))
            .clock(self.clock.clone())
            .build();
        Nara {
            local,
            address,
            clock: self.clock.clone(),
            client,
            ledger: Arc::new(MemoryLedger::new()),
            gossip: None,
            server: None,
        }
    }

    fn server(&self, nara: &Nara) -> MeshServerBuilder {
        MeshServer::builder(nara.local.clone(), nara.ledger.clone())
            .client(nara.client.clone())
            .transport(Arc::new(self.network.host(nara.address.ip())))
            .clock(self.clock.clone())
    }

    /// Starts the server and the gossip of a nara.
    pub(crate) async fn restart(&mut self, index: usize) {
        let server = self.server(&self.naras[index]);
        let nara = &mut self.naras[index];
        nara.server = Some(server.serve(nara.address).await.unwrap());
        let config = GossipConfig::with_degree(DEGREE);
        let (client, ledger) = (nara.client.clone(), nara.ledger.clone());
        let gossip = GossipService::start(client, ledger, config, GossipService::CATCH_UP);
        nara.gossip = Some(gossip);
    }

    /// Takes a nara offline.
    pub(crate) async fn stop(&mut self, index: usize) {
        let nara = &mut self.naras[index];
        nara.gossip.take().unwrap().stop().await;
        nara.server.take().unwrap().shutdown(Duration::from_secs(1)).await;
    }

    /// Adds a nara without streams that does not call other naras; returns its number.
    pub(crate) async fn join_without_streams(&mut self) -> usize {
        let nara = self.nara();
        let host = self.network.host(nara.address.ip());
        let behind = SocketAddr::new(nara.address.ip(), 1);
        let server = self
            .server(&nara)
            .tls(TlsPolicy::Plain)
            .serve(behind)
            .await
            .unwrap();
        let mut listener = host.listen(nara.address).await.unwrap();
        tokio::spawn(async move {
            let _server = server;
            while let Ok((stream, _)) = listener.accept().await {
                let inner = host.dial(behind).await.unwrap();
                let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(inner))
                    .await
                    .unwrap();
                tokio::spawn(connection);
                let sender = Arc::new(tokio::sync::Mutex::new(sender));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        if request.uri().path() == "/events/stream" {
                            let mut unknown = Response::new(Body::empty());
                            *unknown.status_mut() = StatusCode::NOT_FOUND;
                            return Ok::<_, hyper::Error>(unknown);
                        }
                        let mut sender = sender.lock().await;
                        sender.ready().await?;
                        sender
                            .send_request(request)
                            .await
                            .map(|response| response.map(Body::new))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        self.naras.push(nara);
        self.naras.len() - 1
    }

    /// Waits until the gossip of one of the naras satisfies a condition.
    pub(crate) async fn wait_for_any(&self, wanted: impl Fn(&GossipStatus) -> bool) {
        let all = self.naras.iter().filter_map(|nara| nara.gossip.as_ref());
        let waiting = all.map(|gossip| {
            let (mut status, wanted) = (gossip.status(), &wanted);
            Box::pin(async move { status.wait_for(wanted).await.map(drop) })
        });
        within(Duration::from_secs(60), futures_util::future::select_all(waiting))
            .await
            .0
            .unwrap();
    }
}

fn info(nara: &LocalNara, address: SocketAddr) -> PeerInfo {
    PeerInfo {
        id: Some(nara.id().clone()),
        name: Some(nara.name().clone()),
        address: Some(address),
        key: Some(PinnedKey {
            name: nara.name().clone(),
            id: Some(nara.id().clone()),
            key: nara.public_key(),
            source: KeySource::Configured,
            learned_at: UnixNanos::new(NOW).to_millis(),
        }),
        ..PeerInfo::default()
    }
}
