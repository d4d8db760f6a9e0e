use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

struct Mesh {
    gossip: Gossip<u32>,
    ring: Ring<u32>,
    now: Duration,
    random: Xoshiro256PlusPlus,
}

impl Mesh {
    /// Returns nara 0 of `naras` naras.
    fn new(naras: u32, config: GossipConfig) -> Self {
        Self {
            gossip: Gossip::new(0, position(0), config),
            ring: ring(0..naras),
            now: Duration::ZERO,
            random: Xoshiro256PlusPlus::seed_from_u64(7),
        }
    }

    fn handle(&mut self, input: Input<u32>) -> Vec<Output<u32>> {
        self.gossip.handle(input, &self.ring, self.now, &mut self.random)
    }

    fn neighbours(&self) -> Vec<u32> {
        self.gossip.neighbours().map(|(peer, _)| *peer).collect()
    }

    fn is_live(&self, nara: u32) -> bool {
        self.gossip
            .neighbours()
            .any(|live| live == (&nara, NeighbourState::Live))
    }

    /// Starts, and opens all streams.
    fn start(&mut self) {
        self.handle(Input::Tick);
        for peer in self.neighbours() {
            self.handle(Input::Opened(peer));
        }
    }

    fn successor(&self) -> u32 {
        *self.ring.behind(position(0)).next().unwrap()
    }
}

fn position(nara: u32) -> RingPosition {
    RingPosition::of(nara.to_string())
}

fn ring(naras: impl IntoIterator<Item = u32>) -> Ring<u32> {
    Ring::new(naras.into_iter().map(|nara| (position(nara), nara)))
}

#[test]
fn the_next_on_the_ring_and_random_others_become_neighbours() {
    for naras in [30, 3_000] {
        let mut mesh = Mesh::new(naras, GossipConfig::default());
        let outputs = mesh.handle(Input::Tick);
        assert_eq!(outputs.len(), 6);
        assert!(outputs.contains(&Output::Subscribe(mesh.successor())));
        assert!(!mesh.neighbours().contains(&0));
    }
}

#[test]
fn a_small_mesh_is_subscribed_to_as_a_whole() {
    let mut mesh = Mesh::new(4, GossipConfig::default());
    mesh.handle(Input::Tick);
    assert_eq!(mesh.neighbours(), [1, 2, 3]);
    let mut alone = Mesh::new(1, GossipConfig::default());
    assert_eq!(alone.handle(Input::Tick), []);
}

#[test]
fn neighbours_that_live_are_kept() {
    let mut mesh = Mesh::new(100, GossipConfig::default());
    mesh.start();
    let before = mesh.neighbours();
    for _ in 0..1_000 {
        mesh.now += SECOND;
        let outputs = mesh.handle(Input::Tick);
        assert!(
            outputs
                .iter()
                .all(|output| matches!(output, Output::ExchangeZine(_)))
        );
    }
    assert_eq!(mesh.neighbours(), before);
}

#[test]
fn a_neighbour_that_stays_away_is_replaced_and_left_alone_for_a_while() {
    let mut mesh = Mesh::new(100, GossipConfig::default());
    mesh.start();
    let gone = mesh.neighbours()[2];
    assert_eq!(mesh.handle(Input::Lost(gone)), []);
    mesh.now += 9 * SECOND;
    assert_eq!(mesh.handle(Input::Tick), [], "patience");
    assert_eq!(mesh.gossip.next_tick(mesh.now), 10 * SECOND);
    mesh.now += SECOND;
    let outputs = mesh.handle(Input::Tick);
    assert_eq!(outputs[0], Output::Unsubscribe(gone));
    assert!(matches!(outputs[1], Output::Subscribe(other) if other != gone));
    assert_eq!(mesh.neighbours().len(), 6);
}

#[test]
fn the_successor_is_taken_back_when_it_can_be_tried_again_and_one_more_goes_only_then() {
    let mut mesh = Mesh::new(100, GossipConfig::default());
    mesh.start();
    let successor = mesh.successor();
    mesh.handle(Input::Refused(successor));
    for peer in mesh.neighbours() {
        mesh.handle(Input::Opened(peer));
    }
    assert!(!mesh.neighbours().contains(&successor));
    mesh.now += 36 * SECOND;
    assert_eq!(
        mesh.handle(Input::Tick).first(),
        Some(&Output::Subscribe(successor))
    );
    assert_eq!(
        mesh.neighbours().len(),
        7,
        "the others stay until the successor is live"
    );
    let outputs = mesh.handle(Input::Opened(successor));
    assert!(matches!(outputs[..], [Output::Unsubscribe(other)] if other != successor));
    assert_eq!(mesh.neighbours().len(), 6);
}

