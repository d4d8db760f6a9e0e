//! The UDP sockets: one for IPv4, one for IPv6. Equal datagrams to one address are one call of the system, in both
//! directions, where it can do so (GSO, GRO).

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
#[cfg(target_os = "linux")]
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use ts_packet::PacketMut;

use super::packet;

/// Bytes that the system may keep for us in each direction: a full window of many connections. It may give less.
const BUFFER: usize = 4 << 20;
/// The buffers that one call fills, each with a datagram or with several of one sender: the system joins at most 128, so
/// all of them are no more than the data plane takes at once.
const TOGETHER: usize = 8;
/// The bytes of such a buffer: more than any datagram has, and more than the system joins.
const JOINED: usize = 1 << 16;
/// The bytes that are sent in one call, at most: the largest UDP payload in IPv4.
const MAX_BATCH: usize = 65_507;

/// See the module. One of them may be missing: there are machines without IPv6, and without IPv4.
#[derive(Debug)]
pub(in crate::embedded) struct Sockets {
    four: Option<Udp>,
    six: Option<Udp>,
}

/// What became of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum SendOutcome {
    /// They are on their way, or lost like any others.
    Sent,
    /// The system knows no way to that address now.
    Refused,
}

impl Sockets {
    /// Opens them on this port; 0: on any.
    ///
    /// Must be called within a tokio runtime.
    pub(in crate::embedded) fn bind(port: u16) -> io::Result<Self> {
        let four = Udp::open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        // The same port for both, if it is free: one rule in a firewall is enough.
        let same = four.as_ref().ok().and_then(|four| four.socket.local_addr().ok());
        let six_port = same.map_or(port, |address| address.port());
        let mut six = Udp::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, six_port)));
        if port == 0 && six.is_err() {
            six = Udp::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        }
        match (four, six) {
            (Err(error), Err(_)) => Err(error),
            // Somebody else has the port that was asked for.
            (Err(error), _) | (_, Err(error)) if port != 0 && error.kind() == io::ErrorKind::AddrInUse => {
                Err(error)
            }
            (four, six) => Ok(Self {
                four: four.ok(),
                six: six.ok(),
            }),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Udp> {
        self.four.iter().chain(&self.six)
    }

    /// The port of the socket with which addresses like this one are reached.
    pub(in crate::embedded) fn port_for(&self, address: SocketAddr) -> Option<u16> {
        Some(self.like(address)?.socket.local_addr().ok()?.port())
    }

    fn like(&self, address: SocketAddr) -> Option<&Udp> {
        if address.is_ipv4() {
            self.four.as_ref()
        } else {
            self.six.as_ref()
        }
    }

    /// Sends datagrams, or loses them if there is no room. What follows a refused one is not sent.
    pub(in crate::embedded) fn send(&self, to: SocketAddr, mut packets: &[impl AsRef<[u8]>]) -> SendOutcome {
        let Some(udp) = self.like(to) else {
            return SendOutcome::Refused;
        };
        while !packets.is_empty() {
            let (batch, rest) = packets.split_at(batch_len(packets, udp.most));
            if udp.send(to, batch) == SendOutcome::Refused {
                return SendOutcome::Refused;
            }
            packets = rest;
        }
        SendOutcome::Sent
    }
}

/// How many of these packets, at least one, are sent in one call: of one length, but for a shorter last one.
fn batch_len(packets: &[impl AsRef<[u8]>], most: usize) -> usize {
    let Some(first) = packets.first().map(|packet| packet.as_ref().len()) else {
        return 0;
    };
    let most = most.min(MAX_BATCH.checked_div(first).unwrap_or(1)).max(1);
    let lens = packets.iter().map(|packet| packet.as_ref().len());
    let equal = lens.clone().take(most).take_while(|len| *len == first).count();
    let has_shorter = equal < most && lens.clone().nth(equal).is_some_and(|len| 0 < len && len < first);
    equal + usize::from(has_shorter)
}

/// A socket, and what the system can do with it.
#[derive(Debug)]
pub(super) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// The datagrams that one call sends, at most.
    most: usize,
}

impl Udp {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // What the system does not give is no reason to do without.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        #[cfg(target_os = "linux")]
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGroSegment, &true);
        // Where a path is narrower than a packet and nobody says so, only routers can help.
        #[cfg(target_os = "linux")]
        if address.is_ipv4() {
            let _ = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT);
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // It forbids fragments on the socket that it sees, for QUIC looks for the length that a path carries. WireGuard does
        // not, so it sees another one.
        let other = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        let state = UdpSocketState::new((&other).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            most: state.max_gso_segments(),
            state,
        })
    }

    /// Waits until something can be sent.
    pub(super) async fn writable(&self) {
        let _ = self.socket.writable().await;
    }

    /// Sends what [`batch_len`] says.
    fn send(&self, to: SocketAddr, batch: &[impl AsRef<[u8]>]) -> SendOutcome {
        if let [first, _, ..] = batch
            && self.send_joined(to, first.as_ref().len(), batch)
        {
            return SendOutcome::Sent;
        }
        let is_refused = |packet: &[u8]| {
            let sent = self.socket.try_send_to(packet, to);
            sent.is_err_and(|error| leads_nowhere(&error))
        };
        if batch.iter().any(|packet| is_refused(packet.as_ref())) {
            SendOutcome::Refused
        } else {
            SendOutcome::Sent
        }
    }

    /// Sends them in one call. `false`: that cannot be done on this path, or not at all, and none was sent.
    fn send_joined(&self, to: SocketAddr, segment: usize, batch: &[impl AsRef<[u8]>]) -> bool {
        let contents = batch.iter().map(AsRef::as_ref).collect::<Vec<_>>().concat();
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: &contents,
            segment_size: Some(segment),
            src_ip: None,
        };
        let sent = self.socket.try_io(Interest::WRITABLE, || {
            self.state.try_send((&self.socket).into(), &transmit)
        });
        match sent {
            Ok(()) => true,
            // There is no room: they are lost, as single ones would be.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Waits for datagrams and takes some that are there. Longer ones than any of ours are left out.
    pub(super) async fn receive(
        &self,
        buffers: &mut Buffers,
        batch: &mut Vec<(SocketAddr, PacketMut)>,
    ) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); TOGETHER];
        let read = self.socket.async_io(Interest::READABLE, || {
            let mut slices = buffers.slices();
            self.state.recv((&self.socket).into(), &mut slices, &mut metas)
        });
        let filled = read.await?;
        for (meta, buffer) in metas.iter().zip(buffers.0.chunks(JOINED)).take(filled) {
            let datagrams = buffer.get(..meta.len).unwrap_or_default();
            let datagrams = datagrams.chunks(meta.stride.max(1));
            let short = datagrams.filter(|datagram| datagram.len() <= packet::MAX);
            batch.extend(short.map(|datagram| (meta.addr, PacketMut::from(datagram))));
        }
        Ok(())
    }
}

/// Where datagrams are read to.
#[derive(Debug)]
pub(super) struct Buffers(Vec<u8>);

impl Buffers {
    pub(super) fn new() -> Self {
        Self(vec![0; TOGETHER * JOINED])
    }

    fn slices(&mut self) -> [IoSliceMut<'_>; TOGETHER] {
        let mut chunks = self.0.chunks_mut(JOINED);
        std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()))
    }
}

/// Whether the system knows no way to the address.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests;
