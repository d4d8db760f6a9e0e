//! Gossip: how an event reaches every nara of a mesh, as decisions without I/O.
//!
//! Every nara subscribes to the streams of a few others, its *neighbours*, and passes on what is new to those
//! who subscribed to it. [`Gossip`] decides whom to subscribe to, when to give up on one, and when to exchange
//! zines with those who have no streams (docs/protocol/v1.md, section 10). It does nothing itself: it is told what
//! happened ([`Input`]) and says what to do ([`Output`]).
//!
//! # Why the mesh stays connected
//!
//! Names lie on a [`Ring`], in the order of a hash that everybody can compute. One neighbour is always the next
//! reachable nara on the ring, so the ring alone leads from everybody to everybody. The other neighbours are
//! random: they make the ways short, and survive when a stretch of the ring fails at once. A neighbour is kept
//! for as long as it lives; of the random ones, less than half may be chosen, and exchanged, because they are near.
//!
//! # Who is told what
//!
//! [`passes_on`] is the whole rule: what is new here goes to every subscriber but the one that told it.
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

/// How many members of the ring are looked at in search of one neighbour. It bounds the work of one decision;
/// when so many in a row are down, the next decision goes on.
const SEARCH: usize = 64;

/// Candidates of which the nearest becomes a near neighbour. So few leave chance enough that not all choose the same, and
/// that a peer gains little by pretending to be near.
const NEAR_CANDIDATES: usize = 4;

/// The shortest pause between two ticks, whatever the configuration says: it prevents a busy loop.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Whether a nara passes an event from `told_by` (`None`: its own) on to a subscriber.
pub fn passes_on<P: PartialEq + ?Sized>(told_by: Option<&P>, subscriber: &P) -> bool {
    told_by != Some(subscriber)
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<P> {
    /// Time has passed, or the ring has changed.
    Tick,
    /// The stream of a neighbour is open.
    Opened(P),
    /// The stream of a neighbour broke off. Whoever runs the subscription tries again by itself, until told to
    /// [`Output::Unsubscribe`].
    Lost(P),
    /// A neighbour refuses us, or the subscription ended for good.
    Refused(P),
    /// The subscription to a neighbour ended through no fault of its own: it may be chosen again at once.
    Ended(P),
    /// A peer does not have streams at all.
    NoStreams(P),
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<P> {
    /// Subscribe to the stream of a peer, and keep trying.
    Subscribe(P),
    /// Give up the subscription to a peer.
    Unsubscribe(P),
    /// Exchange zines with a peer.
    ExchangeZine(P),
}

/// The state of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Its stream is not open yet, or broke off: since when, on the clock that [`Gossip::handle`] is given.
    Connecting {
        /// Since when.
        since: Duration,
    },
    /// Its stream is open.
    Live,
}

/// The gossip of one nara: whom it listens to. `P` is how peers are called.
///
/// Times are durations on a steady clock that starts anywhere.
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
    /// The neighbours that were chosen because they are near.
    near: BTreeSet<P>,
    remembered: Remembered<P>,
    /// When the next round of zines is due; drawn with the first input.
    next_zines: Option<Duration>,
}

impl<P: Clone + Ord> Gossip<P> {
    /// A nara without neighbours, at a position on the ring.
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

    /// The neighbours, with their state.
    pub fn neighbours(&self) -> impl Iterator<Item = (&P, NeighbourState)> {
        self.neighbours.iter().map(|(peer, state)| (peer, *state))
    }

    /// The peers that are known not to have streams.
    pub fn without_streams(&self) -> impl Iterator<Item = &P> {
        self.remembered.without_streams()
    }

    /// Takes in what happened and says what to do, in this order. `ring` holds all peers that are known now,
    /// with or without this nara itself. What is said of this nara itself is taken for [`Input::Tick`].
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
            self.come_nearer(ring, now, random, &mut outputs);
        }
        outputs
    }

    /// When [`Input::Tick`] is due next, if nothing else happens before; later than `now`.
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

    /// Ends the subscription to a peer that fails, and leaves it alone for a while.
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

    /// Drops neighbours that are gone, that fail for too long, or that are one too many.
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
        // A new successor came on top of the others. Once it is live, another one can go.
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

    /// How many neighbours may be chosen because they are near: less than half of the random ones, so that the mesh stays
    /// connected whatever peers say about distances.
    fn near_share(&self) -> usize {
        self.config.degree.saturating_sub(1) / 2
    }

    /// Exchanges one neighbour for a peer that is less than half as far, if there is one among a few candidates.
    fn come_nearer(
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

    /// The next peer on the ring that may be subscribed to.
    fn successor(&self, ring: &Ring<P>, now: Duration) -> Option<P> {
        ring.behind(self.position)
            .filter(|peer| **peer != self.me)
            .take(SEARCH)
            .find(|peer| self.remembered.may_subscribe(peer, now))
            .cloned()
    }

    /// Up to `count` random peers, other than this nara and its neighbours.
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

    /// Begins a round of zines if one is due. What streams bring is not asked for again: zines go to peers that
    /// have no streams, to one more of which that is not known, and to any when no stream is open. Returns whether one
    /// was due.
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
