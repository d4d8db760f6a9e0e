//! Statements of succession out of order, or together, by every path into a nara: a hostile peer chooses the order.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nara_mesh::client::{SubscribeOptions, SyncOptions};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{Ledger, MemoryLedger, ReadLimit, RetentionPolicy, Standing};
use nara_mesh::registry::{KeySource, PeerEvent, PeerInfo, PinnedKey};
use nara_mesh::{Nara, server::Shutdown};
use nara_proto::endpoint::EventsImport;
use nara_proto::event::{HeyTherePayload, ObservationPayload, Payload, SyncEvent};
use nara_proto::identity::PublicKey;
use nara_proto::import::ImportRequest;
use nara_proto::reconcile::Scope;
use nara_proto::succession::Succession;
use nara_proto::sync::{EventFilter, SyncRequest};
use nara_proto::time::{UnixMillis, UnixNanos, UnixSeconds};

use crate::naras::{nara, nara_with_seed, pinned, tease};

pub(crate) const AT: i64 = 1_769_100_000_250;

/// The path by which statements reach bob.
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

/// Returns dora with her `n`th key.
pub(crate) fn dora(n: u8) -> LocalNara {
    nara_with_seed("dora", n)
}

pub(crate) fn stated(at: i64, old: u8, new: Option<u8>) -> SyncEvent {
    let at = UnixMillis::new(AT + at);
    let (name, old) = (dora(1).name().clone(), dora(old));
    let statement = match new {
        Some(new) => Succession::rotate(&name, old.keypair(), dora(new).keypair(), at).unwrap(),
        None => Succession::retire(&name, old.keypair(), at),
    };
    statement.to_event()
}

