//! Strangers that announce the port on which they listen.

use std::net::SocketAddr;
use std::num::NonZeroU16;

use nara_mesh::identity::LocalNara;
use nara_mesh::registry::KeySource;
use nara_mesh::server::ServerLimits;
use nara_proto::v2::{CAPABILITY_HEADER, Capability};

use crate::discovery::{online, target};
use crate::raw_http::RawResponse;
use crate::support::{NOW, Target, free_port, nara, nara_with_seed, request, signed};

/// Sends a request of `sender` with an announcement of `port` signed by `signer`.
fn claim(target: &Target, sender: &LocalNara, signer: &LocalNara, port: u16) -> RawResponse {
    let at = NOW;
    let mut headers = signed(sender, at, "POST", "/events/sync");
    let said = signer.signer().sign_capability(&Capability {
        id: signer.id().clone(),
        v2: true,
        streams: false,
        tls: false,
        raw_public_key: false,
        handshake: false,
        port: NonZeroU16::new(port),
        at,
    });
    let value = said.to_field().as_bytes().to_vec();
    headers.push((CAPABILITY_HEADER.to_string(), value));
    let body = format!("{{\"from\":\"{}\"}}", sender.name());
    target.send(&request("POST", "/events/sync", &headers, body.as_bytes()))
}

/// Returns a closed port.
fn nowhere() -> u16 {
    let listener = std::net::TcpListener::bind(free_port()).unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_called_back_on_the_port_that_it_says_signed() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, _) = target(nowhere(), true, ServerLimits::default()).await;
    let address = server.local_addr();
    assert_eq!(claim(&target, &carol, &carol, address.port()).status, 200);
    let known = target.registry.by_name("carol").unwrap().info();
    assert_eq!(known.address, Some(address));
    assert_eq!(known.key.unwrap().source, KeySource::Ping(address));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_key_says_introduces_nobody() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, _) = target(nowhere(), true, ServerLimits::default()).await;
    let impostor = nara_with_seed("carol", 66);
    // Whoever signs the request: the port leads to carol, and carol did not announce it.
    for sender in [&impostor, &carol] {
        assert_eq!(
            claim(&target, sender, &impostor, server.local_addr().port()).status,
            401
        );
    }
    assert!(target.registry.by_name("carol").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_stranger_says_counts_inside_of_the_mesh_only() {
    let carol = nara("carol");
    let server = online(&carol).await;
    let (target, dials) = target(nowhere(), false, ServerLimits::default()).await;
    assert_eq!(
        claim(&target, &carol, &carol, server.local_addr().port()).status,
        401
    );
    assert_eq!(dials.dials(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_the_system_are_not_called_for_a_stranger() {
    let carol = nara("carol");
    let (target, dials) = target(nowhere(), true, ServerLimits::default()).await;
    assert_eq!(claim(&target, &carol, &carol, 22).status, 401);
    let without_claim = dials.dials();
    let dave = nara("dave");
    assert_eq!(claim(&target, &dave, &dave, 1023).status, 401);
    assert_eq!(dials.dials(), 2 * without_claim, "the standard ports alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_that_says_many_ports_is_called_so_often_and_no_more() {
    let carol = nara("carol");
    let mut limits = ServerLimits::default();
    limits.discoveries_per_minute = 8;
    let (target, dials) = target(nowhere(), true, limits).await;
    for port in 20_000..20_100 {
        assert_ne!(claim(&target, &carol, &carol, port).status, 200);
    }
    // Each call tries the announced port, and the two standard ones.
    assert!(dials.dials() <= 8 * 3, "{}", dials.dials());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_nara_does_not_move_the_address_of_another() {
    let alice = nara("alice");
    let elsewhere: SocketAddr = "127.0.0.9:9632".parse().unwrap();
    let (target, _) = target(nowhere(), true, ServerLimits::default()).await;
    let mut info = target.registry.by_name("alice").unwrap().info();
    info.address = Some(elsewhere);
    target.registry.register(info).unwrap();
    assert_eq!(claim(&target, &alice, &alice, 9700).status, 200);
    let known = target.registry.by_name("alice").unwrap().info();
    assert_eq!(known.address, Some(elsewhere), "an address that is known stays");
}
