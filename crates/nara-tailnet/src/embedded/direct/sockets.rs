//! The UDP sockets: one for IPv4, one for IPv6. Where the system supports it (GSO, GRO), one system call sends or
//! receives several datagrams of equal length.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
#[cfg(target_os = "linux")]
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::packet;

/// The requested socket buffer size per direction, in bytes: full windows of many connections. The system may grant
/// less.
const BUFFER: usize = 4 << 20;
/// The number of buffers per receive call, each for one datagram or for several of one sender. The system coalesces at
/// most 128 datagrams, so that a call returns no more than the data plane accepts at once.
const TOGETHER: usize = 8;
/// The size of such a buffer in bytes: more than any datagram, and more than the system coalesces.
const JOINED: usize = 1 << 16;
/// The maximum number of bytes per send call: the largest UDP payload in IPv4.
const MAX_BATCH: usize = 65_507;

/// The UDP sockets of a node. One of them may be missing, on machines without IPv6 or IPv4.
#[derive(Debug)]
pub(in crate::embedded) struct Sockets {
    four: Option<Udp>,
    six: Option<Udp>,
}

/// The outcome of sending datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum SendOutcome {
    /// The system accepted the datagrams, or dropped them because its buffer was full.
    Sent,
    /// The system currently has no route to the address.
    Refused,
}

impl Sockets {
    /// Opens the sockets on this port, or on any port for 0.
    ///
    /// Must be called within a tokio runtime.
    pub(in crate::embedded) fn bind(port: u16) -> io::Result<Self> {
        let four = Udp::open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        // Both sockets use the same port if possible, so that one firewall rule is enough.
        let same = four.as_ref().ok().and_then(|four| four.socket.local_addr().ok());
        let six_port = same.map_or(port, |address| address.port());
        let mut six = Udp::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, six_port)));
        if port == 0 && six.is_err() {
            six = Udp::open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        }
        match (four, six) {
            (Err(error), Err(_)) => Err(error),
            // The requested port is in use.
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

    /// Returns the local port for the family of this address.
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

    /// Sends datagrams, or drops them if the buffer is full. After a refused datagram, the rest is not sent.
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

/// Returns how many of these packets one call can send: packets of equal length, and a shorter last one. At least one,
/// unless there are no packets.
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

/// A socket, and its segmentation offload.
#[derive(Debug)]
pub(super) struct Udp {
    socket: UdpSocket,
    state: UdpSocketState,
    /// The maximum number of datagrams per send call.
    most: usize,
}

impl Udp {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Optional: smaller buffers and a missing GRO only reduce throughput.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        #[cfg(target_os = "linux")]
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGroSegment, &true);
        // Let routers fragment packets, for paths with a smaller MTU that do not report it.
        #[cfg(target_os = "linux")]
        if address.is_ipv4() {
            let _ = set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT);
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        // `UdpSocketState::new` disables fragmentation on its socket, as QUIC's path MTU discovery needs. WireGuard
        // relies on fragmentation, so a second socket is passed.
        let other = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        let state = UdpSocketState::new((&other).into())?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            most: state.max_gso_segments(),
            state,
        })
    }

    /// Waits until the socket is writable.
    pub(super) async fn writable(&self) {
        let _ = self.socket.writable().await;
    }

    /// Sends a batch as delimited by [`batch_len`].
    fn send(&self, to: SocketAddr, batch: &[impl AsRef<[u8]>]) -> SendOutcome {
        if let [first, _, ..] = batch
            && self.send_joined(to, first.as_ref().len(), batch)
        {
            return SendOutcome::Sent;
        }
        let is_refused = |packet: &[u8]| {
            let sent = self.socket.try_send_to(packet, to);
            sent.is_err_and(|error| is_unreachable(&error))
        };
        if batch.iter().any(|packet| is_refused(packet.as_ref())) {
            SendOutcome::Refused
        } else {
            SendOutcome::Sent
        }
    }

    /// Sends a batch in one call. Returns `false`, without having sent any, if the system or the path does not support
    /// that.
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
            // The buffer is full: the batch is dropped, as single datagrams would be.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Waits for datagrams and appends the available ones to `batch`. Datagrams longer than [`packet::MAX`] are
    /// dropped.
    pub(super) async fn receive(
        &self,
        buffers: &mut Buffers,
        batch: &mut Vec<(SocketAddr, BytesMut)>,
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
            batch.extend(short.map(|datagram| (meta.addr, BytesMut::from(datagram))));
        }
        Ok(())
    }
}

/// The receive buffers.
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

/// Returns whether an error means that the address is unreachable.
fn is_unreachable(error: &io::Error) -> bool {
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