#[test]
fn a_peer_that_left_the_ring_is_no_longer_a_neighbour() {
    let mut mesh = Mesh::new(7, GossipConfig::default());
    mesh.start();
    mesh.ring = ring([0, 1, 2, 3]);
    mesh.handle(Input::Tick);
    assert_eq!(mesh.neighbours(), [1, 2, 3]);
}

#[test]
fn a_peer_without_streams_gets_zines_and_is_checked_again_later() {
    let config = GossipConfig::default();
    let ask_again = config.ask_again;
    let mut mesh = Mesh::new(4, config);
    mesh.start();
    assert_eq!(mesh.handle(Input::NoStreams(2)), [Output::Unsubscribe(2)]);
    let mut zines = Vec::new();
    while mesh.now < ask_again - 301 * SECOND {
        mesh.now = mesh.gossip.next_tick(mesh.now).max(mesh.now + SECOND);
        zines.extend(mesh.handle(Input::Tick));
    }
    assert!(zines.len() >= 10, "a round at least every 300 s");
    assert!(zines.iter().all(|zine| *zine == Output::ExchangeZine(2)));
    mesh.now = ask_again;
    assert!(mesh.handle(Input::Tick).contains(&Output::Subscribe(2)));
}

#[test]
fn a_nara_does_not_exchange_zines_with_itself() {
    let mut mesh = Mesh::new(2, GossipConfig::with_degree(0));
    mesh.handle(Input::NoStreams(0));
    let mut partners = BTreeSet::new();
    for _ in 0..10 {
        mesh.now += 60 * SECOND;
        partners.extend(mesh.handle(Input::Tick).into_iter().map(|output| match output {
            Output::ExchangeZine(peer) | Output::Subscribe(peer) | Output::Unsubscribe(peer) => peer,
        }));
    }
    assert_eq!(partners, BTreeSet::from([1]));
}

#[test]
fn with_no_stream_open_a_round_of_zines_goes_to_three_to_five() {
    let mut mesh = Mesh::new(100, GossipConfig::with_degree(0));
    let mut rounds = Vec::new();
    for _ in 0..50 {
        mesh.now = mesh.gossip.next_tick(mesh.now);
        rounds.push(mesh.handle(Input::Tick).len());
    }
    assert_eq!(
        rounds.remove(0),
        0,
        "the first input draws the time of the first round"
    );
    assert!(rounds.iter().all(|round| (3..=5).contains(round)), "{rounds:?}");
    assert!(mesh.now >= 49 * 30 * SECOND && mesh.now <= 49 * 300 * SECOND);
}

#[test]
fn the_memory_of_peers_is_bounded() {
    let config = GossipConfig {
        remembered: 10,
        ..GossipConfig::default()
    };
    let mut mesh = Mesh::new(1_000, config);
    mesh.handle(Input::Tick);
    for _ in 0..500 {
        let peer = mesh.neighbours()[0];
        mesh.handle(Input::NoStreams(peer));
        assert!(mesh.gossip.without_streams().count() <= 10);
        assert_eq!(mesh.neighbours().len(), 6);
    }
}

