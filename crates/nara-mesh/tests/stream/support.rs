//! Naras on an in-memory network, and hand-written servers of streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{MeshClient, StreamError, StreamState, Subscription, VerifiedEvent};
use nara_mesh::clock::Clock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_mesh::proto::event::{Payload, SocialPayload, SyncEvent};
use nara_mesh::proto::identity::Soul;
use nara_mesh::proto::stream::{Hello, StreamOpening};
use nara_mesh::proto::sync::{Cursor, EventFilter};
use nara_mesh::proto::time::{UnixMillis, UnixNanos};
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey};
use nara_mesh::server::{MeshServer, RunningServer, ServerLimits};
use nara_mesh::transport::{BoxMeshStream, MemoryNetwork, Transport as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// The wall clock of tests: it advances with tokio's paused time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PausedClock(Instant);

impl PausedClock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for PausedClock {
    fn now_nanos(&self) -> UnixNanos {
        UnixNanos::new(1_769_100_000_250_000_000).saturating_add(self.0.elapsed())
    }
}

/// Returns a nara whose soul is derived from its name.
pub(crate) fn nara(name: &str) -> LocalNara {
    let mut seed = [9; 32];
    for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    LocalNara::new(&Soul::bond(seed, name), name.parse().unwrap()).unwrap()
}

/// Returns the host `100.64.0.{last}` with the mesh port.
pub(crate) fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([100, 64, 0, last], 9632))
}

/// Returns the time of event number `n`; events must have times above zero.
pub(crate) fn time(n: i64) -> UnixNanos {
    UnixNanos::new(1_769_000_000_000_000_000 + n)
}

/// Returns the signed social event number `ts`.
pub(crate) fn event(emitter: &LocalNara, ts: i64) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: emitter.name().to_string(),
        target: "dave".to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    let name = emitter.name().as_str();
    SyncEvent::signed(time(ts), Payload::Social(payload), name, emitter.keypair())
}

pub(crate) fn ledger() -> Arc<MemoryLedger> {
    Arc::new(MemoryLedger::new().with_retention(RetentionPolicy::UNLIMITED))
}

/// Returns the ids of all events of a ledger, by time.
pub(crate) async fn ids(ledger: &dyn Ledger) -> Vec<String> {
    let all = ledger
        .page(
            EventFilter::default(),
            Cursor::START,
            ReadLimit::events(usize::MAX),
        )
        .await;
    let all = all.unwrap();
    all.into_iter().map(|checked| checked.event.id).collect()
}

/// Alice at `.1`, who subscribes, and bob at `.2`, who serves; both know carol.
pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) clock: PausedClock,
    pub(crate) alice: LocalNara,
    pub(crate) bob: LocalNara,
    pub(crate) carol: LocalNara,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            network: MemoryNetwork::new(),
            clock: PausedClock::start(),
            alice: nara("alice"),
            bob: nara("bob"),
            carol: nara("carol"),
        }
    }

    pub(crate) fn registry(&self) -> PeerRegistry {
        let registry = PeerRegistry::default();
        for (nara, last) in [(&self.alice, 1), (&self.bob, 2), (&self.carol, 3)] {
            let info = PeerInfo {
                id: Some(nara.id().clone()),
                name: Some(nara.name().clone()),
                address: Some(address(last)),
                key: Some(PinnedKey {
                    name: nara.name().clone(),
                    id: None,
                    key: nara.public_key(),
                    source: KeySource::Configured,
                    learned_at: UnixMillis::new(0),
                }),
                ..PeerInfo::default()
            };
            registry.register(info).unwrap();
        }
        registry
    }

    /// Returns alice's client.
    pub(crate) fn client(&self) -> MeshClient {
        self.client_of(&self.alice, 1)
    }

    pub(crate) fn client_of(&self, nara: &LocalNara, last: u8) -> MeshClient {
        MeshClient::builder(nara.clone())
            .transport(Arc::new(self.network.host(address(last).ip())))
            .clock(Arc::new(self.clock))
            .registry(self.registry())
            .build()
    }

    /// Starts bob's server.
    pub(crate) async fn serve(&self, ledger: Arc<dyn Ledger>) -> RunningServer {
        self.serve_with(ledger, ServerLimits::default()).await
    }

    pub(crate) async fn serve_with(&self, ledger: Arc<dyn Ledger>, limits: ServerLimits) -> RunningServer {
        MeshServer::builder(self.bob.clone(), ledger)
            .transport(Arc::new(self.network.host(address(2).ip())))
            .clock(Arc::new(self.clock))
            .registry(self.registry())
            .limits(limits)
            .serve(address(2))
            .await
            .unwrap()
    }

    /// Returns a signed `hello` of bob.
    pub(crate) fn hello(&self, request: &Opening, position: i64, start: i64, reason: &str) -> Hello {
        let mut hello = Hello {
            from: self.bob.name().to_string(),
            id: self.bob.id().to_string(),
            ts: self.clock.now_millis(),
            epoch: EPOCH.to_owned(),
            position,
            start,
            reason: reason.to_owned(),
            keep_alive_ms: 15_000,
            capabilities: None,
            sig: String::new(),
        };
        hello.sign(request.opening(), self.bob.keypair());
        hello
    }
}

