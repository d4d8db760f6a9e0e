//! Two network stacks with a tap each, and a line between them, in a time of their own: what paths that lose packets do
//! to transfers.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures_util::FutureExt as _;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};

use super::tests::Anything;
use super::{SOON, Tap};
use crate::embedded::device::{Device, StackEnd};
use crate::embedded::settings::{TCP_BUFFER, USER_TIMEOUT};

const PORT: u16 = 9632;
const MIB: usize = 1 << 20;
/// What is written at once.
const CHUNK: [u8; 4096] = [7; 4096];

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a path does to packets, in each direction.
#[derive(Clone, Copy)]
struct Path {
    delay: Duration,
    /// Packets per second.
    rate: u32,
    /// Packets that wait for their turn.
    queue: usize,
    loss: f64,
}

/// One direction of a path.
struct Way {
    path: Path,
    random: Rng,
    free: Duration,
    flying: VecDeque<(Duration, Vec<u8>)>,
}

impl Way {
    fn push(&mut self, packet: Vec<u8>, now: Duration) {
        let each = Duration::from_secs(1) / self.path.rate;
        let begin = self.free.max(now);
        if begin - now >= each * self.path.queue as u32 {
            return;
        }
        self.free = begin + each;
        if self.random.f64() >= self.path.loss {
            self.flying.push_back((self.free + self.path.delay, packet));
        }
    }
}

struct End {
    wire: StackEnd,
    device: Arc<Device>,
    interface: Interface,
    sockets: SocketSet<'static>,
    tap: Tap,
}

impl End {
    fn new(n: u8, peer: u8, is_direct: bool) -> Self {
        let device = Arc::new(Device::default());
        let mut wire = StackEnd::new(Arc::clone(&device));
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address(n).into(), 10)).unwrap();
        });
        let tap = Tap::new(Arc::clone(&device), USER_TIMEOUT);
        tap.set_filter(Arc::new(Anything));
        if is_direct {
            tap.set_direct(HashSet::from([address(peer).into()]));
        }
        Self {
            wire,
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            tap,
        }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; TCP_BUFFER]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }
}

const fn address(n: u8) -> Ipv4Address {
    Ipv4Address::new(100, 64, 0, n)
}

/// Connections from the first end to the second.
struct World {
    start: Instant,
    now: Duration,
    ends: [End; 2],
    ways: [Way; 2],
    next_look: Duration,
    connections: Vec<[SocketHandle; 2]>,
}

impl World {
    fn new(path: Path, is_direct: bool, connections: u16) -> Self {
        let way = |seed| Way {
            path,
            random: Rng::with_seed(seed),
            free: Duration::ZERO,
            flying: VecDeque::new(),
        };
        let mut ends = [End::new(1, 2, is_direct), End::new(2, 1, is_direct)];
        let connections = (0..connections).map(|n| {
            let [a, b] = ends.each_mut().map(End::socket);
            let [first, second] = &mut ends;
            let listening = second.sockets.get_mut::<Socket<'_>>(b);
            listening.listen(PORT + n).unwrap();
            let dialing = first.sockets.get_mut::<Socket<'_>>(a);
            let to = (address(2), PORT + n);
            dialing
                .connect(first.interface.context(), to, 50_000 + n)
                .unwrap();
            [a, b]
        });
        let connections = connections.collect();
        Self {
            start: Instant::now(),
            now: Duration::ZERO,
            ends,
            ways: [way(1), way(2)],
            next_look: Duration::ZERO,
            connections,
        }
    }

