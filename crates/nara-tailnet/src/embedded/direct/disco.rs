//! The messages with which two nodes find a path: sealed with the disco keys of both, which control tells.
//!
//! The format is that of `ts_disco_protocol`; here is only what a node needs of it.

use std::net::SocketAddr;

use ts_disco_protocol::{CallMeMaybe, Encrypted, Endpoint, MessageType, Packet, Ping, Plaintext, Pong};
use ts_keys::{DiscoPrivateKey, DiscoPublicKey, NodePublicKey};

/// Names a ping, and the pong that answers it.
pub(super) type TxId = [u8; 12];

/// Addresses of one invitation that are looked at.
pub(super) const MAX_CALLED: usize = 32;

/// A message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// "Does this path work?"
    Ping { tx: TxId, node: NodePublicKey },
    /// "It does, and this is where your ping came from."
    Pong { tx: TxId, seen: SocketAddr },
    /// "Ping me at these addresses": sent through a relay.
    CallMeMaybe(Vec<SocketAddr>),
}

/// Makes a packet of a message. `None`: there is no randomness now.
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

/// Whose key a packet claims to be sealed with.
pub(super) fn sender(packet: &[u8]) -> Option<DiscoPublicKey> {
    let packet = Packet::<Encrypted>::from_encrypted_bytes(packet).ok()?;
    Some(*packet.sender_pubkey())
}

/// Opens a packet; that it can be opened proves whom it is from. `None`: it cannot, or says nothing that we know.
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
        // Relays of their own (peer relays) are not used.
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
    fn what_is_sealed_can_be_opened_by_whom_it_is_for() {
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
    fn a_packet_that_was_cut_or_changed_says_nothing() {
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
    fn of_a_long_invitation_only_the_beginning_is_read() {
        let (a, b) = (DiscoKeyPair::random(), DiscoKeyPair::random());
        let many = vec!["192.0.2.1:1".parse().unwrap(); MAX_CALLED + 5];
        let mut sealed = seal(&Message::CallMeMaybe(many), &a.private, &b.public).unwrap();
        let Some(Message::CallMeMaybe(read)) = open(&mut sealed, &b.private) else {
            panic!("it is an invitation")
        };
        assert_eq!(read.len(), MAX_CALLED);
    }

    proptest! {
        #[test]
        fn random_bytes_say_nothing(mut bytes in prop::collection::vec(any::<u8>(), 0..256), has_magic in any::<bool>()) {
            if has_magic && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(&ts_disco_protocol::Header::MAGIC);
            }
            sender(&bytes);
            prop_assert_eq!(open(&mut bytes, &DiscoPrivateKey::random()), None);
        }
    }
}