pub(crate) async fn start(nara: LocalNara, ledger: &Arc<dyn Ledger>, known: Vec<PeerInfo>) -> Nara {
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

pub(crate) fn memory() -> Arc<dyn Ledger> {
    Arc::new(MemoryLedger::new())
}

pub(crate) async fn until(what: impl Fn() -> bool) -> bool {
    for _ in 0..2_000 {
        if what() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

/// Sends these events from carol to bob, who has pinned dora's first key, at once. Returns dora's valid key.
async fn told(
    way: Way,
    events: Vec<SyncEvent>,
    expected: Option<PublicKey>,
) -> (Option<PublicKey>, Vec<SyncEvent>) {
    let (bobs, carols) = (memory(), memory());
    let first = known_from(&dora(1), KeySource::HeyThere { told_by: None });
    let carol = start(nara("carol"), &carols, vec![nara("bob").as_peer(None)]).await;
    let bob = start(nara("bob"), &bobs, vec![carol.as_peer()]).await;
    bob.registry().register(first).unwrap();
    let from_carol = bob.peer(carol.name());
    let told: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
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
            // An unread stream blocks it.
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
        // Bob's own introduction is stored, too.
        let is_stored = |id: &String| stored.iter().any(|checked| checked.event.id == *id);
        if live.is_none() || told.iter().all(is_stored) {
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

/// Returns dora's events with each of four keys, and her statements about these keys.
fn three_rotations() -> ([SyncEvent; 4], [SyncEvent; 3]) {
    let said = [1, 2, 3, 4].map(|key| tease(&dora(key), "bob", AT * 1_000_000 + i64::from(key)));
    // The later a statement, the earlier its time.
    let statements = [
        stated(30, 1, Some(2)),
        stated(20, 2, Some(3)),
        stated(10, 3, Some(4)),
    ];
    (said, statements)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_rotations_at_once_are_followed_on_every_way_with_what_the_new_keys_say() {
    let (said, statements) = three_rotations();
    for way in WAYS {
        let mut events: Vec<_> = said[3..].iter().chain(&statements).cloned().collect();
        if way == Way::Stream {
            // There events may arrive separately; an event before the statement about its key is then refused.
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

#[tokio::test(flavor = "multi_thread")]
async fn what_the_keys_in_between_say_beside_their_statements_is_kept_on_every_way() {
    let (said, statements) = three_rotations();
    // On a stream each event may arrive separately.
    for way in WAYS.into_iter().filter(|way| *way != Way::Stream) {
        let events = said.iter().chain(&statements).cloned().collect();
        let newest = Some(dora(4).public_key());
        let (holds, stored) = told(way, events, newest).await;
        assert_eq!(holds, newest, "{way:?}");
        for event in &said {
            assert!(
                stored.iter().any(|stored| stored.id == event.id),
                "{way:?} {event:?}"
            );
        }
    }
}

/// Returns a nara that another one introduced, or that was met.
pub(crate) fn known_from(nara: &LocalNara, source: KeySource) -> PeerInfo {
    PeerInfo {
        name: Some(nara.name().clone()),
        key: Some(PinnedKey {
            id: None,
            source,
            ..pinned(nara)
        }),
        ..PeerInfo::default()
    }
}

pub(crate) fn met(nara: &LocalNara) -> PeerInfo {
    known_from(nara, KeySource::Ping(([127, 0, 0, 1], 9).into()))
}

pub(crate) fn introduction(nara: &LocalNara, number: i64) -> SyncEvent {
    let payload = HeyTherePayload {
        from: nara.name().to_string(),
        public_key: nara.public_key().to_base64(),
        ..HeyTherePayload::default()
    };
    let at = UnixNanos::new(AT * 1_000_000 + number);
    SyncEvent::signed(
        at,
        Payload::HeyThere(payload),
        nara.name().as_str(),
        nara.keypair(),
    )
}

/// Starts bob, to whom eve sends each of these batches in one zine.
pub(crate) async fn told_by_eve(
    ledger: &Arc<dyn Ledger>,
    known: Vec<PeerInfo>,
    zines: Vec<Vec<SyncEvent>>,
) -> Nara {
    let bob = start(nara("bob"), ledger, known).await;
    let eve = start(nara("eve"), &memory(), vec![bob.as_peer()]).await;
    for zine in zines {
        drop(eve.client().peer(bob.name()).exchange_zine(zine).await.unwrap());
    }
    eve.shutdown(Duration::from_secs(5)).await;
    bob
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_does_not_leave_with_the_events_of_who_told_it_first() {
    let policy = RetentionPolicy::default().max_events(80);
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new().with_retention(policy));
    let restart = |number: i64| {
        let payload = ObservationPayload {
            observer: "eve".to_owned(),
            subject: format!("nara-{number}"),
            kind: "restart".to_owned(),
            importance: 3,
            start_time: UnixSeconds::new(5),
            ..ObservationPayload::default()
        };
        let at = UnixNanos::new((AT + number) * 1_000_000);
        SyncEvent::signed(at, Payload::Observation(payload), "eve", nara("eve").keypair())
    };
    let known = vec![met(&nara("eve")), met(&dora(1))];
    let bob = told_by_eve(&ledger, known, vec![vec![stated(0, 1, Some(2))]]).await;
    let dora_holds = |bob: &Nara| bob.registry().by_name("dora").and_then(|dora| dora.key());
    let newest = Some(dora(2).public_key());
    assert!(until(|| dora_holds(&bob) == newest).await);
    // The keeper has stored it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    bob.shutdown(Duration::from_secs(5)).await;
    let flood = (0..10).map(|part| (1..50).map(|n| restart(50 * part + n)).collect());
    let bob = told_by_eve(&ledger, Vec::new(), flood.collect()).await;
    bob.shutdown(Duration::from_secs(5)).await;
    assert!(ledger.count().await.unwrap() <= 81);
    // The replaced key is not restored by a restart.
    let bob = start(nara("bob"), &ledger, Vec::new()).await;
    assert_eq!(dora_holds(&bob), newest);
    bob.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ghosts_that_replace_their_keys_stay_ghosts() {
    const GHOSTS: u8 = 30;
    let ghost = |number: u8, seed| nara_with_seed(&format!("ghost-{number}"), seed);
    let of_all = |event: &dyn Fn(u8) -> SyncEvent| (0..GHOSTS).map(event).collect::<Vec<_>>();
    let at = UnixMillis::new(AT);
    let introduced = of_all(&|n| introduction(&ghost(n, 1), i64::from(n)));
    let replaced = of_all(&|n| {
        let (old, new) = (ghost(n, 1), ghost(n, 2));
        let statement = Succession::rotate(old.name(), old.keypair(), new.keypair(), at).unwrap();
        statement.to_event()
    });
    let ledger = memory();
    let bob = told_by_eve(&ledger, vec![met(&nara("eve"))], vec![introduced, replaced]).await;
    for number in 0..GHOSTS {
        let name = ghost(number, 2).name().clone();
        let key_of_ghost = || {
            bob.registry()
                .by_name(name.as_str())
                .and_then(|ghost| ghost.key())
        };
        assert!(until(|| key_of_ghost() == Some(ghost(number, 2).public_key())).await);
        let names = bob.registry().known_names(bob.name().clone());
        assert_eq!(names.standing(name.as_str()), Standing::Introduced);
    }
    assert_eq!(bob.registry().prune().len(), usize::from(GHOSTS));
    bob.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_introduces_itself_beside_its_statement_is_no_conflict() {
    let ledger = memory();
    let bob = start(nara("bob"), &ledger, vec![met(&nara("eve")), met(&dora(1))]).await;
    let mut changes = bob.registry().subscribe();
    let eve = start(nara("eve"), &memory(), vec![bob.as_peer()]).await;
    let to_bob = eve.client().peer(bob.name());
    let zine = vec![
        introduction(&dora(2), 1),
        stated(0, 1, Some(2)),
        introduction(&dora(1), 2),
    ];
    drop(to_bob.exchange_zine(zine).await.unwrap());
    let mut conflicts = move || {
        let told = std::iter::from_fn(|| changes.try_recv().ok());
        told.filter(|change| matches!(change, PeerEvent::KeyConflict(_)))
            .count()
    };
    assert_eq!(conflicts(), 0);
    let dora_holds = bob.registry().by_name("dora").and_then(|dora| dora.key());
    assert_eq!(dora_holds, Some(dora(2).public_key()));
    // Without a statement it is a conflict.
    drop(
        to_bob
            .exchange_zine(vec![introduction(&dora(3), 3)])
            .await
            .unwrap(),
    );
    assert_eq!(conflicts(), 1);
    for nara in [bob, eve] {
        nara.shutdown(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_that_introduces_itself_beside_its_statement_is_no_news() {
    let ledger = memory();
    let bob = start(nara("bob"), &ledger, vec![met(&nara("eve"))]).await;
    let mut changes = bob.registry().subscribe();
    let eve = start(nara("eve"), &memory(), vec![bob.as_peer()]).await;
    let zine = vec![
        introduction(&dora(2), 1),
        introduction(&dora(1), 2),
        stated(0, 1, Some(2)),
    ];
    drop(eve.client().peer(bob.name()).exchange_zine(zine).await.unwrap());
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
    let is_alarm =
        |change: &PeerEvent| matches!(change, PeerEvent::KeyConflict(_) | PeerEvent::KeyRefused(_));
    assert!(!told.iter().any(is_alarm), "{told:?}");
    let dora_holds = bob.registry().by_name("dora").and_then(|dora| dora.key());
    assert_eq!(dora_holds, Some(dora(2).public_key()));
    // Introductions of strangers and of known naras are counted together.
    let strangers = (0..64).map(|n| introduction(&nara(&format!("stranger-{n}")), 10 + n));
    let zine = strangers.chain([introduction(&dora(3), 3)]).collect();
    let mut changes = bob.registry().subscribe();
    drop(eve.client().peer(bob.name()).exchange_zine(zine).await.unwrap());
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
    assert!(!told.iter().any(is_alarm), "{told:?}");
    for nara in [bob, eve] {
        nara.shutdown(Duration::from_secs(5)).await;
    }
}
