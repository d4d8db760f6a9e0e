//! TCP segments in IP packets, as far as the tap has to understand them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(in crate::embedded) const FIN: u8 = 0x01;
pub(in crate::embedded) const SYN: u8 = 0x02;
pub(in crate::embedded) const RST: u8 = 0x04;
pub(in crate::embedded) const ACK: u8 = 0x10;

/// The protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// A TCP header without options, in bytes.
const HEADER: usize = 20;

/// Whom a packet is from and to, and of which protocol it is.
pub(super) fn addresses(packet: &[u8]) -> Option<(u8, IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((*packet.get(9)?, from.into(), to.into()))
        }
        6 => {
            let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((*packet.get(6)?, from.into(), to.into()))
        }
        _ => None,
    }
}

/// What a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct Segment {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    flags: u8,
    /// Bytes of payload.
    len: u32,
}

impl Segment {
    /// The segment in an IP packet; `None`: it has none that can be understood.
    pub(in crate::embedded) fn parse(packet: &[u8]) -> Option<Self> {
        let (protocol, source, destination) = addresses(packet)?;
        if protocol != TCP {
            return None;
        }
        let length = |at: usize| {
            Some(usize::from(u16::from_be_bytes([
                *packet.get(at)?,
                *packet.get(at + 1)?,
            ])))
        };
        // What is behind the length is padding.
        let tcp = if source.is_ipv4() {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            packet.get(header.max(20)..length(2)?.min(packet.len()))?
        } else {
            packet.get(40..(40 + length(4)?).min(packet.len()))?
        };
        let (head, _) = tcp.split_first_chunk::<HEADER>()?;
        let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = usize::from(head[12] >> 4) * 4;
        let len = tcp.len().checked_sub(header.max(HEADER))?;
        Some(Self {
            source: (source, u16_at(0)).into(),
            destination: (destination, u16_at(2)).into(),
            sequence: u32_at(4),
            acknowledgement: u32_at(8),
            flags: head[13],
            len: u32::try_from(len).ok()?,
        })
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number behind it: its payload, and one each for SYN and FIN.
    pub(in crate::embedded) fn end(&self) -> u32 {
        let extra = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.sequence.wrapping_add(self.len).wrapping_add(extra)
    }
}

/// A packet that resets a connection; `None`: the addresses are of two families.
pub(super) fn reset(
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
) -> Option<Vec<u8>> {
    (from.is_ipv4() == to.is_ipv4()).then(|| packet(from, to, sequence, acknowledgement, RST | ACK, 0))
}

/// A packet with one segment and a payload of zeros.
pub(in crate::embedded) fn packet(
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    payload: usize,
) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(HEADER + payload);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledgement.to_be_bytes());
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    tcp.resize(HEADER + payload, 0);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, tcp),
        (from, to) => ipv6(v6(from), v6(to), tcp),
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, mut tcp: Vec<u8>) -> Vec<u8> {
    set_checksum(&mut tcp, &from.octets(), &to.octets());
    let total = u16::try_from(20 + tcp.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, TCP, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(tcp);
    packet
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, mut tcp: Vec<u8>) -> Vec<u8> {
    set_checksum(&mut tcp, &from.octets(), &to.octets());
    let len = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([TCP, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(tcp);
    packet
}

/// The checksum of TCP covers the addresses too (RFC 9293, section 3.1).
fn set_checksum(tcp: &mut [u8], from: &[u8], to: &[u8]) {
    let len = u16::try_from(tcp.len()).unwrap_or(u16::MAX).to_be_bytes();
    let sum = checksum(&[from, to, &[0, TCP], &len, tcp]);
    tcp[16..18].copy_from_slice(&sum);
}

/// The checksum of the Internet (RFC 1071) over parts of even length, but for the last.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or_default(),
            ]))
        })
        .fold(0_u32, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_families_are_understood() {
        for (from, to) in [("100.64.0.1:1", "100.64.0.2:2"), ("[fd7a::1]:1", "[fd7a::2]:2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let segment = Segment::parse(&packet(from, to, u32::MAX, 5, SYN | ACK, 3)).unwrap();
            assert_eq!((segment.source, segment.destination), (from, to));
            assert_eq!((segment.sequence, segment.acknowledgement), (u32::MAX, 5));
            assert_eq!(segment.end(), 3, "the numbers wrap");
            assert!(segment.has(SYN) && segment.has(ACK) && !segment.has(FIN));
        }
    }

    #[test]
    fn padding_is_no_payload() {
        let (from, to) = ("100.64.0.1:1".parse().unwrap(), "100.64.0.2:2".parse().unwrap());
        let mut bytes = packet(from, to, 1, 1, ACK, 0);
        bytes.extend([0; 8]);
        assert_eq!(Segment::parse(&bytes).unwrap().end(), 1);
    }

    #[test]
    fn a_reset_needs_one_family() {
        assert!(reset("1.2.3.4:1".parse().unwrap(), "[::1]:1".parse().unwrap(), 0, 0).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_left_alone(bytes in proptest::collection::vec(any::<u8>(), 0..120), first in any::<bool>()) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = if first { 0x45 } else { 0x60 };
            }
            if let Some(byte) = bytes.get_mut(if first { 9 } else { 6 }) {
                *byte = TCP;
            }
            if let Some(segment) = Segment::parse(&bytes) {
                prop_assert!(segment.len as usize <= bytes.len());
            }
        }
    }
}
