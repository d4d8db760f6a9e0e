//! A complete nara, through `Nara`.

#![expect(clippy::unwrap_used, reason = "tests and their helpers may panic")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use nara_mesh::client::{MeshClient, StreamState, SubscribeOptions};
use nara_mesh::http::{HeaderMap, Request};
use nara_mesh::ledger::{EventStore as _, MemoryLedger, ReadLimit};
use nara_mesh::nara::{NaraBuilder, NaraError};
use nara_mesh::proto::sync::SyncRequest;
use nara_mesh::registry::{KeySource, PeerInfo, PinnedKey, RegisterError, TrustPolicy};
use nara_mesh::server::Shutdown;
use nara_mesh::transport::MemoryNetwork;
use nara_mesh::{LocalNara, Nara};

fn nara(name: &str) -> NaraBuilder {
    Nara::builder(LocalNara::generate(name).unwrap()).without_gossip()
}

const GRACE: Duration = Duration::from_secs(5);

/// Returns the services of the events in a ledger, oldest first.
async fn services(ledger: &MemoryLedger) -> Vec<String> {
    let mut events = ledger
        .recent(Default::default(), ReadLimit::events(100))
        .await
        .unwrap();
    events.reverse();
    events.into_iter().map(|checked| checked.event.svc).collect()
}

#[tokio::test]
async fn a_nara_comes_with_a_hey_there_and_goes_with_a_chau() {
    let ledger = Arc::new(MemoryLedger::new());
    let alice = nara("alice")
        .ledger(ledger.clone())
        .listen("127.0.0.1:0".parse().unwrap());
    let alice = alice.start().await.unwrap();
    assert_eq!(services(&ledger).await, ["hey-there"]);
    assert_eq!(alice.shutdown(GRACE).await, Shutdown::Graceful);
    assert_eq!(services(&ledger).await, ["hey-there", "chau"]);
}

