//! Alice's client in an in-memory network, and its peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use nara_mesh::client::{MeshClient, MeshClientBuilder};
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::go_json;
use nara_mesh::proto::identity::NaraId;
use nara_mesh::proto::peer::PingResponse;
use nara_mesh::proto::time::UnixNanos;
use nara_mesh::proto::v1::ResponseAuth;
use nara_mesh::transport::MemoryNetwork;

pub(crate) use crate::fake_peer::{Answer, FakePeer, Received, plain};
use crate::naras::tease;
pub(crate) use crate::naras::{known, nara, pinned};

pub(crate) const NOW: i64 = 1_769_100_000_250_000_000;

/// Returns the host `100.64.0.{last}` with the mesh port.
pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([100, 64, 0, last], 9632))
}

/// Returns a signed social event at `ts` nanoseconds.
pub(crate) fn event(emitter: &LocalNara, ts: i64) -> SyncEvent {
    tease(emitter, "bob", ts)
}

pub(crate) fn json(value: &impl serde::Serialize) -> Bytes {
    go_json::to_body(value).into()
}

/// Returns an answer signed by `nara` at the time of `clock`.
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

/// An in-memory network with alice's client at 100.64.0.1.
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

/// Returns how long `work` takes on the paused clock.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = tokio::time::Instant::now();
    (work.await, started.elapsed())
}
