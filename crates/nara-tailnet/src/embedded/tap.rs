//! Monitors the TCP connections of the network stack from outside and adds what the stack lacks: timeouts for dead
//! peers, cancellation of connection attempts, limits on connections per peer, recognition of repeated SYNs, congestion
//! control, and timely selective retransmission.
//!
//! The tap also applies the packet filter of the control server, to new connections only: answers to our own
//! connections always pass.
//!
//! The tap parses every segment and tracks the sequence numbers of each connection. It verifies no checksum, since the
//! stack does, and takes nothing from a segment that must agree with the stack: a connection is tracked until the stack
//! shows that it has dropped it (`ending`). The tap keeps packets in flight and retransmits lost ones itself
//! (`flight`). The stack would retransmit everything unacknowledged, so its retransmissions are dropped.

mod admission;
mod distance;
mod ending;
mod flight;
mod path;
mod segment;
#[cfg(test)]
mod simulation;
mod timer;
mod window;
#[cfg(test)]
pub(super) mod test_segment {
    pub(in crate::embedded) use super::segment::{Segment, TcpControl, TcpSeqNumber};
}

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{Notify, watch};
use ts_packetfilter::{DropAllFilter, Filter, FilterExt as _, IpProto, PacketInfo};

use self::admission::{Opening, is_allowed_icmp};
use self::distance::Distances;
use self::ending::HALF_CLOSED;
use self::flight::{AckOutcome, Flight, Times};
use self::path::{First, Path};
pub(super) use self::segment::Ip;
use self::segment::{IpProtocol, Segment, TcpControl, TcpSeqNumber, set_window};
use self::timer::Timer;
use self::window::Window;
use super::device::{Device, Distance, MTU};

/// The interval between checks of all connections.
const EVERY: Duration = Duration::from_millis(500);
/// The interval while a connection waits for an acknowledgement.
const SOON: Duration = Duration::from_millis(10);

/// A connection: the local address, then the address of the peer.
pub(super) type Flow = (SocketAddr, SocketAddr);

#[derive(Debug)]
struct Track {
    /// The stack that has the connection.
    distance: Distance,
    /// The acknowledgement number of our first segment: if the peer opened the connection, the number after its SYN.
    opened: Option<TcpSeqNumber>,
    /// The sequence number after the last byte sent.
    sent: TcpSeqNumber,
    /// The last acknowledgement number sent.
    acknowledged: TcpSeqNumber,
    /// Since when sent data has waited for an acknowledgement.
    waiting: Option<Instant>,
    /// The window last advertised to the peer.
    advertised: u16,
    window: Window,
    flight: Flight,
    timer: Timer,
    /// The time of the last segment in either direction.
    seen: Instant,
    we_closed: bool,
    /// The sequence number after the last FIN of the peer, which the stack may not have accepted.
    fin: Option<TcpSeqNumber>,
    /// We answered the SYN of the peer, and no acknowledgement of that has reached the stack.
    is_half_open: bool,
    /// The connection has a holder who sees its end: the caller who opened it, or the listener that has accepted it.
    is_held: bool,
    /// When the connection ends at the latest, since we have closed it.
    end_by: Option<Instant>,
    /// Since when the stack is to drop the connection; see [`ending`].
    ending: Option<Instant>,
}

/// The decision about a packet of the stack.
#[derive(Debug, PartialEq, Eq)]
enum Outgoing {
    Forward,
    /// The peer has the content, or the content is in flight.
    Drop,
    /// The payload is dropped, but the peer needs this acknowledgement or window.
    Replace(BytesMut),
}

/// Monitors the TCP connections of the network stack; see the module.
pub(super) struct Tap {
    flows: Mutex<HashMap<Flow, Track>>,
    /// The paths to the peers of these connections.
    paths: Mutex<HashMap<IpAddr, Path>>,
    /// Connections that peers are opening.
    opening: Mutex<HashMap<Flow, Opening>>,
    /// The addresses reached over a direct path.
    direct: Mutex<HashSet<IpAddr>>,
    distances: Distances,
    /// The addresses of the node with each address.
    nodes: Mutex<HashMap<IpAddr, Arc<[IpAddr]>>>,
    /// The packet filter of the control server.
    filter: Mutex<Arc<dyn Filter + Send + Sync>>,
    device: Arc<Device>,
    /// Notified when a connection begins to wait for an acknowledgement.
    outstanding: Notify,
    user_timeout: Duration,
}

