//! Schedules packets to a relay: a leaky bucket and a short queue per peer.
//!
//! A relay queues 32 packets per receiver and drops more without telling the sender. So large packets to one peer are
//! sent at a limited rate after a short burst. Small ones (acknowledgements, handshakes, most requests) and packets to
//! other peers do not wait for them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::Instant;
use ts_keys::NodePublicKey;

use crate::embedded::settings::RELAY_BURST;

/// The maximum queue length per peer in packets; more are dropped. At the rate of a relay they take 85 ms: a connection
/// with such a delay reduces its window (`tap/window.rs`).
const QUEUE: usize = 1024;

/// The maximum number of queued packets for all peers: one limit for large ones, and one for those that wait only for
/// the connection. The limits are separate, so that slow receivers do not delay acknowledgements for others.
const QUEUE_ALL: usize = 4096;

/// The maximum size of an unpaced packet, in bytes.
const SMALL: usize = 200;

/// After this time without packets, the bucket of a peer is full and can be removed.
const IDLE: Duration = Duration::from_secs(10);

/// A packet scheduler; see the module.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Packets per second; 0 for no limit.
    rate: u32,
    small: VecDeque<(NodePublicKey, BytesMut)>,
    peers: HashMap<NodePublicKey, Bucket>,
    /// The peers with queued packets, in the order in which their next packets are sent.
    turns: VecDeque<NodePublicKey>,
    /// Packets in the queues of all peers.
    queued: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Bucket {
    /// The number of packets that may be sent now.
    tokens: f64,
    filled: Instant,
    queue: VecDeque<BytesMut>,
}

impl Pacer {
    pub(super) fn new(rate: u32) -> Self {
        Self {
            rate,
            small: VecDeque::new(),
            peers: HashMap::new(),
            turns: VecDeque::new(),
            queued: 0,
            dropped: 0,
        }
    }

    /// Queues a packet, or drops it if the queue is full.
    pub(super) fn push(&mut self, to: NodePublicKey, packet: BytesMut, now: Instant) {
        let is_small = self.rate == 0 || packet.len() <= SMALL;
        let queued = if is_small { self.small.len() } else { self.queued };
        if queued >= QUEUE_ALL {
            self.dropped += 1;
            return;
        }
        if is_small {
            self.small.push_back((to, packet));
            return;
        }
        let bucket = self.peers.entry(to).or_insert_with(|| Bucket {
            tokens: f64::from(RELAY_BURST),
            filled: now,
            queue: VecDeque::new(),
        });
        if bucket.queue.len() >= QUEUE {
            self.dropped += 1;
            return;
        }
        if bucket.queue.is_empty() {
            self.turns.push_back(to);
        }
        bucket.queue.push_back(packet);
        self.queued += 1;
    }

    /// Returns the next packet that may be sent now. Peers take turns.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(NodePublicKey, BytesMut)> {
        if let Some(first) = self.small.pop_front() {
            return Some(first);
        }
        if self.queued == 0 {
            self.peers
                .retain(|_, bucket| now.saturating_duration_since(bucket.filled) < IDLE);
            return None;
        }
        for _ in 0..self.turns.len() {
            let to = self.turns.pop_front()?;
            let Some(bucket) = self.peers.get_mut(&to) else {
                continue;
            };
            bucket.fill(self.rate, now);
            let packet = if bucket.tokens < 1.0 {
                None
            } else {
                bucket.queue.pop_front()
            };
            if !bucket.queue.is_empty() {
                self.turns.push_back(to);
            }
            if let Some(packet) = packet {
                bucket.tokens -= 1.0;
                self.queued -= 1;
                return Some((to, packet));
            }
        }
        None
    }

    /// Returns when to call [`Pacer::pop`] again, if any packet waits.
    pub(super) fn next(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter(|bucket| !bucket.queue.is_empty())
            .map(|bucket| {
                let missing = (1.0 - bucket.tokens).max(0.0);
                bucket.filled + Duration::from_secs_f64(missing / f64::from(self.rate.max(1)))
            })
            .min()
    }

    /// Removes all packets, since the connection has ended.
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.peers.clear();
        self.turns.clear();
        self.queued = 0;
    }

    /// Returns the number of packets dropped since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

impl Bucket {
    fn fill(&mut self, rate: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + passed.as_secs_f64() * f64::from(rate)).min(f64::from(RELAY_BURST));
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodePublicKey {
        NodePublicKey::from_bytes([n; 32])
    }

