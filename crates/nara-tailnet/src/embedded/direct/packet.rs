//! Classifies datagrams by their first bytes: one UDP port carries WireGuard, disco and STUN.

use ts_disco_protocol::Header;

/// The maximum size of an accepted datagram in bytes. Our WireGuard packets have at most 1,360 bytes, and senders do
/// not
/// exceed the 1,500 bytes of Ethernet without path MTU discovery.
pub(super) const MAX: usize = 2048;

/// The length of a STUN header (RFC 8489, section 5), in bytes.
const STUN_HEADER: usize = 20;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The minimum length of a WireGuard message: a data message without payload has 32 bytes.
const SHORTEST_WIREGUARD: usize = 32;

/// The kind of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum Kind {
    Disco,
    Stun,
    WireGuard,
    Unknown,
}

/// Returns the presumed kind of a packet. Its parser must check whether it is well-formed.
pub(in crate::embedded) fn kind(packet: &[u8]) -> Kind {
    if packet.len() > MAX {
        return Kind::Unknown;
    }
    if packet.starts_with(&Header::MAGIC) {
        return Kind::Disco;
    }
    match packet {
        [first, ..] if *first < 0x40 && packet.len() >= STUN_HEADER && packet[4..8] == STUN_COOKIE => {
            Kind::Stun
        }
        [1..=4, 0, 0, 0, ..] if packet.len() >= SHORTEST_WIREGUARD => Kind::WireGuard,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_kind_is_known_by_its_first_bytes() {
        let wireguard = |first: u8| {
            let mut packet = [0; 32];
            packet[0] = first;
            packet
        };
        assert_eq!(kind(&Header::MAGIC), Kind::Disco);
        for first in 1..=4 {
            assert_eq!(kind(&wireguard(first)), Kind::WireGuard);
        }
        assert_eq!(kind(&wireguard(5)), Kind::Unknown);
        assert_eq!(kind(&wireguard(1)[..31]), Kind::Unknown);
        let mut stun = [0; STUN_HEADER];
        stun[4..8].copy_from_slice(&STUN_COOKIE);
        assert_eq!(kind(&stun), Kind::Stun);
        // A STUN message can look like WireGuard: the cookie decides.
        let mut both = wireguard(1);
        both[4..8].copy_from_slice(&STUN_COOKIE);
        assert_eq!(kind(&both), Kind::Stun);
        assert_eq!(kind(&[1; MAX + 1]), Kind::Unknown);
        assert_eq!(kind(&[]), Kind::Unknown);
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            kind(&bytes);
        }
    }
}
