//! One direction of an emulated line, without I/O: packets go in with times, and come out at their arrival times.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;

/// The interval between changes of the delay on a line with jitter.
const STEADY: Duration = Duration::from_millis(100);
/// The extra delay of a reordered packet.
const OVERTAKEN: Duration = Duration::from_millis(5);

/// The properties of a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    /// The time from the end of the transmission to the arrival.
    pub(crate) delay: Duration,
    /// The maximum deviation of the delay in either direction. It does not reorder packets.
    pub(crate) jitter: Duration,
    /// The rate in bytes per second.
    pub(crate) rate: u64,
    /// The size of the queue in bytes; packets beyond it are dropped.
    pub(crate) queue: usize,
    /// The maximum packet size in bytes; larger packets are dropped.
    pub(crate) mtu: usize,
    /// The fraction of packets lost.
    pub(crate) loss: f64,
    /// The fraction of packets duplicated.
    pub(crate) duplicates: f64,
    /// The fraction of packets reordered.
    pub(crate) overtaken: f64,
}

impl Quality {
    /// A line with a delay and a rate, but without impairments.
    pub(crate) const fn perfect(delay: Duration, rate: u64, queue: usize) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            rate,
            queue,
            mtu: 1500,
            loss: 0.0,
            duplicates: 0.0,
            overtaken: 0.0,
        }
    }
}

/// The numbers of packets by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Packets that arrived, including duplicates.
    pub(crate) arrived: u64,
    pub(crate) lost: u64,
    /// Packets dropped because the queue was full.
    pub(crate) queue_full: u64,
    /// Packets dropped because they exceeded the MTU.
    pub(crate) too_large: u64,
}

/// A packet in flight. The field order sorts by arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    arrives: Duration,
    number: u64,
    packet: Vec<u8>,
}

/// One direction of a line; see the module. All times have the same origin.
#[derive(Debug)]
pub(crate) struct Line {
    quality: Quality,
    random: Rng,
    /// The time when all queued packets have been sent.
    sent: Duration,
    flying: BinaryHeap<Reverse<Flying>>,
    next_number: u64,
    /// The arrival time of the last packet that was not reordered.
    last: Duration,
    /// The present delay, and when it changes.
    delay: Duration,
    steady_until: Duration,
    counts: Counts,
}

impl Line {
    /// Creates a line. Lines with the same seed treat the same packets identically.
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self {
            quality,
            random: Rng::with_seed(seed),
            sent: Duration::ZERO,
            flying: BinaryHeap::new(),
            next_number: 0,
            last: Duration::ZERO,
            delay: quality.delay,
            steady_until: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// Sends a packet over the line.
    pub(crate) fn push(&mut self, packet: Vec<u8>, now: Duration) {
        let Quality { rate, queue, mtu, .. } = self.quality;
        if packet.len() > mtu {
            self.counts.too_large += 1;
            return;
        }
        let seconds = |bytes: usize| Duration::from_secs_f64(bytes as f64 / rate as f64);
        // An empty queue accepts any packet.
        if self.sent > now && self.sent - now + seconds(packet.len()) > seconds(queue) {
            self.counts.queue_full += 1;
            return;
        }
        self.sent = self.sent.max(now) + seconds(packet.len());
        if self.happens(self.quality.loss) {
            self.counts.lost += 1;
            return;
        }
        let mut arrives = self.sent + self.delay_at(now);
        if self.happens(self.quality.overtaken) {
            arrives += OVERTAKEN;
        } else {
            arrives = arrives.max(self.last);
            self.last = arrives;
        }
        if self.happens(self.quality.duplicates) {
            self.fly(packet.clone(), arrives);
        }
        self.fly(packet, arrives);
    }

    /// Returns a packet that has arrived.
    pub(crate) fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        self.counts.arrived += 1;
        self.flying.pop().map(|Reverse(flying)| flying.packet)
    }

