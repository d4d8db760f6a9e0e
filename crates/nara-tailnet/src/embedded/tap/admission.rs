//! Decides which connections peers may open: by the packet filter, by number, and without repeated SYNs.
//!
//! A peer is a node with all of its addresses.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ts_packetfilter::{Filter, FilterExt as _, IpProto, PacketInfo};

use super::segment::{Ip, IpProtocol, TcpControl, TcpRepr, TcpSeqNumber};
use super::{Flow, Tap, Track};
use crate::embedded::device::Distance;

/// The maximum number of connections per peer, in both directions together, while there are few others; see [`share`].
pub(super) const PER_PEER: usize = 256;
/// The maximum number of connections. Each has two buffers: see [`Distance::buffer`].
const IN_ALL: usize = 2048;
/// The maximum number of connections that peers are opening.
pub(super) const OPENING: usize = 256;
/// The minimum segment size of a peer: what IPv4 guarantees (RFC 9293, section 3.7.1). In a tailnet it is 1220 or more.
const LEAST_SEGMENT: u16 = 536;
/// A SYN repeated within this time was duplicated by the network: no sender retransmits a SYN in less than a second
/// (RFC 6298, section 2).
pub(super) const DOUBLED: Duration = Duration::from_millis(500);

/// The stack answers a SYN within this time; if not, it has dropped it.
const ANSWERED: Duration = Duration::from_secs(1);

/// The reason why no further connection with a peer may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct NoRoom {
    of_peer: usize,
    in_all: usize,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { of_peer, in_all } = self;
        write!(
            f,
            "there are {of_peer} connections with this peer and {in_all} in all, no more fit"
        )
    }
}

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

    /// Returns an error if no further connection with this peer may be opened.
    pub(in crate::embedded) fn has_room_for(&self, peer: IpAddr) -> Result<(), NoRoom> {
        self.has_room(&self.flows(), peer, Instant::now())
    }

    pub(super) fn has_room(
        &self,
        flows: &HashMap<Flow, Track>,
        peer: IpAddr,
        now: Instant,
    ) -> Result<(), NoRoom> {
        let addresses = self.addresses_of(peer);
        let mut opening = self.opening();
        opening.retain(|_, opening| now.saturating_duration_since(opening.at) < ANSWERED);
        let (mut of_peer, mut in_all) = (0, 0);
        for (_, theirs) in flows.keys().chain(opening.keys()) {
            in_all += 1;
            of_peer += usize::from(addresses.contains(&theirs.ip()));
        }
        if of_peer < share(PER_PEER, in_all, IN_ALL) && opening.len() < OPENING {
            Ok(())
        } else {
            Err(NoRoom { of_peer, in_all })
        }
    }

    /// Sets the addresses of each node.
    pub(in crate::embedded) fn set_nodes<'a>(&self, nodes: impl Iterator<Item = &'a [IpAddr]>) {
        let nodes = nodes.map(Arc::<[IpAddr]>::from);
        let by_address = nodes.flat_map(|node| {
            let addresses = node.to_vec();
            addresses
                .into_iter()
                .map(move |address| (address, Arc::clone(&node)))
        });
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = by_address.collect();
    }

    /// Returns all addresses of the node with this one.
    pub(super) fn addresses_of(&self, peer: IpAddr) -> Arc<[IpAddr]> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&peer).map_or_else(|| [peer].into(), Arc::clone)
    }
}

/// Returns whether a peer requests tiny segments, which would turn a megabyte into a million packets.
pub(super) fn has_tiny_segments(tcp: &TcpRepr<'_>) -> bool {
    tcp.control == TcpControl::Syn && tcp.max_seg_size.is_some_and(|size| size < LEAST_SEGMENT)
}

/// Returns the part of `all` that one peer may have, at most `most`, when `used` are taken. It shrinks with the square of
/// the free part, so peers that take all they can leave something for others: eight take less than half.
pub(super) fn share(most: usize, used: usize, all: usize) -> usize {
    let free = all.saturating_sub(used);
    (most * free * free).div_ceil(all * all)
}

/// Returns whether a packet other than TCP may pass. Only ICMP may: the stack answers pings and ignores the rest.
pub(super) fn is_allowed_icmp(packet: &[u8], filter: &dyn Filter) -> bool {
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
