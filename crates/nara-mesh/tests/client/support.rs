//! Peers made by hand, that answer whatever a test wants.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nara_mesh::client::{MeshClient, MeshClientBuilder};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::auth::ResponseAuth;
use nara_mesh::proto::event::{Payload, SocialPayload, SyncEvent};
use nara_mesh::proto::go_json;
use nara_mesh::proto::identity::{KeyPair, NaraId, NaraName, Soul};
use nara_mesh::proto::peer::PingResponse;
use nara_mesh::proto::time::UnixNanos;
use nara_mesh::registry::{KeySource, PeerInfo, PinnedKey};
use nara_mesh::transport::{MemoryNetwork, Transport};

pub(crate) const NOW: i64 = 1_769_100_000_250_000_000;

/// A nara whose soul follows from its name.
pub(crate) fn nara(name: &str) -> LocalNara {
    let mut seed = [7; 32];
    for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    LocalNara::new(&Soul::bond(seed, name), name.parse().unwrap()).unwrap()
}

/// The host `100.64.0.{last}`, at the mesh port.
pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([100, 64, 0, last], 9632))
}

/// A signed social event at `ts` nanoseconds.
pub(crate) fn event(emitter: &LocalNara, ts: i64) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: emitter.name().to_string(),
        target: "bob".to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    SyncEvent::signed(
        UnixNanos::new(ts),
        Payload::Social(payload),
        emitter.name().as_str(),
        emitter.keypair(),
    )
}

pub(crate) fn json(value: &impl serde::Serialize) -> Bytes {
    go_json::to_body(value).into()
}

/// An answer signed by `nara` at the time of `clock`.
pub(crate) fn signed(nara: &LocalNara, clock: &ManualClock, status: u16, body: impl Into<Bytes>) -> Answer {
    let body = body.into();
    let mut response = Response::new(body.clone());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    ResponseAuth::sign(nara.keypair(), nara.name(), clock.now_millis(), &body)
        .write_to(response.headers_mut());
    Answer::With(response)
}

pub(crate) fn ping_answer(nara: &LocalNara) -> Answer {
    let answer = PingResponse {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        t: UnixNanos::new(NOW),
        ..PingResponse::default()
    };
    plain(200, json(&answer))
}

/// A network in memory with the client of alice at 100.64.0.1.
pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) clock: ManualClock,
    pub(crate) alice: LocalNara,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            network: MemoryNetwork::new(),
            clock: ManualClock::new(UnixNanos::new(NOW)),
            alice: nara("alice"),
        }
    }

    pub(crate) fn builder(&self) -> MeshClientBuilder {
        MeshClient::builder(self.alice.clone())
            .transport(Arc::new(self.network.host(address(1).ip())))
            .clock(Arc::new(self.clock.clone()))
    }

    pub(crate) fn client(&self) -> MeshClient {
        self.builder().build()
    }

    /// Starts a peer at 100.64.0.{last}.
    pub(crate) async fn peer(
        &self,
        last: u8,
        answer: impl Fn(&Received) -> Answer + Send + Sync + 'static,
    ) -> FakePeer {
        let address = address(last);
        FakePeer::start(self.network.host(address.ip()), address, answer).await
    }

    /// Starts a peer at 100.64.0.{last} that answers each signed endpoint with the same body, signed by
    /// `nara`, and `/ping` as itself.
    pub(crate) async fn honest(&self, last: u8, nara: &LocalNara, body: Bytes) -> FakePeer {
        let (nara, clock) = (nara.clone(), self.clock.clone());
        self.peer(last, move |request| match request.target.as_str() {
            "/ping" => ping_answer(&nara),
            _ => signed(&nara, &clock, 200, body.clone()),
        })
        .await
    }
}

/// Registers a peer with id, name, address and key.
pub(crate) fn introduce(client: &MeshClient, nara: &LocalNara, address: SocketAddr) -> NaraId {
    client.registry().register(known(nara, Some(address))).unwrap();
    nara.id().clone()
}

pub(crate) fn known(nara: &LocalNara, address: Option<SocketAddr>) -> PeerInfo {
    PeerInfo {
        id: Some(nara.id().clone()),
        name: Some(nara.name().clone()),
        address,
        key: Some(pinned(nara.name(), nara.keypair())),
    }
}

pub(crate) fn pinned(name: &NaraName, keypair: &KeyPair) -> PinnedKey {
    PinnedKey {
        name: name.clone(),
        id: None,
        key: keypair.public_key(),
        source: KeySource::Configured,
        learned_at: nara_mesh::proto::time::UnixMillis::new(0),
    }
}

/// How long `work` takes on the clock of paused time.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = tokio::time::Instant::now();
    (work.await, started.elapsed())
}