    fn socket(&mut self, end: usize, connection: usize) -> &mut Socket<'static> {
        let handle = self.connections[connection][end];
        self.ends[end].sockets.get_mut(handle)
    }

    /// Lets both stacks do what they have to do now. Returns when something happens next.
    fn poll(&mut self) -> Duration {
        let time = smoltcp::time::Instant::from_micros(i64::try_from(self.now.as_micros()).unwrap());
        let now = self.start + self.now;
        let soonest = self.now + Duration::from_micros(1);
        let mut next = self.next_look.max(soonest);
        for (end, way) in self.ends.iter_mut().zip(&mut self.ways) {
            loop {
                end.interface.poll(time, &mut end.wire, &mut end.sockets);
                let Some(packets) = end.device.take().now_or_never() else {
                    break;
                };
                for mut packet in packets {
                    end.tap.outgoing_at(packet.as_mut(), now);
                    way.push(packet.as_ref().to_vec(), self.now);
                }
            }
            if let Some(at) = end.interface.poll_at(time, &end.sockets) {
                let at = Duration::from_micros(at.total_micros().unsigned_abs());
                next = next.min(at.max(soonest));
            }
        }
        for way in &self.ways {
            if let Some((at, _)) = way.flying.front() {
                next = next.min(*at);
            }
        }
        next
    }

    /// The time goes on to the next event.
    fn step(&mut self) {
        self.now = self.poll();
        let now = self.start + self.now;
        let [first, second] = &mut self.ends;
        let [there, back] = &mut self.ways;
        for (way, end) in [(there, second), (back, first)] {
            while let Some((_, mut packet)) = way.flying.pop_front_if(|(at, _)| *at <= self.now) {
                if end.tap.incoming_at(&mut packet, &Anything, now) {
                    end.device.put(&packet);
                }
            }
        }
        if self.now >= self.next_look {
            self.next_look = self.now + SOON;
            for end in &self.ends {
                end.tap.resend_due(now);
            }
        }
        self.poll();
    }

    /// Sends so much from the first end to the second on each connection, and returns how long that took, and the longest
    /// time in which nothing arrived.
    fn transfer(&mut self, size: usize) -> (Duration, Duration) {
        let count = self.connections.len();
        let mut left = vec![size; count];
        let mut received = 0;
        let (begin, mut last, mut longest) = (self.now, self.now, Duration::ZERO);
        while received < size * count {
            assert!(
                self.now < ms(600_000),
                "{received} bytes of {size} × {count} came"
            );
            for (n, left) in left.iter_mut().enumerate() {
                while self.socket(0, n).can_send() && *left > 0 {
                    let len = CHUNK.len().min(*left);
                    *left -= self.socket(0, n).send_slice(&CHUNK[..len]).unwrap();
                }
                while self.socket(1, n).can_recv() {
                    received += self
                        .socket(1, n)
                        .recv(|bytes| (bytes.len(), bytes.len()))
                        .unwrap();
                    longest = longest.max(self.now - last);
                    last = self.now;
                }
            }
            self.step();
        }
        (self.now - begin, longest)
    }

    /// How long round trips take, each with a small request and a small answer.
    fn round_trips(&mut self, count: usize) -> Vec<Duration> {
        let mut taken = Vec::new();
        while !self.socket(0, 0).may_send() {
            self.step();
        }
        for _ in 0..count {
            let begin = self.now;
            self.socket(0, 0).send_slice(&CHUNK[..300]).unwrap();
            for end in [1, 0] {
                let mut missing = 300_usize;
                while missing > 0 {
                    self.step();
                    if self.socket(end, 0).can_recv() {
                        missing -= self
                            .socket(end, 0)
                            .recv(|bytes| (bytes.len(), bytes.len()))
                            .unwrap();
                    }
                }
                if end == 1 {
                    self.socket(1, 0).send_slice(&CHUNK[..300]).unwrap();
                }
            }
            taken.push(self.now - begin);
        }
        taken.sort_unstable();
        taken
    }
}

/// 200 ms, 5 Mbit/s, 5 % lost.
const BAD: Path = Path {
    delay: ms(100),
    rate: 500,
    queue: 100,
    loss: 0.05,
};

#[test]
fn a_path_that_loses_many_packets_is_used_all_the_time() {
    let (took, longest) = World::new(BAD, true, 1).transfer(MIB / 2);
    assert!(took < ms(10_000), "{took:?}");
    assert!(longest < ms(1500), "nothing arrived for {longest:?}");
}

#[test]
fn a_request_that_is_lost_is_sent_again_soon() {
    let taken = World::new(BAD, true, 1).round_trips(400);
    let (median, late) = (taken[200], taken[396]);
    assert!(median < ms(230), "{median:?}");
    assert!(late < ms(1500), "{late:?}");
}

#[test]
fn a_queue_that_overflows_costs_little_of_the_rate() {
    let home = Path {
        delay: ms(10),
        rate: 5000,
        queue: 64,
        loss: 0.0,
    };
    let (took, longest) = World::new(home, true, 1).transfer(8 * MIB);
    let at_best = Duration::from_secs_f64(8.0 * MIB as f64 / 1240.0 / 5000.0);
    assert!(took < at_best * 3 / 2, "{took:?} instead of {at_best:?}");
    assert!(longest < ms(300), "nothing arrived for {longest:?}");
}

#[test]
fn eight_transfers_at_once_share_the_short_queue_of_a_relay() {
    let relay = Path {
        delay: Duration::from_micros(200),
        rate: 8000,
        queue: 32,
        loss: 0.0,
    };
    let (took, longest) = World::new(relay, false, 8).transfer(MIB);
    let at_best = Duration::from_secs_f64(8.0 * MIB as f64 / 1240.0 / 8000.0);
    assert!(took < at_best * 2, "{took:?} instead of {at_best:?}");
    assert!(longest < ms(500), "nothing arrived for {longest:?}");
}