impl Tap {
    pub(super) fn new(device: Arc<Device>, user_timeout: Duration) -> Self {
        Self {
            flows: Mutex::default(),
            paths: Mutex::default(),
            opening: Mutex::default(),
            direct: Mutex::default(),
            distances: Distances::default(),
            nodes: Mutex::default(),
            filter: Mutex::new(Arc::new(DropAllFilter)),
            device,
            outstanding: Notify::new(),
            user_timeout,
        }
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Flow, Track>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the path to a peer. Do not lock [`Self::flows`] inside it.
    fn with_path<T>(&self, peer: IpAddr, work: impl FnOnce(&mut Path) -> T) -> T {
        let is_direct = self.is_direct(peer);
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let path = paths.entry(peer).or_default();
        path.follow(is_direct);
        work(path)
    }

    /// Sets the filter for new connections of peers. Until then, all are refused.
    pub(super) fn set_filter(&self, filter: Arc<dyn Filter + Send + Sync>) {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = filter;
    }

    /// Sets the addresses that are reached over direct paths; others are reached over relays.
    pub(super) fn set_direct(&self, addresses: HashSet<IpAddr>) {
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Sets the addresses of peers with a long round trip at their last handshake.
    pub(super) fn set_far(&self, addresses: HashSet<IpAddr>) {
        self.distances.set_far(addresses);
    }

    /// Returns a receiver of these addresses.
    pub(super) fn far(&self) -> watch::Receiver<HashSet<IpAddr>> {
        self.distances.far()
    }

    /// Returns the stack for a new connection with this peer.
    pub(super) fn distance_to(&self, peer: IpAddr) -> Distance {
        self.distance(&self.flows(), peer)
    }

    fn distance(&self, flows: &HashMap<Flow, Track>, peer: IpAddr) -> Distance {
        let paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = paths.get(&peer).map_or(Duration::ZERO, Path::shortest);
        let others = flows
            .iter()
            .map(|((_, theirs), track)| (theirs.ip(), track.distance));
        let addresses = self.addresses_of(peer);
        self.distances.choose(peer, &addresses, measured, others)
    }

    /// Discards the measurements of relay paths, since a relay connection was replaced.
    pub(super) fn relays_changed(&self) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|_, path| path.is_direct());
    }

    /// Retransmits lost packets to these peers at once, since their path has changed.
    pub(super) fn rerouted(&self, peers: &HashSet<IpAddr>, now: Instant) {
        for (flow, track) in &mut *self.flows() {
            if track.timer.is_overdue() && peers.contains(&flow.1.ip()) {
                track.timer.restart(now);
                track.flight.mark_all_lost();
                track.window.on_timeout(track.sent);
                self.retransmit(track, true, now);
            }
        }
    }