/// The epoch of hand-written servers.
pub(crate) const EPOCH: &str = "00000000000000ab";

/// The request that a hand-written server received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Opening {
    pub(crate) query: String,
    pub(crate) signature: String,
    pub(crate) last_event_id: String,
}

impl Opening {
    pub(crate) fn opening(&self) -> StreamOpening<'_> {
        StreamOpening {
            request_signature: &self.signature,
            query: &self.query,
            last_event_id: &self.last_event_id,
        }
    }

    async fn read(stream: &mut BoxMeshStream) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let header = |name: &str| {
            let mut lines = head.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_default().to_owned()
        };
        let target = head.split(' ').nth(1).unwrap();
        Self {
            query: target.split_once('?').map_or("", |(_, query)| query).to_owned(),
            signature: header("x-nara-signature"),
            last_event_id: header("last-event-id"),
        }
    }
}

/// The head of a streamed answer that lasts until its connection closes.
pub(crate) const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// Returns one block of server-sent events.
pub(crate) fn block(kind: &str, seq: i64, data: &str) -> String {
    format!("event: {kind}\nid: {EPOCH}:{seq}\ndata: {data}\n\n")
}

/// Starts a server at `.2` that answers the n-th request with the result of `answer`, and then holds the connection; it
/// closes it if the result is empty.
pub(crate) async fn serve_by_hand(
    network: &MemoryNetwork,
    answer: impl Fn(usize, &Opening) -> Vec<u8> + Send + Sync + 'static,
) {
    let mut listener = network.host(address(2).ip()).listen(address(2)).await.unwrap();
    tokio::spawn(async move {
        let answer = Arc::new(answer);
        let mut count = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let index = count;
            count += 1;
            tokio::spawn(async move {
                let opening = Opening::read(&mut stream).await;
                let bytes = answer(index, &opening);
                // The client may close the connection in the middle.
                if stream.write_all(&bytes).await.is_ok() && !bytes.is_empty() {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
}

/// Returns the next item, within a minute of paused time.
pub(crate) async fn next(subscription: &mut Subscription) -> Result<VerifiedEvent, StreamError> {
    tokio::time::timeout(Duration::from_secs(60), subscription.next())
        .await
        .expect("an item within a minute")
        .expect("the subscription goes on")
}

/// Returns the number of the next event.
pub(crate) async fn next_ts(subscription: &mut Subscription) -> i64 {
    number(&next(subscription).await.unwrap())
}

/// Waits until a subscription reaches a state.
pub(crate) async fn until(subscription: &Subscription, wanted: impl Fn(&StreamState) -> bool) -> StreamState {
    let mut state = subscription.state();
    let waiting = state.wait_for(|state| wanted(state));
    let reached = tokio::time::timeout(Duration::from_secs(300), waiting).await;
    reached.expect("the state within five minutes").unwrap().clone()
}

pub(crate) fn is_waiting(state: &StreamState) -> bool {
    matches!(state, StreamState::Waiting { .. })
}

/// Returns the number of an event.
pub(crate) fn number(verified: &VerifiedEvent) -> i64 {
    verified.event.ts.get() - time(0).get()
}

/// Stops a server without a goodbye.
pub(crate) async fn crash(server: RunningServer) {
    drop(server);
    // Its tasks end when they run next.
    tokio::time::sleep(Duration::from_millis(1)).await;
}
