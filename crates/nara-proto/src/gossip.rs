//! Gossip: how an event reaches every nara of a mesh, as a state machine without I/O.
//!
//! Each nara subscribes to the streams of a few peers, its *neighbours*, and forwards new events to its subscribers.
//! [`Gossip`] decides which peers to subscribe to, when to give up on one, and when to exchange zines with peers that
//! have no streams (docs/protocol/v1.md, section 10). It performs no I/O: it takes an [`Input`] and returns
//! [`Output`]s.
//!
//! # Why the mesh stays connected
//!
//! Names lie on a [`Ring`], in the order of a hash that every nara can compute. One neighbour is always the next
//! reachable nara on the ring, so the ring alone connects all naras. The other neighbours are random: they shorten the
//! paths, and keep the mesh connected when a section of the ring fails at once. A neighbour is kept for as long as it
//! is live; fewer than half of the random neighbours may be selected, and exchanged, by proximity.
//!
//! # Which peers receive an event
//!
//! [`passes_on`] is the whole rule: a new event goes to every subscriber except the peer that sent it.
//!
//! With the feature `simulation`, `gossip::simulation` runs thousands of naras with these decisions in one process.

mod config;
mod remembered;
mod ring;
#[cfg(any(test, feature = "simulation"))]
pub mod simulation;

pub use config::GossipConfig;
pub use ring::{Ring, RingPosition};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::seq::{IteratorRandom as _, SliceRandom as _};
use rand::{Rng, RngExt as _};

use remembered::Remembered;

/// How many members of the ring are examined in the search for one neighbour. It bounds the work of one decision; if
/// that many consecutive members are down, the next decision continues the search.
const SEARCH: usize = 64;

/// The number of candidates from which the nearest becomes a near neighbour. A small number keeps enough chance that
/// not all naras select the same peer, and that a peer gains little by pretending to be near.
const NEAR_CANDIDATES: usize = 4;

/// The shortest pause between two ticks, whatever the configuration: it prevents a busy loop.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Returns whether a nara forwards an event from `told_by` (`None`: its own) to a subscriber.
pub fn passes_on<P: PartialEq + ?Sized>(told_by: Option<&P>, subscriber: &P) -> bool {
    told_by != Some(subscriber)
}

/// An event that [`Gossip`] handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<P> {
    /// Time has passed, or the ring has changed.
    Tick,
    /// The stream of a neighbour is open.
    Opened(P),
    /// The stream of a neighbour broke off. The subscription retries by itself until [`Output::Unsubscribe`].
    Lost(P),
    /// A neighbour refuses us, or the subscription ended permanently.
    Refused(P),
    /// The subscription to a neighbour ended through no fault of the neighbour: it may be selected again at once.
    Ended(P),
    /// A peer does not support streams.
    NoStreams(P),
}

/// An action that the caller must take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<P> {
    /// Subscribe to the stream of a peer, and keep retrying.
    Subscribe(P),
    /// Cancel the subscription to a peer.
    Unsubscribe(P),
    /// Exchange zines with a peer.
    ExchangeZine(P),
}

/// The state of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Its stream is not open yet, or broke off.
    Connecting {
        /// The time since then, on the clock of [`Gossip::handle`].
        since: Duration,
    },
    /// Its stream is open.
    Live,
}

/// The gossip state of one nara: its neighbours. `P` identifies peers.
///
/// Times are durations on a monotonic clock with any origin.
///
/// ```
/// use std::time::Duration;
/// use nara_proto::gossip::{Gossip, GossipConfig, Input, Output, Ring, RingPosition};
/// use rand::SeedableRng as _;
///
/// let ring = Ring::new(["bob", "carol"].map(|name| (RingPosition::of(name), name)));
/// let mut gossip = Gossip::new("alice", RingPosition::of("alice"), GossipConfig::default());
/// let mut random = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(1);
///
/// let outputs = gossip.handle(Input::Tick, &ring, Duration::ZERO, &mut random);
/// assert_eq!(outputs.len(), 2);
/// assert!(outputs.contains(&Output::Subscribe("bob")));
/// ```
#[derive(Clone, Debug)]
pub struct Gossip<P> {
    me: P,
    position: RingPosition,
    config: GossipConfig,
    neighbours: BTreeMap<P, NeighbourState>,
    /// The neighbours that were selected by proximity.
    near: BTreeSet<P>,
    remembered: Remembered<P>,
    /// When the next round of zines is due; drawn at random on the first input.
    next_zines: Option<Duration>,
}

impl<P: Clone + Ord> Gossip<P> {
    /// Returns a nara without neighbours, at this position on the ring.
    pub fn new(me: P, position: RingPosition, config: GossipConfig) -> Self {
        Self {
            me,
            position,
            remembered: Remembered::new(config.remembered),
            config,
            neighbours: BTreeMap::new(),
            near: BTreeSet::new(),
            next_zines: None,
        }
    }

    /// Returns the neighbours with their state.
    pub fn neighbours(&self) -> impl Iterator<Item = (&P, NeighbourState)> {
        self.neighbours.iter().map(|(peer, state)| (peer, *state))
    }