    fn drain(pacer: &mut Pacer, now: Instant) -> usize {
        std::iter::from_fn(|| pacer.pop(now)).count()
    }

    #[tokio::test]
    async fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let now = Instant::now();
        let mut pacer = Pacer::new(1000);
        for _ in 0..100 {
            pacer.push(peer(1), BytesMut::zeroed(1200), now);
        }
        assert_eq!(drain(&mut pacer, now), RELAY_BURST as usize);
        assert!(pacer.next().is_some_and(|next| next > now));
        assert_eq!(drain(&mut pacer, now + Duration::from_millis(10)), 10);
        assert_eq!(
            drain(&mut pacer, now + Duration::from_secs(9)),
            RELAY_BURST as usize
        );
    }

    #[tokio::test]
    async fn small_packets_and_other_peers_do_not_wait() {
        let now = Instant::now();
        let mut pacer = Pacer::new(1000);
        for _ in 0..100 {
            pacer.push(peer(1), BytesMut::zeroed(1200), now);
        }
        drain(&mut pacer, now);
        pacer.push(peer(1), BytesMut::zeroed(100), now);
        pacer.push(peer(2), BytesMut::zeroed(1200), now);
        assert_eq!(pacer.pop(now).map(|(_, packet)| packet.len()), Some(100));
        assert_eq!(pacer.pop(now).map(|(to, _)| to), Some(peer(2)));
        assert!(pacer.pop(now).is_none());
    }

    #[tokio::test]
    async fn queues_are_bounded_and_count_what_they_drop() {
        let now = Instant::now();
        let mut pacer = Pacer::new(1);
        for _ in 0..QUEUE + 10 {
            pacer.push(peer(1), BytesMut::zeroed(1200), now);
        }
        assert_eq!(pacer.take_dropped(), 10);
        for n in 0..2 * QUEUE_ALL {
            pacer.push(peer((n % 200) as u8), BytesMut::zeroed(1200), now);
        }
        assert_eq!(pacer.queued, QUEUE_ALL);
        pacer.clear();
        assert_eq!((pacer.queued, pacer.next()), (0, None));
    }

    #[tokio::test]
    async fn receivers_that_are_slow_do_not_keep_small_packets_for_others_from_going() {
        let now = Instant::now();
        let mut pacer = Pacer::new(1);
        for n in 0..QUEUE_ALL {
            pacer.push(peer((n % 4) as u8), BytesMut::zeroed(1200), now);
        }
        assert_eq!((pacer.queued, pacer.take_dropped()), (QUEUE_ALL, 0));
        pacer.push(peer(5), BytesMut::zeroed(60), now);
        assert_eq!(pacer.pop(now).map(|(to, _)| to), Some(peer(5)));
        for _ in 0..QUEUE_ALL + 10 {
            pacer.push(peer(5), BytesMut::zeroed(60), now);
        }
        assert_eq!(pacer.take_dropped(), 10, "small packets are bounded too");
        drain(&mut pacer, now);
        assert_eq!(pacer.small.len(), 0);
    }

    #[tokio::test]
    async fn peers_share_a_link_that_is_slower_than_the_rate() {
        let mut now = Instant::now();
        let mut pacer = Pacer::new(12_000);
        let mut sent = [0; 4];
        for _ in 0..200 {
            for n in 0..4 {
                pacer.push(peer(n), BytesMut::zeroed(1200), now);
            }
        }
        for _ in 0..8 {
            for _ in 0..49 {
                let (to, _) = pacer.pop(now).unwrap();
                sent[(0..4).position(|n| peer(n) == to).unwrap()] += 1;
            }
            now += Duration::from_millis(10);
        }
        assert_eq!(sent, [98; 4]);
    }

    #[tokio::test]
    async fn without_a_rate_nothing_waits() {
        let now = Instant::now();
        let mut pacer = Pacer::new(0);
        for _ in 0..300 {
            pacer.push(peer(1), BytesMut::zeroed(1200), now);
        }
        assert_eq!(drain(&mut pacer, now), 300);
    }

    #[tokio::test]
    async fn peers_that_are_idle_are_forgotten() {
        let now = Instant::now();
        let mut pacer = Pacer::new(1000);
        pacer.push(peer(1), BytesMut::zeroed(1200), now);
        drain(&mut pacer, now);
        assert_eq!(pacer.peers.len(), 1);
        assert!(pacer.pop(now + IDLE * 2).is_none());
        assert!(pacer.peers.is_empty());
    }
}
