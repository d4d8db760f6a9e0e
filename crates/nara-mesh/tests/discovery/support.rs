use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_mesh::client::MeshClient;
use nara_mesh::discovery::{Discovery, Found};
use nara_mesh::identity::LocalNara;
use nara_mesh::registry::PeerInfo;
use nara_mesh::transport::{Candidate, MemoryNetwork, PeerSource};
use nara_proto::breaker::BreakerState;
use nara_proto::identity::NaraName;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;

#[expect(dead_code, reason = "shared with other tests")]
#[path = "../support/fake_peer.rs"]
mod fake_peer;
#[expect(dead_code, reason = "shared with other tests")]
#[path = "../support/naras.rs"]
mod naras;

pub(crate) use fake_peer::{Answer, FakePeer, plain};
pub(crate) use naras::{nara, nara_with_seed};

/// Returns a nara's answer to a ping.
pub(crate) fn pong(nara: &LocalNara) -> Answer {
    let key = nara.public_key().to_base64();
    plain(
        200,
        format!(
            r#"{{"from":"{}","mesh_ip":"","public_key":"{key}","t":0}}"#,
            nara.name()
        ),
    )
}

/// A list of nodes that a test changes.
#[derive(Debug)]
struct Nodes(watch::Receiver<Vec<Candidate>>);

impl PeerSource for Nodes {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        Box::pin(async { Ok(self.0.borrow().clone()) })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        WatchStream::from_changes(self.0.clone()).boxed()
    }

    fn owner_of(&self, _: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(async { None })
    }
}

/// A network on which alice discovers naras.
pub(crate) struct World {
    pub(crate) network: MemoryNetwork,
    pub(crate) client: MeshClient,
    nodes: watch::Sender<Vec<Candidate>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let network = MemoryNetwork::new();
        let transport = Arc::new(network.host(ip("100.64.0.1")));
        Self {
            client: MeshClient::builder(nara("alice")).transport(transport).build(),
            network,
            nodes: watch::channel(Vec::new()).0,
        }
    }

    pub(crate) fn discovery(&self) -> Discovery {
        Discovery::new(self.client.clone(), Arc::new(Nodes(self.nodes.subscribe())))
    }

    /// Runs discovery in the background.
    pub(crate) fn run(&self) -> Outcomes {
        self.run_as(self.discovery())
    }

    pub(crate) fn run_as(&self, discovery: Discovery) -> Outcomes {
        let (sender, outcomes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            discovery
                .run(|found| {
                    // The test may have ended.
                    let _ = sender.send(found);
                })
                .await;
        });
        Outcomes(outcomes)
    }

    /// Starts a nara that answers at an address.
    pub(crate) async fn start(&self, nara: &LocalNara, address: &str) -> FakePeer {
        let nara = nara.clone();
        let address: SocketAddr = address.parse().unwrap();
        let host = self.network.host(address.ip());
        FakePeer::start(host, address, move |_| pong(&nara)).await
    }

    /// Sets the current nodes.
    pub(crate) fn set(&self, nodes: Vec<Candidate>) {
        self.nodes.send_replace(nodes);
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<Candidate>)) {
        self.nodes.send_modify(change);
    }

    pub(crate) fn known(&self, name: &str) -> Option<PeerInfo> {
        self.client.registry().by_name(name).map(|peer| peer.info())
    }

    pub(crate) fn breaker(&self, name: &str) -> BreakerState {
        self.client.registry().by_name(name).unwrap().breaker_state()
    }
}

/// The outcomes of discovery, as they arrive.
pub(crate) struct Outcomes(mpsc::UnboundedReceiver<Found>);

impl Outcomes {
    /// Returns the next outcome. With paused time the limit is exact, even on a slow machine.
    pub(crate) async fn within(&mut self, limit: Duration) -> Found {
        let next = tokio::time::timeout(limit, self.0.recv()).await;
        next.expect("nothing was found in time").unwrap()
    }

    /// Returns the next outcome, however long it takes.
    pub(crate) async fn next(&mut self) -> Found {
        self.0.recv().await.unwrap()
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Returns a node that the network reports as online.
pub(crate) fn node(host_name: &str, addresses: &[&str]) -> Candidate {
    let mut candidate = Candidate::new(host_name, addresses.iter().map(|text| ip(text)).collect());
    candidate.online = Some(true);
    candidate
}

/// Returns the name of the discovered nara.
pub(crate) fn name_of(found: &Found) -> &str {
    match found {
        Found::Nara { peer, .. } => peer.name.as_ref().unwrap().as_str(),
        other => panic!("no nara: {other:?}"),
    }
}
