use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nara_proto::breaker::BreakerState;
use nara_proto::gossip::{Ring, RingPosition};
use nara_proto::identity::NaraName;

use crate::client::MeshClient;
use crate::clock::monotonic_now;
use crate::ledger::Standing;
use crate::registry::{Peer, PeerInfo, PinnedKey, standing};

/// The label of a peer: its name, or its id while the name is unknown. All naras agree on names, so the ring is
/// the same for all.
pub(crate) type Label = Arc<str>;

/// The peers that can be called, arranged as a ring.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    pub(super) ring: Ring<Label>,
    peers: BTreeMap<Label, Arc<Peer>>,
    /// Whether unproven peers wait for a slot.
    pub(super) has_waiting: bool,
}

impl Directory {
    /// Collects the peers of the registry that have an address and are not banned, except this nara itself.
    ///
    /// A peer that is not configured and has proven nothing at its address may be made up, with an address of an
    /// attacker's choice. Such peers get a bounded share, also per introducing nara, and take [turns](TURN). Many
    /// peers at one address may be one attacker, so their share is bounded, too, except on loopback.
    pub(crate) fn new(client: &MeshClient) -> Self {
        let local = client.local();
        let mut peers = BTreeMap::new();
        let mut by_ip: BTreeMap<IpAddr, Vec<(Label, Arc<Peer>)>> = BTreeMap::new();
        let mut unproven = Vec::new();
        for peer in client.registry().peers() {
            let info = peer.info();
            let Some(ip) = info.ip() else { continue };
            if peer.is_untrusted()
                || info.name.as_ref() == Some(local.name())
                || info.id.as_ref() == Some(local.id())
            {
                continue;
            }
            let name = info.name.as_ref().map(|name| name.as_str());
            if let Some(label) = name.or_else(|| info.id.as_ref().map(|id| id.as_str())) {
                let label = Label::from(label);
                let is_proven = is_proven(&peer, &info);
                if is_configured(&info) || (is_proven && ip.is_loopback()) {
                    peers.insert(label, peer);
                } else if is_proven {
                    by_ip.entry(ip).or_default().push((label, peer));
                } else {
                    unproven.push((label, peer, info));
                }
            }
        }
        let some_of_each: usize = by_ip
            .values()
            .map(|of_one| of_one.len().min(AT_ONE_ADDRESS))
            .sum();
        let room = AT_ONE_ADDRESS.max((peers.len() + some_of_each) / 4);
        let own = position(local.name().as_str());
        for of_one in by_ip.into_values() {
            peers.extend(next_behind(own, of_one, room));
        }
        let room = UNPROVEN.max(peers.len() / 4);
        let all = peers.len() + unproven.len();
        peers.extend(chosen(unproven, room, monotonic_now()));
        let has_waiting = peers.len() < all;
        let members = peers.keys().map(|label| (position(label), label.clone()));
        let mut directory = Self {
            ring: Ring::new(members),
            peers,
            has_waiting,
        };
        directory.measure(client);
        directory
    }

    /// Updates the distances of the peers.
    pub(super) fn measure(&mut self, client: &MeshClient) {
        let known = self.peers.iter().filter_map(|(label, peer)| {
            let distance = client.registry().distance(peer)?;
            Some((label.clone(), distance))
        });
        self.ring.set_distances(known);
    }

    pub(crate) fn peer(&self, label: &Label) -> Option<Arc<Peer>> {
        self.peers.get(label).cloned()
    }

    pub(crate) fn peers(&self) -> Vec<(Label, Arc<Peer>)> {
        self.peers
            .iter()
            .map(|(label, peer)| (label.clone(), peer.clone()))
            .collect()
    }
}

/// Minimum number of slots for unproven peers; a quarter of the proven ones, if that is more.
const UNPROVEN: usize = 4;

/// Maximum number of them per introducing nara.
const UNPROVEN_OF_ONE_TELLER: usize = 2;

/// How long an unproven peer keeps its slot: enough for some calls. Without turns, two peers that accept
/// connections and prove nothing would exclude all others that the same nara introduced.
pub(super) const TURN: Duration = Duration::from_secs(60);

/// Minimum number of slots for unconfigured peers at one address; a quarter of all, if that is more.
const AT_ONE_ADDRESS: usize = 4;

fn is_configured(info: &PeerInfo) -> bool {
    info.configured_at.is_some() || standing(info) == Standing::Configured
}

/// Returns whether nothing suggests that it is not at its address.
fn is_proven(peer: &Peer, info: &PeerInfo) -> bool {
    let introduced = |key: &PinnedKey| key.source.introducer().is_some();
    peer.is_at_its_address() || !info.key.as_ref().is_some_and(introduced)
}

/// Returns the next peers on the ring, so that each of many at one address is chosen by those before it.
fn next_behind(
    own: RingPosition,
    peers: Vec<(Label, Arc<Peer>)>,
    room: usize,
) -> impl Iterator<Item = (Label, Arc<Peer>)> {
    let labels = peers.iter().map(|(label, _)| (position(label), label.clone()));
    let next: BTreeSet<Label> = Ring::new(labels).behind(own).take(room).cloned().collect();
    peers.into_iter().filter(move |(label, _)| next.contains(label))
}

