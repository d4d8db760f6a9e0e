//! Simulates transfers between two network stacks, each with a tap, over a lossy line in virtual time.

mod way;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Address};

use self::way::{Path, Way, ms};
use super::tests::Anything;
use super::{Outgoing, SOON, Tap};
use crate::embedded::device::{Device, Distance, StackEnd};
use crate::embedded::settings::{FAR, FIRST_WINDOW, USER_TIMEOUT};

const PORT: u16 = 9632;
const MIB: usize = 1 << 20;
/// The size of one write.
const CHUNK: [u8; 4096] = [7; 4096];

struct End {
    distance: Distance,
    wire: StackEnd,
    device: Arc<Device>,
    interface: Interface,
    sockets: SocketSet<'static>,
    tap: Tap,
}

impl End {
    fn new(n: u8, peer: u8, is_direct: bool, distance: Distance) -> Self {
        let device = Arc::new(Device::default());
        let mut wire = StackEnd::new(Arc::clone(&device), distance);
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
            distance,
            wire,
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            tap,
        }
    }

    fn socket(&mut self) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; self.distance.buffer()]);
        self.sockets.add(Socket::new(buffer(), buffer()))
    }
}

const fn address(n: u8) -> Ipv4Address {
    Ipv4Address::new(100, 64, 0, n)
}

