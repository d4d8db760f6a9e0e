//! Time limits, dead connections, and peers that are down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nara_mesh::proto::breaker::BreakerState;
use nara_mesh::proto::endpoint::Ping;
use nara_mesh::registry::PeerEvent;

use crate::support::{Answer, Mesh, address, introduce, nara, ping_answer, plain, timed};

const SECOND: Duration = Duration::from_secs(1);

/// The maximum number of calls in flight to one peer.
const MAX_IN_FLIGHT_PER_PEER: usize = 32;

/// How long an idle connection is kept.
const POOL_IDLE: Duration = Duration::from_secs(30);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[tokio::test(start_paused = true)]
async fn an_offline_peer_fails_after_five_seconds_and_then_at_once() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = introduce(&client, &nara("bob"), address(2));
    mesh.network.silence(address(2).ip());

    let (outcome, took) = timed(client.ping(&bob)).await;
    let error = outcome.unwrap_err();
    assert!(
        error.is_timeout() && error.is_unreachable() && !error.is_circuit_open(),
        "{error}"
    );
    assert_eq!(took, 5 * SECOND);
    assert!(error.to_string().starts_with("bob"), "{error}");

    let (outcome, took) = timed(client.ping(&bob)).await;
    let error = outcome.unwrap_err();
    assert!(
        error.is_circuit_open() && error.is_unreachable() && !error.is_timeout(),
        "{error}"
    );
    assert!(took < millis(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_unreachable_at_once() {
    let mesh = Mesh::new();
    let (outcome, took) = timed(mesh.client().ping(address(2))).await;
    let error = outcome.unwrap_err();
    assert!(error.is_unreachable() && !error.is_timeout(), "{error}");
    assert!(took < millis(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_only_known_by_address_has_a_breaker_too() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.network.silence(address(2).ip());
    assert!(!client.ping(address(2)).await.unwrap_err().is_circuit_open());
    assert!(client.ping(address(2)).await.unwrap_err().is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn the_slowest_peer_delays_nobody() {
    let mesh = Mesh::new();
    let client = mesh.builder().fan_out(2).build();
    for last in 2..=7 {
        let name = nara(&format!("peer-{last}"));
        introduce(&client, &name, address(last));
        if last == 2 {
            mesh.network.silence(address(last).ip());
        } else {
            mesh.peer(last, move |_| ping_answer(&name)).await;
        }
    }
    let started = tokio::time::Instant::now();
    let outcomes = client
        .call_each(client.registry().peers(), async |peer| {
            (peer.ping().await.is_ok(), started.elapsed())
        })
        .await;
    assert_eq!(outcomes.len(), 6);
    for (peer, (reached, after)) in &outcomes {
        let offline = peer.address == Some(address(2));
        assert_eq!(*reached, !offline, "{peer}");
        assert!(offline || *after < millis(100), "{peer} after {after:?}");
    }

    let (outcomes, took) = timed(client.ping_all()).await;
    let names: Vec<_> = outcomes.iter().map(|(peer, _)| peer.label()).collect();
    assert_eq!(
        names,
        ["peer-2", "peer-3", "peer-4", "peer-5", "peer-6", "peer-7"]
    );
    assert_eq!(outcomes.iter().filter(|(_, report)| report.is_ok()).count(), 5);
    assert!(took < millis(100), "the offline one is known: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_caller_wins_shorter_and_longer() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.peer(2, |_| Answer::Nothing).await;
    for limit in [millis(300), 15 * SECOND] {
        let peer = client.peer(address(2)).with_timeout(limit);
        let call = peer.call::<Ping>(&());
        let (outcome, took) = timed(call).await;
        let error = outcome.unwrap_err();
        assert!(error.is_timeout() && !error.is_unreachable(), "{error}");
        assert_eq!(took, limit);
        let (outcome, took) = timed(client.with_timeout(limit).ping(address(2))).await;
        assert!(outcome.unwrap_err().is_timeout());
        assert_eq!(took, limit);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_silent_after_its_first_answer_is_dialled_anew() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let silent = Arc::new(AtomicBool::new(false));
    let goes_silent = silent.clone();
    let bob = nara("bob");
    let peer = mesh
        .peer(2, move |_| {
            if goes_silent.load(Ordering::SeqCst) {
                Answer::Nothing
            } else {
                ping_answer(&bob)
            }
        })
        .await;
    client.ping(address(2)).await.unwrap();
    silent.store(true, Ordering::SeqCst);
    let (outcome, took) = timed(client.ping(address(2))).await;
    assert!(outcome.unwrap_err().is_timeout());
    assert_eq!(took, 5 * SECOND);
    assert_eq!(peer.connections(), 1);

    silent.store(false, Ordering::SeqCst);
    let report = client.ping(address(2)).await.unwrap();
    assert_eq!(peer.connections(), 2);
    assert!(report.dial.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_halfway_ends_at_the_deadline_and_costs_the_connection() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let half = Arc::new(AtomicBool::new(true));
    let is_half = half.clone();
    let bob = nara("bob");
    let peer = mesh
        .peer(2, move |_| match ping_answer(&bob) {
            Answer::With(response) if is_half.load(Ordering::SeqCst) => Answer::Half(response),
            answer => answer,
        })
        .await;
    let (outcome, took) = timed(client.ping(address(2))).await;
    assert!(outcome.unwrap_err().is_timeout());
    assert_eq!(took, 5 * SECOND);
    half.store(false, Ordering::SeqCst);
    client.ping(address(2)).await.unwrap();
    assert_eq!(peer.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_also_evicts_the_idle_connections_to_that_peer_and_no_others() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let silent = Arc::new(AtomicBool::new(false));
    let mut peers = Vec::new();
    for last in [2, 3] {
        let bob = nara("bob");
        let goes_silent = silent.clone();
        let peer = mesh.peer(last, move |_| {
            if last == 2 && goes_silent.load(Ordering::SeqCst) {
                Answer::Nothing
            } else {
                ping_answer(&bob)
            }
        });
        peers.push(peer.await);
        let pings = (0..5).map(|_| client.ping(address(last)));
        for outcome in futures_util::future::join_all(pings).await {
            outcome.unwrap();
        }
    }
    assert_eq!(peers[0].connections(), 5);
    silent.store(true, Ordering::SeqCst);
    assert!(client.ping(address(2)).await.unwrap_err().is_timeout());
    silent.store(false, Ordering::SeqCst);
    client.ping(address(2)).await.unwrap();
    assert_eq!(peers[0].connections(), 6, "none of the four others was used");
    client.ping(address(3)).await.unwrap();
    assert_eq!(peers[1].connections(), 5);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_close_before_the_server_closes_them() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let peer = mesh.peer(2, move |_| ping_answer(&bob)).await;
    client.ping(address(2)).await.unwrap();
    tokio::time::sleep(POOL_IDLE - millis(1)).await;
    client.ping(address(2)).await.unwrap();
    assert_eq!(peer.connections(), 1);
    tokio::time::sleep(POOL_IDLE).await;
    client.ping(address(2)).await.unwrap();
    assert_eq!(peer.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_breaker_probes_after_a_pause_that_grows_to_a_minute() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let mut events = client.registry().subscribe();
    mesh.network.silence(address(2).ip());
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert!(client.ping(&id).await.unwrap_err().is_timeout());
        let opened = tokio::time::Instant::now();
        while client.peer(&id).known().unwrap().breaker_state() == BreakerState::Open {
            tokio::time::sleep(millis(10)).await;
        }
        pauses.push(opened.elapsed());
    }
    assert!(
        pauses[0] >= millis(800) && pauses[0] <= millis(1210),
        "{pauses:?}"
    );
    assert!(
        pauses[2] >= millis(3200) && pauses[2] <= millis(4810),
        "{pauses:?}"
    );
    assert!(
        pauses.iter().all(|pause| *pause <= 60 * SECOND + millis(10)),
        "{pauses:?}"
    );
    assert!(pauses[9] >= 48 * SECOND, "{pauses:?}");
    assert!(matches!(events.try_recv(), Ok(PeerEvent::BreakerOpened(_))));
    assert!(events.try_recv().is_err(), "failed probes are no news");

    mesh.network.restore(address(2).ip());
    mesh.peer(2, move |_| ping_answer(&bob)).await;
    client.ping(&id).await.unwrap();
    assert!(matches!(events.try_recv(), Ok(PeerEvent::BreakerClosed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_sign_of_life_and_a_new_address_close_the_breaker_at_once() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let bob = nara("bob");
    let id = introduce(&client, &bob, address(2));
    let mut events = client.registry().subscribe();
    let served = bob.clone();
    mesh.peer(3, move |_| ping_answer(&served)).await;
    let open = async || {
        mesh.network.silence(address(2).ip());
        client.ping(&id).await.unwrap_err();
        assert!(client.ping(&id).await.unwrap_err().is_circuit_open());
    };

    open().await;
    client.registry().sign_of_life(&client.peer(&id).known().unwrap());
    assert!(!client.ping(&id).await.unwrap_err().is_circuit_open());

    client.register_peer(&id, address(3)).unwrap();
    client.ping(&id).await.unwrap();
    let mut kinds = Vec::new();
    while let Ok(event) = events.try_recv() {
        kinds.push(match event {
            PeerEvent::BreakerOpened(_) => "opened",
            PeerEvent::BreakerClosed(_) => "closed",
            PeerEvent::AddressChanged(_) => "address",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, ["opened", "closed", "opened", "closed", "address"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_a_hurry_does_not_open_the_breaker() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.network.silence(address(2).ip());
    mesh.peer(3, |_| Answer::Nothing).await;
    for peer in [address(2), address(3)] {
        for _ in 0..10 {
            let hurried = client.with_timeout(millis(100));
            let error = hurried.ping(peer).await.unwrap_err();
            assert!(error.is_timeout() && !error.is_circuit_open(), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_reached_but_stays_silent_opens_its_breaker_at_the_third_time() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.peer(2, |_| Answer::Nothing).await;
    for _ in 0..3 {
        assert!(client.ping(address(2)).await.unwrap_err().is_timeout());
    }
    assert!(client.ping(address(2)).await.unwrap_err().is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_says_no_keeps_the_breaker_closed() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.peer(2, |_| plain(503, "busy")).await;
    for _ in 0..10 {
        let error = client.ping(address(2)).await.unwrap_err();
        assert_eq!(error.status().unwrap(), 503);
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_given_up_lets_the_next_caller_probe() {
    let mesh = Mesh::new();
    let client = mesh.client();
    mesh.network.silence(address(2).ip());
    client.ping(address(2)).await.unwrap_err();
    tokio::time::sleep(2 * SECOND).await;
    let probe = tokio::time::timeout(SECOND, client.ping(address(2)));
    assert!(probe.await.is_err(), "dropped while it dials");
    assert!(client.ping(address(2)).await.unwrap_err().is_timeout());
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_to_one_peer_are_limited() {
    let mesh = Mesh::new();
    let client = mesh.client();
    let arrived = Arc::new(AtomicUsize::new(0));
    let arriving = arrived.clone();
    mesh.peer(2, move |_| {
        arriving.fetch_add(1, Ordering::SeqCst);
        Answer::Nothing
    })
    .await;
    let hurried = client.with_timeout(SECOND);
    let calls = (0..MAX_IN_FLIGHT_PER_PEER + 8).map(|index| {
        let queues = index >= MAX_IN_FLIGHT_PER_PEER;
        if queues { &hurried } else { &client }.ping(address(2))
    });
    let outcomes = futures_util::future::join_all(calls).await;
    assert_eq!(arrived.load(Ordering::SeqCst), MAX_IN_FLIGHT_PER_PEER);
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let error = outcome.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        let queued = error.to_string().contains("too many calls");
        assert_eq!(queued, index >= MAX_IN_FLIGHT_PER_PEER, "{index}: {error}");
    }
}
