//! Peers with an unknown port: 9632 and 7433 are tried, as in RFC 8305.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::proto::sync::{SyncRequest, SyncResponse};
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::registry::{PeerEvent, PeerInfo};
use nara_mesh::transport::{BoxMeshStream, MemoryTransport, MeshListener, Transport};

use crate::support::{FakePeer, Mesh, NOW, address, introduce, json, nara, ping_answer, signed, timed};

const DELAY: Duration = Duration::from_millis(250);

/// Returns the v1 port of the host `100.64.0.{last}`.
fn v1_address(last: u8) -> SocketAddr {
    SocketAddr::new(address(last).ip(), 7433)
}

/// Starts bob at an address.
async fn bob_at(mesh: &Mesh, address: SocketAddr) -> FakePeer {
    let (bob, clock) = (nara("bob"), mesh.clock.clone());
    FakePeer::start(
        mesh.network.host(address.ip()),
        address,
        move |request| match request.target.as_str() {
            "/ping" => ping_answer(&bob),
            _ => signed(&bob, &clock, 200, answer(&bob)),
        },
    )
    .await
}

fn answer(bob: &LocalNara) -> Bytes {
    let now = UnixSeconds::new(NOW / 1_000_000_000);
    json(&SyncResponse::signed("bob", Vec::new(), now, bob.keypair()))
}

/// Returns a client that knows bob by the address of his host.
fn client_by_ip(mesh: &Mesh) -> MeshClient {
    let client = mesh.client();
    register_by_ip(&client);
    client
}

fn register_by_ip(client: &MeshClient) {
    let bob = PeerInfo::configured("bob".parse().unwrap(), nara("bob").public_key());
    client.registry().register(bob.at_ip(address(2).ip())).unwrap();
}

/// A network in which one port of one host is silent.
#[derive(Debug)]
struct SilentPort {
    inner: MemoryTransport,
    silent: SocketAddr,
}

impl Transport for SilentPort {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        if peer == self.silent {
            Box::pin(std::future::pending())
        } else {
            self.inner.dial(peer)
        }
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        self.inner.listen(local)
    }
}

fn port_of_bob(client: &MeshClient) -> u16 {
    client.peer("bob").known().unwrap().info().address.unwrap().port()
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_is_reached_at_its_port_and_the_port_is_remembered() {
    let mesh = Mesh::new();
    let client = client_by_ip(&mesh);
    let mut events = client.registry().subscribe();
    let peer = bob_at(&mesh, v1_address(2)).await;
    let (answer, took) = timed(client.fetch_sync_events("bob", SyncRequest::recent(1))).await;
    answer.unwrap();
    assert_eq!(took, Duration::ZERO, "9632 refuses at once");
    assert_eq!(port_of_bob(&client), 7433);
    assert!(matches!(events.try_recv(), Ok(PeerEvent::AddressChanged(_))));
    assert_eq!(peer.last().headers["host"], "100.64.0.2:7433");

    // A repeated guess does not undo that.
    register_by_ip(&client);
    assert_eq!(port_of_bob(&client), 7433);
    client.ping("bob").await.unwrap();
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_second_port_is_tried_shortly_after_a_first_one_that_is_silent() {
    let mesh = Mesh::new();
    let transport = SilentPort {
        inner: mesh.network.host(address(1).ip()),
        silent: address(2),
    };
    let client = mesh.builder().transport(Arc::new(transport)).build();
    register_by_ip(&client);
    let _peer = bob_at(&mesh, v1_address(2)).await;
    let (report, took) = timed(client.ping("bob")).await;
    report.unwrap();
    assert_eq!(took, DELAY);
    let (report, took) = timed(client.with_timeout(DELAY).ping("bob")).await;
    report.unwrap();
    assert_eq!(took, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_listens_on_both_ports_is_called_on_the_mesh_port() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (new, old) = (
        bob_at(&mesh, address(2)).await,
        bob_at(&mesh, v1_address(2)).await,
    );
    client.ping(address(2).ip()).await.unwrap();
    client.ping("100.64.0.2").await.unwrap();
    assert_eq!((new.connections(), old.connections()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_port_is_remembered_for_a_verified_answer_only() {
    let mesh = Mesh::new();
    let client = client_by_ip(&mesh);
    // The listener on the second port knows bob's public key, but does not hold it.
    let (bob, eve, clock) = (nara("bob"), nara("eve"), mesh.clock.clone());
    let listening = v1_address(2);
    let _eve = FakePeer::start(
        mesh.network.host(listening.ip()),
        listening,
        move |request| match request.target.as_str() {
            "/ping" => ping_answer(&bob),
            _ => signed(&eve, &clock, 200, answer(&eve)),
        },
    )
    .await;
    client.ping("bob").await.unwrap();
    let refused = client.fetch_sync_events("bob", SyncRequest::recent(1)).await;
    assert!(!refused.unwrap_err().is_unreachable());
    assert_eq!(port_of_bob(&client), 9632);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_called_by_its_address_alone_and_answers_on_the_port_of_v1_peers() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let peer = bob_at(&mesh, v1_address(2)).await;
    for _ in 0..2 {
        client
            .fetch_sync_events(address(2).ip(), SyncRequest::recent(1))
            .await
            .unwrap();
    }
    assert_eq!(port_of_bob(&client), 7433);
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_was_told_is_the_only_one_that_is_tried() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let peer = bob_at(&mesh, v1_address(2)).await;
    introduce(&client, &nara("bob"), address(2));
    assert!(client.ping("bob").await.unwrap_err().is_unreachable());
    assert!(client.ping(address(2)).await.unwrap_err().is_unreachable());
    assert_eq!(peer.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_neither_port_answers_the_error_is_that_of_the_first() {
    let mesh = Mesh::new();
    let client = client_by_ip(&mesh);
    let (outcome, took) = timed(client.ping("bob")).await;
    let error = outcome.unwrap_err();
    assert!(error.is_unreachable() && !error.is_timeout(), "{error}");
    assert_eq!(took, Duration::ZERO);
}
