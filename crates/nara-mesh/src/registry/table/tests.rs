use nara_proto::event::KeyLookup as _;
use nara_proto::identity::{KeyPair, Soul};
use nara_proto::time::UnixMillis;

use super::*;
use crate::identity::LocalNara;
use crate::registry::KeySource;

fn told_by(teller: &str, seed: u8, name: &str) -> PinnedKey {
    PinnedKey {
        source: KeySource::HeyThere {
            told_by: Some(teller.parse().unwrap()),
        },
        ..key(seed, name)
    }
}

#[test]
fn the_ghosts_of_one_teller_go_for_each_other_and_for_nobody_else() {
    let registry = PeerRegistry::default().with_max_peers(2_560);
    registry.pin(told_by("honest", 1, "carol")).unwrap();
    for n in 0..100 {
        registry.pin(told_by("eve", 2, &format!("ghost-{n}"))).unwrap();
    }
    assert_eq!(registry.len(), 1 + 20, "1/128 for each teller");
    assert!(registry.by_name("carol").is_some());
    assert!(registry.by_name("ghost-99").is_some() && registry.by_name("ghost-1").is_none());
    // All tellers together have an eighth.
    for n in 0..400 {
        registry
            .pin(told_by(&format!("eve-{n}"), 2, &format!("puppet-{n}")))
            .unwrap();
    }
    assert_eq!(registry.len(), 320);
    // Who is met at its own address has room all the same.
    let dave = PinnedKey {
        source: KeySource::Ping(address(3)),
        ..key(3, "dave")
    };
    registry.pin(dave).unwrap();
    assert_eq!(registry.prune().len(), 320);
    assert_eq!(registry.len(), 1);
}

#[test]
fn a_small_registry_has_room_for_those_that_one_nara_introduces() {
    let registry = PeerRegistry::default().with_max_peers(100);
    for n in 0..40 {
        registry
            .pin(told_by("bootstrap", 1, &format!("nara-{n}")))
            .unwrap();
    }
    assert_eq!(registry.len(), 13 / 2, "half of those of all tellers");
    let seen = (0..40).filter(|n| {
        let peer = registry
            .pin(told_by("bootstrap", 1, &format!("nara-{n}")))
            .unwrap();
        registry.sign_of_life(&peer);
        peer.info().seen
    });
    assert_eq!(seen.count(), 25 / 2);
    let registry = PeerRegistry::default().with_max_peers(300);
    for n in 0..40 {
        registry
            .pin(told_by("bootstrap", 1, &format!("nara-{n}")))
            .unwrap();
    }
    assert_eq!(registry.len(), 16);
}

#[test]
fn a_ghost_that_is_seen_is_no_ghost_any_more() {
    let registry = PeerRegistry::default().with_max_peers(128);
    let carol = registry.pin(told_by("eve", 1, "carol")).unwrap();
    let mut events = registry.subscribe();
    registry.sign_of_life(&carol);
    assert!(matches!(events.try_recv(), Ok(PeerEvent::Seen(_))));
    registry.sign_of_life(&carol);
    assert!(events.try_recv().is_err());
    registry.pin(told_by("eve", 2, "ghost")).unwrap();
    assert_eq!(registry.prune(), ["ghost".parse().unwrap()]);
    assert!(registry.by_name("carol").is_some());
    // It is remembered.
    let again = PeerRegistry::default();
    again.restore(carol.info().into_record().unwrap()).unwrap();
    assert!(again.prune().is_empty());
}

#[test]
fn ghosts_that_call_leave_room_for_those_that_others_introduce_and_for_those_that_are_met() {
    let registry = PeerRegistry::default().with_max_peers(1_280);
    let seen = |teller: &str, name: &str| {
        let peer = registry.pin(told_by(teller, 1, name)).unwrap();
        registry.sign_of_life(&peer);
        peer.info().seen
    };
    assert!(seen("eve", "dora"));
    let puppets = (0..100).filter(|n| seen("eve", &format!("puppet-{n}")));
    assert_eq!(puppets.count(), 19, "1/64 for each teller");
    // Those beyond go like ghosts, and nobody who was seen goes for them.
    assert!(registry.by_name("dora").is_some() && registry.by_name("puppet-8").is_some());
    assert_eq!(registry.len(), 20 + 16);
    // Also if those that were seen introduce others.
    let others = (0..50).flat_map(|teller| (0..10).map(move |n| (teller, n)));
    let others =
        others.filter(|(teller, n)| seen(&format!("puppet-{teller}"), &format!("other-{teller}-{n}")));
    assert_eq!(20 + others.count(), 1_280 / 4);
    // Who is met at its own address finds room all the same: half of it, with those that were seen.
    let met = (0..1_280).filter(|n| {
        let met = PinnedKey {
            source: KeySource::Ping(address(3)),
            ..key(3, &format!("met-{n}"))
        };
        registry.pin(met).is_ok()
    });
    assert_eq!(met.count(), 640 - 320);
    // What is gone gives its place back.
    registry.remove(&registry.by_name("puppet-8").unwrap());
    assert!(seen("eve", "puppet-99"));
}

