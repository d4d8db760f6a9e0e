//! Watches the TCP connections of the network stack from outside, because the stack cannot do six things: give up on
//! a peer that is dead, abandon a connection attempt, limit what peers may open, see that a SYN belongs to a connection
//! that it has, limit what is on the way, and send again in good time and no more than was lost.
//!
//! It is also where the packet filter of the control server is asked: about new connections only, so that answers to
//! our own come through, whatever peers may open.
//!
//! The tap sees every segment, remembers each connection's numbers, and when one is to end, hands the stack a reset as
//! if the peer had sent it. It keeps what is on the way, and sends itself what was lost (`flight`): the stack would send all
//! again that is not acknowledged, so what it sends again does not go out.

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

use tokio::sync::Notify;
use ts_packet::PacketMut;
use ts_packetfilter::{DropAllFilter, Filter, FilterExt as _, IpProto, PacketInfo};

use self::flight::{Flight, News, Times};
use self::path::{First, Path};
use self::segment::{Ip, IpProtocol, Segment, TcpControl, TcpSeqNumber, set_window};
use self::timer::Timer;
use self::window::Window;
use super::device::{Device, MTU};

/// Connections of one peer, both ways.
const PER_PEER: usize = 256;
/// Connections in all. The buffers of each take twice [`TCP_BUFFER`](super::settings::TCP_BUFFER).
const IN_ALL: usize = 2048;
/// Connections that peers are opening. When there are more, all are forgotten: the windows of their peers
/// then count as not shifted.
const OPENING: usize = 256;
/// A SYN that comes again within this time is not sent again, but doubled on the way. Nobody repeats one earlier than after a second
/// (RFC 6298, section 2).
const DOUBLED: Duration = Duration::from_millis(500);
/// A connection that we have closed, and on which nothing was heard for this long, is forgotten by the stack too.
const HALF_CLOSED: Duration = Duration::from_secs(60);
/// What was silent for this long, with nothing outstanding, is no longer watched.
const SILENT: Duration = Duration::from_secs(3600);
/// How often connections are looked at.
const EVERY: Duration = Duration::from_millis(500);
/// The same while one of them waits for an acknowledgement.
const SOON: Duration = Duration::from_millis(10);

/// A connection: our end, then theirs.
pub(super) type Flow = (SocketAddr, SocketAddr);

#[derive(Debug)]
struct Track {
    /// What our first segment acknowledged: where the peer opened the connection, the number behind its SYN.
    opened: Option<TcpSeqNumber>,
    /// The number behind the last byte that we sent.
    sent: TcpSeqNumber,
    /// The number behind the last byte that we acknowledged.
    acknowledged: TcpSeqNumber,
    /// The number behind the last byte that arrived in order.
    received: TcpSeqNumber,
    /// Since when something that we sent waits for an answer of any kind.
    waiting: Option<Instant>,
    /// The window that we told the peer last.
    told: u16,
    window: Window,
    flight: Flight,
    timer: Timer,
    /// When the last segment went either way.
    seen: Instant,
    we_closed: bool,
    they_closed: bool,
}

/// A SYN on its way to the stack.
#[derive(Debug)]
struct Opening {
    /// The number behind it.
    end: TcpSeqNumber,
    /// By how many bits the windows of the peer are shifted.
    scale: Option<u8>,
    at: Instant,
}

/// What becomes of a packet of the stack.
#[derive(Debug, PartialEq, Eq)]
enum Outgoing {
    Goes,
    /// The peer has what is in it, or it is on its way.
    Stays,
    /// So does the payload, but this is news for the peer.
    Instead(Vec<u8>),
}

