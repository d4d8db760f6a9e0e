use nara_proto::identity::{KeyPair, Soul};
use nara_proto::time::UnixMillis;

use super::*;
use crate::registry::KeySource;

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
    registry.pin(hearsay(1)).unwrap();
    registry.pin(hearsay(2)).unwrap();
    assert_eq!(registry.pin(hearsay(3)).unwrap_err(), RegisterError::Full(2));
    assert!(registry.pin(hearsay(2)).is_ok(), "a known one");
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
