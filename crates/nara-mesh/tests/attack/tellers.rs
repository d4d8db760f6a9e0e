//! Naras that introduce others: against whom their events count, and how many invented naras find room.

use std::sync::Arc;
use std::time::Duration;

use nara_mesh::Nara;
use nara_mesh::client::MeshClient;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_mesh::registry::PeerRegistry;
use nara_proto::endpoint::EventsImport;
use nara_proto::event::SyncEvent;
use nara_proto::identity::NaraName;
use nara_proto::import::ImportRequest;
use nara_proto::succession::KeyState;
use nara_proto::sync::{EventFilter, SyncRequest};

use crate::naras::{nara, tease};
use crate::succession::{AT, dora, introduction, memory, met, start, stated, told_by_eve, until};

/// Returns a ledger of 80 events: an account within its quota has ten of them.
fn small() -> Arc<dyn Ledger> {
    let policy = RetentionPolicy::default().max_events(80);
    Arc::new(MemoryLedger::new().with_retention(policy))
}

/// Returns dora's event with her first key.
fn said() -> Vec<SyncEvent> {
    (0..8)
        .map(|number| tease(&dora(1), "bob", AT * 1_000_000 + number))
        .collect()
}

/// Returns as many successors of her first key as its holder can state.
fn forks() -> Vec<SyncEvent> {
    (10..210).map(|key| stated(1_000, 1, Some(key))).collect()
}

async fn keeps(ledger: &Arc<dyn Ledger>, events: &[SyncEvent]) -> bool {
    let stored = ledger.recent(EventFilter::default(), ReadLimit::events(100));
    let stored = stored.await.unwrap();
    events
        .iter()
        .all(|event| stored.iter().any(|stored| stored.event.id == event.id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_statements_is_charged_to_who_tells_it_and_brings_no_replaced_key_back() {
    let ledger = small();
    let zines: Vec<_> = [said(), vec![stated(0, 1, Some(2))]]
        .into_iter()
        .chain(forks().chunks(50).map(<[SyncEvent]>::to_vec))
        .collect();
    let bob = told_by_eve(&ledger, vec![met(&nara("eve")), met(&dora(1))], zines).await;
    let state = |bob: &Nara| bob.registry().key_state("dora");
    assert!(until(|| state(&bob) == Some(KeyState::Conflict)).await);
    bob.shutdown(Duration::from_secs(5)).await;
    assert!(ledger.count().await.unwrap() <= 81);
    assert!(keeps(&ledger, &said()).await);
    let bob = start(nara("bob"), &ledger, Vec::new()).await;
    assert_eq!(state(&bob), Some(KeyState::Conflict));
    assert_eq!(bob.registry().by_name("dora").unwrap().key(), None);
    bob.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_statements_are_not_charged_to_the_nara_that_they_are_about() {
    let ledger = small();
    let bob = told_by_eve(&ledger, vec![met(&nara("eve")), met(&dora(1))], vec![said()]).await;
    let owner = MeshClient::builder(nara("bob")).build();
    let import = ImportRequest::signed(forks(), SystemClock.now_seconds(), nara("bob").keypair());
    let to_bob = owner.peer(bob.address().unwrap());
    to_bob.call::<EventsImport>(&import).await.unwrap();
    bob.shutdown(Duration::from_secs(5)).await;
    assert!(ledger.count().await.unwrap() <= 81);
    assert!(keeps(&ledger, &said()).await);
}

/// Makes a nara call bob, who knows its key by then, or gets it by a call back.
async fn calls(caller: &LocalNara, bob: &Nara) {
    let client = MeshClient::builder(caller.clone()).build();
    client.registry().register(bob.as_peer()).unwrap();
    // Whether it is served does not matter.
    let _ = client.fetch_sync_events(bob.name(), SyncRequest::recent(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puppets_that_call_find_so_much_room_and_leave_that_of_others() {
    // Of 64 places, introduced naras that called get 16, and those of one teller 8.
    let registry = PeerRegistry::default().with_max_peers(64);
    let bob = Nara::builder(nara("bob"))
        .listen("127.0.0.1:0".parse().unwrap())
        .ledger(memory())
        .registry(registry)
        .without_gossip()
        .catch_up(false)
        .know(nara("eve").as_peer(None))
        .know(nara("carol").as_peer(None))
        .start()
        .await
        .unwrap();
    let introduce = async |teller: &str, name: &str| {
        let client = MeshClient::builder(nara(teller)).build();
        client.registry().register(bob.as_peer()).unwrap();
        let zine = vec![introduction(&nara(name), 1)];
        drop(client.peer(bob.name()).exchange_zine(zine).await.unwrap());
        calls(&nara(name), &bob).await;
    };
    let seen = |kind: &str| {
        let peers = bob.registry().peers().into_iter().map(|peer| peer.info());
        let is_of_kind = |name: &NaraName| name.as_str().starts_with(kind);
        peers
            .filter(|info| info.seen && info.name.as_ref().is_some_and(is_of_kind))
            .count()
    };
    for number in 0..24 {
        introduce("eve", &format!("puppet-{number}")).await;
    }
    assert_eq!(seen("puppet"), 8);
    for number in 0..4 {
        introduce("carol", &format!("friend-{number}")).await;
    }
    assert_eq!((seen("puppet"), seen("friend")), (8, 4));
    bob.shutdown(Duration::from_secs(5)).await;
}
