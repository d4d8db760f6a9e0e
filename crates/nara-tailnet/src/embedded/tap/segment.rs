//! TCP segments in IP packets, parsed and written with the library of the network stack.

use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use ts_netstack_smoltcp::netcore::smoltcp::phy::ChecksumCapabilities;
pub(super) use ts_netstack_smoltcp::netcore::smoltcp::wire::{IpProtocol, TcpRepr};
use ts_netstack_smoltcp::netcore::smoltcp::wire::{IpRepr, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket};
pub(in crate::embedded) use ts_netstack_smoltcp::netcore::smoltcp::wire::{TcpControl, TcpSeqNumber};

/// The hop limit of our packets. A tunnel has no routers that would decrement it.
const HOP_LIMIT: u8 = 64;

/// The relevant part of an IP packet.
#[derive(Debug)]
pub(in crate::embedded) struct Ip<'a> {
    pub(super) protocol: IpProtocol,
    pub(in crate::embedded) source: IpAddr,
    pub(in crate::embedded) destination: IpAddr,
    /// The length of the header in bytes.
    header: usize,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    /// Parses a packet; `None` if it is not a whole IP packet. The stack would reassemble fragments of IPv4, so their
    /// content would never pass the tap.
    pub(in crate::embedded) fn parse(packet: &'a [u8]) -> Option<Self> {
        if packet.is_empty() {
            return None;
        }
        match IpVersion::of_packet(packet).ok()? {
            IpVersion::Ipv4 => {
                let ip = Ipv4Packet::new_checked(packet).ok()?;
                if ip.more_frags() || ip.frag_offset() != 0 {
                    return None;
                }
                Some(Self {
                    protocol: ip.next_header(),
                    source: ip.src_addr().into(),
                    destination: ip.dst_addr().into(),
                    header: ip.header_len().into(),
                    payload: ip.payload(),
                })
            }
            IpVersion::Ipv6 => {
                let ip = Ipv6Packet::new_checked(packet).ok()?;
                Some(Self {
                    protocol: ip.next_header(),
                    source: ip.src_addr().into(),
                    destination: ip.dst_addr().into(),
                    header: ip.header_len(),
                    payload: ip.payload(),
                })
            }
        }
    }

    /// Returns the length of the packet in bytes, without padding.
    pub(in crate::embedded) const fn len(&self) -> usize {
        self.header + self.payload.len()
    }
}

/// A segment and its addresses.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::embedded) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) tcp: TcpRepr<'a>,
}

impl<'a> Segment<'a> {
    pub(in crate::embedded) fn new(
        source: SocketAddr,
        destination: SocketAddr,
        control: TcpControl,
        sequence: TcpSeqNumber,
        acknowledgement: Option<TcpSeqNumber>,
        payload: &'a [u8],
    ) -> Self {
        Self {
            source,
            destination,
            tcp: TcpRepr {
                src_port: source.port(),
                dst_port: destination.port(),
                control,
                seq_number: sequence,
                ack_number: acknowledgement,
                window_len: u16::MAX,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [None; 3],
                timestamp: None,
                payload,
            },
        }
    }

    /// Parses the segment in an IP packet; `None` if the stack would not parse it. The stack verifies checksums.
    pub(in crate::embedded) fn parse(packet: &'a [u8]) -> Option<Self> {
        let ip = Ip::parse(packet)?;
        if ip.protocol != IpProtocol::Tcp {
            return None;
        }
        let packet = TcpPacket::new_checked(ip.payload).ok()?;
        let (from, to) = (ip.source.into(), ip.destination.into());
        let tcp = TcpRepr::parse(&packet, &from, &to, &ChecksumCapabilities::ignored()).ok()?;
        Some(Self {
            source: (ip.source, tcp.src_port).into(),
            destination: (ip.destination, tcp.dst_port).into(),
            tcp,
        })
    }

    /// Returns whether the segment answers the SYN of its receiver.
    pub(super) fn is_answer_to_syn(&self) -> bool {
        self.tcp.control == TcpControl::Syn && self.tcp.ack_number.is_some()
    }

    /// Returns the sequence number after the segment: payload, SYN and FIN count.
    pub(in crate::embedded) fn end(&self) -> TcpSeqNumber {
        self.tcp.seq_number + self.tcp.segment_len()
    }

    /// Builds an IP packet with the segment; `None` if the address families differ.
    pub(in crate::embedded) fn packet(&self) -> Option<BytesMut> {
        if self.source.is_ipv4() != self.destination.is_ipv4() {
            return None;
        }
        let (from, to) = (self.source.ip().into(), self.destination.ip().into());
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, self.tcp.buffer_len(), HOP_LIMIT);
        let checksums = ChecksumCapabilities::default();
        let mut packet = BytesMut::zeroed(ip.buffer_len());
        ip.emit(&mut packet, &checksums);
        let mut tcp = TcpPacket::new_unchecked(packet.get_mut(ip.header_len()..)?);
        self.tcp.emit(&mut tcp, &from, &to, &checksums);
        Some(packet)
    }
}

