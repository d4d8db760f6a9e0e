//! Decides which connections peers may open: by the packet filter, by number, and without repeated SYNs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ts_packetfilter::{Filter, FilterExt as _, IpProto, PacketInfo};

use super::segment::{Ip, IpProtocol, TcpSeqNumber};
use super::{Flow, Tap, Track};
use crate::embedded::device::Distance;

/// The maximum number of connections per peer, in both directions together.
pub(super) const PER_PEER: usize = 256;
/// The maximum number of connections. Each has two buffers: see [`Distance::buffer`].
const IN_ALL: usize = 2048;
/// The maximum number of connections that peers are opening. Above it, all entries are removed, and the windows of
/// these peers count as unscaled.
pub(super) const OPENING: usize = 256;
/// A SYN repeated within this time was duplicated by the network: no sender retransmits a SYN in less than a second
/// (RFC 6298, section 2).
pub(super) const DOUBLED: Duration = Duration::from_millis(500);

/// A SYN passed to the stack.
#[derive(Debug)]
pub(super) struct Opening {
    /// The sequence number after the SYN.
    pub(super) end: TcpSeqNumber,
    /// The window scale of the peer, in bits.
    pub(super) scale: Option<u8>,
    /// The stack that has received the SYN.
    pub(super) distance: Distance,
    pub(super) at: Instant,
}

impl Tap {
    pub(super) fn opening(&self) -> MutexGuard<'_, HashMap<Flow, Opening>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether to pass on a SYN that ends before `end`. The stack gives a SYN to its first matching socket,
    /// possibly a listening one before the connected one. Two sockets would then have the connection, and each would
    /// reset the other's segments.
    pub(super) fn may_open(&self, flow: &Flow, end: TcpSeqNumber, now: Instant) -> bool {
        let opened = self.flows().get(flow).map(|track| track.opened);
        match opened {
            // The answer was lost; it will be retransmitted.
            Some(Some(opened)) if opened == end => false,
            // The peer restarted and has no state of the old connection. It repeats its SYN until that has ended.
            Some(Some(_)) => {
                self.abort(flow);
                false
            }
            // A simultaneous open, or the stack has not received the SYN.
            Some(None) => true,
            None => {
                let opening = self.opening();
                let is_doubled = |opening: &Opening| {
                    opening.end == end && now.saturating_duration_since(opening.at) < DOUBLED
                };
                !opening.get(flow).is_some_and(is_doubled)
            }
        }
    }

    /// Returns whether another connection with this peer may be opened.
    pub(in crate::embedded) fn has_room_for(&self, peer: IpAddr) -> bool {
        has_room(&self.flows(), peer)
    }
}

/// Returns whether a packet other than TCP may pass. Only pings may.
pub(super) fn is_allowed_ping(packet: &[u8], filter: &dyn Filter) -> bool {
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

pub(super) fn has_room(flows: &HashMap<Flow, Track>, peer: IpAddr) -> bool {
    flows.len() < IN_ALL && flows.keys().filter(|(_, theirs)| theirs.ip() == peer).count() < PER_PEER
}
