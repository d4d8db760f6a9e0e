//! The disco messages with which two nodes find a path, encrypted with their disco keys, which the control server
//! distributes.
//!
//! Wraps the part of `ts_disco_protocol` that a node needs.

use std::net::SocketAddr;

use ts_disco_protocol::{CallMeMaybe, Encrypted, Endpoint, MessageType, Packet, Ping, Plaintext, Pong};
use ts_keys::{DiscoPrivateKey, DiscoPublicKey, NodePublicKey};

/// The transaction id of a ping and its pong.
pub(super) type TxId = [u8; 12];

/// The maximum number of addresses read from one call-me-maybe.
pub(super) const MAX_CALLED: usize = 32;

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Tests a path.
    Ping { tx: TxId, node: NodePublicKey },
    /// Answers a ping with its source address.
    Pong { tx: TxId, seen: SocketAddr },
    /// Asks for pings at these addresses; sent through a relay.
    CallMeMaybe(Vec<SocketAddr>),
}

/// Encrypts a message into a packet; `None` if no randomness is available.
pub(super) fn seal(message: &Message, ours: &DiscoPrivateKey, theirs: &DiscoPublicKey) -> Option<Vec<u8>> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).ok()?;
    let size = match message {
        Message::Ping { .. } => Ping::size_with_padding(0),
        Message::Pong { .. } => Pong::size(),
        Message::CallMeMaybe(addresses) => CallMeMaybe::size_for_endpoint_count(addresses.len()),
    };
    let mut bytes = vec![0; Packet::<Plaintext>::size_for_message(size)];
    let packet = match message {
        Message::Ping { tx, node } => Packet::init_from_bytes::<Ping>(&mut bytes, |ping| {
            ping.tx_id = *tx;
            ping.node_key = *node;
        }),
        Message::Pong { tx, seen } => Packet::init_from_bytes::<Pong>(&mut bytes, |pong| {
            pong.tx_id = *tx;
            pong.src = (*seen).into();
        }),
        Message::CallMeMaybe(addresses) => Packet::init_from_bytes::<CallMeMaybe>(&mut bytes, |call| {
            for (endpoint, address) in call.endpoints.iter_mut().zip(addresses) {
                *endpoint = Endpoint::from(*address);
            }
        }),
    };
    packet.ok()?.encrypt_in_place(ours, theirs, nonce).ok()?;
    Some(bytes)
}

/// Returns the claimed sender of a packet.
pub(super) fn sender(packet: &[u8]) -> Option<DiscoPublicKey> {
    let packet = Packet::<Encrypted>::from_encrypted_bytes(packet).ok()?;
    Some(*packet.sender_pubkey())
}

/// Decrypts a packet, which authenticates its sender. Returns `None` if that fails or the message is of an unknown
/// type.
pub(super) fn open(packet: &mut [u8], ours: &DiscoPrivateKey) -> Option<Message> {
    let packet = Packet::<Encrypted>::from_encrypted_bytes_mut(packet).ok()?;
    let packet = packet.decrypt_in_place(ours).ok()?;
    match packet.ty()? {
        MessageType::Ping => packet.as_msg::<Ping>().map(|ping| Message::Ping {
            tx: ping.tx_id,
            node: ping.node_key,
        }),
        MessageType::Pong => packet.as_msg::<Pong>().map(|pong| Message::Pong {
            tx: pong.tx_id,
            seen: pong.src.socket_addr(),
        }),
        MessageType::CallMeMaybe => packet.as_msg::<CallMeMaybe>().map(|call| {
            let addresses = call.endpoints.iter().take(MAX_CALLED);
            Message::CallMeMaybe(addresses.map(Endpoint::socket_addr).collect())
        }),
        // Peer relays are not used.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ts_keys::DiscoKeyPair;

    use super::*;

    fn messages() -> Vec<Message> {
        let four = "192.0.2.1:41641".parse().unwrap();
        let six = "[2001:db8::1]:41641".parse().unwrap();
        vec![
            Message::Ping {
                tx: [7; 12],
                node: NodePublicKey::from_bytes([9; 32]),
            },
            Message::Pong {
                tx: [8; 12],
                seen: four,
            },
            Message::Pong {
                tx: [8; 12],
                seen: six,
            },
            Message::CallMeMaybe(vec![]),
            Message::CallMeMaybe(vec![four, six]),
        ]
    }

    #[test]
    fn only_the_recipient_can_open_a_sealed_message() {
        let (a, b) = (DiscoKeyPair::random(), DiscoKeyPair::random());
        for message in messages() {
            let sealed = seal(&message, &a.private, &b.public).unwrap();
            assert_eq!(sender(&sealed), Some(a.public));
            assert_eq!(open(&mut sealed.clone(), &b.private), Some(message));
            let other = DiscoKeyPair::random();
            assert_eq!(open(&mut sealed.clone(), &other.private), None);
        }
    }

    #[test]
    fn a_truncated_or_changed_packet_is_rejected() {
        let (a, b) = (DiscoKeyPair::random(), DiscoKeyPair::random());
        for message in messages() {
            let sealed = seal(&message, &a.private, &b.public).unwrap();
            for end in 0..sealed.len() {
                assert_eq!(open(&mut sealed[..end].to_vec(), &b.private), None, "{end}");
            }
            for at in 0..sealed.len() {
                let mut changed = sealed.clone();
                changed[at] ^= 1;
                assert_eq!(open(&mut changed, &b.private), None, "{at}");
            }
        }
    }

    #[test]
    fn a_long_call_me_maybe_is_truncated() {
        let (a, b) = (DiscoKeyPair::random(), DiscoKeyPair::random());
        let many = vec!["192.0.2.1:1".parse().unwrap(); MAX_CALLED + 5];
        let mut sealed = seal(&Message::CallMeMaybe(many), &a.private, &b.public).unwrap();
        let Some(Message::CallMeMaybe(read)) = open(&mut sealed, &b.private) else {
            panic!("expected a call-me-maybe")
        };
        assert_eq!(read.len(), MAX_CALLED);
    }

    proptest! {
        #[test]
        fn random_bytes_are_rejected(mut bytes in prop::collection::vec(any::<u8>(), 0..256), has_magic in any::<bool>()) {
            if has_magic && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(&ts_disco_protocol::Header::MAGIC);
            }
            sender(&bytes);
            prop_assert_eq!(open(&mut bytes, &DiscoPrivateKey::random()), None);
        }
    }
}