/// Selects up to `room` peers: reachable ones before peers known to be down, then by turn: current turns first,
/// then the longest wait.
fn chosen(
    mut unproven: Vec<(Label, Arc<Peer>, PeerInfo)>,
    room: usize,
    now: Instant,
) -> impl Iterator<Item = (Label, Arc<Peer>)> {
    let is_over = move |turn: Instant| now.saturating_duration_since(turn) >= TURN;
    unproven.sort_by_cached_key(|(label, peer, info)| {
        let is_down = peer.breaker_state() != BreakerState::Closed;
        let turn = peer.turn();
        let learned_at = info.key.as_ref().map(|key| key.learned_at);
        (is_down, turn.is_none_or(is_over), turn, learned_at, label.clone())
    });
    let mut of_teller: BTreeMap<Option<NaraName>, usize> = BTreeMap::new();
    let chosen = unproven.into_iter().filter(move |(_, _, info)| {
        let teller = info
            .key
            .as_ref()
            .and_then(|key| key.source.introducer().flatten().cloned());
        let count = of_teller.entry(teller).or_default();
        *count += 1;
        *count <= UNPROVEN_OF_ONE_TELLER
    });
    chosen.take(room).map(move |(label, peer, _)| {
        if peer.turn().is_none_or(is_over) {
            peer.begin_turn(now);
        }
        (label, peer)
    })
}

