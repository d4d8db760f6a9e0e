use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Gossip;

/// An event in a nara's ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) event: usize,
    /// The peer that sent it; `None` if it is the nara's own.
    pub(super) told_by: Option<usize>,
    pub(super) hops: u32,
}

/// One nara of a simulation: its gossip state, its ledger, and both ends of its streams.
#[derive(Debug)]
pub(super) struct Nara {
    pub(super) gossip: Gossip<usize>,
    pub(super) down: bool,
    /// Whether it is never down.
    pub(super) steady: bool,
    /// Its events, in the order of arrival.
    pub(super) ledger: Vec<Entry>,
    /// Whether it has each event.
    pub(super) has: Vec<bool>,
    /// Its subscriptions, by publisher.
    pub(super) subscriptions: BTreeMap<usize, Subscription>,
    /// How much of each publisher's ledger it has received; kept when a subscription ends.
    pub(super) cursors: BTreeMap<usize, usize>,
    /// Its subscribers, with the number of the stream.
    pub(super) subscribers: BTreeMap<usize, u64>,
    /// When its next tick is scheduled.
    pub(super) next_tick: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    /// Distinguishes a stream from a later one between the same two naras.
    pub(super) stream: u64,
    pub(super) open: bool,
}

impl Nara {
    pub(super) fn new(gossip: Gossip<usize>, events: usize) -> Self {
        Self {
            gossip,
            down: false,
            steady: true,
            ledger: Vec::with_capacity(events),
            has: vec![false; events],
            subscriptions: BTreeMap::new(),
            cursors: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            next_tick: None,
        }
    }

    /// Returns whether this is the nara's current stream from `publisher`.
    pub(super) fn expects(&self, publisher: usize, stream: u64) -> bool {
        self.subscriptions
            .get(&publisher)
            .is_some_and(|subscription| subscription.stream == stream)
    }
}