    fn is_direct(&self, peer: IpAddr) -> bool {
        self.direct
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&peer)
    }

    /// Filters a packet of a stack, and returns the packet to send, if any.
    pub(super) fn outgoing(&self, distance: Distance, packet: BytesMut) -> Option<BytesMut> {
        match self.outgoing_at(distance, packet.as_ref(), Instant::now()) {
            Outgoing::Forward => Some(packet),
            Outgoing::Drop => None,
            Outgoing::Replace(other) => Some(other),
        }
    }

    fn outgoing_at(&self, distance: Distance, packet: &[u8], now: Instant) -> Outgoing {
        let Some(segment) = Segment::parse(packet) else {
            return Outgoing::Forward;
        };
        let flow = (segment.source, segment.destination);
        let mut flows = self.flows();
        if segment.tcp.control == TcpControl::Rst {
            self.opening().remove(&flow);
            return ending::on_reset_of_stack(&mut flows, &flow, segment.tcp.seq_number);
        }
        let begin = segment.tcp.seq_number;
        let is_new = !flows.contains_key(&flow);
        let (is_direct, first) = self.with_path(flow.1.ip(), |path| {
            (
                path.is_direct(),
                if is_new {
                    path.begin_connection(now)
                } else {
                    First::Alone
                },
            )
        });
        let track = flows.entry(flow).or_insert_with(|| Track {
            distance,
            opened: segment.tcp.ack_number,
            window: Window::new(
                is_direct,
                first,
                self.opening().remove(&flow).and_then(|opening| opening.scale),
                distance.buffer(),
            ),
            flight: Flight::default(),
            timer: Timer::default(),
            sent: begin,
            acknowledged: TcpSeqNumber(0),
            advertised: 0,
            waiting: None,
            seen: now,
            we_closed: false,
            fin: None,
            is_half_open: segment.is_answer_to_syn(),
            is_held: !segment.is_answer_to_syn(),
            end_by: None,
            ending: None,
        });
        if track.ending.is_some() {
            track.follow_ending(&segment.tcp, now);
            return Outgoing::Drop;
        }
        let end = segment.end();
        track.window.outgoing(&segment.tcp, is_direct);
        // While the peer's window is closed, or the peer has not answered yet, the stack sends probes.
        let is_probe = track.window.is_closed() || track.window.acknowledged().is_none();
        let is_forwarded = track.flight.sent(packet, (begin, end), is_probe, now) || is_probe;
        if end != begin && !track.window.is_closed() && track.timer.sent(now) {
            self.outstanding.notify_one();
        }
        if is_forwarded {
            track.sent = track.sent.max(end);
        }
        let updates_peer = segment
            .tcp
            .ack_number
            .is_some_and(|number| number != track.acknowledged)
            || segment.tcp.window_len != track.advertised;
        track.advertised = segment.tcp.window_len;
        if let Some(acknowledged) = segment.tcp.ack_number {
            track.acknowledged = acknowledged;
        }
        if end != begin && track.waiting.is_none() {
            track.waiting = Some(now);
        }
        if segment.tcp.control == TcpControl::Fin {
            track.we_closed = true;
            track.end_by(now + HALF_CLOSED);
        }
        track.seen = now;
        if is_forwarded {
            return Outgoing::Forward;
        }
        let mut only = Segment::new(
            flow.0,
            flow.1,
            TcpControl::None,
            track.sent,
            segment.tcp.ack_number,
            &[],
        );
        only.tcp.window_len = track.advertised;
        match only.packet() {
            Some(packet) if updates_peer => Outgoing::Replace(packet),
            _ => Outgoing::Drop,
        }
    }

    /// Filters a packet of a peer, and may reduce its window. Returns the stack that gets it, or `None` if the packet must
    /// be dropped: the filter refuses it, or it would open one connection too many.
    pub(super) fn incoming(&self, packet: &mut [u8]) -> Option<Distance> {
        let filter = Arc::clone(&self.filter.lock().unwrap_or_else(PoisonError::into_inner));
        self.incoming_at(packet, &*filter, Instant::now())
    }

    fn incoming_at(&self, packet: &mut [u8], filter: &dyn Filter, now: Instant) -> Option<Distance> {
        let Some(segment) = Segment::parse(packet) else {
            return is_allowed_icmp(packet, filter).then_some(Distance::Near);
        };
        let flow = (segment.destination, segment.source);
        if admission::has_tiny_segments(&segment.tcp) {
            return None;
        }
        let opens = segment.tcp.control == TcpControl::Syn && segment.tcp.ack_number.is_none();
        if opens && !self.may_open(&flow, segment.end(), now) {
            return None;
        }
        let mut flows = self.flows();
        if let Some(track) = flows.get_mut(&flow) {
            let distance = track.distance;
            if track.ending.is_some() {
                return None;
            }
            if segment.tcp.control == TcpControl::Rst {
                if track.expects_reset(&segment.tcp) {
                    self.end(&flow, track, segment.tcp.seq_number, now);
                }
                return None;
            }
            track.is_half_open &= segment.tcp.ack_number != Some(track.sent);
            track.seen = now;
            if segment.tcp.control == TcpControl::Fin {
                track.fin = Some(segment.end());
            }
            let mut is_lost = false;
            let window = self.with_path(flow.1.ip(), |path| {
                let ranges = &segment.tcp.sack_ranges;
                let times = Times {
                    usual: track.timer.usual(),
                    shortest: path.shortest(),
                    repairs: path.repairs(),
                };
                let number = segment.tcp.ack_number;
                let mut outcome = number.map_or_else(AckOutcome::default, |number| {
                    track.flight.acknowledged(number, ranges, times, now)
                });
                if outcome.is_spurious {
                    track.window.on_spurious_loss();
                }
                let advice = track.window.incoming(&segment.tcp, track.sent, path);
                track.on_answer(advice.progress, now);
                if advice.third_duplicate && ranges[0].is_none() {
                    outcome.lost += track.flight.mark_first_lost();
                }
                track.window.arrived(outcome.arrived);
                if outcome.arrived > 0 {
                    track
                        .timer
                        .arrived(outcome.round_trip, track.window.is_outstanding(track.sent), now);
                }
                if let Some(took) = outcome.round_trip {
                    path.measured(took, now);
                    track.window.measured(took, path, track.sent, now);
                }
                if outcome.lost > 0 {
                    track
                        .window
                        .on_loss(outcome.lost, track.flight.in_flight(), track.sent, path);
                }
                let window = track.window.limit(&segment.tcp, path, track.flight.sacked(), now);
                is_lost = outcome.lost > 0;
                window
            });
            self.retransmit(track, is_lost, now);
            if let Some(window) = window {
                set_window(packet, window);
            }
            return Some(distance);
        }
        // The answer of the stack starts the tracking; here we only decide whether the packet may reach the stack.
        let info = PacketInfo {
            src: segment.source.ip(),
            dst: segment.destination.ip(),
            ip_proto: IpProto::new(i64::from(u8::from(IpProtocol::Tcp))),
            port: segment.destination.port(),
        };
        if !filter.can_access(&info, [])
            || (opens && self.has_room(&flows, segment.source.ip(), now).is_err())
        {
            return None;
        }
        if !opens {
            return Some(Distance::Near);
        }
        let mut opening = self.opening();
        let distance = match opening.get(&flow) {
            Some(opening) => opening.distance,
            None => self.distance(&flows, segment.source.ip()),
        };
        let (end, scale) = (segment.end(), segment.tcp.window_scale);
        let this = Opening {
            end,
            scale,
            distance,
            at: now,
        };
        opening.insert(flow, this);
        Some(distance)
    }

    /// Returns the largest window of all connections, in bytes.
    #[cfg(test)]
    pub(super) fn largest_window(&self) -> usize {
        let flows = self.flows();
        flows.values().map(|track| track.window.size()).max().unwrap_or(0)
    }

    /// Retransmits lost packets as far as the window allows. With `first`, sends at least one packet.
    fn retransmit(&self, track: &mut Track, first: bool, now: Instant) {
        let most = track.window.size().saturating_sub(MTU);
        let mut next = if first { usize::MAX } else { most };
        while let Some(packet) = track.flight.retransmit(next, now) {
            next = most;
            let Some(mut segment) = Segment::parse(packet) else {
                continue;
            };
            // The peer would discard a segment with an older acknowledgement number.
            segment.tcp.ack_number = Some(track.acknowledged);
            segment.tcp.window_len = track.advertised;
            if let Some(packet) = segment.packet() {
                self.device.put_again(packet);
            }
        }
    }

    /// Retransmits packets whose timeout has expired. Returns whether any packet waits for an acknowledgement.
    fn resend_due(&self, now: Instant) -> bool {
        let mut is_outstanding = false;
        for track in self.flows().values_mut() {
            is_outstanding |= track.timer.is_running();
            if track.window.is_closed() && track.timer.is_running() {
                track.timer.restart(now);
            }
            // The stack itself retransmits its SYN.
            if track.window.acknowledged().is_none() {
                continue;
            }
            let was_overdue = track.timer.is_overdue();
            if track.timer.expired(now) {
                if was_overdue {
                    track.flight.mark_all_lost();
                    track.window.on_timeout(track.sent);
                } else {
                    // The answer will show which other packets were lost.
                    track.flight.mark_first_lost();
                }
                self.retransmit(track, true, now);
            }
        }
        is_outstanding
    }

    /// Retransmits lost packets, and ends dead connections. Never returns.
    pub(super) async fn run(&self) {
        let mut looked = Instant::now();
        loop {
            if self.resend_due(Instant::now()) {
                tokio::time::sleep(SOON).await;
            } else {
                // Wakes up at the earlier of the two.
                let _ = tokio::time::timeout(EVERY, self.outstanding.notified()).await;
            }
            if looked.elapsed() < EVERY {
                continue;
            }
            looked = Instant::now();
            self.end_due(looked);
        }
    }
}

#[cfg(test)]
mod tests;