    /// Returns the peers that are known not to support streams.
    pub fn without_streams(&self) -> impl Iterator<Item = &P> {
        self.remembered.without_streams()
    }

    /// Handles an input and returns the actions to take, in order. `ring` contains all peers that are known now, with
    /// or without this nara itself. An input about this nara itself counts as [`Input::Tick`].
    pub fn handle(
        &mut self,
        input: Input<P>,
        ring: &Ring<P>,
        now: Duration,
        random: &mut impl Rng,
    ) -> Vec<Output<P>> {
        let mut outputs = Vec::new();
        match input {
            Input::Opened(peer) => {
                if let Some(state) = self.neighbours.get_mut(&peer) {
                    *state = NeighbourState::Live;
                    self.remembered.has_streams(peer, now);
                }
            }
            Input::Lost(peer) => {
                if let Some(state @ NeighbourState::Live) = self.neighbours.get_mut(&peer) {
                    *state = NeighbourState::Connecting { since: now };
                }
            }
            Input::Refused(peer) => self.give_up(peer, now, random, &mut outputs),
            Input::Ended(peer) => self.unsubscribe(&peer, &mut outputs),
            Input::NoStreams(peer) if peer != self.me => {
                self.unsubscribe(&peer, &mut outputs);
                self.remembered.has_no_streams(peer, now + self.config.ask_again);
            }
            Input::Tick | Input::NoStreams(_) => {}
        }
        self.drop_neighbours(ring, now, random, &mut outputs);
        self.find_neighbours(ring, now, random, &mut outputs);
        if self.zine_round(ring, now, random, &mut outputs) {
            self.exchange_for_nearer(ring, now, random, &mut outputs);
        }
        outputs
    }

    /// Returns when [`Input::Tick`] is due next, if no other input arrives before; later than `now`.
    pub fn next_tick(&self, now: Duration) -> Duration {
        let patience = self.neighbours.values().filter_map(|state| match state {
            NeighbourState::Connecting { since } => Some(*since + self.config.patience),
            NeighbourState::Live => None,
        });
        patience
            .chain(self.next_zines)
            .chain(self.remembered.next_retry(now))
            .min()
            .unwrap_or(now)
            .max(now + RESOLUTION)
    }

    fn unsubscribe(&mut self, peer: &P, outputs: &mut Vec<Output<P>>) {
        if self.neighbours.remove(peer).is_some() {
            outputs.push(Output::Unsubscribe(peer.clone()));
        }
    }

    /// Ends the subscription to a failing peer, and backs off from it.
    fn give_up(&mut self, peer: P, now: Duration, random: &mut impl Rng, outputs: &mut Vec<Output<P>>) {
        if self.neighbours.remove(&peer).is_none() {
            return;
        }
        let spread = random.random_range(0.8..1.2);
        let pause = self.config.pause.mul_f64(spread);
        self.remembered
            .failed(peer.clone(), now, pause, self.config.max_pause);
        outputs.push(Output::Unsubscribe(peer));
    }

    /// Drops neighbours that left the ring, that fail for too long, or that exceed the degree.
    fn drop_neighbours(
        &mut self,
        ring: &Ring<P>,
        now: Duration,
        random: &mut impl Rng,
        outputs: &mut Vec<Output<P>>,
    ) {
        let gone: Vec<P> = self
            .neighbours
            .keys()
            .filter(|peer| !ring.contains(peer))
            .cloned()
            .collect();
        for peer in gone {
            self.neighbours.remove(&peer);
            outputs.push(Output::Unsubscribe(peer));
        }
        let patience = self.config.patience;
        let failed: Vec<P> = self
            .neighbours
            .iter()
            .filter(
                |(_, state)| matches!(state, NeighbourState::Connecting { since } if now >= *since + patience),
            )
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in failed {
            self.give_up(peer, now, random, outputs);
        }
        // A new successor was added to the others. Once it is live, another neighbour can be dropped.
        let successor = self.successor(ring, now);
        let is_live = |peer: &P| self.neighbours.get(peer) == Some(&NeighbourState::Live);
        if self.neighbours.len() > self.config.degree && successor.as_ref().is_some_and(is_live) {
            let others = self
                .neighbours
                .keys()
                .filter(|peer| Some(*peer) != successor.as_ref());
            if let Some(peer) = others.choose(random).cloned() {
                self.neighbours.remove(&peer);
                outputs.push(Output::Unsubscribe(peer));
            }
        }
    }

    fn find_neighbours(
        &mut self,
        ring: &Ring<P>,
        now: Duration,
        random: &mut impl Rng,
        outputs: &mut Vec<Output<P>>,
    ) {
        if self.config.degree == 0 {
            return;
        }
        if self.neighbours.len() <= self.config.degree
            && let Some(successor) = self.successor(ring, now)
        {
            self.connect(successor, now, outputs);
        }
        let free = self.config.degree.saturating_sub(self.neighbours.len());
        for peer in self.draw(ring, free, random, |peer| {
            self.remembered.may_subscribe(peer, now)
        }) {
            self.connect(peer, now, outputs);
        }
    }

