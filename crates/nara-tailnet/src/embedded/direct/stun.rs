//! STUN binding requests (RFC 8489), in the form that Tailscale's relays answer.

use std::net::SocketAddr;

use stun_types::attribute::{Software, XorMappedAddress};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWrite as _, MessageWriteExt as _, MessageWriteVec,
    TransactionId,
};

/// The required SOFTWARE attribute: Tailscale's relays answer only requests with it and a fingerprint.
const SOFTWARE: &str = "tailnode";

/// A binding request, identified by its transaction id of 96 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BindingRequest(u128);

impl BindingRequest {
    /// Creates a request with a random transaction id; `None` if no randomness is available.
    pub(super) fn new() -> Option<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes[4..]).ok()?;
        Some(Self(u128::from_be_bytes(bytes)))
    }

    /// Encodes the request.
    pub(super) fn packet(self) -> Option<Vec<u8>> {
        let binding = MessageType::from_class_method(MessageClass::Request, BINDING);
        let mut request = Message::builder(binding, TransactionId::from(self.0), MessageWriteVec::new());
        request.add_attribute(&Software::new(SOFTWARE).ok()?).ok()?;
        request.add_fingerprint().ok()?;
        Some(request.finish())
    }
}

/// Parses an answer. Returns its request, and our address as the server saw it.
pub(super) fn answer(packet: &[u8]) -> Option<(BindingRequest, SocketAddr)> {
    let message = Message::from_bytes(packet).ok()?;
    if !message.has_method(BINDING) || !message.has_class(MessageClass::Success) {
        return None;
    }
    let id = message.transaction_id();
    let address = message.attribute::<XorMappedAddress>().ok()?.addr(id);
    Some((BindingRequest(id.into()), address))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Builds the answer of a server to a request.
    pub(in crate::embedded::direct) fn reply(request: &[u8], seen: SocketAddr) -> Vec<u8> {
        let request = Message::from_bytes(request).unwrap();
        let mut reply = Message::builder_success(&request, MessageWriteVec::new());
        reply
            .add_attribute(&XorMappedAddress::new(seen, request.transaction_id()))
            .unwrap();
        reply.finish()
    }

    #[test]
    fn an_answer_identifies_its_request() {
        let request = BindingRequest::new().unwrap();
        let packet = request.packet().unwrap();
        assert!(packet.len() >= 40 && packet[..2] == [0, 1]);
        for seen in ["192.0.2.1:41641", "[2001:db8::1]:7"] {
            let seen = seen.parse().unwrap();
            assert_eq!(answer(&reply(&packet, seen)), Some((request, seen)));
        }
        assert_ne!(request, BindingRequest::new().unwrap());
    }

    #[test]
    fn a_request_is_not_an_answer() {
        assert_eq!(answer(&BindingRequest::new().unwrap().packet().unwrap()), None);
    }

    #[test]
    fn a_request_has_the_attributes_that_relays_require() {
        let packet = BindingRequest::new().unwrap().packet().unwrap();
        // SOFTWARE (RFC 8489, section 14.14), then FINGERPRINT (14.7) at the end.
        assert_eq!(packet[20..32], *b"\x80\x22\0\x08tailnode");
        assert_eq!(packet[32..36], *b"\x80\x28\0\x04");
        assert_eq!(packet.len(), 40);
    }

    proptest! {
        #[test]
        fn random_bytes_are_not_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            prop_assert_eq!(answer(&bytes), None);
        }

        #[test]
        fn a_changed_answer_does_not_panic(at in 0usize..32, bit in 0u32..8) {
            let packet = BindingRequest::new().unwrap().packet().unwrap();
            let mut reply = reply(&packet, "192.0.2.1:41641".parse().unwrap());
            if let Some(byte) = reply.get_mut(at) {
                *byte ^= 1 << bit;
            }
            answer(&reply);
        }
    }
}