#[test]
fn what_is_configured_takes_the_place_of_a_ghost() {
    let registry = PeerRegistry::default().with_max_peers(2);
    registry.pin(told_by("eve", 1, "ghost")).unwrap();
    registry.pin(key(2, "alice")).unwrap();
    registry.pin(key(3, "bob")).unwrap();
    assert!(registry.by_name("ghost").is_none());
    assert_eq!(registry.pin(key(4, "dave")).unwrap_err(), RegisterError::Full(2));
}

#[test]
fn the_first_key_of_a_configured_address_comes_from_there_only() {
    let registry = PeerRegistry::default();
    let bob = PeerInfo {
        name: Some("bob".parse().unwrap()),
        address: Some(address(1)),
        configured: true,
        configured_at: Some(address(1)),
        ..PeerInfo::default()
    };
    registry.register(bob).unwrap();
    let from = |source| PinnedKey {
        source,
        ..key(1, "bob")
    };
    for source in [
        KeySource::HeyThere { told_by: None },
        KeySource::HeyThere {
            told_by: Some("bob".parse().unwrap()),
        },
        KeySource::PeerQuery("eve".parse().unwrap()),
        KeySource::Ping(address(2)),
        KeySource::Tls(address(2)),
    ] {
        let refused = registry.pin(from(source.clone()));
        assert!(matches!(refused, Err(RegisterError::KeyRefused(_))), "{source}");
    }
    registry.pin(from(KeySource::Ping(address(1)))).unwrap();
}

#[test]
fn a_nara_whose_name_cannot_be_seen_is_not_met() {
    let registry = PeerRegistry::default();
    let from = |name: &str, source: KeySource| PinnedKey {
        source,
        ..key(1, name)
    };
    for hidden in [
        '\u{200b}',
        '\u{202e}',
        '\u{85}',
        '\t',
        '\u{2028}',
        '\u{fe0f}',
        '\u{e0041}',
        '\u{ad}',
    ] {
        let name = format!("al{hidden}ice");
        for source in [
            KeySource::HeyThere { told_by: None },
            KeySource::PeerQuery("eve".parse().unwrap()),
            KeySource::Ping(address(2)),
            KeySource::Tls(address(2)),
        ] {
            let refused = registry.pin(from(&name, source.clone()));
            assert!(
                matches!(refused, Err(RegisterError::KeyRefused(_))),
                "{name:?} {source}"
            );
        }
        assert!(registry.by_name(&name).is_none());
        // Whoever is configured is meant.
        let peer = registry.pin(from(&name, KeySource::Configured)).unwrap();
        registry.remove(&peer);
    }
}

#[test]
fn names_that_look_the_same_are_told_at_first_contact() {
    let registry = PeerRegistry::default();
    registry.pin(key(1, "paypal")).unwrap();
    let mut events = registry.subscribe();
    // Cyrillic, in other letters of the same look, and with something that is not seen.
    for (seed, name) in (2..).zip(["p\u{430}ypal", "paypaI", "pay\u{200b}pal"]) {
        let peer = registry.pin(key(seed, name)).unwrap();
        let told = std::iter::from_fn(|| events.try_recv().ok())
            .any(|event| matches!(event, PeerEvent::LookAlike { known, .. } if known.as_str() == "paypal"));
        assert!(told, "{name:?}");
        registry.remove(&peer);
    }
    registry.pin(key(3, "carol")).unwrap();
    let told = std::iter::from_fn(|| events.try_recv().ok())
        .any(|event| matches!(event, PeerEvent::LookAlike { .. }));
    assert!(!told);
    // Our own name is one, too.
    registry.belongs_to(&LocalNara::generate("bob").unwrap());
    registry.pin(key(9, "BOB")).unwrap();
    let told = std::iter::from_fn(|| events.try_recv().ok())
        .any(|event| matches!(event, PeerEvent::LookAlike { known, .. } if known.as_str() == "bob"));
    assert!(told);
}

fn key(seed: u8, name: &str) -> PinnedKey {
    PinnedKey {
        name: name.parse().unwrap(),
        id: None,
        key: KeyPair::from_soul(&Soul::bond([seed; 32], name)).public_key(),
        source: KeySource::Configured,
        learned_at: UnixMillis::new(0),
    }
}

fn id(seed: u8) -> NaraId {
    NaraId::derive(&Soul::bond([seed; 32], "x"), "x")
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([100, 64, 0, last], 9632))
}

#[test]
fn two_halves_of_a_peer_become_one() {
    let registry = PeerRegistry::default();
    registry.register_address(&id(1), address(1)).unwrap();
    registry.pin(key(1, "alice")).unwrap();
    assert_eq!(registry.len(), 2);
    let alice = Some("alice".parse().unwrap());
    registry
        .register(PeerInfo {
            id: Some(id(1)),
            name: alice,
            ..PeerInfo::default()
        })
        .unwrap();
    assert_eq!(registry.len(), 1);
    assert_eq!(registry.key_of_id(id(1).as_str()), Some(key(1, "alice").key));
    assert_eq!(
        registry.by_name("alice").unwrap().info().address,
        Some(address(1))
    );
    assert_eq!(registry.peers().len(), 1);
}

