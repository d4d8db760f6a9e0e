use nara_proto::event::{EventTrust, KeyLookup as _, ObservationPayload, Payload, SyncEvent};
use nara_proto::identity::{KeyPair, NaraId, Soul};
use nara_proto::reconcile::{ItemId, Scope};
use nara_proto::time::{UnixMillis, UnixSeconds};

use super::*;
use crate::ledger::{ANY_VOTER, Ledger, MemoryLedger, RetentionPolicy, SqliteLedger};
use crate::registry::{PeerChange, PeerProtocol, PinnedKey};

const V2: PeerProtocol = PeerProtocol {
    v2: true,
    tls: false,
    raw_public_key: false,
};

fn key(name: &str, source: KeySource) -> PinnedKey {
    PinnedKey {
        name: name.parse().unwrap(),
        id: None,
        key: KeyPair::from_soul(&Soul::bond([7; 32], name)).public_key(),
        source,
        learned_at: UnixMillis::new(1),
    }
}

fn ledgers() -> [Arc<dyn Ledger>; 2] {
    [
        Arc::new(MemoryLedger::new()),
        Arc::new(SqliteLedger::open_in_memory().unwrap()),
    ]
}

#[tokio::test]
async fn what_is_stated_about_a_nara_is_read_without_what_is_stated_about_others() {
    let rotation = |name: &str| {
        let keypair = |seed| KeyPair::from_soul(&Soul::bond([seed; 32], name));
        let (name, at) = (name.parse().unwrap(), UnixMillis::new(1_769_100_000_250));
        Succession::rotate(&name, &keypair(1), &keypair(2), at).unwrap()
    };
    for ledger in ledgers() {
        let stated = ["alice", "bob", "carol"].map(rotation);
        let events = stated.iter().map(Succession::to_event).collect();
        ledger.insert_verified(events).await.unwrap();
        let read = async |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            statements(&*ledger, names).await.unwrap()
        };
        assert_eq!(read(&["bob"]).await, [stated[1].clone()]);
        assert_eq!(read(&["carol", "dora"]).await, [stated[2].clone()]);
        assert_eq!(read(&[]).await.len(), 3);
    }
}

#[tokio::test]
async fn keys_and_what_was_proven_are_there_after_a_restart() {
    for ledger in ledgers() {
        let registry = PeerRegistry::default();
        registry.pin(key("alice", KeySource::Configured)).unwrap();
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        let hearsay = key("bob", KeySource::Ping(([100, 64, 0, 7], 9632).into()));
        let bob = registry.pin(hearsay.clone()).unwrap();
        registry.learn_protocol(&bob, V2);
        let alice = registry.by_name("alice").unwrap();
        registry.learn_protocol(&alice, V2);
        keeper.finish().await;

        let registry = PeerRegistry::default();
        let (_keeper, recalled) = PeerKeeper::start(registry.clone(), ledger).await.unwrap();
        assert_eq!((recalled.naras, &recalled.problems[..]), (2, &[][..]));
        let bob = registry.by_name("bob").unwrap().info();
        assert_eq!((bob.key, bob.protocol), (Some(hearsay), V2));
        assert_eq!(registry.by_name("alice").unwrap().protocol(), V2);
    }
}

#[tokio::test]
async fn events_that_came_before_the_key_are_verified_when_it_is_learned() {
    for ledger in ledgers() {
        let keypair = KeyPair::from_soul(&Soul::bond([7; 32], "bob"));
        let chau = nara_proto::event::ChauPayload {
            from: "bob".to_owned(),
            ..Default::default()
        };
        let payload = Payload::Chau(chau);
        let event = SyncEvent::signed(UnixNanos::new(1), payload, "bob", &keypair);
        let chau = nara_proto::event::ChauPayload {
            from: "bob".to_owned(),
            ..Default::default()
        };
        let payload = Payload::Chau(chau);
        let eve = KeyPair::from_soul(&Soul::bond([8; 32], "eve"));
        let forged = SyncEvent::signed(UnixNanos::new(2), payload, "bob", &eve);
        let say = nara_proto::event::SocialPayload {
            kind: "gossip".to_owned(),
            actor: "bob".to_owned(),
            target: "eve".to_owned(),
            ..Default::default()
        };
        // Without an emitter: only its actor tells in whose name it speaks.
        let unsigned = SyncEvent::new(UnixNanos::new(3), Payload::Social(say));
        let unknown = |event| CheckedEvent::new(event, EventTrust::UnknownKey);
        ledger
            .insert([event.clone(), forged, unsigned].map(unknown).into(), None)
            .await
            .unwrap();
        assert_eq!(ledger.count().await.unwrap(), 3);
        assert_eq!(ledger.items(Scope::all()).await.unwrap().len(), 0);

        let registry = PeerRegistry::default();
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        registry
            .pin(key("bob", KeySource::HeyThere { told_by: None }))
            .unwrap();
        keeper.finish().await;
        let items: Vec<_> = ledger
            .items(Scope::all())
            .await
            .unwrap()
            .ids()
            .map(|item| item.event_id())
            .collect();
        assert_eq!(items, [event.id]);
        assert_eq!(ledger.count().await.unwrap(), 1, "what the key disproves goes");
    }
}

