//! A request must come from the address of the nara that it claims, if the network knows it. The network is in memory,
//! where addresses are genuine; time is paused.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::MemoryLedger;
use nara_mesh::registry::{PeerEvent, PeerRegistry};
use nara_mesh::server::{MeshServer, RunningServer};
use nara_mesh::transport::{Candidate, MemoryNetwork, PeerSource};
use nara_proto::identity::NaraName;
use nara_proto::sync::SyncRequest;

use crate::support::{known, nara, registry};

/// A network with `100.64.0.1` as alice and `100.64.0.2` as bob, whose lookup of `100.64.0.9` never ends.
#[derive(Debug)]
struct Network;

impl PeerSource for Network {
    fn candidates(&self) -> BoxFuture<'_, std::io::Result<Vec<Candidate>>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        stream::empty().boxed()
    }

    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        let name = match address {
            IpAddr::V4(ip) => match ip.octets() {
                [100, 64, 0, 1] => Some("alice".parse().unwrap()),
                [100, 64, 0, 2] => Some("bob".parse().unwrap()),
                [100, 64, 0, 9] => return Box::pin(std::future::pending()),
                _ => None,
            },
            IpAddr::V6(_) => None,
        };
        Box::pin(async { name })
    }
}

fn target_address() -> SocketAddr {
    SocketAddr::from(([100, 64, 0, 7], 9632))
}

async fn target(network: &MemoryNetwork) -> (RunningServer, PeerRegistry) {
    let registry = registry(&[&nara("alice"), &nara("bob")]);
    let server = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
        .registry(registry.clone())
        .transport(Arc::new(network.host(target_address().ip())))
        .peer_source(Arc::new(Network))
        .serve(target_address())
        .await
        .unwrap();
    (server, registry)
}

/// Returns the target's answer to a request that `sender` signed and that comes from `source`.
async fn call(network: &MemoryNetwork, sender: &LocalNara, source: &str) -> Result<(), ClientError> {
    let client = MeshClient::builder(sender.clone())
        .transport(Arc::new(network.host(source.parse().unwrap())))
        .build();
    let target = nara("target");
    client
        .registry()
        .register(known(&target, Some(target_address())))
        .unwrap();
    client
        .fetch_sync_events(target.id(), SyncRequest::recent(1))
        .await
        .map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_request_from_the_address_of_another_nara_is_refused() {
    let network = MemoryNetwork::new();
    let (_server, registry) = target(&network).await;
    let (alice, bob) = (nara("alice"), nara("bob"));
    call(&network, &alice, "100.64.0.1").await.unwrap();
    call(&network, &bob, "100.64.0.2").await.unwrap();
    call(&network, &alice, "::ffff:100.64.0.1").await.unwrap();
    for from_bob in ["100.64.0.2", "::ffff:100.64.0.2"] {
        let mut events = registry.subscribe();
        let error = call(&network, &alice, from_bob).await.unwrap_err();
        assert_eq!(error.status().unwrap(), 403, "{error}");
        let text = "The source address does not belong to the claimed sender\n";
        assert_eq!(error.text(), Some(text));
        let expected = PeerEvent::AddressMismatch {
            claimed: alice.name().clone(),
            owner: bob.name().clone(),
            address: "100.64.0.2".parse().unwrap(),
        };
        assert_eq!(events.try_recv(), Ok(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_network_does_not_know_the_signature_decides() {
    let network = MemoryNetwork::new();
    let (_server, _) = target(&network).await;
    call(&network, &nara("alice"), "100.64.0.3").await.unwrap();
    call(&network, &nara("alice"), "fd7a:115c:a1e0::3").await.unwrap();
    let error = call(&network, &nara("mallory"), "100.64.0.3").await.unwrap_err();
    assert_eq!(error.status().unwrap(), 401);
}

#[tokio::test(start_paused = true)]
async fn a_silent_network_refuses_requests_without_blocking_them() {
    let network = MemoryNetwork::new();
    let (_server, _) = target(&network).await;
    let start = tokio::time::Instant::now();
    let error = call(&network, &nara("alice"), "100.64.0.9").await.unwrap_err();
    assert_eq!(error.status().unwrap(), 503, "{error}");
    assert_eq!(start.elapsed(), std::time::Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_stranger_that_claims_the_name_of_another_node_is_not_called_back() {
    let network = MemoryNetwork::new();
    let caller = MeshClient::builder(nara("target"))
        .transport(Arc::new(network.host(target_address().ip())))
        .build();
    let registry = caller.registry().clone();
    let _server = MeshServer::builder(nara("target"), Arc::new(MemoryLedger::new()))
        .client(caller)
        .transport(Arc::new(network.host(target_address().ip())))
        .peer_source(Arc::new(Network))
        .serve(target_address())
        .await
        .unwrap();
    // The nara at bob's address claims to be alice, also in the call-back.
    let impostor = nara("alice");
    let _impostor = MeshServer::builder(impostor.clone(), Arc::new(MemoryLedger::new()))
        .transport(Arc::new(network.host([100, 64, 0, 2].into())))
        .serve(SocketAddr::from(([100, 64, 0, 2], 9632)))
        .await
        .unwrap();
    let error = call(&network, &impostor, "100.64.0.2").await.unwrap_err();
    assert_eq!(error.status().unwrap(), 403);
    assert!(registry.by_name("alice").is_none());
}
