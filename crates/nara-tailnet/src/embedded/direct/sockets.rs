//! The UDP sockets: one for IPv4, one for IPv6.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use ts_packet::PacketMut;

/// Bytes that the system may keep for us in each direction: a full window of many connections. It may give less.
const BUFFER: usize = 4 << 20;
/// Datagrams that are taken together.
const BATCH: usize = 64;

/// See the module. One of them may be missing: there are machines without IPv6, and without IPv4.
#[derive(Debug)]
pub(in crate::embedded) struct Sockets {
    four: Option<UdpSocket>,
    six: Option<UdpSocket>,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum SendOutcome {
    /// It is on its way, or lost like any other.
    Sent,
    /// The system knows no way to that address now.
    Refused,
}

impl Sockets {
    /// Opens them on this port; 0: on any.
    ///
    /// Must be called within a tokio runtime.
    pub(in crate::embedded) fn bind(port: u16) -> io::Result<Self> {
        let four = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        // The same port for both, if it is free: one rule in a firewall is enough.
        let same = four.as_ref().ok().and_then(|four| four.local_addr().ok());
        let six_port = same.map_or(port, |address| address.port());
        let mut six = open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, six_port)));
        if port == 0 && six.is_err() {
            six = open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
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

    pub(super) fn all(&self) -> impl Iterator<Item = &UdpSocket> {
        self.four.iter().chain(&self.six)
    }

    /// The port of the socket with which addresses like this one are reached.
    pub(in crate::embedded) fn port_for(&self, address: SocketAddr) -> Option<u16> {
        Some(self.like(address)?.local_addr().ok()?.port())
    }

    fn like(&self, address: SocketAddr) -> Option<&UdpSocket> {
        if address.is_ipv4() {
            self.four.as_ref()
        } else {
            self.six.as_ref()
        }
    }

    /// Sends a datagram, or loses it if there is no room.
    pub(in crate::embedded) fn send(&self, to: SocketAddr, packet: &[u8]) -> SendOutcome {
        let Some(socket) = self.like(to) else {
            return SendOutcome::Refused;
        };
        match socket.try_send_to(packet, to) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NetworkUnreachable
                        | io::ErrorKind::HostUnreachable
                        | io::ErrorKind::NetworkDown
                        | io::ErrorKind::AddrNotAvailable
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::InvalidInput
                ) =>
            {
                SendOutcome::Refused
            }
            _ => SendOutcome::Sent,
        }
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What the system does not give is no reason to do without.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// Waits for datagrams and takes those that are there. Longer ones than the buffer are left out.
pub(super) async fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    batch: &mut Vec<(SocketAddr, PacketMut)>,
) -> io::Result<()> {
    socket.readable().await?;
    for _ in 0..BATCH {
        match socket.try_recv_from(buffer) {
            Ok((len, from)) => {
                if let Some(packet) = buffer.get(..len).filter(|packet| packet.len() < buffer.len()) {
                    batch.push((from, PacketMut::from(packet)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // What came before it is worth having.
            Err(_) if !batch.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
