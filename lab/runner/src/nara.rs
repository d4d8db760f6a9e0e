//! A complete nara on a node of the tailnet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::discovery::Discovery;
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{EventStore as _, MemoryLedger};
use nara_mesh::registry::PeerRegistry;
use nara_mesh::server::MeshHandler;
use nara_mesh::server::{MeshServer, RunningServer};
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::identity::{NaraName, Soul};
use nara_proto::world::WorldMessage;
use nara_tailnet::MeshNode;
use tokio::sync::watch;

use crate::kind::{Kind, embedded};
use crate::network::Network;
use crate::settings::Settings;
use crate::tsnet::MESH_PORT;

/// The timeout for a node to join.
const JOIN: Duration = Duration::from_secs(60);
/// The beginning of a story's text.
const STORY: &str = "story number ";

/// A complete nara; see the module.
#[derive(Debug)]
pub(crate) struct Nara {
    pub(crate) kind: Kind,
    pub(crate) name: NaraName,
    pub(crate) node: Arc<dyn MeshNode>,
    pub(crate) client: MeshClient,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) came_home: watch::Receiver<Option<WorldMessage>>,
    /// The time that the node took to join.
    pub(crate) joined: Duration,
    local: LocalNara,
    _server: RunningServer,
}

#[derive(Debug)]
struct Handler(watch::Sender<Option<WorldMessage>>);

impl MeshHandler for Handler {
    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        if complete {
            self.0.send_replace(Some(message.clone()));
        }
    }
}

impl Nara {
    /// Starts a nara with a node of its own, and waits until it has joined.
    pub(crate) async fn start(network: &Network, kind: Kind, name: &str) -> Result<Self, String> {
        let begin = Instant::now();
        let node = kind.start(network, name).await?;
        Self::on(node, kind, name, begin).await
    }

    /// Starts a nara on a node that was started at `begin`.
    pub(crate) async fn on(
        node: Arc<dyn MeshNode>,
        kind: Kind,
        name: &str,
        begin: Instant,
    ) -> Result<Self, String> {
        let status = node
            .ready(JOIN)
            .await
            .map_err(|error| format!("{name}: {error}"))?;
        let joined = begin.elapsed();
        let address = *status
            .addresses
            .first()
            .ok_or_else(|| format!("{name} has no address"))?;
        let name: NaraName = name.parse().map_err(|error| format!("{name}: {error}"))?;
        let local = LocalNara::new(&Soul::bond(seed(name.as_str()), name.as_str()), name.clone())
            .map_err(|error| error.to_string())?;
        let transport: Arc<dyn nara_mesh::transport::Transport> = node.clone();
        let client = MeshClient::builder(local.clone())
            .registry(PeerRegistry::default())
            .transport(Arc::clone(&transport))
            .build();
        let ledger = Arc::new(MemoryLedger::new());
        let (sender, came_home) = watch::channel(None);
        let server = MeshServer::builder(local.clone(), ledger.clone())
            .client(client.clone())
            .transport(transport)
            .handler(Handler(sender))
            .mesh_ip(address.to_string())
            .serve(SocketAddr::new(address, MESH_PORT))
            .await
            .map_err(|error| format!("{name} cannot serve: {error}"))?;
        Ok(Self {
            kind,
            name,
            node,
            client,
            ledger,
            came_home,
            joined,
            local,
            _server: server,
        })
    }

    /// Returns its current first address.
    pub(crate) fn address(&self) -> Result<IpAddr, String> {
        let first = self.node.status().addresses.first().copied();
        first.ok_or_else(|| format!("{} has no address", self.name))
    }

    /// Discovers the naras of the tailnet until these are registered.
    pub(crate) async fn discover(&self, wanted: &[&NaraName], within: Duration) -> Result<Duration, String> {
        let begin = Instant::now();
        let discovery = Discovery::new(self.client.clone(), self.node.clone()).ports([MESH_PORT]);
        loop {
            let found = discovery.run_once().await;
            let missing: Vec<_> = wanted
                .iter()
                .filter(|name| self.client.peer(**name).known().is_none())
                .collect();
            if missing.is_empty() {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > within {
                return Err(format!(
                    "{} did not find {missing:?} within {within:?}: {found:?}",
                    self.name
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Creates an event of this nara with the current time.
    pub(crate) fn event(&self, payload: Payload) -> SyncEvent {
        let now = SystemClock.now_nanos();
        SyncEvent::signed(now, payload, self.name.as_str(), self.local.keypair())
    }

    /// Creates events of this nara, one per second up to now.
    pub(crate) fn events(&self, count: u32, payload: impl Fn(&NaraName, u32) -> Payload) -> Vec<SyncEvent> {
        let now = SystemClock.now_nanos();
        (0..count)
            .map(|n| {
                let ts = now.saturating_sub(Duration::from_secs(u64::from(count - n)));
                SyncEvent::signed(
                    ts,
                    payload(&self.name, n),
                    self.name.as_str(),
                    self.local.keypair(),
                )
            })
            .collect()
    }

    /// Stores events in its ledger.
    pub(crate) async fn remember(&self, events: Vec<SyncEvent>) -> Result<(), String> {
        self.ledger
            .insert_verified(events)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

/// Returns the payload of a numbered event.
pub(crate) fn story(teller: &NaraName, n: u32) -> Payload {
    Payload::Social(SocialPayload {
        kind: "gossip".to_owned(),
        actor: teller.to_string(),
        target: "everybody".to_owned(),
        reason: format!("{STORY}{n}"),
        ..SocialPayload::default()
    })
}

/// Returns the number of a [`story`].
pub(crate) fn story_number(event: &SyncEvent) -> Option<u32> {
    event.social.as_ref()?.reason.strip_prefix(STORY)?.parse().ok()
}

/// Returns the seed of a lab nara, which is not secret.
fn seed(name: &str) -> [u8; 32] {
    let mut seed = [0; 32];
    for (at, byte) in name.bytes().enumerate().take(32) {
        seed[at] = byte;
    }
    seed
}

/// Runs a nara in a process of its own, on an embedded node: prints its address, and serves until it is killed or its
/// input ends.
pub(crate) async fn child(args: &[String]) -> Result<(), String> {
    let [name, control_url, auth_key, key_file] = args else {
        return Err("nara NAME CONTROL-URL AUTH-KEY KEY-FILE".to_owned());
    };
    let begin = Instant::now();
    let node = embedded(Settings {
        name: name.clone(),
        control_url: control_url.clone(),
        auth_key: auth_key.clone(),
        key_file: Some(key_file.into()),
        ephemeral: false,
        direct: true,
    })?;
    let nara = Nara::on(Arc::new(node), Kind::Embedded, name, begin).await?;
    println!("{}", nara.address()?);
    let mut input = tokio::io::stdin();
    // The input is empty: this waits for its end.
    let _ = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
    Ok(())
}
