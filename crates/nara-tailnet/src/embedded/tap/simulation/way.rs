//! The two directions of the simulated line.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use fastrand::Rng;

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The properties of a path, for each direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) delay: Duration,
    /// The rate in packets per second.
    pub(super) rate: u32,
    /// The length of the queue in packets.
    pub(super) queue: usize,
    pub(super) loss: f64,
    /// The maximum extra delay. A new value is drawn every 20 ms; packets are not reordered.
    pub(super) jitter: Duration,
}

/// One direction of a path.
pub(super) struct Way {
    pub(super) path: Path,
    /// The TCP connection to a relay that carries the packets.
    outer: Option<Outer>,
    random: Rng,
    free: Duration,
    late: Duration,
    next_late: Duration,
    pub(super) flying: VecDeque<(Duration, BytesMut)>,
    /// The number of packets sent.
    pub(super) count: usize,
}

/// A TCP connection (RFC 5681) that carries the packets of a way: it loses none, but its congestion window limits them,
/// and a lost packet arrives a round trip later and delays those behind it.
struct Outer {
    window: f64,
    threshold: f64,
    /// No loss shrinks the window again before this time.
    recovers_until: Duration,
    /// When the packets in flight will be acknowledged.
    in_flight: Vec<Duration>,
    waiting: VecDeque<BytesMut>,
}

impl Default for Outer {
    fn default() -> Self {
        Self {
            window: 10.0,
            threshold: f64::MAX,
            recovers_until: Duration::ZERO,
            in_flight: Vec::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl Outer {
    /// Returns the next packet that may be sent now.
    fn pop(&mut self, now: Duration) -> Option<BytesMut> {
        let before = self.in_flight.len();
        self.in_flight.retain(|at| *at > now);
        // A window that is not used does not grow.
        if !self.waiting.is_empty() && now >= self.recovers_until {
            for _ in self.in_flight.len()..before {
                self.window += if self.window < self.threshold {
                    1.0
                } else {
                    1.0 / self.window
                };
            }
        }
        if (self.in_flight.len() as f64) < self.window {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    /// Records a packet that was sent, and when it will be acknowledged.
    fn sent(&mut self, is_lost: bool, acknowledged: Duration, now: Duration) {
        if is_lost && now >= self.recovers_until {
            self.window = (self.window * 0.7).max(2.0);
            self.threshold = self.window;
            self.recovers_until = acknowledged;
        }
        self.in_flight.push(acknowledged);
    }

    /// Returns when a packet may be sent, if any waits.
    fn next(&self) -> Option<Duration> {
        let next = self.in_flight.iter().min();
        next.filter(|_| !self.waiting.is_empty()).copied()
    }
}

impl Way {
    pub(super) fn new(path: Path, seed: u64) -> Self {
        Self {
            path,
            outer: None,
            random: Rng::with_seed(seed),
            free: Duration::ZERO,
            late: Duration::ZERO,
            next_late: Duration::ZERO,
            flying: VecDeque::new(),
            count: 0,
        }
    }

    /// Lets a TCP connection carry the packets.
    pub(super) fn over_tcp(self) -> Self {
        Self {
            outer: Some(Outer::default()),
            ..self
        }
    }

    /// Returns how many packets arrive in this time if there are always some to send, after as long before.
    pub(super) fn carries(mut self, length: Duration) -> usize {
        let (mut now, mut count) = (Duration::ZERO, 0);
        while now < length * 2 {
            while self.outer.as_ref().is_some_and(|outer| outer.waiting.len() < 10) {
                self.push(BytesMut::new(), now);
            }
            while self.flying.pop_front_if(|(at, _)| *at <= now).is_some() {
                count += usize::from(now >= length);
            }
            now = self.next().unwrap().max(now + Duration::from_micros(1));
            self.run(now);
        }
        count
    }

    pub(super) fn push(&mut self, packet: BytesMut, now: Duration) {
        self.count += 1;
        if let Some(outer) = &mut self.outer {
            outer.waiting.push_back(packet);
            self.run(now);
        } else {
            self.send(packet, now);
        }
    }

    /// Sends what the outer connection may send now.
    pub(super) fn run(&mut self, now: Duration) {
        while let Some(packet) = self.outer.as_mut().and_then(|outer| outer.pop(now)) {
            self.send(packet, now);
        }
    }

    fn send(&mut self, packet: BytesMut, now: Duration) {
        let each = Duration::from_secs(1) / self.path.rate;
        let begin = self.free.max(now);
        let mut is_lost = begin - now >= each * self.path.queue as u32;
        if is_lost && self.outer.is_none() {
            return;
        }
        self.free = begin + each;
        if !self.path.jitter.is_zero() && now >= self.next_late {
            self.next_late = now + ms(20);
            self.late = self.path.jitter.mul_f64(self.random.f64());
        }
        is_lost |= self.random.f64() < self.path.loss;
        let mut at = self.free + self.path.delay + self.late;
        if let Some(outer) = &mut self.outer {
            let was_lost = is_lost;
            while is_lost {
                at += self.path.delay * 2;
                is_lost = self.random.f64() < self.path.loss;
            }
            outer.sent(was_lost, at + self.path.delay, now);
        }
        if !is_lost {
            let last = self.flying.back().map_or(Duration::ZERO, |(at, _)| *at);
            self.flying.push_back((at.max(last), packet));
        }
    }

    /// Returns when the way must run again.
    pub(super) fn next(&self) -> Option<Duration> {
        let arrives = self.flying.front().map(|(at, _)| *at);
        let sends = self.outer.as_ref().and_then(Outer::next);
        arrives.into_iter().chain(sends).min()
    }
}