pub(super) fn position(label: &str) -> RingPosition {
    RingPosition::of(label)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use super::*;
    use crate::identity::LocalNara;
    use crate::registry::{KeySource, PeerRecord};

    fn introduced(client: &MeshClient, name: &str, teller: &str) -> Arc<Peer> {
        let name: NaraName = name.parse().unwrap();
        let info = PeerInfo {
            name: Some(name.clone()),
            address: Some(([100, 64, 0, 9], 9632).into()),
            key: Some(PinnedKey {
                key: KeyPair::from_soul(&Soul::bond([7; 32], name.as_str())).public_key(),
                name,
                id: None,
                source: KeySource::HeyThere {
                    told_by: Some(teller.parse().unwrap()),
                },
                learned_at: UnixMillis::new(1),
            }),
            ..PeerInfo::default()
        };
        client.registry().register(info).unwrap()
    }

    fn nara(name: &str) -> LocalNara {
        LocalNara::new(&Soul::bond([1; 32], name), name.parse().unwrap()).unwrap()
    }

    #[test]
    fn ghosts_have_a_bounded_share_of_the_ring_and_so_has_their_teller() {
        let client = MeshClient::builder(nara("alice")).build();
        for n in 0..6 {
            let friend = nara(&format!("friend-{n}"));
            let address = ([100, 64, 1, n], 9632).into();
            client.registry().register(friend.as_peer(Some(address))).unwrap();
        }
        for n in 0..40 {
            introduced(&client, &format!("ghost-{n}"), "eve");
        }
        let on_ring = |prefix: &str| count_on_ring(&client, prefix);
        assert_eq!((on_ring("friend"), on_ring("ghost")), (6, UNPROVEN_OF_ONE_TELLER));
        for n in 0..40 {
            introduced(&client, &format!("puppet-{n}"), &format!("eve-{n}"));
        }
        assert_eq!(
            (on_ring("friend"), on_ring("ghost") + on_ring("puppet")),
            (6, UNPROVEN)
        );
        // A peer that calls from elsewhere may have claimed another nara's address.
        let seen = client.registry().by_name("ghost-39").unwrap();
        client.registry().sign_of_life(&seen);
        client.registry().seen_at(&seen, [100, 64, 9, 9].into());
        assert_eq!(on_ring("ghost-39"), 0);
        // A peer proven at its address counts as proven; one that is down loses its slot.
        client.registry().seen_at(&seen, [100, 64, 0, 9].into());
        assert_eq!(on_ring("ghost-39"), 1);
        let down = Directory::new(&client).peer(&Label::from("ghost-0")).unwrap();
        client.registry().sign_of_death(&down);
        assert_eq!(on_ring("ghost-0"), 0);
    }

    /// Two puppets that are known longest, and 20 others, as after a restart.
    fn restarted(are_seen: bool) -> MeshClient {
        let client = MeshClient::builder(nara("alice")).build();
        for n in 0..22 {
            let kind = if n < 2 { "puppet" } else { "friend" };
            let name: NaraName = format!("{kind}-{n}").parse().unwrap();
            let record = PeerRecord {
                key: Some(PinnedKey {
                    key: KeyPair::from_soul(&Soul::bond([7; 32], name.as_str())).public_key(),
                    name: name.clone(),
                    id: None,
                    source: KeySource::HeyThere {
                        told_by: Some("bootstrap".parse().unwrap()),
                    },
                    learned_at: UnixMillis::new(n.into()),
                }),
                seen: are_seen,
                ..PeerRecord::new(name.clone())
            };
            client.registry().restore(record).unwrap();
            let found = PeerInfo {
                name: Some(name),
                address: Some(([100, 64, 2, n], 9632).into()),
                ..PeerInfo::default()
            };
            client.registry().register(found).unwrap();
        }
        client
    }

    fn count_on_ring(client: &MeshClient, prefix: &str) -> usize {
        let directory = Directory::new(client);
        let labels = directory.ring.iter();
        labels.filter(|label| label.starts_with(prefix)).count()
    }

    #[test]
    fn after_a_restart_peers_that_were_seen_have_their_places() {
        let client = restarted(true);
        assert_eq!(count_on_ring(&client, "friend"), 20);
        // Peers that answer without proof, or do not answer, are unproven from then on.
        for peer in client.registry().peers() {
            peer.proved_nothing();
        }
        assert_eq!(Directory::new(&client).ring.len(), UNPROVEN_OF_ONE_TELLER);
        // A peer that proves itself regains its slot.
        let friend = client.registry().by_name("friend-21").unwrap();
        client.registry().seen_at(&friend, [100, 64, 2, 21].into());
        assert_eq!(count_on_ring(&client, "friend-21"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn unproven_peers_take_turns() {
        let client = restarted(false);
        let mut called = BTreeSet::new();
        for _ in 0..22 / UNPROVEN_OF_ONE_TELLER {
            let directory = Directory::new(&client);
            assert!(directory.has_waiting);
            assert_eq!(directory.ring.len(), UNPROVEN_OF_ONE_TELLER);
            called.extend(directory.ring.iter().cloned());
            // The choice is stable during a turn.
            tokio::time::advance(TURN / 2).await;
            let later = Directory::new(&client);
            assert!(later.ring.iter().eq(directory.ring.iter()));
            tokio::time::advance(TURN / 2).await;
        }
        assert_eq!(called.len(), 22);
    }

    #[test]
    fn many_naras_at_one_address_have_a_bounded_share_of_the_ring() {
        let client = MeshClient::builder(nara("alice")).build();
        let on_ring = |prefix: &str| count_on_ring(&client, prefix);
        for n in 0..40 {
            let puppet = introduced(&client, &format!("puppet-{n}"), &format!("eve-{n}"));
            client.registry().seen_at(&puppet, [100, 64, 0, 9].into());
        }
        assert_eq!(on_ring("puppet"), AT_ONE_ADDRESS);
        // Configured peers there do not count.
        for n in 0..6 {
            let friend = nara(&format!("friend-{n}"));
            let address = ([100, 64, 0, 9], 9_000 + n).into();
            client.registry().register(friend.as_peer(Some(address))).unwrap();
        }
        assert_eq!((on_ring("friend"), on_ring("puppet")), (6, AT_ONE_ADDRESS));
        // In a large mesh, a quarter of all.
        for n in 0..90 {
            let other = introduced(&client, &format!("other-{n}"), "carol");
            let address = SocketAddr::new([100, 64, 1, n].into(), 9632);
            let moved = PeerInfo {
                name: other.info().name,
                address: Some(address),
                ..PeerInfo::default()
            };
            client.registry().register(moved).unwrap();
            client.registry().seen_at(&other, address.ip());
        }
        let quarter = (90 + 6 + AT_ONE_ADDRESS) / 4;
        assert_eq!((on_ring("other"), on_ring("puppet")), (90, quarter));
    }

    #[test]
    fn each_of_many_naras_at_one_address_is_chosen_by_some() {
        let names: Vec<String> = (0..40).map(|n| format!("nara-{n}")).collect();
        let mut chosen: BTreeMap<Label, usize> = BTreeMap::new();
        for own in &names {
            let client = MeshClient::builder(nara(own)).build();
            for name in names.iter().filter(|name| *name != own) {
                let peer = introduced(&client, name, "carol");
                client.registry().seen_at(&peer, [100, 64, 0, 9].into());
            }
            for label in Directory::new(&client).ring.iter() {
                *chosen.entry(label.clone()).or_default() += 1;
            }
        }
        assert_eq!(chosen.len(), names.len());
        assert!(chosen.values().all(|count| *count == AT_ONE_ADDRESS));
    }

    #[test]
    fn on_loopback_many_naras_share_one_address() {
        let client = MeshClient::builder(nara("alice")).build();
        for n in 0..40 {
            let peer = introduced(&client, &format!("nara-{n}"), "carol");
            let address = SocketAddr::new([127, 0, 0, 1].into(), 9_000 + n);
            let here = PeerInfo {
                name: peer.info().name,
                address: Some(address),
                ..PeerInfo::default()
            };
            client.registry().register(here).unwrap();
            client.registry().seen_at(&peer, address.ip());
        }
        assert_eq!(Directory::new(&client).ring.len(), 40);
    }
}
