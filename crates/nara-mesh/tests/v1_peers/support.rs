//! Alice, one of our naras, and v1 peers around her.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::Nara;
use nara_mesh::clock::{Clock as _, ManualClock};
use nara_mesh::defaults::{LEGACY_MESH_PORT, MESH_PORT};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::nara::NaraBuilder;
use nara_mesh::proto::event::SyncEvent;
use nara_mesh::proto::time::UnixNanos;
use nara_mesh::registry::PeerInfo;
use nara_mesh::transport::MemoryNetwork;

pub(crate) use crate::naras::{nara, tease};
pub(crate) use crate::v1_peer::V1Peer;

pub(crate) const NOW: UnixNanos = UnixNanos::new(1_769_100_000_250_000_000);

pub(crate) const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn ip(last: u8) -> IpAddr {
    [100, 64, 0, last].into()
}

pub(crate) struct Mesh {
    pub(crate) network: MemoryNetwork,
    pub(crate) clock: ManualClock,
    pub(crate) ledger: Arc<MemoryLedger>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self {
            network: MemoryNetwork::new(),
            clock: ManualClock::new(NOW),
            ledger: Arc::new(MemoryLedger::new()),
        }
    }

    /// Returns alice at 100.64.0.1, on both ports.
    pub(crate) fn alice(&self) -> NaraBuilder {
        self.nara("alice", 1, MESH_PORT)
            .also_listen(SocketAddr::new(ip(1), LEGACY_MESH_PORT))
            .ledger(self.ledger.clone())
    }

    /// Starts alice, who knows a v1 peer and does nothing unprompted.
    pub(crate) async fn quiet_alice(&self, known: &V1Peer) -> Nara {
        let alice = self.alice().without_gossip().catch_up(false);
        alice.know(configured(known)).start().await.unwrap()
    }

    /// Returns one of our naras on a non-standard port.
    pub(crate) fn nara(&self, name: &str, last: u8, port: u16) -> NaraBuilder {
        // Messages of the tests may be as old as the nara.
        Nara::builder(nara(name))
            .listen(SocketAddr::new(ip(last), port))
            .transport(Arc::new(self.network.host(ip(last))))
            .clock(Arc::new(self.clock.clone()))
            .configure_server(|server| server.refuse_before_start(false))
    }

    /// Starts a v1 peer at 100.64.0.{last}.
    pub(crate) async fn v1(&self, name: &str, last: u8) -> V1Peer {
        let address = SocketAddr::new(ip(last), LEGACY_MESH_PORT);
        V1Peer::start(
            nara(name),
            address,
            self.network.host(ip(last)),
            self.clock.clone(),
        )
        .await
    }

    pub(crate) fn now(&self) -> UnixNanos {
        self.clock.now_nanos()
    }
}

/// Returns an operator's entry for a v1 peer: name, key, and the address without a port.
pub(crate) fn configured(peer: &V1Peer) -> PeerInfo {
    let nara = peer.nara();
    PeerInfo::configured(nara.name().clone(), nara.public_key()).at_ip(peer.address().ip())
}

/// Waits until a condition holds, which is free with paused time.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), waiting).await;
    waited.expect("it is not so after ten minutes");
}

/// Returns the events of a long-running peer: this many, one a minute, the last one an hour ago.
pub(crate) fn history(emitter: &LocalNara, count: usize, now: UnixNanos) -> Vec<SyncEvent> {
    let minute = 60_000_000_000;
    let end = now.get() - 60 * minute;
    (0..count)
        .map(|n| {
            let age = i64::try_from(count - n).unwrap() * minute;
            tease(emitter, "bob", end - age)
        })
        .collect()
}
