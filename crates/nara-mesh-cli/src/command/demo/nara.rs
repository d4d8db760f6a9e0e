//! The naras of the demo.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::Ledger;
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::MeshHandler;
use nara_mesh::server::{MeshServer, RunningServer, Shutdown};
use nara_proto::event::{Payload, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::world::WorldMessage;
use tokio::sync::watch;

use crate::connect::new_soul;
use crate::failure::{Failure, Outcome};
use crate::ledger_file;

/// The names of the naras, in order.
pub(super) const NAMES: [&str; 16] = [
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mike", "niaj",
    "olivia", "peggy", "rupert", "sybil",
];

/// Timeout of a call: longer than the default, so that a busy machine does not fail the demo.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A complete nara.
#[derive(Debug)]
pub(super) struct DemoNara {
    pub(super) local: LocalNara,
    pub(super) client: MeshClient,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) address: SocketAddr,
    /// The last world message that came home.
    pub(super) came_home: watch::Receiver<Option<WorldMessage>>,
    server: RunningServer,
}

/// All naras of the demo, which know each other.
#[derive(Debug)]
pub(super) struct Mesh(Vec<DemoNara>);

#[derive(Debug)]
struct Handler(watch::Sender<Option<WorldMessage>>);

impl MeshHandler for Handler {
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        if complete {
            self.0.send_replace(Some(message.clone()));
        }
    }
}

impl Mesh {
    /// Starts at least three naras with these names, with their ledgers in a folder.
    pub(super) async fn start(names: &[&str], folder: &Path) -> Outcome<Self> {
        let mut naras = Vec::with_capacity(names.len());
        for name in names {
            naras.push(DemoNara::start(name, folder).await?);
        }
        let entries: Vec<PeerEntry> = naras
            .iter()
            .map(|nara| PeerEntry::of(&nara.local, Some(nara.address)))
            .collect();
        for nara in &naras {
            for entry in entries.iter().filter(|entry| entry.name != *nara.local.name()) {
                let registered = nara.client.registry().register(entry.to_info());
                registered.map_err(|error| Failure::failed(error.to_string()))?;
            }
        }
        Ok(Self(naras))
    }

    pub(super) fn naras(&self) -> &[DemoNara] {
        &self.0
    }

    /// Returns the first three naras, which take part in most steps.
    pub(super) fn trio(&self) -> [&DemoNara; 3] {
        [&self.0[0], &self.0[1], &self.0[2]]
    }

    /// Shuts all naras down. Returns whether all of them did so gracefully.
    pub(super) async fn shutdown(self, grace: Duration) -> bool {
        let ending = self.0.into_iter().map(|nara| async move {
            // The client's idle connections would delay the shutdown of other servers.
            drop(nara.client);
            nara.server.shutdown(grace).await == Shutdown::Graceful
        });
        futures_util::future::join_all(ending)
            .await
            .into_iter()
            .all(|graceful| graceful)
    }
}

impl DemoNara {
    async fn start(name: &str, folder: &Path) -> Outcome<Self> {
        let name: NaraName = name
            .parse()
            .map_err(|error| Failure::failed(format!("the name {name}: {error}")))?;
        let soul = new_soul(&name)?;
        let ledger = ledger_file::open(&folder.join(format!("{name}.db"))).await?;
        let local = LocalNara::new(&soul, name).map_err(|error| Failure::failed(error.to_string()))?;
        let client = MeshClient::builder(local.clone())
            .registry(PeerRegistry::default())
            .call_timeout(PATIENCE)
            .dial_timeout(PATIENCE)
            .build();
        let (sender, came_home) = watch::channel(None);
        let server = MeshServer::builder(local.clone(), ledger.clone())
            .client(client.clone())
            .handler(Handler(sender))
            .mesh_ip(Ipv4Addr::LOCALHOST.to_string())
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .map_err(|error| Failure::failed(error.to_string()).caused_by(error))?;
        Ok(Self {
            address: server.local_addr(),
            local,
            client,
            ledger,
            came_home,
            server,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.local.name().as_str()
    }

    /// Creates an event of this nara with the current time.
    pub(super) fn event(&self, payload: Payload) -> SyncEvent {
        SyncEvent::signed(
            SystemClock.now_nanos(),
            payload,
            self.name(),
            self.local.keypair(),
        )
    }
}