#[tokio::test]
async fn a_key_or_an_id_that_is_learned_lifts_the_rejections_that_waited_for_it() {
    for ledger in ledgers() {
        let item = |n: u8| ItemId::of_event(&format!("{n:032x}")).unwrap();
        let awaited = [None, Some("alice"), Some("bob"), Some(ANY_VOTER)];
        let rejected = awaited.map(|name| name.map(str::to_owned));
        let rejected = (0..).map(item).zip(rejected);
        let eve = || "eve".to_owned();
        ledger.reject(eve(), rejected.collect()).await.unwrap();
        let rejected = async || ledger.rejected(eve(), (0..4).map(item).collect()).await.unwrap();

        let registry = PeerRegistry::default();
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        let pinned = key("bob", KeySource::HeyThere { told_by: None });
        registry.pin(pinned.clone()).unwrap();
        keeper.finish().await;
        assert_eq!(rejected().await, [item(0), item(1), item(3)]);

        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        let id = NaraId::derive(&Soul::bond([7; 32], "bob"), "bob");
        registry
            .pin(PinnedKey {
                id: Some(id),
                ..pinned
            })
            .unwrap();
        keeper.finish().await;
        assert_eq!(rejected().await, [item(0), item(1)]);
    }
}

#[tokio::test]
async fn an_event_that_is_verified_later_stays_charged_to_whoever_told_it() {
    for ledger in ledgers() {
        let keypair = KeyPair::from_soul(&Soul::bond([7; 32], "puppet"));
        let chau = |ts| {
            let payload = nara_proto::event::ChauPayload {
                from: "puppet".to_owned(),
                ..Default::default()
            };
            let payload = Payload::Chau(payload);
            SyncEvent::signed(UnixNanos::new(ts), payload, "puppet", &keypair)
        };
        let tellers = ["eve", "mallory"].map(|name| Some(name.parse::<NaraName>().unwrap()));
        for (ts, teller) in (1..).zip(tellers.clone()) {
            let unknown = CheckedEvent::new(chau(ts), EventTrust::UnknownKey);
            ledger.insert(vec![unknown], teller).await.unwrap();
        }
        let registry = PeerRegistry::default();
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        registry
            .pin(key("puppet", KeySource::HeyThere { told_by: None }))
            .unwrap();
        keeper.finish().await;
        let limit = ReadLimit::events(9);
        let arrived = ledger.arrived_after(Default::default(), 0, limit).await.unwrap();
        let told: Vec<_> = arrived
            .events
            .iter()
            .map(|arrival| (arrival.trust, arrival.origin.clone()))
            .collect();
        assert_eq!(told, tellers.map(|teller| (EventTrust::Verified, teller)));
    }
}