/// Makes bob, who listens on loopback, call alice, who does not know him. Returns whether she met him.
async fn meets_a_stranger_on_loopback(alice: &str) -> bool {
    let alice = nara("alice")
        .listen(alice.parse().unwrap())
        .start()
        .await
        .unwrap();
    let bob = nara("bob")
        .listen("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    let port = alice.address().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let answered = bob
        .client()
        .fetch_sync_events(address, SyncRequest::recent(1))
        .await;
    let known = alice.registry().by_name("bob").map(|bob| bob.info());
    assert_eq!(answered.is_ok(), known.is_some());
    let expected = PinnedKey {
        name: bob.name().clone(),
        id: None,
        key: bob.local().public_key(),
        source: KeySource::Ping(bob.address().unwrap()),
        learned_at: known
            .as_ref()
            .and_then(|known| Some(known.key.as_ref()?.learned_at))
            .unwrap_or_default(),
    };
    if let Some(known) = &known {
        assert_eq!((&known.key, known.address), (&Some(expected), bob.address()));
    }
    known.is_some()
}

#[tokio::test]
async fn naras_on_one_machine_meet_only_if_both_listen_on_loopback() {
    assert!(meets_a_stranger_on_loopback("127.0.0.1:0").await);
    // Other machines can call this one, too: a loopback request may come through a proxy.
    assert!(!meets_a_stranger_on_loopback("0.0.0.0:0").await);
}

#[tokio::test]
async fn naras_that_know_each_other_call_each_other() {
    let alice = nara("alice")
        .listen("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    let bob = nara("bob")
        .listen("127.0.0.1:0".parse().unwrap())
        .know(alice.as_peer())
        .start()
        .await
        .unwrap();
    alice.registry().register(bob.as_peer()).unwrap();
    assert_eq!(
        bob.client().ping(alice.id()).await.unwrap().key_matches,
        Some(true)
    );
    assert_eq!(
        alice.client().ping(bob.id()).await.unwrap().key_matches,
        Some(true)
    );
    for nara in [alice, bob] {
        assert_eq!(nara.shutdown(GRACE).await, Shutdown::Graceful);
    }
}

#[tokio::test]
async fn what_a_handler_calls_belongs_to_the_trace_of_its_request() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let listen = "127.0.0.1:0".parse().unwrap();
    let shown = |headers: HeaderMap| async move {
        let shown = ["traceparent", "tracestate"].map(|name| {
            let value = headers.get(name).map(|value| value.to_str().unwrap());
            value.unwrap_or("none").to_owned()
        });
        shown.join(" ")
    };
    let carol = nara("carol")
        .listen(listen)
        .routes(Router::new().route("/shown", get(shown)))
        .start()
        .await
        .unwrap();
    let own = Arc::new(OnceLock::<(MeshClient, SocketAddr)>::new());
    let of_handler = own.clone();
    let pass_on = async move || {
        let (client, carol) = of_handler.get().unwrap();
        let request = Request::get("/shown").body(String::new()).unwrap();
        let answer = client.peer(*carol).request(request).await.unwrap();
        String::from_utf8(answer.body().to_vec()).unwrap()
    };
    let bob = nara("bob")
        .listen(listen)
        .routes(Router::new().route("/pass-on", get(pass_on)))
        .start()
        .await
        .unwrap();
    own.set((bob.client().clone(), carol.address().unwrap())).unwrap();
    let alice = nara("alice").listen(listen).start().await.unwrap();
    for (sent, expected) in [
        (Some(TRACE), format!("{TRACE} vendor=1")),
        (None, "none none".to_owned()),
        // An invalid trace is not forwarded.
        (Some("00-0-0-00"), "none none".to_owned()),
    ] {
        let mut request = Request::get("/pass-on").header("tracestate", "vendor=1");
        if let Some(sent) = sent {
            request = request.header("traceparent", sent);
        }
        let request = request.body(String::new()).unwrap();
        let answer = alice
            .client()
            .peer(bob.address().unwrap())
            .request(request)
            .await
            .unwrap();
        assert_eq!(answer.body(), expected.as_bytes());
    }
}

#[tokio::test]
async fn a_nara_that_does_not_listen_has_no_address_and_leaves_no_trace() {
    let ledger = Arc::new(MemoryLedger::new());
    let bob = nara("bob").ledger(ledger.clone()).start().await.unwrap();
    assert_eq!(bob.address(), None);
    assert_eq!(bob.as_peer().address, None);
    bob.shutdown(GRACE).await;
    assert!(services(&ledger).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_nara_ends_in_order() {
    let ledger = Arc::new(MemoryLedger::new());
    let network = MemoryNetwork::new();
    let address: SocketAddr = "100.64.0.1:9632".parse().unwrap();
    let start = || {
        let transport = Arc::new(network.host(address.ip()));
        nara("alice")
            .ledger(ledger.clone())
            .transport(transport)
            .listen(address)
            .start()
    };
    drop(start().await.unwrap());
    while services(&ledger).await != ["hey-there", "chau"] {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Its address is free again.
    while start().await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_address_in_use_is_an_error_and_nothing_is_left_running() {
    let alice = nara("alice")
        .listen("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    let ledger = Arc::new(MemoryLedger::new());
    let bob = nara("bob")
        .ledger(ledger.clone())
        .listen(alice.address().unwrap())
        .start()
        .await;
    assert!(matches!(bob.unwrap_err(), NaraError::Serve(_)));
    assert!(services(&ledger).await.is_empty(), "it never came");
    alice.shutdown(GRACE).await;
}

/// Returns a configured nara of which only name and address are known.
fn met_at(address: &str) -> PeerInfo {
    let address = Some(address.parse().unwrap());
    PeerInfo {
        name: Some("erin".parse().unwrap()),
        address,
        configured: true,
        configured_at: address,
        ..PeerInfo::default()
    }
}

#[tokio::test]
async fn a_peer_that_is_no_longer_configured_is_removed_and_a_fault_does_not_keep_the_others_out() {
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| LocalNara::generate(name).unwrap());
    let nara = Nara::builder(alice.clone())
        .without_gossip()
        .trust(TrustPolicy::Closed)
        .know(bob.as_peer(None))
        .know(met_at("127.0.0.1:9"))
        .start()
        .await
        .unwrap();
    let knows = |local: &LocalNara| nara.registry().by_id(local.id()).is_some();
    assert!(knows(&bob));
    assert!(nara.registry().by_name("erin").is_some());

    // The list may be shared: an entry about the nara itself is skipped.
    nara.reconfigure(vec![alice.as_peer(None), carol.as_peer(None)])
        .await
        .unwrap();
    assert!(!knows(&bob));
    assert!(nara.registry().by_name("erin").is_none());
    assert!(knows(&carol));
    assert!(!knows(&alice));

    // Another nara with carol's id.
    let mut fault = LocalNara::generate("dave").unwrap().as_peer(None);
    fault.id = Some(carol.id().clone());
    let refused = nara
        .reconfigure(vec![carol.as_peer(None), fault, bob.as_peer(None)])
        .await;
    assert!(refused.unwrap_err().to_string().contains("dave"));
    assert!(knows(&bob));
    assert!(knows(&carol));
    nara.shutdown(GRACE).await;
}

#[tokio::test]
async fn a_configured_peer_that_contradicts_another_keeps_the_nara_from_starting() {
    let bob = LocalNara::generate("bob").unwrap();
    let mut namesake = LocalNara::generate("carol").unwrap().as_peer(None);
    namesake.id = Some(bob.id().clone());
    let started = nara("alice")
        .know_all([bob.as_peer(None), namesake])
        .start()
        .await;
    let error = started.unwrap_err();
    assert!(matches!(error, NaraError::Peer { .. }), "{error:?}");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.is::<Box<RegisterError>>(), "{source:?}");
}

#[tokio::test]
async fn the_ledger_in_a_data_folder_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let alice = LocalNara::generate("alice").unwrap();
    let bob = nara("bob")
        .listen("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    let start = || {
        Nara::builder(alice.clone())
            .without_gossip()
            .data_dir(folder.path().join("deep/down"))
            .start()
    };
    let first = start().await.unwrap();
    let address = bob.address().unwrap();
    // Trust on first use: the key is kept.
    bob.registry().register(alice.as_peer(None)).unwrap();
    let recent = SyncRequest::recent(10);
    first.client().fetch_sync_events(address, recent).await.unwrap();
    first.shutdown(GRACE).await;
    let second = start().await.unwrap();
    assert_eq!(second.recalled().naras, 1);
    assert!(second.registry().by_name("bob").unwrap().key().is_some());
    second.shutdown(GRACE).await;
    bob.shutdown(GRACE).await;
}

/// Returns the path of an example of the same build.
fn built(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    profile.join("examples").join(example)
}

fn run_example(name: &str, expected: &[&str]) {
    if !built(name).exists() {
        // Only this test was built.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--workspace", "--example", name]);
        assert!(build.status().unwrap().success());
    }
    let output = Command::new(built(name)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {output:?}");
    for part in expected {
        assert!(text.contains(part), "{name} says {text:?}, not {part:?}");
    }
}

#[test]
fn the_example_hello_runs_and_needs_three_imports_at_most() {
    run_example("hello", &["alice answered bob in "]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hello.rs");
    let source = fs::read_to_string(source).unwrap();
    let imports = source.lines().filter(|line| line.starts_with("use nara_mesh"));
    assert!(imports.count() <= 3);
    assert!(source.lines().count() <= 25);
}

#[test]
fn the_example_service_runs() {
    run_example(
        "service",
        &["200 OK b\"1 of bob, proven by ", "2 of bob, proven by "],
    );
}

#[test]
fn the_example_stream_runs() {
    run_example(
        "stream",
        &[
            "hey-there Verified",
            "alice says that streams are never late: Verified",
        ],
    );
}

#[test]
fn the_example_gossip_runs() {
    run_example("gossip", &["carol heard it, and listens to [\"bob\"] only"]);
}

/// The example in the documentation works.
#[tokio::test]
async fn the_parts_stay_usable_alone() {
    let client = MeshClient::builder(LocalNara::generate("bob").unwrap()).build();
    let alice = nara("alice")
        .listen("127.0.0.1:0".parse().unwrap())
        .start()
        .await
        .unwrap();
    client.registry().register(alice.as_peer()).unwrap();
    client.ping(alice.id()).await.unwrap();
    alice.shutdown(GRACE).await;
}

#[tokio::test]
async fn a_stream_ends_when_the_key_of_its_subscriber_is_replaced() {
    let bob = LocalNara::generate("bob").unwrap();
    let alice = nara("alice")
        .listen("127.0.0.1:0".parse().unwrap())
        .know(bob.as_peer(None))
        .start()
        .await
        .unwrap();
    let bob = Nara::builder(bob)
        .without_gossip()
        .know(alice.as_peer())
        .start()
        .await
        .unwrap();
    let stream = bob.peer(alice.id()).subscribe(SubscribeOptions::default());
    let mut state = stream.state();
    state.wait_for(|state| *state == StreamState::Live).await.unwrap();

    let replaced = LocalNara::generate("bob").unwrap().as_peer(None);
    alice.reconfigure(vec![replaced]).await.unwrap();
    state.wait_for(|state| *state != StreamState::Live).await.unwrap();
    bob.shutdown(GRACE).await;
    alice.shutdown(GRACE).await;
}