/// See the module.
pub(super) struct Tap {
    flows: Mutex<HashMap<Flow, Track>>,
    /// The ways to the peers of these connections.
    paths: Mutex<HashMap<IpAddr, Path>>,
    /// Connections that peers are opening.
    opening: Mutex<HashMap<Flow, Opening>>,
    /// The addresses to which a direct path leads.
    direct: Mutex<HashSet<IpAddr>>,
    /// What control lets in.
    filter: Mutex<Arc<dyn Filter + Send + Sync>>,
    device: Arc<Device>,
    /// A connection waits for an acknowledgement.
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
            filter: Mutex::new(Arc::new(DropAllFilter)),
            device,
            outstanding: Notify::new(),
            user_timeout,
        }
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Flow, Track>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The way to a peer. Not to be held while [`Self::flows`] is asked for.
    fn with_path<T>(&self, peer: IpAddr, work: impl FnOnce(&mut Path) -> T) -> T {
        let is_direct = self.is_direct(peer);
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        let path = paths.entry(peer).or_default();
        path.follow(is_direct);
        work(path)
    }

    /// Decides from now on who may open connections to us. Until it is set, nobody may.
    pub(super) fn set_filter(&self, filter: Arc<dyn Filter + Send + Sync>) {
        *self.filter.lock().unwrap_or_else(PoisonError::into_inner) = filter;
    }

    /// To these addresses a direct path leads from now on, to others a relay.
    pub(super) fn set_direct(&self, addresses: HashSet<IpAddr>) {
        *self.direct.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Packets take another way to relays now: how long it is, is not known.
    pub(super) fn relays_changed(&self) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|_, path| path.is_direct());
    }

    /// Packets to these addresses take another way now. What was lost on the old one is sent again at once.
    pub(super) fn rerouted(&self, peers: &HashSet<IpAddr>, now: Instant) {
        for (flow, track) in &mut *self.flows() {
            if track.timer.is_overdue() && peers.contains(&flow.1.ip()) {
                track.timer.restart(now);
                track.flight.lose_all();
                track.window.expire(track.sent);
                self.send_again(track, true, now);
            }
        }
    }

    /// The node has slept. Of connections that were quiet for longer than a peer waits, none is left: their users hear of it now.
    pub(super) fn slept(&self, slept: Duration) {
        if slept < self.user_timeout {
            return;
        }
        let flows: Vec<_> = self.flows().keys().copied().collect();
        for flow in flows {
            self.abort(&flow);
        }
    }

    fn is_direct(&self, peer: IpAddr) -> bool {
        self.direct
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&peer)
    }

    fn opening(&self) -> MutexGuard<'_, HashMap<Flow, Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A packet of the stack; what of it goes out.
    pub(super) fn outgoing(&self, packet: PacketMut) -> Option<PacketMut> {
        match self.outgoing_at(packet.as_ref(), Instant::now()) {
            Outgoing::Goes => Some(packet),
            Outgoing::Stays => None,
            Outgoing::Instead(other) => Some(other.into()),
        }
    }

    fn outgoing_at(&self, packet: &[u8], now: Instant) -> Outgoing {
        let Some(segment) = Segment::parse(packet) else {
            return Outgoing::Goes;
        };
        let flow = (segment.source, segment.destination);
        let mut flows = self.flows();
        if segment.tcp.control == TcpControl::Rst {
            flows.remove(&flow);
            self.opening().remove(&flow);
            return Outgoing::Goes;
        }
        let begin = segment.tcp.seq_number;
        let is_new = !flows.contains_key(&flow);
        let (is_direct, first) = self.with_path(flow.1.ip(), |path| {
            (
                path.is_direct(),
                if is_new { path.begins(now) } else { First::Alone },
            )
        });
        let track = flows.entry(flow).or_insert_with(|| Track {
            opened: segment.tcp.ack_number,
            window: Window::new(
                is_direct,
                first,
                self.opening().remove(&flow).and_then(|opening| opening.scale),
            ),
            flight: Flight::default(),
            timer: Timer::default(),
            sent: begin,
            acknowledged: TcpSeqNumber(0),
            // If their SYN came first, ours acknowledges it.
            received: segment.tcp.ack_number.unwrap_or(TcpSeqNumber(0)),
            told: 0,
            waiting: None,
            seen: now,
            we_closed: false,
            they_closed: false,
        });
        let end = segment.end();
        track.window.outgoing(&segment.tcp, is_direct);
        // While the peer has no room, the stack asks now and then whether there is some, and until it has answered, too.
        let is_asking = track.window.is_closed() || track.window.acknowledged().is_none();
        let goes = track.flight.sent(packet, (begin, end), is_asking, now) || is_asking;
        if end != begin && !track.window.is_closed() && track.timer.sent(now) {
            self.outstanding.notify_one();
        }
        if goes {
            track.sent = track.sent.max(end);
        }
        let is_news = segment
            .tcp
            .ack_number
            .is_some_and(|number| number != track.acknowledged)
            || segment.tcp.window_len != track.told;
        track.told = segment.tcp.window_len;
        if let Some(acknowledged) = segment.tcp.ack_number {
            track.acknowledged = acknowledged;
            track.received = track.received.max(acknowledged);
        }
        if end != begin && track.waiting.is_none() {
            track.waiting = Some(now);
        }
        track.we_closed |= segment.tcp.control == TcpControl::Fin;
        track.seen = now;
        if goes {
            return Outgoing::Goes;
        }
        let mut only = Segment::new(
            flow.0,
            flow.1,
            TcpControl::None,
            track.sent,
            segment.tcp.ack_number,
            &[],
        );
        only.tcp.window_len = track.told;
        match only.packet() {
            Some(packet) if is_news => Outgoing::Instead(packet),
            _ => Outgoing::Stays,
        }
    }

    /// A packet for the stack. Its window may become smaller. `false`: it may not come in, or would open one connection
    /// too many, and is dropped.
    pub(super) fn incoming(&self, packet: &mut [u8]) -> bool {
        let filter = Arc::clone(&self.filter.lock().unwrap_or_else(PoisonError::into_inner));
        self.incoming_at(packet, &*filter, Instant::now())
    }

    fn incoming_at(&self, packet: &mut [u8], filter: &dyn Filter, now: Instant) -> bool {
        let Some(segment) = Segment::parse(packet) else {
            return is_allowed_ping(packet, filter);
        };
        let flow = (segment.destination, segment.source);
        let opens = segment.tcp.control == TcpControl::Syn && segment.tcp.ack_number.is_none();
        if opens && !self.may_open(&flow, segment.end(), now) {
            return false;
        }
        let mut flows = self.flows();
        if let Some(track) = flows.get_mut(&flow) {
            if segment.tcp.control == TcpControl::Rst {
                flows.remove(&flow);
                return true;
            }
            track.waiting = None;
            track.seen = now;
            track.they_closed |= segment.tcp.control == TcpControl::Fin;
            if segment.tcp.control == TcpControl::Syn || segment.tcp.seq_number == track.received {
                track.received = segment.end();
            }
            let mut is_lost = false;
            let window = self.with_path(flow.1.ip(), |path| {
                let advice = track.window.incoming(&segment.tcp, track.sent, path);
                let ranges = &segment.tcp.sack_ranges;
                let times = Times {
                    usual: track.timer.usual(),
                    shortest: path.shortest(),
                };
                let number = segment.tcp.ack_number;
                let mut news = number.map_or_else(News::default, |number| {
                    track.flight.acknowledged(number, ranges, times, now)
                });
                if advice.third && ranges[0].is_none() {
                    news.lost += track.flight.lose_first();
                }
                track.window.arrived(news.arrived);
                if news.arrived > 0 {
                    track
                        .timer
                        .arrived(news.round_trip, track.window.is_outstanding(track.sent), now);
                }
                if let Some(took) = news.round_trip {
                    path.measured(took, now);
                    track.window.measured(took, path, track.sent, now);
                }
                if news.lost > 0 {
                    track
                        .window
                        .lose(news.lost, track.flight.on_the_way(), track.sent, path);
                }
                let window = track.window.limit(&segment.tcp, path, track.flight.beyond(), now);
                is_lost = news.lost > 0;
                window
            });
            self.send_again(track, is_lost, now);
            if let Some(window) = window {
                set_window(packet, window);
            }
            return true;
        }
        // The answer of the stack will be tracked; here it is only decided whether it may answer.
        let info = PacketInfo {
            src: segment.source.ip(),
            dst: segment.destination.ip(),
            ip_proto: IpProto::new(i64::from(u8::from(IpProtocol::Tcp))),
            port: segment.destination.port(),
        };
        if !filter.can_access(&info, []) || (opens && !has_room(&flows, segment.source.ip())) {
            return false;
        }
        if opens {
            let mut opening = self.opening();
            if opening.len() >= OPENING {
                opening.clear();
            }
            let (end, scale) = (segment.end(), segment.tcp.window_scale);
            opening.insert(flow, Opening { end, scale, at: now });
        }
        true
    }

    /// Whether the stack may see a SYN with this number behind it. The stack hands it to the first socket that takes it, and one
    /// that listens may come before the one that has the connection: then there are two, and each resets what is meant for the other.
    fn may_open(&self, flow: &Flow, end: TcpSeqNumber, now: Instant) -> bool {
        match self.flows().get(flow).map(|track| track.opened) {
            // The answer was lost; it is sent again.
            Some(Some(opened)) if opened == end => return false,
            // The peer begins anew, and knows nothing of the old connection.
            Some(Some(_)) => {}
            // Our own SYN crossed it, or the stack has not seen it.
            Some(None) => return true,
            None => {
                let opening = self.opening();
                let is_doubled = |opening: &Opening| {
                    opening.end == end && now.saturating_duration_since(opening.at) < DOUBLED
                };
                return !opening.get(flow).is_some_and(is_doubled);
            }
        }
        self.abort(flow);
        true
    }

    /// Whether another connection with this peer may be opened.
    pub(super) fn has_room_for(&self, peer: IpAddr) -> bool {
        has_room(&self.flows(), peer)
    }

    /// The largest window of all connections, in bytes.
    #[cfg(test)]
    pub(super) fn largest_window(&self) -> usize {
        let flows = self.flows();
        flows.values().map(|track| track.window.size()).max().unwrap_or(0)
    }

    /// Whether one of our ports has a connection with this address.
    pub(super) fn is_used(&self, flow: &Flow) -> bool {
        self.flows().contains_key(flow)
    }

    /// Ends a connection of the stack as if the peer had reset it. The peer is not told.
    pub(super) fn abort(&self, flow: &Flow) {
        let track = self.flows().remove(flow);
        if let Some(track) = track {
            let (ours, theirs) = *flow;
            let reset = TcpControl::Rst;
            let reset = Segment::new(theirs, ours, reset, track.acknowledged, Some(track.sent), &[]);
            if let Some(packet) = reset.packet() {
                self.device.put(packet.into());
            }
        }
    }

    /// Sends again what was lost, as much as the way takes now. `first`: a packet in any case.
    fn send_again(&self, track: &mut Track, first: bool, now: Instant) {
        let most = track.window.size().saturating_sub(MTU);
        let mut next = if first { usize::MAX } else { most };
        while let Some(packet) = track.flight.send_again(next, now) {
            next = most;
            let Some(mut segment) = Segment::parse(packet) else {
                continue;
            };
            // The peer would not take a segment that acknowledges less than others before.
            segment.tcp.ack_number = Some(track.acknowledged);
            segment.tcp.window_len = track.told;
            if let Some(packet) = segment.packet() {
                self.device.put_again(packet.into());
            }
        }
    }

    /// Sends again what has waited too long. Returns whether anything waits.
    fn resend_due(&self, now: Instant) -> bool {
        let mut is_outstanding = false;
        for track in self.flows().values_mut() {
            is_outstanding |= track.timer.is_running();
            if track.window.is_closed() && track.timer.is_running() {
                track.timer.restart(now);
            }
            // Until the peer has answered, the stack asks by itself.
            if track.window.acknowledged().is_none() {
                continue;
            }
            let was_overdue = track.timer.is_overdue();
            if track.timer.expired(now) {
                if was_overdue {
                    track.flight.lose_all();
                    track.window.expire(track.sent);
                } else {
                    // Its answer tells what became of the others.
                    track.flight.lose_first();
                }
                self.send_again(track, true, now);
            }
        }
        is_outstanding
    }

    /// Sends again what was lost, and ends connections whose time is over. Never returns.
    pub(super) async fn run(&self) {
        let mut looked = Instant::now();
        loop {
            if self.resend_due(Instant::now()) {
                tokio::time::sleep(SOON).await;
            } else {
                // Whichever comes first.
                let _ = tokio::time::timeout(EVERY, self.outstanding.notified()).await;
            }
            if looked.elapsed() < EVERY {
                continue;
            }
            looked = Instant::now();
            for flow in self.due(looked) {
                tracing::debug!(ours = %flow.0, peer = %flow.1, "the peer stopped answering: connection reset");
                self.abort(&flow);
            }
        }
    }

    /// The connections that are to end now. Forgets those that have ended by themselves.
    fn due(&self, now: Instant) -> Vec<Flow> {
        let passed = |since: Instant| now.saturating_duration_since(since);
        let mut flows = self.flows();
        flows.retain(|_, track| {
            let is_closed = track.we_closed && track.they_closed && track.waiting.is_none();
            !(is_closed && passed(track.seen) > EVERY * 4) && passed(track.seen) < SILENT
        });
        let peers: HashSet<_> = flows.keys().map(|(_, theirs)| theirs.ip()).collect();
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        paths.retain(|peer, _| peers.contains(peer));
        drop(paths);
        flows
            .iter()
            .filter(|(_, track)| {
                let is_dead = track
                    .waiting
                    .is_some_and(|since| passed(since) > self.user_timeout);
                let is_abandoned = track.we_closed && passed(track.seen) > HALF_CLOSED;
                is_dead || is_abandoned
            })
            .map(|(flow, _)| *flow)
            .collect()
    }
}

/// Whether a packet that is not TCP is a ping that may come in. Nothing else has a use here.
fn is_allowed_ping(packet: &[u8], filter: &dyn Filter) -> bool {
    Ip::parse(packet).is_some_and(|ip| {
        let info = PacketInfo {
            src: ip.source,
            dst: ip.destination,
            ip_proto: IpProto::new(i64::from(u8::from(ip.protocol))),
            port: 0,
        };
        matches!(ip.protocol, IpProtocol::Icmp | IpProtocol::Icmpv6) && filter.can_access(&info, [])
    })
}

fn has_room(flows: &HashMap<Flow, Track>, peer: IpAddr) -> bool {
    flows.len() < IN_ALL && flows.keys().filter(|(_, theirs)| theirs.ip() == peer).count() < PER_PEER
}

#[cfg(test)]
mod tests;
