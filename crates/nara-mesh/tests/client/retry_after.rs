//! Peers that ask for a pause (`Retry-After`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderName;
use http::header::{DATE, RETRY_AFTER};
use nara_mesh::client::MeshClient;
use nara_mesh::proto::breaker::BreakerState;
use nara_mesh::proto::endpoint::Ping;
use nara_mesh::proto::identity::NaraId;

use crate::fake_peer::FakePeer;
use crate::support::{Answer, Mesh, address, event, introduce, nara, ping_answer, plain, signed, timed};

const SECOND: Duration = Duration::from_secs(1);

/// The longest pause that a client grants.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

fn with(answer: Answer, headers: &[(HeaderName, &str)]) -> Answer {
    let Answer::With(mut response) = answer else {
        panic!("an answer without a head");
    };
    for (name, value) in headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    Answer::With(response)
}

fn busy(status: u16, retry_after: &str) -> Answer {
    with(plain(status, "slow down\n"), &[(RETRY_AFTER, retry_after)])
}

/// Returns a client, and a peer that first gives these answers and then valid ones.
async fn peer_that_first(mesh: &Mesh, busy: Vec<(u16, &'static str)>) -> (MeshClient, NaraId, FakePeer) {
    let bob = nara("bob");
    let client = mesh.client();
    let id = introduce(&client, &bob, address(2));
    let asked = Arc::new(AtomicUsize::new(0));
    let clock = mesh.clock.clone();
    let peer = mesh
        .peer(2, move |request| {
            let number = asked.fetch_add(1, Ordering::SeqCst);
            match busy.get(number) {
                Some((status, retry_after)) => self::busy(*status, retry_after),
                None if request.target == "/ping" => ping_answer(&bob),
                None => signed(&bob, &clock, 200, r#"{"success":true}"#),
            }
        })
        .await;
    (client, id, peer)
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_call_waits_as_long_as_it_is_asked_and_tries_once_more() {
    for status in [429, 503] {
        let mesh = Mesh::new();
        let (client, bob, peer) = peer_that_first(&mesh, vec![(status, "2")]).await;
        let (outcome, took) = timed(client.ping(&bob)).await;
        assert!(outcome.is_ok());
        assert!(took >= 2 * SECOND && took < 3 * SECOND, "{took:?}");
        assert_eq!(peer.received().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_is_final() {
    let mesh = Mesh::new();
    let (client, bob, peer) = peer_that_first(&mesh, vec![(429, "1"), (429, "3")]).await;
    let error = client.ping(&bob).await.unwrap_err();
    assert!(error.is_rate_limited() && !error.is_unreachable() && !error.is_timeout());
    assert_eq!(error.status().unwrap(), 429);
    assert_eq!(error.retry_after(), Some(3 * SECOND));
    let text = error.to_string();
    assert!(text.starts_with("bob ("), "{text}");
    assert!(
        text.ends_with("): answered 429 \"slow down\" (not verified)"),
        "{text}"
    );
    assert_eq!(peer.received().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_after_the_deadline_is_not_waited_for() {
    let mesh = Mesh::new();
    let (client, bob, peer) = peer_that_first(&mesh, vec![(429, "2")]).await;
    let bob = client.peer(&bob).with_timeout(2 * SECOND);
    let call = bob.call::<Ping>(&());
    let (outcome, took) = timed(call).await;
    assert_eq!(outcome.unwrap_err().retry_after(), Some(2 * SECOND));
    assert!(took < SECOND);
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_non_idempotent_call_is_not_retried_after_a_pause() {
    let mesh = Mesh::new();
    let (client, bob, peer) = peer_that_first(&mesh, vec![(503, "1")]).await;
    let dm = event(&mesh.alice, 1);
    let error = client.send_dm(&bob, dm).await.unwrap_err();
    assert!(error.is_rate_limited(), "{error}");
    assert_eq!(peer.received().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn until_the_pause_is_over_no_socket_is_used_and_the_breaker_stays_closed() {
    let mesh = Mesh::new();
    let (client, bob, peer) = peer_that_first(&mesh, vec![(429, "60")]).await;
    assert!(client.ping(&bob).await.unwrap_err().is_rate_limited());
    tokio::time::advance(20 * SECOND).await;
    for _ in 0..5 {
        let (outcome, took) = timed(client.ping(&bob)).await;
        let error = outcome.unwrap_err();
        assert!(error.is_rate_limited() && !error.is_circuit_open(), "{error}");
        assert_eq!(error.status(), None, "it was not asked");
        let text = error.to_string();
        assert!(
            text.ends_with("): not called, because it asked us to wait"),
            "{text}"
        );
        assert_eq!(took, Duration::ZERO);
    }
    let known = client.peer(&bob).known().unwrap();
    assert_eq!(known.retry_after(), Some(40 * SECOND));
    assert_eq!(known.breaker_state(), BreakerState::Closed);
    assert_eq!((peer.received().len(), peer.connections()), (1, 1));
    tokio::time::advance(40 * SECOND).await;
    assert_eq!(known.retry_after(), None);
    assert!(client.ping(&bob).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_one_peer_does_not_affect_another() {
    let mesh = Mesh::new();
    let (client, bob, _peer) = peer_that_first(&mesh, vec![(429, "60")]).await;
    let carol = nara("carol");
    let id = introduce(&client, &carol, address(3));
    let _carol = mesh.peer(3, move |_| ping_answer(&carol)).await;
    assert!(client.ping(&bob).await.is_err());
    assert!(client.ping(&id).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_their_turn_learn_of_the_pause() {
    let mesh = Mesh::new();
    let bob = nara("bob");
    let client = mesh.client();
    let id = introduce(&client, &bob, address(2));
    let peer = mesh.peer(2, |_| busy(429, "60")).await;
    let in_flight = 32;
    let calls = (0..in_flight + 10).map(|_| client.ping(&id));
    for outcome in futures_util::future::join_all(calls).await {
        assert!(outcome.unwrap_err().is_rate_limited());
    }
    assert!(peer.received().len() <= in_flight, "{}", peer.received().len());
}

#[tokio::test(start_paused = true)]
async fn a_date_is_read_by_the_clock_of_the_peer() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let dates = [
        (DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        (RETRY_AFTER, "Sun, 06 Nov 1994 08:50:37 GMT"),
    ];
    let _peer = mesh.peer(2, move |_| with(plain(503, ""), &dates)).await;
    let error = client.ping(&id).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(60 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn no_peer_makes_us_wait_longer_than_the_cap() {
    let mesh = Mesh::new();
    let (client, bob, _peer) = peer_that_first(&mesh, vec![(503, "31536000")]).await;
    let error = client.ping(&bob).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(LONGEST_PAUSE));
    tokio::time::advance(LONGEST_PAUSE).await;
    assert!(client.ping(&bob).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_wish_is_an_ordinary_status() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let id = introduce(&client, &nara("bob"), address(2));
    let peer = mesh.peer(2, |_| plain(503, "no ledger\n")).await;
    for _ in 0..2 {
        let error = client.ping(&id).await.unwrap_err();
        assert!(!error.is_rate_limited());
        assert_eq!(error.status().unwrap(), 503);
    }
    assert_eq!(peer.received().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn whether_the_peer_itself_refused_is_known() {
    let mesh = Mesh::new();
    let bob = nara("bob");
    let client = mesh.client();
    let id = introduce(&client, &bob, address(2));
    let clock = mesh.clock.clone();
    let _peer = mesh
        .peer(2, move |_| {
            with(signed(&bob, &clock, 429, "slow down\n"), &[(RETRY_AFTER, "9")])
        })
        .await;
    let dm = event(&mesh.alice, 1);
    let error = client.send_dm(&id, dm).await.unwrap_err();
    assert!(error.is_rate_limited() && error.is_status_verified(), "{error}");
}
