//! A server and a client on loopback, and hand-made signatures.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use http::HeaderMap;
use nara_mesh::client::{MeshClient, MeshClientBuilder};
use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::{MeshServer, MeshServerBuilder, RunningServer};
use nara_proto::time::UnixMillis;
use nara_proto::v1::FRESHNESS_WINDOW;
use nara_proto::v2::{
    ContentDigest, Nonce, Recipient, RequestLine, RequestSignature, RequestToSign, SignedBody,
};

pub(crate) use crate::naras::{known, nara, registry};
use crate::raw_http::{self, RawResponse};

/// The time of the tests.
pub(crate) const NOW: UnixMillis = UnixMillis::new(1_769_100_000_250);

pub(crate) const SYNC: &[u8] = br#"{"from":"alice","mode":"recent"}"#;

/// Returns any free port on loopback.
pub(crate) fn free_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Bob's server, which knows alice.
pub(crate) struct Bob {
    pub(crate) running: RunningServer,
    pub(crate) registry: PeerRegistry,
    pub(crate) clock: ManualClock,
}

impl Bob {
    pub(crate) async fn start(change: impl FnOnce(MeshServerBuilder) -> MeshServerBuilder) -> Self {
        Self::start_at(free_port(), change).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        change: impl FnOnce(MeshServerBuilder) -> MeshServerBuilder,
    ) -> Self {
        let registry = registry(&[&nara("alice")]);
        // It has been running for longer than the age of any request of a test.
        let clock = ManualClock::new(NOW.saturating_sub(2 * FRESHNESS_WINDOW).to_nanos());
        let builder = MeshServer::builder(nara("bob"), Arc::new(MemoryLedger::new()))
            .registry(registry.clone())
            .clock(Arc::new(clock.clone()));
        let running = change(builder).serve(address).await.unwrap();
        clock.advance(2 * FRESHNESS_WINDOW);
        Self {
            running,
            registry,
            clock,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.local_addr()
    }

    /// Sends a request unchanged.
    pub(crate) fn send(&self, method: &str, target: &str, headers: &HeaderMap, body: &[u8]) -> RawResponse {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let bytes = raw_http::request(method, target, &headers, body);
        raw_http::send(self.address(), &bytes)
            .unwrap()
            .expect("an answer")
    }

    /// Returns the answer to a sync request with these headers.
    pub(crate) fn sync(&self, headers: &HeaderMap) -> RawResponse {
        self.send("POST", "/events/sync", headers, SYNC)
    }
}

/// Returns alice's client, at the time of the tests.
pub(crate) fn client(change: impl FnOnce(MeshClientBuilder) -> MeshClientBuilder) -> MeshClient {
    let clock = ManualClock::new(NOW.to_nanos());
    change(MeshClient::builder(nara("alice")).clock(Arc::new(clock))).build()
}

/// Returns alice's client, which knows bob at an address.
pub(crate) fn client_of_bob(address: SocketAddr) -> MeshClient {
    let client = client(|builder| builder);
    client
        .registry()
        .register(known(&nara("bob"), Some(address)))
        .unwrap();
    client
}

/// Returns a request that `signer` signs for bob.
pub(crate) fn signed_by<'a>(
    signer: &LocalNara,
    line: RequestLine<'a>,
    body: &[u8],
    change: impl FnOnce(&mut RequestToSign<'a>),
) -> RequestSignature {
    static BOB: LazyLock<Recipient> = LazyLock::new(|| Recipient::Id(nara("bob").id().clone()));
    let mut request = RequestToSign {
        line,
        to: &BOB,
        body: SignedBody::Digest(ContentDigest::of(body)),
        now: NOW,
        nonce: Nonce::new(NOW, rand()),
        channel: None,
    };
    change(&mut request);
    signer.signer().sign_request(&request)
}

/// Returns the headers of a sync request from alice to bob.
pub(crate) fn sync_headers<'a>(change: impl FnOnce(&mut RequestToSign<'a>)) -> HeaderMap {
    headers(&signed_by(&nara("alice"), SYNC_LINE, SYNC, change))
}

pub(crate) const SYNC_LINE: RequestLine<'static> = RequestLine {
    method: "POST",
    path: "/events/sync",
    query: None,
};

pub(crate) fn headers(signed: &RequestSignature) -> HeaderMap {
    let mut headers = HeaderMap::new();
    signed.write_to(&mut headers);
    headers
}

/// Returns ten bytes that no other request of the test has.
fn rand() -> [u8; 10] {
    use std::sync::atomic::{AtomicU64, Ordering};

    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}