#[tokio::test]
async fn a_ghost_that_had_to_go_is_not_kept() {
    for ledger in ledgers() {
        let registry = PeerRegistry::default().with_max_peers(1);
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        registry
            .pin(key("ghost", KeySource::HeyThere { told_by: None }))
            .unwrap();
        tokio::task::yield_now().await;
        registry
            .pin(key("puppet", KeySource::HeyThere { told_by: None }))
            .unwrap();
        keeper.finish().await;
        let kept: Vec<_> = ledger
            .peers()
            .await
            .unwrap()
            .into_iter()
            .map(|record| record.name)
            .collect();
        assert_eq!(kept, ["puppet".parse::<NaraName>().unwrap()]);
        assert_eq!(ledger.forget_ghosts(None).await.unwrap(), 1);
        assert!(ledger.peers().await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_among_many_events_is_kept_within_a_minute() {
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new());
    let registry = PeerRegistry::default();
    registry.pin(key("alice", KeySource::Configured)).unwrap();
    let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
    let other = PinnedKey {
        key: KeyPair::from_soul(&Soul::bond([8; 32], "alice")).public_key(),
        ..key("alice", KeySource::HeyThere { told_by: None })
    };
    let hearsay = |name: &str| key(name, KeySource::HeyThere { told_by: None });
    // The keeper does not get to run in between.
    for name in ["bob", "carol"] {
        registry.pin(hearsay(name)).unwrap();
        for _ in 0..1000 {
            registry.pin(other.clone()).unwrap_err();
        }
        sleep(LOOK_INTERVAL).await;
        let records = ledger.peers().await.unwrap();
        assert!(
            records.iter().any(|record| record.name.as_str() == name),
            "{name}: {records:?}"
        );
    }
    registry.pin(hearsay("dave")).unwrap();
    for _ in 0..1000 {
        registry.pin(other.clone()).unwrap_err();
    }
    keeper.finish().await;
    let records = ledger.peers().await.unwrap();
    assert!(
        records.iter().any(|record| record.name.as_str() == "dave"),
        "at the end at once"
    );
}

#[tokio::test]
async fn a_decision_of_another_process_takes_effect_on_reload_and_is_not_undone() {
    for ledger in ledgers() {
        let registry = PeerRegistry::default();
        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        let bob = registry
            .pin(key("bob", KeySource::HeyThere { told_by: None }))
            .unwrap();
        let name: NaraName = "bob".parse().unwrap();
        let at = UnixMillis::new(5);
        let forget = PeerChange::Forget { at };
        ledger.change_peer(name.clone(), forget).await.unwrap().unwrap();
        // What this process learns of the old key does not bring it back.
        registry.learn_protocol(&bob, V2);
        let recalled = keeper.reload().await.unwrap();
        assert_eq!(recalled.decided, [name]);
        assert!(bob.key().is_none());
        keeper.finish().await;
        let records = ledger.peers().await.unwrap();
        assert_eq!(records[0].key, None);
    }
}

/// Small ledgers that know the naras of these registries.
fn small_ledgers() -> [(PeerRegistry, Arc<dyn Ledger>); 2] {
    let policy = RetentionPolicy::default().max_events(80);
    let [one, other] = [PeerRegistry::default(), PeerRegistry::default()];
    let me = || "me".parse().unwrap();
    let memory = MemoryLedger::new()
        .with_retention(policy)
        .with_known_names(one.known_names(me()));
    let sqlite = SqliteLedger::open_in_memory()
        .unwrap()
        .with_retention(policy)
        .with_known_names(other.known_names(me()));
    [(one, Arc::new(memory)), (other, Arc::new(sqlite))]
}

#[tokio::test]
async fn what_was_told_about_a_ghost_stays_once_the_ghost_was_met() {
    const AT: i64 = 1_769_100_000_250;
    let restart = |number: i64| {
        let payload = ObservationPayload {
            observer: "mallory".to_owned(),
            subject: format!("nara-{number}"),
            kind: "restart".to_owned(),
            importance: 3,
            start_time: UnixSeconds::new(5),
            ..ObservationPayload::default()
        };
        let eve = KeyPair::from_soul(&Soul::bond([8; 32], "mallory"));
        let at = UnixNanos::new((AT + 1 + number) * 1_000_000);
        SyncEvent::signed(at, Payload::Observation(payload), "mallory", &eve)
    };
    let mallory: NaraName = "mallory".parse().unwrap();
    for (registry, ledger) in small_ledgers() {
        let met = KeySource::Ping(([100, 64, 0, 7], 9632).into());
        registry.pin(key("mallory", met)).unwrap();
        let told_by = Some(mallory.clone());
        let ghost = key("ghost", KeySource::HeyThere { told_by });
        let ghost = registry.pin(ghost).unwrap();
        let keypair = |seed| KeyPair::from_soul(&Soul::bond([seed; 32], "ghost"));
        let newest = Some(keypair(8).public_key());
        let (name, at) = ("ghost".parse().unwrap(), UnixMillis::new(AT));
        let statement = Succession::rotate(&name, &keypair(7), &keypair(8), at).unwrap();
        let tell = async |events: Vec<SyncEvent>| {
            let events = events.into_iter().map(CheckedEvent::verified).collect();
            ledger.insert(events, Some(mallory.clone())).await.unwrap();
        };

        let (keeper, _) = PeerKeeper::start(registry.clone(), ledger.clone()).await.unwrap();
        tell(vec![statement.to_event()]).await;
        for _ in 0..2_000 {
            if registry.key_of_name("ghost") == newest {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        // The keeper hears of the statement before it hears of the ghost.
        sleep(Duration::from_millis(50)).await;
        registry.sign_of_life(&ghost);
        keeper.finish().await;
        for part in 0..4 {
            tell((0..50).map(|n| restart(50 * part + n)).collect()).await;
        }
        assert!(ledger.count().await.unwrap() <= 81);

        let registry = PeerRegistry::default();
        let (_keeper, _) = PeerKeeper::start(registry.clone(), ledger).await.unwrap();
        assert_eq!(registry.key_of_name("ghost"), newest);
    }
}
