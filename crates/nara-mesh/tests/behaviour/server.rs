//! The server of `http_fixture.json`, listening on loopback.

use std::net::SocketAddr;
use std::sync::Arc;

use nara_mesh::clock::ManualClock;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey};
use nara_mesh::server::MeshHandler;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::{NaraName, PublicKey, Soul};
use nara_proto::peer::Coordinates;
use nara_proto::time::UnixMillis;
use nara_proto::v1::FRESHNESS_WINDOW;
use serde_json::Value;

use crate::RUNTIME;
use crate::harness::{Case, Unreadable};
use crate::raw_http::{self, RawResponse};

/// A running server and its parts.
pub(crate) struct Server {
    pub(crate) key: PublicKey,
    pub(crate) peers: Vec<NaraName>,
    ledger: Arc<MemoryLedger>,
    running: RunningServer,
}

/// The naras that are online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    AllOnline,
    NobodyOnline,
}

/// The naras that are online.
#[derive(Debug)]
struct Neighbourhood(Vec<NaraName>);

impl MeshHandler for Neighbourhood {
    fn online_names(&self) -> Option<Vec<NaraName>> {
        Some(self.0.clone())
    }
}

impl Server {
    /// Starts the server of the fixture with these events, in this order. `also_known` is an additional peer.
    pub(crate) fn start(
        fixture: &Case<'_>,
        ledger: &[&str],
        now: UnixMillis,
        presence: Presence,
        also_known: Option<(NaraName, PublicKey)>,
    ) -> Result<Self, Unreadable> {
        let server = fixture.inner(fixture.object("server")?);
        let soul: Soul = server.parsed("soul")?;
        let local = LocalNara::new(&soul, server.parsed("name")?);
        let local = local.map_err(|error| fixture.fail("server", "a bonded soul", error.to_string()))?;
        let coordinates = Value::Object(server.object("coordinates")?.clone()).to_string();
        let coordinates: Coordinates = go_json::from_slice(coordinates.as_bytes())
            .map_err(|error| fixture.fail("server", "coordinates", error.to_string()))?;

        let registry = PeerRegistry::default();
        let mut peers = Vec::new();
        for fields in fixture.objects("known_peers")? {
            let peer = fixture.inner(fields);
            let (name, key) = (peer.parsed::<NaraName>("name")?, key(&peer)?);
            let ip = peer.parsed("mesh_ip")?;
            peers.push(name.clone());
            let mut info = known(name, key);
            info.id = Some(peer.parsed("nara_id")?);
            info.address = Some(SocketAddr::new(ip, 9632));
            registry
                .register(info)
                .expect("the peers of the fixture are consistent");
        }
        if let Some((name, key)) = also_known {
            // A nara of the fixture under its own key, or a new one.
            let _ = registry.register(known(name, key));
        }

        let events = ledger
            .iter()
            .map(|text| {
                go_json::from_slice::<SyncEvent>(text.as_bytes())
                    .map_err(|error| fixture.fail("ledger", *text, error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let store = Arc::new(MemoryLedger::new());
        // It has been running for longer than the age of any request of a case.
        let clock = ManualClock::new(now.saturating_sub(2 * FRESHNESS_WINDOW).to_nanos());
        let key = local.public_key();
        let builder = MeshServer::builder(local, store.clone())
            .registry(registry)
            .clock(Arc::new(clock.clone()))
            .handler(Neighbourhood(match presence {
                Presence::AllOnline => peers.clone(),
                Presence::NobodyOnline => Vec::new(),
            }))
            .mesh_ip(server.text("mesh_ip")?)
            .coordinates(coordinates);
        let running = RUNTIME.block_on(async {
            store.insert_verified(events).await.expect("memory does not fail");
            let running = builder.serve(([127, 0, 0, 1], 0).into()).await;
            clock.advance(2 * FRESHNESS_WINDOW);
            running
        });
        Ok(Self {
            key,
            peers,
            ledger: store,
            running: running.expect("loopback has a free port"),
        })
    }

    /// Returns how many events its ledger holds.
    pub(crate) fn count(&self) -> usize {
        RUNTIME
            .block_on(self.ledger.count())
            .expect("memory does not fail")
    }

    /// Sends a request and reads the answer; `None` if the connection was closed without one.
    pub(crate) fn send(&self, request: &[u8]) -> Option<RawResponse> {
        raw_http::send(self.running.local_addr(), request).expect("loopback works")
    }
}

fn known(name: NaraName, key: PublicKey) -> PeerInfo {
    let key = PinnedKey {
        name: name.clone(),
        id: None,
        key,
        source: KeySource::Configured,
        learned_at: UnixMillis::new(0),
    };
    PeerInfo {
        name: Some(name),
        key: Some(key),
        ..PeerInfo::default()
    }
}

fn key(case: &Case<'_>) -> Result<PublicKey, Unreadable> {
    let text = case.text("public_key_b64")?;
    PublicKey::from_base64(text).map_err(|_| case.fail("public_key_b64", "a public key", text))
}