#[test]
fn another_key_is_a_conflict_and_changes_nothing() {
    let registry = PeerRegistry::default();
    registry.pin(key(1, "alice")).unwrap();
    let mut events = registry.subscribe();
    assert!(matches!(
        registry.pin(key(2, "alice")),
        Err(RegisterError::KeyConflict(_))
    ));
    assert_eq!(registry.key_of_name("alice"), Some(key(1, "alice").key));
    assert!(matches!(events.try_recv(), Ok(PeerEvent::KeyConflict(_))));
    assert!(registry.pin(key(1, "alice")).is_ok());
}

#[test]
fn an_id_keeps_its_name_and_a_name_its_id() {
    let registry = PeerRegistry::default();
    let peer = |id, name: &str| PeerInfo {
        id: Some(id),
        name: Some(name.parse().unwrap()),
        ..PeerInfo::default()
    };
    registry.register(peer(id(1), "alice")).unwrap();
    assert!(registry.register(peer(id(1), "bob")).is_err());
    assert!(registry.register(peer(id(2), "alice")).is_err());
    assert_eq!(registry.len(), 1);
}

#[test]
fn hearsay_fills_half_of_a_registry_and_no_more() {
    let registry = PeerRegistry::default().with_max_peers(4);
    let hearsay = |seed: u8| PinnedKey {
        source: KeySource::HeyThere { told_by: None },
        ..key(seed, &format!("nara-{seed}"))
    };
    let met = |seed: u8| PinnedKey {
        source: KeySource::Ping(address(seed)),
        ..hearsay(seed)
    };
    registry.pin(met(1)).unwrap();
    registry.pin(met(2)).unwrap();
    assert_eq!(registry.pin(met(3)).unwrap_err(), RegisterError::Full(2));
    assert!(registry.pin(met(2)).is_ok(), "a known one");
    registry.pin(key(4, "alice")).unwrap();
    registry.register_address(&id(5), address(5)).unwrap();
    assert_eq!(registry.pin(key(6, "bob")).unwrap_err(), RegisterError::Full(4));
}

#[test]
fn a_full_registry_refuses_new_peers_and_takes_known_ones() {
    let registry = PeerRegistry::default().with_max_peers(1);
    let peer = registry.register_address(&id(1), address(1)).unwrap();
    assert_eq!(
        registry.register_address(&id(2), address(2)).unwrap_err(),
        RegisterError::Full(1)
    );
    registry.register_address(&id(1), address(3)).unwrap();
    assert!(registry.by_ip(address(1).ip()).is_empty());
    registry.remove(&peer);
    registry.remove(&peer);
    assert!(registry.is_empty());
}

/// Who remembers a peer for a while asks for its name as if it did not.
#[test]
fn a_remembered_peer_answers_for_its_name_only_while_the_registry_has_it() {
    let registry = PeerRegistry::default();
    let bob: NaraName = "bob".parse().unwrap();
    let named = |likely: &Arc<Peer>| registry.named(&bob, likely).map(|peer| Arc::as_ptr(&peer));
    let first = registry.pin(key(1, "bob")).unwrap();
    let carol = registry.pin(key(2, "carol")).unwrap();
    let stranger = registry.stranger(address(1));
    for likely in [&first, &carol, &stranger] {
        assert_eq!(named(likely), Some(Arc::as_ptr(&first)));
    }
    registry.remove(&first);
    for likely in [&first, &carol, &stranger] {
        assert_eq!(named(likely), None);
    }
    let second = registry.pin(key(3, "bob")).unwrap();
    for likely in [&first, &carol, &stranger, &second] {
        assert_eq!(named(likely), Some(Arc::as_ptr(&second)));
    }
}

#[test]
fn a_new_peer_is_compared_only_with_those_at_its_address_that_have_no_name() {
    let registry = PeerRegistry::default();
    let at = |port: u16| SocketAddr::from(([100, 64, 0, 7], port));
    let named = |name: &str, port| PeerInfo {
        name: Some(name.parse().unwrap()),
        address: Some(at(port)),
        ..PeerInfo::default()
    };
    for n in 0..300 {
        registry.register(named(&format!("nara-{n}"), n)).unwrap();
    }
    assert!(registry.read().nameless.is_empty());
    let nobody = PeerInfo {
        address: Some(at(9632)),
        ..PeerInfo::default()
    };
    let peer = registry.register(nobody.clone()).unwrap();
    registry.register(nobody).unwrap();
    assert_eq!(
        (registry.len(), registry.read().nameless[&at(1).ip()].len()),
        (301, 1)
    );
    // It gets a name, and goes.
    let bob = registry.register(named("bob", 9632)).unwrap();
    assert!(Arc::ptr_eq(&peer, &bob) && registry.read().nameless.is_empty());
    registry.remove(&bob);
    assert_eq!((registry.len(), registry.by_ip(at(1).ip()).len()), (300, 300));
}