/// Two ends, with connections from the first to the second.
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
        let distance = if path.delay * 2 < FAR {
            Distance::Near
        } else {
            Distance::Far
        };
        let mut ends = [
            End::new(1, 2, is_direct, distance),
            End::new(2, 1, is_direct, distance),
        ];
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
            ways: [Way::new(path, 1), Way::new(path, 2)],
            next_look: Duration::ZERO,
            connections,
        }
    }

    /// Lets both ways be TCP connections, like a link to a relay.
    fn over_tcp(mut self) -> Self {
        self.ways = self.ways.map(Way::over_tcp);
        self
    }

    fn socket(&mut self, end: usize, connection: usize) -> &mut Socket<'static> {
        let handle = self.connections[connection][end];
        self.ends[end].sockets.get_mut(handle)
    }

    /// Runs both stacks. Returns the time of the next event.
    fn poll(&mut self) -> Duration {
        let time = smoltcp::time::Instant::from_micros(i64::try_from(self.now.as_micros()).unwrap());
        let now = self.start + self.now;
        let soonest = self.now + Duration::from_micros(1);
        let mut next = self.next_look.max(soonest);
        for (end, way) in self.ends.iter_mut().zip(&mut self.ways) {
            loop {
                end.interface.poll(time, &mut end.wire, &mut end.sockets);
                let Some((again, packets)) = end.device.take().now_or_never() else {
                    break;
                };
                for packet in again {
                    way.push(packet.clone(), self.now);
                }
                for (distance, packet) in packets {
                    match end.tap.outgoing_at(distance, packet.as_ref(), now) {
                        Outgoing::Forward => way.push(packet.clone(), self.now),
                        Outgoing::Drop => {}
                        Outgoing::Replace(packet) => way.push(packet, self.now),
                    }
                }
            }
            if let Some(at) = end.interface.poll_at(time, &end.sockets) {
                let at = Duration::from_micros(at.total_micros().unsigned_abs());
                next = next.min(at.max(soonest));
            }
        }
        for way in &self.ways {
            if let Some(at) = way.next() {
                next = next.min(at.max(soonest));
            }
        }
        next
    }

    /// Advances the time to the next event.
    fn step(&mut self) {
        self.now = self.poll();
        let now = self.start + self.now;
        let [first, second] = &mut self.ends;
        let [there, back] = &mut self.ways;
        for (way, end) in [(there, second), (back, first)] {
            way.run(self.now);
            while let Some((_, mut packet)) = way.flying.pop_front_if(|(at, _)| *at <= self.now) {
                if end.tap.incoming_at(&mut packet, &Anything, now).is_some() {
                    end.device.put(end.distance, packet);
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

    /// Sends `size` bytes from the first end to the second on each connection. Returns the duration, and the longest
    /// time without an arrival.
    fn transfer(&mut self, size: usize) -> (Duration, Duration) {
        let count = self.connections.len();
        let mut left = vec![size; count];
        let mut received = 0;
        let (begin, mut last, mut longest) = (self.now, self.now, Duration::ZERO);
        while received < size * count {
            assert!(
                self.now < ms(600_000),
                "{received} bytes of {size} × {count} arrived"
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

    /// Pauses the reader of the first connection for this long, but not its writer.
    fn pause(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            while self.socket(0, 0).can_send() {
                self.socket(0, 0).send_slice(&CHUNK).unwrap();
            }
            self.step();
        }
    }

    /// Measures round trips, each of a small request and a small answer.
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

/// The results of transfers that share a path with a connection of small requests.
#[derive(Debug)]
struct Shared {
    /// The share of the path's rate that all transfers used together.
    used: f64,
    /// The smallest and the largest transfer, as shares of the total.
    least: f64,
    most: f64,
    /// The median and the 99th percentile of the extra delay of requests over the path's delay.
    median: Duration,
    late: Duration,
}

impl World {
    /// Runs requests on the last connection and transfers on the others. The time in `ignored` does not count.
    fn share(&mut self, ignored: Duration, measured: Duration) -> Shared {
        let path = self.ways[0].path;
        let transfers = self.connections.len() - 1;
        let mut received = vec![0; transfers];
        let mut queues = Vec::new();
        let (begin, end) = (self.now + ignored, self.now + ignored + measured);
        let mut asked: Option<Duration> = None;
        let mut ask_next = self.now;
        while self.now < end {
            for (n, received) in received.iter_mut().enumerate() {
                while self.socket(0, n).can_send() {
                    self.socket(0, n).send_slice(&CHUNK).unwrap();
                }
                while self.socket(1, n).can_recv() {
                    let len = self
                        .socket(1, n)
                        .recv(|bytes| (bytes.len(), bytes.len()))
                        .unwrap();
                    if self.now >= begin {
                        *received += len;
                    }
                }
            }
            if asked.is_none() && self.now >= ask_next && self.socket(0, transfers).can_send() {
                asked = Some(self.now);
                self.socket(0, transfers).send_slice(&CHUNK[..100]).unwrap();
            }
            if self.socket(1, transfers).can_recv() {
                self.socket(1, transfers)
                    .recv(|bytes| (bytes.len(), bytes.len()))
                    .unwrap();
                self.socket(1, transfers).send_slice(&CHUNK[..100]).unwrap();
            }
            if self.socket(0, transfers).can_recv() {
                self.socket(0, transfers)
                    .recv(|bytes| (bytes.len(), bytes.len()))
                    .unwrap();
                if let Some(asked) = asked.take()
                    && asked >= begin
                {
                    queues.push((self.now - asked).saturating_sub(path.delay * 2));
                }
                ask_next = self.now + ms(20);
            }
            self.step();
        }
        queues.sort_unstable();
        let all: usize = received.iter().sum();
        let best = f64::from(path.rate) * 1240.0 * measured.as_secs_f64();
        let of_all = |n: usize| n as f64 / all as f64;
        Shared {
            used: all as f64 / best,
            least: of_all(*received.iter().min().unwrap()),
            most: of_all(*received.iter().max().unwrap()),
            median: queues[queues.len() / 2],
            late: queues[queues.len() * 99 / 100],
        }
    }
}

/// 200 ms round trip, 5 Mbit/s, 5 % loss.
const BAD: Path = Path {
    delay: ms(100),
    rate: 500,
    queue: 100,
    loss: 0.05,
    jitter: Duration::ZERO,
};

#[test]
fn a_lossy_path_is_never_idle_for_long() {
    let (took, longest) = World::new(BAD, true, 1).transfer(MIB / 2);
    assert!(took < ms(6000), "{took:?}");
    assert!(longest < ms(1500), "nothing arrived for {longest:?}");
}

#[test]
fn a_lost_request_is_retransmitted_soon() {
    let taken = World::new(BAD, true, 1).round_trips(400);
    let (median, late) = (taken[200], taken[396]);
    assert!(median < ms(230), "{median:?}");
    assert!(late < ms(1500), "{late:?}");
}

#[test]
fn a_loss_on_a_long_path_costs_little() {
    let satellite = Path {
        delay: ms(300),
        rate: 2000,
        queue: 800,
        loss: 0.001,
        jitter: Duration::ZERO,
    };
    let (took, longest) = World::new(satellite, true, 1).transfer(4 * MIB);
    // The line takes 1.7 s, and slow start adds six round trips.
    assert!(took < ms(6500), "{took:?}");
    assert!(longest < ms(1300), "nothing arrived for {longest:?}");
}

#[test]
fn a_longer_delay_causes_no_lasting_duplicates() {
    let mut world = World::new(Path { loss: 0.0, ..BAD }, true, 1);
    world.round_trips(20);
    for way in &mut world.ways {
        way.path.delay = ms(400);
    }
    world.round_trips(10);
    let before = world.ways[0].count;
    world.round_trips(10);
    let each = (world.ways[0].count - before) / 10;
    assert!(each <= 2, "{each} packets for a request and an acknowledgement");
}

#[test]
fn a_queue_that_overflows_costs_little_of_the_rate() {
    let home = Path {
        delay: ms(10),
        rate: 5000,
        queue: 64,
        loss: 0.0,
        jitter: Duration::ZERO,
    };
    let (took, longest) = World::new(home, true, 1).transfer(8 * MIB);
    let at_best = Duration::from_secs_f64(8.0 * MIB as f64 / 1240.0 / 5000.0);
    assert!(took < at_best * 3 / 2, "{took:?} instead of {at_best:?}");
    assert!(longest < ms(300), "nothing arrived for {longest:?}");
}

/// Lines to a relay with a long queue: one-way delay in milliseconds, and packets per second.
const LINES: [(u64, u32); 4] = [(2, 5000), (10, 5000), (40, 2000), (100, 800)];

#[test]
fn transfers_on_a_relay_use_the_line_share_it_and_leave_requests_room() {
    for (delay, rate) in LINES {
        for transfers in [1, 2, 8] {
            let length = ms((delay * 120).max(4000));
            let line = Path {
                delay: ms(delay),
                rate,
                queue: 1000,
                loss: 0.0,
                jitter: Duration::ZERO,
            };
            let shared = World::new(line, false, transfers + 1).share(ms((delay * 30).max(2000)), length);
            let what = format!("{transfers} on {line:?}: {shared:?}");
            assert!(shared.used > 0.9, "{what}");
            assert!(shared.median <= ms(36) && shared.late <= ms(60), "{what}");
            let even = 1.0 / f64::from(transfers);
            assert!(shared.least > even / 4.0 && shared.most < even * 3.0, "{what}");
        }
    }
}

/// Lossy lines to a relay.
const LOSSY: [Path; 2] = [
    Path {
        delay: ms(25),
        rate: 2000,
        queue: 200,
        loss: 0.01,
        jitter: ms(30),
    },
    Path {
        delay: ms(90),
        rate: 500,
        queue: 200,
        loss: 0.05,
        jitter: ms(20),
    },
];

#[test]
fn a_transfer_on_a_relay_over_a_lossy_line_uses_most_of_what_the_relay_connection_carries() {
    for line in LOSSY {
        let length = ms(20_000);
        let carried = Way::new(line, 1).over_tcp().carries(length) as f64;
        let shared = World::new(line, false, 2).over_tcp().share(ms(2000), length);
        let arrived = shared.used * f64::from(line.rate) * length.as_secs_f64();
        let used = arrived / carried;
        assert!(used > 0.7, "{used} of {carried} packets on {line:?}: {shared:?}");
    }
}

#[test]
fn the_queue_on_a_relay_over_a_lossy_line_stays_short() {
    let line = Path {
        loss: 0.001,
        ..LOSSY[0]
    };
    let shared = World::new(line, false, 2)
        .over_tcp()
        .share(ms(100_000), ms(20_000));
    assert!(shared.median < ms(150), "{shared:?}");
}

#[test]
fn transfers_on_a_relay_that_becomes_slow_do_not_fill_its_queue() {
    let line = Path {
        delay: ms(10),
        rate: 5000,
        queue: 1000,
        loss: 0.0,
        jitter: Duration::ZERO,
    };
    let mut world = World::new(line, false, 9);
    world.share(ms(1000), ms(1000));
    for rate in [1000, 5000] {
        for way in &mut world.ways {
            way.path.rate = rate;
        }
        let shared = world.share(ms(3000), ms(3000));
        assert!(shared.used > 0.8, "{rate}: {shared:?}");
        assert!(shared.late <= ms(60), "{rate}: {shared:?}");
    }
}

#[test]
fn transfers_on_a_line_that_loses_packets_use_most_of_it() {
    for (transfers, loss, least) in [(1, 0.001, 0.5), (8, 0.001, 0.8), (1, 0.01, 0.1), (8, 0.01, 0.5)] {
        let line = Path {
            delay: ms(10),
            rate: 5000,
            queue: 1000,
            loss,
            jitter: Duration::ZERO,
        };
        let shared = World::new(line, false, transfers + 1).share(ms(2000), ms(6000));
        let what = format!("{transfers} on {line:?}: {shared:?}");
        assert!(shared.used > least, "{what}");
        assert!(shared.median <= ms(35), "{what}");
    }
}

#[test]
fn eight_transfers_at_once_share_the_short_queue_of_a_relay() {
    let relay = Path {
        delay: Duration::from_micros(200),
        rate: 8000,
        queue: 32,
        loss: 0.0,
        jitter: Duration::ZERO,
    };
    let (took, longest) = World::new(relay, false, 8).transfer(MIB);
    let at_best = Duration::from_secs_f64(8.0 * MIB as f64 / 1240.0 / 8000.0);
    assert!(took < at_best * 2, "{took:?} instead of {at_best:?}");
    assert!(longest < ms(500), "nothing arrived for {longest:?}");
}

#[test]
fn a_window_on_a_relay_whose_delay_varies_is_never_worse_than_a_fixed_one() {
    for jitter in [10, 20] {
        let line = Path {
            delay: ms(32),
            rate: 5000,
            queue: 1000,
            loss: 0.0,
            jitter: ms(jitter),
        };
        let mut world = World::new(line, false, 1);
        // The slow transfer first makes the window small.
        for (rate, size) in [(100, MIB / 4), (line.rate, MIB / 4)] {
            for way in &mut world.ways {
                way.path.rate = rate;
            }
            world.transfer(size);
        }
        let (took, _) = world.transfer(4 * MIB);
        let fixed = ms(64 + jitter).mul_f64((4 * MIB) as f64 / FIRST_WINDOW as f64);
        assert!(took < fixed, "{took:?} instead of {fixed:?} on {line:?}");
    }
}

#[test]
fn a_reader_that_pauses_costs_the_window_nothing() {
    let line = Path {
        delay: ms(20),
        rate: 5000,
        queue: 1000,
        loss: 0.0,
        jitter: Duration::ZERO,
    };
    let mut world = World::new(line, false, 1);
    world.transfer(4 * MIB);
    let before = world.ends[0].tap.largest_window();
    for _ in 0..5 {
        world.pause(ms(5000));
        world.transfer(MIB / 2);
    }
    let after = world.ends[0].tap.largest_window();
    assert!(after > before * 3 / 4, "{after} after {before}");
}

#[test]
fn the_longer_delay_of_a_new_link_does_not_count_as_a_queue() {
    let line = Path {
        delay: ms(10),
        rate: 5000,
        queue: 1000,
        loss: 0.0,
        jitter: Duration::ZERO,
    };
    let mut world = World::new(line, false, 1);
    world.transfer(4 * MIB);
    for way in &mut world.ways {
        way.path.delay = ms(100);
        way.flying.clear();
    }
    for end in &world.ends {
        end.tap.relays_changed();
    }
    let (took, _) = world.transfer(4 * MIB);
    assert!(took < ms(8000), "{took:?}");
}
