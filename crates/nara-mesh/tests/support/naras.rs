//! Naras, their registry entries, and their signed events.

#![expect(clippy::unwrap_used, reason = "names and souls of tests are valid")]

use std::net::SocketAddr;

use nara_mesh::identity::LocalNara;
use nara_mesh::registry::{KeySource, PeerInfo, PeerRegistry, PinnedKey};
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use nara_proto::identity::Soul;
use nara_proto::time::{UnixMillis, UnixNanos};

/// Returns a nara whose soul is derived from its name.
pub(crate) fn nara(name: &str) -> LocalNara {
    bonded(name, seed_of(name))
}

/// Returns the seed of the soul that is derived from a name.
pub(crate) fn seed_of(name: &str) -> [u8; 32] {
    let mut seed = [7; 32];
    for (byte, of_name) in seed.iter_mut().zip(name.bytes()) {
        *byte = of_name;
    }
    seed
}

/// Returns a nara with another soul.
pub(crate) fn nara_with_seed(name: &str, seed: u8) -> LocalNara {
    bonded(name, [seed; 32])
}

fn bonded(name: &str, seed: [u8; 32]) -> LocalNara {
    LocalNara::new(&Soul::bond(seed, name), name.parse().unwrap()).unwrap()
}

/// Returns a nara's key as pinned by an operator.
pub(crate) fn pinned(nara: &LocalNara) -> PinnedKey {
    PinnedKey {
        name: nara.name().clone(),
        id: Some(nara.id().clone()),
        key: nara.public_key(),
        source: KeySource::Configured,
        learned_at: UnixMillis::new(0),
    }
}

/// Returns a complete registry entry of a nara.
pub(crate) fn known(nara: &LocalNara, address: Option<SocketAddr>) -> PeerInfo {
    PeerInfo {
        id: Some(nara.id().clone()),
        name: Some(nara.name().clone()),
        address,
        key: Some(pinned(nara)),
        ..PeerInfo::default()
    }
}

/// Returns a registry that knows these naras, without addresses.
pub(crate) fn registry(naras: &[&LocalNara]) -> PeerRegistry {
    let registry = PeerRegistry::default();
    for nara in naras {
        registry.register(known(nara, None)).unwrap();
    }
    registry
}

/// Returns a signed social event at `ts` nanoseconds.
pub(crate) fn tease(emitter: &LocalNara, target: &str, ts: i64) -> SyncEvent {
    let payload = SocialPayload {
        kind: "tease".to_owned(),
        actor: emitter.name().to_string(),
        target: target.to_owned(),
        reason: "comeback".to_owned(),
        ..SocialPayload::default()
    };
    SyncEvent::signed(
        UnixNanos::new(ts),
        Payload::Social(payload),
        emitter.name().as_str(),
        emitter.keypair(),
    )
}
