use std::collections::BTreeMap;
use std::time::Duration;

/// A bounded memory of peers that are not neighbours.
#[derive(Clone, Debug)]
pub(super) struct Remembered<P> {
    peers: BTreeMap<P, Memory>,
    capacity: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    /// Whether the peer supports streams, if known.
    streams: Option<bool>,
    /// Consecutive failures.
    failures: u32,
    /// The earliest time of the next subscription.
    not_before: Duration,
}

impl<P: Clone + Ord> Remembered<P> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            peers: BTreeMap::new(),
            capacity,
        }
    }

    pub(super) fn has_streams(&mut self, peer: P, now: Duration) {
        self.remember(
            peer,
            Memory {
                streams: Some(true),
                failures: 0,
                not_before: now,
            },
        );
    }

    pub(super) fn has_no_streams(&mut self, peer: P, ask_again: Duration) {
        self.remember(
            peer,
            Memory {
                streams: Some(false),
                failures: 0,
                not_before: ask_again,
            },
        );
    }

    pub(super) fn failed(&mut self, peer: P, now: Duration, pause: Duration, max_pause: Duration) {
        let before = self.peers.get(&peer).copied().unwrap_or_default();
        let pause = pause.saturating_mul(1 << before.failures.min(16)).min(max_pause);
        self.remember(
            peer,
            Memory {
                failures: before.failures.saturating_add(1),
                not_before: now + pause,
                ..before
            },
        );
    }

    /// Returns whether the peer may be subscribed to.
    pub(super) fn may_subscribe(&self, peer: &P, now: Duration) -> bool {
        self.peers.get(peer).is_none_or(|memory| memory.not_before <= now)
    }

    /// Returns whether the peer supports streams, if known.
    pub(super) fn streams(&self, peer: &P) -> Option<bool> {
        self.peers.get(peer)?.streams
    }

    pub(super) fn without_streams(&self) -> impl Iterator<Item = &P> {
        self.peers
            .iter()
            .filter(|(_, memory)| memory.streams == Some(false))
            .map(|(peer, _)| peer)
    }

    /// Returns when the next peer may be retried.
    pub(super) fn next_retry(&self, now: Duration) -> Option<Duration> {
        self.peers
            .values()
            .map(|memory| memory.not_before)
            .filter(|at| *at > now)
            .min()
    }

    fn remember(&mut self, peer: P, memory: Memory) {
        if self.peers.len() >= self.capacity && !self.peers.contains_key(&peer) {
            // Forgetting the peer whose pause ends first changes least.
            let oldest = self.peers.iter().min_by_key(|(_, memory)| memory.not_before);
            if let Some(oldest) = oldest.map(|(peer, _)| peer.clone()) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.insert(peer, memory);
    }
}
