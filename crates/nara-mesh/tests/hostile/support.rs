//! A server under attack, and its callers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::MeshHandler;
use nara_mesh::server::{MeshServer, MeshServerBuilder, RunningServer, VerifiedSender};
use nara_proto::event::{Payload, SeenPayload, SyncEvent};
use nara_proto::go_json;
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::{FRESHNESS_WINDOW, RequestAuth, ResponseAuth};

pub(crate) use crate::naras::{known, nara, nara_with_seed, registry};
use crate::raw_http::{self, RawResponse};

/// The time of the tests.
pub(crate) const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Returns any free port on loopback.
pub(crate) fn free_port() -> SocketAddr {
    SocketAddr::new(LOOPBACK, 0)
}

/// Records the senders of direct messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(pub(crate) Arc<Mutex<Vec<String>>>);

impl MeshHandler for Recorder {
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        if event.seen.as_deref().is_some_and(|seen| seen.via == "panic") {
            panic!("as the test demands");
        }
        self.0.lock().unwrap().push(sender.name().to_string());
    }
}

/// The server `target`, which knows `alice` and `bob`.
pub(crate) struct Target {
    pub(crate) local: LocalNara,
    pub(crate) running: RunningServer,
    pub(crate) registry: PeerRegistry,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) clock: ManualClock,
    pub(crate) senders: Recorder,
}

impl Target {
    pub(crate) async fn start() -> Self {
        Self::start_with(|builder| builder).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(MeshServerBuilder) -> MeshServerBuilder) -> Self {
        let registry = registry(&[&nara("alice"), &nara("bob")]);
        Self::start_on(MemoryLedger::new(), registry, change).await
    }

    /// Starts a target with another ledger and other known peers.
    pub(crate) async fn start_on(
        ledger: MemoryLedger,
        registry: PeerRegistry,
        change: impl FnOnce(MeshServerBuilder) -> MeshServerBuilder,
    ) -> Self {
        let local = nara("target");
        let ledger = Arc::new(ledger);
        // It has been running for longer than the age of any request of a test.
        let clock = ManualClock::new(NOW.saturating_sub(2 * FRESHNESS_WINDOW).to_nanos());
        let senders = Recorder::default();
        let builder = MeshServer::builder(local.clone(), ledger.clone())
            .registry(registry.clone())
            .clock(Arc::new(clock.clone()))
            .handler(senders.clone());
        let running = change(builder).serve(free_port()).await.unwrap();
        clock.advance(2 * FRESHNESS_WINDOW);
        Self {
            local,
            running,
            registry,
            ledger,
            clock,
            senders,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.local_addr()
    }

    pub(crate) async fn count(&self) -> usize {
        self.ledger.count().await.unwrap()
    }

    /// Sends raw bytes on a new connection.
    pub(crate) fn send(&self, request: &[u8]) -> RawResponse {
        raw_http::send(self.address(), request)
            .unwrap()
            .expect("an answer")
    }

    /// Sends a request that `sender` signs now, each one millisecond later.
    pub(crate) fn post(&self, sender: &LocalNara, path: &str, body: &[u8]) -> RawResponse {
        self.clock.advance(std::time::Duration::from_millis(1));
        let headers = signed(sender, self.clock.now_millis(), "POST", path);
        self.send(&request("POST", path, &headers, body))
    }

    pub(crate) fn post_json<T: serde::Serialize>(
        &self,
        sender: &LocalNara,
        path: &str,
        body: &T,
    ) -> RawResponse {
        self.post(sender, path, &go_json::to_vec(body))
    }

    /// Returns whether an answer has the target's signature over its body.
    pub(crate) fn signed_answer(&self, answer: &RawResponse) -> bool {
        let now = self.clock.now_millis();
        ResponseAuth::from_headers(&answer.header_map())
            .is_ok_and(|auth| auth.verify(&self.local.public_key(), &answer.body, now).is_ok())
    }
}

/// Returns the authentication headers of a request.
pub(crate) fn signed(sender: &LocalNara, at: UnixMillis, method: &str, path: &str) -> Vec<(String, Vec<u8>)> {
    let mut headers = HeaderMap::new();
    RequestAuth::sign(sender.keypair(), sender.name(), at, method, path).write_to(&mut headers);
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

pub(crate) fn request(method: &str, path: &str, headers: &[(String, Vec<u8>)], body: &[u8]) -> Vec<u8> {
    let headers: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()))
        .collect();
    raw_http::request(method, path, &headers, body)
}

/// Returns a signed event in which `emitter` saw `subject`.
pub(crate) fn seen(emitter: &LocalNara, subject: &str, via: &str, ts: UnixNanos) -> SyncEvent {
    let payload = SeenPayload {
        observer: emitter.name().to_string(),
        subject: subject.to_owned(),
        via: via.to_owned(),
        ..SeenPayload::default()
    };
    SyncEvent::signed(
        ts,
        Payload::Seen(payload),
        emitter.name().as_str(),
        emitter.keypair(),
    )
}
