//! The destinations and contents of requests.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use nara_mesh::client::{AddressOverrides, ClientErrorKind, MeshClient, PeerRef};
use nara_mesh::proto::endpoint::{Authentication, Endpoint};
use nara_mesh::proto::go_json::JsonError;
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::proto::sync::SyncResponse;
use nara_mesh::proto::time::UnixSeconds;
use nara_mesh::proto::v1::RequestAuth;
use nara_mesh::transport::TcpTransport;

use crate::support::{FakePeer, Mesh, address, introduce, json, nara, ping_answer, signed};

fn empty_sync(responder: &nara_mesh::identity::LocalNara) -> bytes::Bytes {
    let now = UnixSeconds::new(1_769_100_000);
    json(&SyncResponse::signed(
        responder.name().as_str(),
        Vec::new(),
        now,
        responder.keypair(),
    ))
}

#[tokio::test(start_paused = true)]
async fn a_request_goes_to_the_address_that_is_registered_for_the_id() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let (bob, carol) = (nara("bob"), nara("carol"));
    let at_bob = mesh.honest(2, &bob, empty_sync(&bob)).await;
    let at_carol = mesh.honest(3, &carol, empty_sync(&carol)).await;
    introduce(&client, &bob, address(2));
    introduce(&client, &carol, address(3));

    client
        .fetch_sync_events(carol.id(), SyncRequest::recent(1))
        .await
        .unwrap();
    assert_eq!(at_carol.last().target, "/events/sync");
    assert!(at_bob.received().is_empty());
    client.ping(bob.id()).await.unwrap();
    assert_eq!(at_bob.last().target, "/ping");
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_found_by_id_name_address_and_ip() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, empty_sync(&bob)).await;
    introduce(&client, &bob, address(2));
    let references: [PeerRef; 5] = [
        bob.id().into(),
        bob.name().into(),
        address(2).into(),
        address(2).ip().into(),
        client.peer(bob.id()).known().unwrap().into(),
    ];
    for reference in references {
        let report = client.ping(&reference).await.unwrap();
        assert_eq!(report.response.from, "bob");
        assert_eq!(report.key_matches, Some(true));
        assert!(client.peer(&reference).known().is_some());
    }
    assert_eq!(peer.received().len(), 5);
    assert_eq!(peer.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unregistered_address_can_be_pinged_at_the_mesh_port() {
    let mesh = Mesh::new();
    let bob = nara("bob");
    mesh.honest(2, &bob, empty_sync(&bob)).await;
    let report = mesh.client().ping(address(2).ip()).await.unwrap();
    assert_eq!(report.response.from, "bob");
    assert_eq!(report.key_matches, None);
}

#[tokio::test(start_paused = true)]
async fn a_nara_that_names_itself_is_told_so() {
    let client = Mesh::new().client();
    let own = client.local().clone();
    for itself in [PeerRef::Name(own.name().clone()), PeerRef::Id(own.id().clone())] {
        let error = client.ping(itself).await.unwrap_err();
        assert_eq!(error.kind(), ClientErrorKind::OwnNara, "{error}");
        assert!(error.is_unknown_peer(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_peer_is_an_error_before_anything_is_sent() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, empty_sync(&bob)).await;
    assert!(client.ping(bob.id()).await.unwrap_err().is_unknown_peer());

    client.register_peer_ip(bob.id(), address(2).ip()).unwrap();
    assert!(client.has_peer(bob.id()));
    client.ping(bob.id()).await.unwrap();

    assert!(client.unregister_peer(bob.id()));
    assert!(!client.has_peer(bob.id()));
    let error = client.ping(bob.id()).await.unwrap_err();
    assert!(error.is_unknown_peer() && !error.is_unreachable(), "{error}");
    assert!(error.to_string().contains(bob.id().as_str()), "{error}");
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn overrides_are_asked_before_the_registry() {
    let mesh = Mesh::new();
    let (bob, carol) = (nara("bob"), nara("carol"));
    let overrides = AddressOverrides::new()
        .with_url(bob.id().clone(), "http://100.64.0.12:1234")
        .unwrap()
        .with(carol.id().clone(), "100.64.0.13:1234".parse().unwrap());
    let client = mesh.builder().address_overrides(overrides).build();
    introduce(&client, &bob, address(2));
    let registered = mesh.honest(2, &bob, empty_sync(&bob)).await;
    let overridden = |last: u8| SocketAddr::from(([100, 64, 0, last], 1234));
    for (nara, last) in [(&bob, 12), (&carol, 13)] {
        let owned = nara.clone();
        let clock = mesh.clock.clone();
        let body = empty_sync(nara);
        let transport = mesh.network.host(overridden(last).ip());
        let peer = FakePeer::start(transport, overridden(last), move |request| {
            match request.target.as_str() {
                "/ping" => ping_answer(&owned),
                _ => signed(&owned, &clock, 200, body.clone()),
            }
        })
        .await;
        assert!(client.has_peer(nara.id()));
        client
            .fetch_sync_events(nara.id(), SyncRequest::recent(1))
            .await
            .unwrap();
        assert!(!peer.received().is_empty());
    }
    assert!(registered.received().is_empty());
    assert_eq!(
        client.peer(carol.id()).known().unwrap().info().address,
        None,
        "an override is not an address of the registry"
    );
}

#[test]
fn a_base_url_is_http_with_an_ip_address_and_a_port() {
    for bad in [
        "https://127.0.0.1:1",
        "http://localhost:1",
        "http://127.0.0.1",
        "http://127.0.0.1:1/x",
        "127.0.0.1:1",
        "",
    ] {
        let id = nara("bob").id().clone();
        assert!(AddressOverrides::new().with_url(id, bad).is_err(), "{bad}");
    }
    let id = nara("bob").id().clone();
    AddressOverrides::new().with_url(id, "http://[::1]:80/").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sync_request_is_written_as_the_wire_has_it() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, empty_sync(&bob)).await;
    introduce(&client, &bob, address(2));
    let mut request = SyncRequest::sample(5000);
    request.from = "somebody else".to_owned();
    client.fetch_sync_events(bob.id(), request).await.unwrap();

    let received = peer.last();
    assert_eq!(received.method, Method::POST);
    assert_eq!(received.target, "/events/sync");
    assert_eq!(
        received.body,
        r#"{"from":"alice","services":null,"subjects":null,"mode":"sample","sample_size":5000}"#
    );
    let mut names: Vec<_> = received.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "content-digest",
        "content-length",
        "content-type",
        "host",
        "signature",
        "signature-input",
        "x-nara-name",
        "x-nara-signature",
        "x-nara-timestamp",
        "x-nara-to",
    ];
    assert_eq!(names, expected);
    assert_eq!(received.header("host"), "100.64.0.2:9632");
    assert_eq!(received.header("content-type"), "application/json");
    assert_eq!(received.header("x-nara-name"), "alice");
    assert_eq!(received.header("x-nara-timestamp"), "1769100000250");
    let auth = RequestAuth::from_headers(&received.headers).unwrap();
    auth.verify(&mesh.alice.public_key(), "POST", "/events/sync", auth.timestamp())
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_unsigned_and_names_the_caller() {
    let mesh = Mesh::new();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, empty_sync(&bob)).await;
    mesh.client().ping(address(2)).await.unwrap();
    let received = peer.last();
    assert_eq!(received.method, Method::GET);
    assert_eq!(received.header("x-nara-from"), "alice");
    assert!(!received.headers.contains_key("x-nara-signature"));
    assert!(!received.headers.contains_key("content-type"));
    assert!(received.body.is_empty());
}

/// An endpoint of an application, whose path is not plain ASCII.
struct Cafe;

impl Endpoint for Cafe {
    type Request = String;
    type Response = Vec<u8>;

    const METHOD: Method = Method::PUT;
    const PATH: &'static str = "/caf%C3%A9%2Fb";
    const AUTHENTICATION: Authentication = Authentication::Signed;
    const IDEMPOTENT: bool = true;

    fn query(request: &String) -> Option<String> {
        Some(request.clone())
    }

    fn encode(_: &String) -> Option<Vec<u8>> {
        None
    }

    fn decode(body: &[u8]) -> Result<Vec<u8>, JsonError> {
        Ok(body.to_vec())
    }
}

#[tokio::test(start_paused = true)]
async fn a_path_is_signed_percent_decoded_and_without_its_query() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, "ok".into()).await;
    introduce(&client, &bob, address(2));
    let answer = client
        .peer(bob.id())
        .call::<Cafe>(&"a=b".to_owned())
        .await
        .unwrap();
    assert_eq!(*answer, b"ok");
    let received = peer.last();
    assert_eq!(received.target, "/caf%C3%A9%2Fb?a=b");
    let base = format!("alice{}PUT/café/b", received.timestamp());
    let auth = RequestAuth::from_headers(&received.headers).unwrap();
    mesh.alice
        .public_key()
        .verify(base.as_bytes(), auth.signature())
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_query_that_cannot_be_sent_is_an_error_and_no_panic() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let query = "a b\r\n".to_owned();
    let error = client.peer(address(2)).call::<Cafe>(&query).await.unwrap_err();
    assert!(error.to_string().contains("cannot be sent"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn timestamps_strictly_increase_even_when_the_clock_stands_still() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.honest(2, &bob, empty_sync(&bob)).await;
    introduce(&client, &bob, address(2));
    let calls = (0..50).map(|_| client.fetch_sync_events(bob.id(), SyncRequest::recent(1)));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.unwrap();
    }
    let mut times: Vec<_> = peer.received().iter().map(|r| r.timestamp()).collect();
    times.sort_unstable();
    let expected: Vec<_> = (0..50).map(|n| 1_769_100_000_250 + n).collect();
    assert_eq!(times, expected);
}

#[tokio::test]
async fn the_same_works_over_real_sockets() {
    let (alice, bob) = (nara("alice"), nara("bob"));
    let body = empty_sync(&bob);
    let responder = bob.clone();
    let clock =
        nara_mesh::clock::ManualClock::new(nara_mesh::proto::time::UnixNanos::new(crate::support::NOW));
    let theirs = clock.clone();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let peer = FakePeer::start(TcpTransport, loopback, move |request| {
        match request.target.as_str() {
            "/ping" => ping_answer(&responder),
            _ => signed(&responder, &theirs, 200, body.clone()),
        }
    })
    .await;
    let client = MeshClient::builder(alice).clock(Arc::new(clock)).build();
    client.register_peer(bob.id(), peer.address).unwrap();
    let report = client.ping(bob.id()).await.unwrap();
    assert_eq!(report.response.from, "bob");
    assert!(report.dial.is_some());
    let answer = client
        .fetch_sync_events(bob.id(), SyncRequest::recent(1))
        .await
        .unwrap();
    assert!(answer.is_verified());
    assert_eq!(answer.verification().key, Some(bob.public_key()));
    assert_eq!(
        client.peer(bob.id()).known().unwrap().info().name.as_ref(),
        Some(bob.name())
    );
}