/// Replaces the window in a packet that [`Segment::parse`] accepts. A wrong checksum stays wrong.
pub(super) fn set_window(packet: &mut [u8], window: u16) {
    let Some(ip) = Ip::parse(packet) else {
        return;
    };
    let payload = ip.header..ip.header + ip.payload.len();
    if let Some(payload) = packet.get_mut(payload) {
        let mut tcp = TcpPacket::new_unchecked(payload);
        let checksum = checksum_with(tcp.checksum(), tcp.window_len(), window);
        tcp.set_window_len(window);
        tcp.set_checksum(checksum);
    }
}

/// Returns the checksum after one of its words was replaced (RFC 1624, section 3).
fn checksum_with(checksum: u16, old: u16, new: u16) -> u16 {
    let add = |a: u16, b: u16| {
        let (sum, carries) = a.overflowing_add(b);
        sum + u16::from(carries)
    };
    !add(add(!checksum, !old), new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments_round_trip_in_both_families() {
        for (from, to) in [("100.64.0.1:1", "100.64.0.2:2"), ("[fd7a::1]:1", "[fd7a::2]:2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let (sequence, acknowledgement) = (TcpSeqNumber(-1), Some(TcpSeqNumber(5)));
            let segment = Segment::new(from, to, TcpControl::Syn, sequence, acknowledgement, b"abc");
            let packet = segment.packet().unwrap();
            let read = Segment::parse(&packet).unwrap();
            assert_eq!(read, segment);
            assert_eq!(read.end(), TcpSeqNumber(3), "sequence numbers wrap");
        }
    }

    #[test]
    fn replacing_the_window_changes_nothing_else_and_updates_the_checksum() {
        for (from, to) in [("100.64.0.1:1", "100.64.0.2:2"), ("[fd7a::1]:1", "[fd7a::2]:2")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let (sequence, acknowledgement) = (TcpSeqNumber(7), Some(TcpSeqNumber(5)));
            let mut segment = Segment::new(from, to, TcpControl::None, sequence, acknowledgement, b"abc");
            let mut packet = segment.packet().unwrap();
            set_window(&mut packet, 1234);
            segment.tcp.window_len = 1234;
            assert_eq!(packet, segment.packet().unwrap());
        }
    }

    #[test]
    fn replacing_the_window_does_not_repair_a_wrong_checksum() {
        let (from, to) = ("100.64.0.1:1".parse().unwrap(), "100.64.0.2:2".parse().unwrap());
        let one = TcpSeqNumber(1);
        let segment = Segment::new(from, to, TcpControl::None, one, Some(one), b"abc");
        let mut packet = segment.packet().unwrap();
        *packet.last_mut().unwrap() ^= 1;
        set_window(&mut packet, 1234);
        let (from, to) = (from.ip().into(), to.ip().into());
        let ip = Ip::parse(&packet).unwrap();
        assert!(
            !TcpPacket::new_checked(ip.payload)
                .unwrap()
                .verify_checksum(&from, &to)
        );
    }

    #[test]
    fn a_fragment_is_no_packet() {
        let (from, to) = ("100.64.0.1:1".parse().unwrap(), "100.64.0.2:2".parse().unwrap());
        let one = TcpSeqNumber(1);
        let packet = Segment::new(from, to, TcpControl::None, one, Some(one), b"");
        let packet = packet.packet().unwrap();
        assert!(Ip::parse(&packet).is_some());
        for (more_frags, offset) in [(true, 0), (false, 8), (true, 8)] {
            let mut bytes = packet.clone();
            let mut fragment = Ipv4Packet::new_unchecked(&mut bytes[..]);
            fragment.set_more_frags(more_frags);
            fragment.set_frag_offset(offset);
            fragment.fill_checksum();
            assert!(Ip::parse(&bytes).is_none(), "{more_frags} {offset}");
        }
    }

    #[test]
    fn padding_is_not_payload() {
        let (from, to) = ("100.64.0.1:1".parse().unwrap(), "100.64.0.2:2".parse().unwrap());
        let one = TcpSeqNumber(1);
        let segment = Segment::new(from, to, TcpControl::None, one, Some(one), b"");
        let mut bytes = segment.packet().unwrap();
        bytes.extend([0; 8]);
        assert_eq!(Segment::parse(&bytes).unwrap().end(), one);
    }

    #[test]
    fn a_packet_needs_addresses_of_one_family() {
        let (from, to) = ("1.2.3.4:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        let segment = Segment::new(from, to, TcpControl::Rst, TcpSeqNumber(0), None, b"");
        assert!(segment.packet().is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), four in any::<bool>()) {
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() {
                *byte = if four { 0x45 } else { 0x60 };
            }
            if let Some(byte) = bytes.get_mut(if four { 9 } else { 6 }) {
                *byte = IpProtocol::Tcp.into();
            }
            // A valid length, so that many inputs pass as packets.
            let len = u8::try_from(bytes.len()).unwrap();
            let (at, len) = if four { (2, len) } else { (4, len.saturating_sub(40)) };
            if let Some(field) = bytes.get_mut(at..at + 2) {
                field.copy_from_slice(&[0, len]);
            }
            if let Some(segment) = Segment::parse(&bytes) {
                prop_assert!(segment.tcp.payload.len() <= bytes.len());
            }
        }
    }
}