#[test]
fn a_new_event_goes_to_all_subscribers_but_its_sender() {
    assert!(passes_on(None, &1));
    assert!(passes_on(Some(&2), &1));
    assert!(!passes_on(Some(&1), &1));
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u16),
    Ring { first: u8, len: u8 },
    Opened(u8),
    Lost(u8),
    Refused(u8),
    NoStreams(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<u16>().prop_map(Step::Wait),
        (any::<u8>(), any::<u8>()).prop_map(|(first, len)| Step::Ring { first, len }),
        any::<u8>().prop_map(Step::Opened),
        any::<u8>().prop_map(Step::Lost),
        any::<u8>().prop_map(Step::Refused),
        any::<u8>().prop_map(Step::NoStreams),
    ];
    proptest::collection::vec(step, 0..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn outputs_match_the_neighbours_and_their_number_is_bounded(
        degree in 0_usize..8,
        steps in steps(),
    ) {
        let mut mesh = Mesh::new(100, GossipConfig::with_degree(degree));
        let mut subscribed = BTreeSet::new();
        for step in steps {
            // Mostly neighbours: inputs about other peers change little.
            let peer = |number: u8| {
                let neighbours = mesh.neighbours();
                neighbours.get(usize::from(number) % 10).copied().unwrap_or_else(|| number.into())
            };
            let input = match step {
                Step::Wait(seconds) => {
                    mesh.now += SECOND * u32::from(seconds) / 60;
                    Input::Tick
                }
                Step::Ring { first, len } => {
                    mesh.ring = ring(u32::from(first)..u32::from(first) + u32::from(len));
                    Input::Tick
                }
                Step::Opened(number) => Input::Opened(peer(number)),
                Step::Lost(number) => Input::Lost(peer(number)),
                Step::Refused(number) => Input::Refused(peer(number)),
                Step::NoStreams(number) => Input::NoStreams(peer(number)),
            };
            for output in mesh.handle(input) {
                match output {
                    Output::Subscribe(peer) => prop_assert!(peer != 0 && subscribed.insert(peer)),
                    Output::Unsubscribe(peer) => prop_assert!(subscribed.remove(&peer)),
                    // A peer that is checked again for streams still gets zines.
                    Output::ExchangeZine(peer) => prop_assert!(peer != 0 && !mesh.is_live(peer)),
                }
            }
            prop_assert!(subscribed.len() <= degree + 1);
            prop_assert_eq!(mesh.neighbours(), subscribed.iter().copied().collect::<Vec<_>>());
            prop_assert!(subscribed.iter().all(|peer| mesh.ring.contains(peer)));
            prop_assert!(mesh.gossip.next_tick(mesh.now) > mesh.now);
        }
    }
}

/// Returns nara 0 with streams to `degree` of fifty naras; nara `n` is `n` ms away.
fn mesh_with_distances(degree: usize) -> Mesh {
    let mut mesh = Mesh::new(50, GossipConfig::with_degree(degree));
    mesh.ring
        .set_distances((1..50).map(|n| (n, Duration::from_millis(n.into()))));
    mesh.start();
    mesh
}

/// Runs rounds of zines, and opens each new subscription.
fn pass_rounds(mesh: &mut Mesh, rounds: usize) {
    for _ in 0..rounds {
        mesh.now = mesh.gossip.next_tick(mesh.now);
        mesh.handle(Input::Tick);
        for peer in mesh.neighbours() {
            mesh.handle(Input::Opened(peer));
        }
    }
}

#[test]
fn near_peers_become_neighbours_and_more_than_half_stay_random() {
    let mut mesh = mesh_with_distances(7);
    let before: BTreeSet<u32> = mesh.neighbours().into_iter().collect();
    pass_rounds(&mut mesh, 400);
    let after: BTreeSet<u32> = mesh.neighbours().into_iter().collect();
    assert_eq!(after.len(), 7);
    assert!(after.contains(&mesh.successor()));
    let exchanged: Vec<_> = after.difference(&before).copied().collect();
    assert_eq!(exchanged.len(), 3, "of six random ones: {before:?} {after:?}");
    assert!(exchanged.iter().all(|peer| *peer <= 12), "{exchanged:?}");
}

#[test]
fn peers_that_pretend_to_be_near_get_the_near_share_only() {
    let mut mesh = mesh_with_distances(7);
    // Half of the peers claim to be near.
    let liars = |n: u32| n.is_multiple_of(2);
    mesh.ring
        .set_distances((1..50).map(|n| (n, Duration::from_millis(if liars(n) { 0 } else { 100 }))));
    let honest_before = mesh.neighbours().into_iter().filter(|n| !liars(*n)).count();
    pass_rounds(&mut mesh, 400);
    let honest = mesh.neighbours().into_iter().filter(|n| !liars(*n)).count();
    assert!(honest + 3 >= honest_before, "{honest} of {honest_before}");
}

#[test]
fn without_distances_neighbours_are_kept() {
    let mut mesh = mesh_with_distances(7);
    mesh.ring.set_distances([]);
    let before = mesh.neighbours();
    pass_rounds(&mut mesh, 50);
    assert_eq!(mesh.neighbours(), before);
}
