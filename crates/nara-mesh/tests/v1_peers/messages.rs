//! Messages between v1 peers and our nara: many at once, and stashes.

use futures_util::future::join_all;
use http::StatusCode;
use nara_mesh::client::StreamState;
use nara_mesh::client::SubscribeOptions;
use nara_mesh::clock::Clock as _;
use nara_mesh::ledger::EventStore as _;
use nara_mesh::proto::go_json::Timestamp;
use nara_mesh::proto::runtime_message::{MessagePayload, RuntimeMessage, StashRequest};

use crate::support::{GRACE, Mesh, configured, ip, nara, tease, until};

const BURST: i64 = 20;

#[tokio::test(start_paused = true)]
async fn direct_messages_of_one_millisecond_all_arrive_and_none_twice() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    let before = mesh.ledger.count().await.unwrap();
    let at = mesh.clock.now_millis();
    let events: Vec<_> = (0..BURST)
        .map(|n| tease(greta.nara(), "alice", mesh.now().get() + n))
        .collect();
    let sent = join_all(events.iter().map(|event| greta.send_dm(ip(1), event, at))).await;
    assert!(
        sent.iter().all(|(status, _)| *status == StatusCode::OK),
        "{sent:?}"
    );
    assert_eq!(mesh.ledger.count().await.unwrap(), before + BURST as usize);
    let (status, body) = greta.send_dm(ip(1), &events[0], at).await;
    assert_ne!(
        (status, body.contains_success()),
        (StatusCode::OK, true),
        "a replay"
    );
    alice.shutdown(GRACE).await;
}

trait Success {
    fn contains_success(&self) -> bool;
}

impl Success for bytes::Bytes {
    fn contains_success(&self) -> bool {
        self.windows(14).any(|window| window == br#""success":true"#)
    }
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_that_lost_its_stash_has_it_back_when_it_says_hey_there() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.meet(&nara("alice"), ip(1));
    let alice = mesh.quiet_alice(&greta).await;
    greta.store_stash(&nara("alice"), ip(1), b"her memory").await;
    until(async || greta.acks().iter().any(|ack| ack.success)).await;

    greta.restart();
    greta.send_zine(ip(1), vec![greta.hey_there()]).await;
    until(async || greta.own_stash().is_some()).await;

    // It may also ask.
    greta.restart();
    greta.refresh_stash(&nara("alice"), ip(1)).await;
    until(async || greta.own_stash().is_some()).await;
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_v1_peer_keeps_a_stash_of_ours() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    greta.meet(&nara("alice"), ip(1));
    let known = configured(&greta).with_id(greta.nara().id().clone());
    let alice = mesh.alice().without_gossip().catch_up(false).know(known);
    let alice = alice.start().await.unwrap();
    let (local, nonce) = (nara("alice"), [3; 24]);
    let message = |payload| {
        let now = Timestamp::utc(mesh.now());
        RuntimeMessage::new("alice", local.id().as_str(), now, payload)
            .to("greta", greta.nara().id().as_str())
            .sign(local.keypair())
    };
    let store = nara_mesh::proto::runtime_message::StashStore {
        owner_id: local.id().to_string(),
        nonce: nonce.to_vec().into(),
        ciphertext: local.seal_key().seal(&nonce, b"ours").into(),
        ..Default::default()
    };
    let ack = alice
        .peer("greta")
        .call_runtime(&message(MessagePayload::StashStore(store)))
        .await;
    assert!(matches!(ack.unwrap().payload, MessagePayload::StashAck(ack) if ack.success));
    let request = StashRequest {
        owner_id: local.id().to_string(),
        ..StashRequest::default()
    };
    let request = message(MessagePayload::StashRequest(request));
    let answer = alice.peer("greta").call_runtime(&request).await.unwrap();
    let MessagePayload::StashResponse(response) = answer.payload else {
        panic!("{answer:?}");
    };
    let opened = local
        .seal_key()
        .open(response.nonce.as_slice(), response.ciphertext.as_slice());
    assert_eq!(opened.unwrap(), b"ours");
    alice.shutdown(GRACE).await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_to_a_v1_peer_polls_and_says_so() {
    let mesh = Mesh::new();
    let greta = mesh.v1("greta", 2).await;
    let alice = mesh.quiet_alice(&greta).await;
    let every = std::time::Duration::from_secs(5);
    let mut events = alice
        .peer("greta")
        .subscribe(SubscribeOptions::default().poll(every));
    let mut state = events.state();
    state
        .wait_for(|state| *state == StreamState::Polling { every })
        .await
        .unwrap();
    let news = tease(greta.nara(), "bob", mesh.now().get());
    greta.remember([news.clone()]);
    let heard = futures_util::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert_eq!(heard.event.id, news.id);
    alice.shutdown(GRACE).await;
}