    /// Returns when the next packet arrives.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.flying.peek().map(|Reverse(flying)| flying.arrives)
    }

    #[cfg(test)]
    pub(crate) const fn counts(&self) -> Counts {
        self.counts
    }

    fn fly(&mut self, packet: Vec<u8>, arrives: Duration) {
        let number = self.next_number;
        self.next_number += 1;
        self.flying.push(Reverse(Flying {
            arrives,
            number,
            packet,
        }));
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.f64() < share
    }

    fn delay_at(&mut self, now: Duration) -> Duration {
        if !self.quality.jitter.is_zero() && now >= self.steady_until {
            self.steady_until = now + STEADY;
            let most = (self.quality.jitter * 2).mul_f64(self.random.f64());
            self.delay = (self.quality.delay + most).saturating_sub(self.quality.jitter);
        }
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A line of 1 MB/s: a packet of 1000 bytes takes a millisecond.
    const MEGABYTE: Quality = Quality::perfect(ms(10), 1_000_000, 5000);

    fn packet(n: usize) -> Vec<u8> {
        let mut packet = vec![0; 1000];
        packet[..8].copy_from_slice(&n.to_be_bytes());
        packet
    }

    fn number(packet: &[u8]) -> usize {
        usize::from_be_bytes(packet[..8].try_into().unwrap())
    }

    /// Returns all arrivals with their times.
    fn arrivals(line: &mut Line) -> Vec<(Duration, usize)> {
        let mut all = Vec::new();
        while let Some(at) = line.next() {
            all.push((at, number(&line.pop(at).unwrap())));
        }
        all
    }

    /// Sends packets at a constant interval over a line of this quality.
    fn run(quality: Quality, seed: u64, every: Duration, count: usize) -> (Vec<(Duration, usize)>, Counts) {
        let mut line = Line::new(quality, seed);
        for n in 0..count {
            line.push(packet(n), every * n as u32);
        }
        let arrived = arrivals(&mut line);
        (arrived, line.counts())
    }

    #[test]
    fn a_packet_arrives_after_it_was_sent_and_the_delay() {
        let mut line = Line::new(MEGABYTE, 1);
        line.push(packet(0), ms(5));
        assert_eq!(line.next(), Some(ms(16)));
        assert_eq!(line.pop(ms(15)), None);
        assert_eq!(line.pop(ms(16)), Some(packet(0)));
        assert_eq!(line.next(), None);
    }

    #[test]
    fn packets_follow_each_other_at_the_rate() {
        let (arrived, _) = run(MEGABYTE, 1, Duration::ZERO, 3);
        assert_eq!(arrived, [(ms(11), 0), (ms(12), 1), (ms(13), 2)]);
    }

    #[test]
    fn packets_for_a_full_queue_are_dropped() {
        let (arrived, counts) = run(MEGABYTE, 1, Duration::ZERO, 9);
        assert_eq!(arrived.len(), 5);
        assert_eq!(counts.queue_full, 4);
        let (arrived, _) = run(MEGABYTE, 1, ms(1), 100);
        assert_eq!(arrived.len(), 100, "at the rate of the line nothing is dropped");
    }

    #[test]
    fn packets_above_the_mtu_are_dropped() {
        let quality = Quality { mtu: 999, ..MEGABYTE };
        assert_eq!(run(quality, 1, ms(1), 3).1.too_large, 3);
    }

    #[test]
    fn the_shares_of_lost_and_of_duplicate_packets_are_as_asked_for() {
        let quality = Quality {
            loss: 0.05,
            duplicates: 0.1,
            ..MEGABYTE
        };
        let (arrived, counts) = run(quality, 7, ms(1), 10_000);
        assert!((400..600).contains(&counts.lost), "{counts:?}");
        let twice = arrived.len() - (10_000 - counts.lost as usize);
        assert!((800..1100).contains(&twice), "{twice}");
    }

    #[test]
    fn overtaken_packets_are_late_and_the_others_keep_their_order() {
        let quality = Quality {
            overtaken: 0.1,
            ..MEGABYTE
        };
        let (arrived, _) = run(quality, 7, ms(1), 1000);
        assert_eq!(arrived.len(), 1000);
        let late = arrived.windows(2).filter(|two| two[0].1 > two[1].1).count();
        assert!((50..150).contains(&late), "{late}");
    }

    #[test]
    fn the_delay_changes_within_the_jitter() {
        let quality = Quality {
            jitter: ms(4),
            ..MEGABYTE
        };
        let (arrived, _) = run(quality, 7, ms(50), 400);
        let delays: Vec<_> = arrived
            .iter()
            .map(|(at, n)| *at - ms(50) * *n as u32 - ms(1))
            .collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*least >= ms(6) && *least < ms(7), "{least:?}");
        assert!(*most <= ms(14) && *most > ms(13), "{most:?}");
    }

    proptest! {
        #[test]
        fn a_line_neither_invents_nor_hurries_nor_reorders(
            seed in any::<u64>(),
            gaps in prop::collection::vec(0_u64..5000, 1..200),
            (loss, jitter) in (0.0..0.5, 0_u64..20),
        ) {
            let quality = Quality { loss, jitter: ms(jitter), ..MEGABYTE };
            let mut line = Line::new(quality, seed);
            let mut now = Duration::ZERO;
            let mut pushed = Vec::new();
            for (n, gap) in gaps.iter().enumerate() {
                now += Duration::from_micros(*gap);
                line.push(packet(n), now);
                pushed.push(now);
            }
            let arrived = arrivals(&mut line);
            prop_assert!(arrived.windows(2).all(|two| two[0].1 < two[1].1));
            for (at, n) in &arrived {
                prop_assert!(*at + ms(jitter) >= pushed[*n] + ms(11), "packet {n} arrived too early");
            }
            let counts = line.counts();
            let all = counts.arrived + counts.lost + counts.queue_full;
            prop_assert_eq!(all, gaps.len() as u64);
            prop_assert_eq!(counts.arrived, arrived.len() as u64);
        }
    }
}