    /// Returns how many neighbours may be selected by proximity: fewer than half of the random ones, so that the mesh
    /// stays connected whatever distances peers report.
    fn near_share(&self) -> usize {
        self.config.degree.saturating_sub(1) / 2
    }

    /// Exchanges one neighbour for a peer at less than half the distance, if a few candidates contain one.
    fn exchange_for_nearer(
        &mut self,
        ring: &Ring<P>,
        now: Duration,
        random: &mut impl Rng,
        outputs: &mut Vec<Output<P>>,
    ) {
        let neighbours = &self.neighbours;
        self.near.retain(|peer| neighbours.contains_key(peer));
        let share = self.near_share();
        if share == 0 || neighbours.len() < self.config.degree || !ring.has_distances() {
            return;
        }
        let successor = self.successor(ring, now);
        let is_full = self.near.len() >= share;
        let replaceable =
            |peer: &&P| Some(*peer) != successor.as_ref() && is_full == self.near.contains(*peer);
        let farthest = neighbours
            .keys()
            .filter(replaceable)
            .filter_map(|peer| Some((ring.distance(peer)?, peer.clone())))
            .max();
        let candidates = self.draw(ring, NEAR_CANDIDATES, random, |peer| {
            self.remembered.may_subscribe(peer, now)
        });
        let nearest = candidates
            .into_iter()
            .filter_map(|peer| Some((ring.distance(&peer)?, peer)))
            .min();
        if let (Some((far, neighbour)), Some((near, candidate))) = (farthest, nearest)
            && near.saturating_mul(2) < far
        {
            self.near.remove(&neighbour);
            self.unsubscribe(&neighbour, outputs);
            self.near.insert(candidate.clone());
            self.connect(candidate, now, outputs);
        }
    }

    fn connect(&mut self, peer: P, now: Duration, outputs: &mut Vec<Output<P>>) {
        self.neighbours.entry(peer).or_insert_with_key(|peer| {
            outputs.push(Output::Subscribe(peer.clone()));
            NeighbourState::Connecting { since: now }
        });
    }

    /// Returns the next peer on the ring that may be subscribed to.
    fn successor(&self, ring: &Ring<P>, now: Duration) -> Option<P> {
        ring.behind(self.position)
            .filter(|peer| **peer != self.me)
            .take(SEARCH)
            .find(|peer| self.remembered.may_subscribe(peer, now))
            .cloned()
    }

    /// Draws up to `count` random peers, other than this nara and its neighbours.
    fn draw(
        &self,
        ring: &Ring<P>,
        count: usize,
        random: &mut impl Rng,
        suits: impl Fn(&P) -> bool,
    ) -> Vec<P> {
        let suits = |peer: &P| *peer != self.me && !self.neighbours.contains_key(peer) && suits(peer);
        if count == 0 {
            return Vec::new();
        }
        if ring.len() <= SEARCH {
            return ring
                .iter()
                .filter(|peer| suits(peer))
                .cloned()
                .sample(random, count);
        }
        let mut drawn: Vec<P> = Vec::with_capacity(count);
        for _ in 0..SEARCH {
            if drawn.len() == count {
                break;
            }
            let peer = ring.at(random.random_range(0..ring.len()));
            if suits(peer) && !drawn.contains(peer) {
                drawn.push(peer.clone());
            }
        }
        drawn
    }

    /// Starts a round of zines if one is due. Zines do not repeat what streams deliver: they go to peers without
    /// streams, to one more peer whose support for streams is unknown, and to any peer when no stream is open. Returns
    /// whether a round was due.
    fn zine_round(
        &mut self,
        ring: &Ring<P>,
        now: Duration,
        random: &mut impl Rng,
        outputs: &mut Vec<Output<P>>,
    ) -> bool {
        let (shortest, longest) = (self.config.zine_pause.0, self.config.zine_pause.1);
        let next = now
            + shortest
            + longest
                .saturating_sub(shortest)
                .mul_f64(random.random_range(0.0..1.0));
        match self.next_zines {
            Some(due) if due <= now => self.next_zines = Some(next),
            Some(_) => return false,
            None => {
                self.next_zines = Some(next);
                return false;
            }
        }
        let count = random.random_range(self.config.zine_peers.0..=self.config.zine_peers.1);
        let mut peers: Vec<P> = self
            .remembered
            .without_streams()
            .filter(|peer| ring.contains(peer))
            .cloned()
            .collect();
        peers.shuffle(random);
        peers.truncate(count);
        let any_live = self
            .neighbours
            .values()
            .any(|state| *state == NeighbourState::Live);
        let others = count.saturating_sub(peers.len());
        let others = if any_live { others.min(1) } else { others };
        peers.extend(self.draw(ring, others, random, |peer| {
            self.remembered.streams(peer).is_none()
        }));
        outputs.extend(peers.into_iter().map(Output::ExchangeZine));
        true
    }
}

#[cfg(test)]
mod tests;
