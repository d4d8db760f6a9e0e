//! Statements about keys that come out of order, or together, by every way into a nara: a hostile peer chooses the order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{SubscribeOptions, SyncOptions};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, MemoryLedger, ReadLimit};
use nara_mesh::registry::{KeySource, PeerInfo, PinnedKey};
use nara_mesh::{Nara, server::Shutdown};
use nara_proto::endpoint::EventsImport;
use nara_proto::event::SyncEvent;
use nara_proto::identity::PublicKey;
use nara_proto::import::ImportRequest;
use nara_proto::reconcile::Scope;
use nara_proto::succession::Succession;
use nara_proto::sync::{EventFilter, SyncRequest};
use nara_proto::time::UnixMillis;

use crate::naras::{nara, nara_with_seed, pinned, tease};

const AT: i64 = 1_769_100_000_250;

/// The way that statements take into bob.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Zine,
    Pages,
    Reconciliation,
    Sample,
    Stream,
    Import,
}

const WAYS: [Way; 6] = [
    Way::Zine,
    Way::Pages,
    Way::Reconciliation,
    Way::Sample,
    Way::Stream,
    Way::Import,
];

/// Dora, with her `n`th key.
fn dora(n: u8) -> LocalNara {
    nara_with_seed("dora", n)
}

fn stated(at: i64, old: u8, new: Option<u8>) -> SyncEvent {
    let at = UnixMillis::new(AT + at);
    let (name, old) = (dora(1).name().clone(), dora(old));
    let statement = match new {
        Some(new) => Succession::rotate(&name, old.keypair(), dora(new).keypair(), at).unwrap(),
        None => Succession::retire(&name, old.keypair(), at),
    };
    statement.to_event()
}

async fn start(nara: LocalNara, ledger: &Arc<dyn Ledger>, known: Vec<PeerInfo>) -> Nara {
    let builder = Nara::builder(nara)
        .listen("127.0.0.1:0".parse().unwrap())
        .ledger(ledger.clone())
        .without_gossip()
        .catch_up(false);
    known
        .into_iter()
        .fold(builder, nara_mesh::nara::NaraBuilder::know)
        .start()
        .await
        .unwrap()
}

fn memory() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new())
}

async fn until(what: impl Fn() -> bool) -> bool {
    for _ in 0..2_000 {
        if what() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Bob, who has pinned dora's first key, gets these events from carol at once. Returns the key that holds then.
async fn told(
    way: Way,
    events: Vec<SyncEvent>,
    expected: Option<PublicKey>,
) -> (Option<PublicKey>, Vec<SyncEvent>) {
    let (bobs, carols) = (memory(), memory());
    let first = PeerInfo {
        name: Some(dora(1).name().clone()),
        key: Some(PinnedKey {
            id: None,
            source: KeySource::HeyThere { told_by: None },
            ..pinned(&dora(1))
        }),
        ..PeerInfo::default()
    };
    let carol = start(nara("carol"), &carols, vec![nara("bob").as_peer(None)]).await;
    let bob = start(nara("bob"), &bobs, vec![carol.as_peer()]).await;
    bob.registry().register(first).unwrap();
    let from_carol = bob.peer(carol.name());
    let all = events.len();
    match way {
        Way::Zine => {
            let to_bob = carol.client().peer(bob.address().unwrap());
            drop(to_bob.exchange_zine(events).await.unwrap());
        }
        Way::Import => {
            let now = SystemClock.now_seconds();
            let import = ImportRequest::signed(events, now, nara("bob").keypair());
            let to_bob = carol.client().peer(bob.address().unwrap());
            drop(to_bob.call::<EventsImport>(&import).await.unwrap());
        }
        _ => {
            carols.insert_verified(events).await.unwrap();
        }
    }
    let mut live = None;
    match way {
        Way::Zine | Way::Import => {}
        Way::Pages => {
            let synced = from_carol.sync_into(&*bobs, EventFilter::default(), SyncOptions::default());
            synced.await.unwrap();
        }
        Way::Reconciliation => {
            for _ in 0..2 {
                let reconciled = from_carol.reconcile(&*bobs, Scope::all(), SyncOptions::default());
                reconciled.await.unwrap();
            }
        }
        Way::Sample => {
            let sample = from_carol
                .fetch_sync_events(SyncRequest::sample(100))
                .await
                .unwrap();
            bobs.insert(sample.into_inner().events.accepted, None)
                .await
                .unwrap();
        }
        Way::Stream => {
            let options = SubscribeOptions::default().oldest().into_ledger(bobs.clone());
            let mut events = from_carol.subscribe(options);
            // Whoever does not read holds it up.
            live = Some(tokio::spawn(
                async move { while events.next().await.is_some() {} },
            ));
        }
    }
    let key_of_dora = || bob.registry().by_name("dora").and_then(|dora| dora.key());
    until(|| key_of_dora() == expected).await;
    let mut stored = Vec::new();
    for _ in 0..200 {
        stored = bobs
            .recent(EventFilter::default(), ReadLimit::events(100))
            .await
            .unwrap();
        if live.is_none() || stored.len() >= all {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Some(live) = live {
        live.abort();
    }
    let holds = key_of_dora();
    assert_eq!(bob.shutdown(Duration::from_secs(5)).await, Shutdown::Graceful);
    carol.shutdown(Duration::from_secs(5)).await;
    (holds, stored.into_iter().map(|checked| checked.event).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_rotations_at_once_are_followed_on_every_way_with_what_the_new_keys_say() {
    let said: Vec<_> = (1..=4)
        .map(|key| tease(&dora(key), "bob", AT * 1_000_000 + i64::from(key)))
        .collect();
    // The later a statement, the earlier its time.
    let statements = [
        stated(30, 1, Some(2)),
        stated(20, 2, Some(3)),
        stated(10, 3, Some(4)),
    ];
    for way in WAYS {
        let mut events: Vec<_> = said[3..].iter().chain(&statements).cloned().collect();
        if way == Way::Stream {
            // There each event may come alone, and then what was said before its key was stated is refused.
            events.rotate_left(1);
        }
        let newest = Some(dora(4).public_key());
        let (holds, stored) = told(way, events, newest).await;
        assert_eq!(holds, newest, "{way:?}");
        assert!(stored.iter().any(|event| event.id == said[3].id), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_or_a_fork_behind_a_rotation_is_heeded_on_every_way() {
    let retired = vec![stated(0, 2, None), stated(5, 1, Some(2))];
    let forked = vec![
        stated(0, 2, Some(4)),
        stated(1, 2, Some(3)),
        stated(5, 1, Some(2)),
    ];
    for statements in [retired, forked] {
        for way in WAYS {
            assert_eq!(
                told(way, statements.clone(), None).await.0,
                None,
                "{way:?} {statements:?}"
            );
        }
    }
}
