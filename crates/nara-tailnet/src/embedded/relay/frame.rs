//! The frames of the relay protocol (DERP): a type, a length and a body.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ts_keys::NodePublicKey;

/// The first bytes of the first frame of a relay.
pub(super) const MAGIC: [u8; 8] = *b"DERP\xf0\x9f\x94\x91";

/// The maximum body length: a packet of 64 KiB and its sender.
pub(super) const MAX_BODY: usize = (64 << 10) + KEY;

const HEADER: usize = 5;
const KEY: usize = 32;

/// The frames that a client needs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The public key of the relay, in its first frame.
    ServerKey([u8; KEY]),
    /// The encrypted server information, in its second frame.
    ServerInfo(Bytes),
    /// A packet from a peer.
    Packet(NodePublicKey, Bytes),
    /// The peer is not connected to this relay.
    PeerGone(NodePublicKey),
    /// A ping to answer with the same eight bytes.
    Ping([u8; 8]),
    /// The relay will close the connection soon.
    Restarting,
    /// A frame without relevance here. It shows that the relay is alive.
    Other,
}

/// The relay sent a malformed frame. The rest of the stream cannot be parsed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed frame of type {kind:#04x} with {len} bytes")]
pub(super) struct MalformedFrame {
    kind: u8,
    len: usize,
}

const SERVER_KEY: u8 = 0x01;
const CLIENT_INFO: u8 = 0x02;
const SERVER_INFO: u8 = 0x03;
const SEND_PACKET: u8 = 0x04;
const RECV_PACKET: u8 = 0x05;
const NOTE_PREFERRED: u8 = 0x07;
const PEER_GONE: u8 = 0x08;
const PING: u8 = 0x12;
const PONG: u8 = 0x13;
const RESTARTING: u8 = 0x15;

/// Removes the next complete frame from `bytes`; `None` if more bytes are needed.
pub(super) fn take(bytes: &mut BytesMut) -> Result<Option<Frame>, MalformedFrame> {
    let Some((&[kind, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    let malformed = MalformedFrame { kind, len };
    if len > MAX_BODY {
        return Err(malformed);
    }
    if bytes.len() < HEADER + len {
        bytes.reserve(HEADER + len - bytes.len());
        return Ok(None);
    }
    bytes.advance(HEADER);
    let mut body = bytes.split_to(len).freeze();
    let frame = match kind {
        SERVER_KEY => {
            let rest = body.strip_prefix(&MAGIC).and_then(<[u8]>::first_chunk::<KEY>);
            Frame::ServerKey(*rest.ok_or(malformed)?)
        }
        SERVER_INFO => Frame::ServerInfo(body),
        RECV_PACKET => Frame::Packet(key(&mut body).ok_or(malformed)?, body),
        PEER_GONE => Frame::PeerGone(key(&mut body).ok_or(malformed)?),
        PING => Frame::Ping(*body.first_chunk::<8>().ok_or(malformed)?),
        RESTARTING => Frame::Restarting,
        _ => Frame::Other,
    };
    Ok(Some(frame))
}

fn key(body: &mut Bytes) -> Option<NodePublicKey> {
    let key = *body.first_chunk::<KEY>()?;
    body.advance(KEY);
    Some(NodePublicKey::from_bytes(key))
}

/// Writes the client information. Only the relay can decrypt `sealed`.
pub(super) fn put_client_info(into: &mut BytesMut, ours: &[u8; KEY], nonce: &[u8], sealed: &[u8]) {
    header(into, CLIENT_INFO, KEY + nonce.len() + sealed.len());
    into.put_slice(ours);
    into.put_slice(nonce);
    into.put_slice(sealed);
}

/// Writes a packet to a peer.
pub(super) fn put_packet(into: &mut BytesMut, to: &NodePublicKey, packet: &[u8]) {
    header(into, SEND_PACKET, KEY + packet.len());
    into.put_slice(to.to_crypto_box().as_bytes());
    into.put_slice(packet);
}

/// Writes whether this is our home relay.
pub(super) fn put_note_preferred(into: &mut BytesMut, home: bool) {
    header(into, NOTE_PREFERRED, 1);
    into.put_u8(u8::from(home));
}

/// Writes the answer to a ping.
pub(super) fn put_pong(into: &mut BytesMut, payload: [u8; 8]) {
    header(into, PONG, payload.len());
    into.put_slice(&payload);
}

fn header(into: &mut BytesMut, kind: u8, len: usize) {
    into.put_u8(kind);
    into.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        header(&mut bytes, kind, body.len());
        bytes.put_slice(body);
        bytes
    }

    #[test]
    fn a_packet_is_taken_with_its_sender() {
        let mut bytes = frame(RECV_PACKET, &[&[7; KEY][..], b"hello"].concat());
        bytes.extend_from_slice(&[PING, 0]);
        assert_eq!(
            take(&mut bytes),
            Ok(Some(Frame::Packet(
                NodePublicKey::from_bytes([7; KEY]),
                Bytes::from_static(b"hello")
            )))
        );
        assert_eq!(take(&mut bytes), Ok(None));
        assert_eq!(&bytes[..], [PING, 0]);
    }

    #[test]
    fn a_frame_that_is_too_long_or_too_short_is_an_error() {
        assert!(take(&mut frame(RECV_PACKET, &[1; KEY - 1])).is_err());
        assert!(take(&mut frame(PEER_GONE, &[])).is_err());
        assert!(take(&mut frame(PING, &[1; 7])).is_err());
        assert!(take(&mut frame(SERVER_KEY, &[1; 40])).is_err());
        assert!(take(&mut BytesMut::from(&[RECV_PACKET, 0xff, 0, 0, 0][..])).is_err());
    }

    #[test]
    fn an_unknown_frame_is_skipped() {
        let mut bytes = frame(0x77, b"new things");
        assert_eq!(take(&mut bytes), Ok(Some(Frame::Other)));
        assert!(bytes.is_empty());
    }

    #[test]
    fn what_is_sent_has_the_form_of_the_protocol() {
        let mut bytes = BytesMut::new();
        put_packet(&mut bytes, &NodePublicKey::from_bytes([9; KEY]), b"xy");
        assert_eq!(&bytes[..HEADER], [4, 0, 0, 0, 34]);
        assert_eq!(&bytes[HEADER..], [&[9; KEY][..], b"xy"].concat());
        let mut bytes = BytesMut::new();
        put_note_preferred(&mut bytes, true);
        assert_eq!(&bytes[..], [7, 0, 0, 0, 1, 1]);
        let mut bytes = BytesMut::new();
        put_pong(&mut bytes, *b"12345678");
        assert_eq!(&bytes[..], b"\x13\0\0\0\x0812345678");
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = BytesMut::from(&bytes[..]);
            let mut left = bytes.len();
            while let Ok(Some(_)) = take(&mut bytes) {
                prop_assert!(bytes.len() + HEADER <= left);
                left = bytes.len();
            }
        }

        #[test]
        fn frames_do_not_depend_on_how_their_bytes_arrive(cut in 0_usize..50) {
            let whole = [&frame(RECV_PACKET, &[3; 40])[..], &frame(RESTARTING, &[])].concat();
            let cut = cut.min(whole.len());
            let mut bytes = BytesMut::from(&whole[..cut]);
            let mut seen = Vec::new();
            while let Ok(Some(frame)) = take(&mut bytes) {
                seen.push(frame);
            }
            bytes.extend_from_slice(&whole[cut..]);
            while let Ok(Some(frame)) = take(&mut bytes) {
                seen.push(frame);
            }
            prop_assert_eq!(seen.len(), 2);
            prop_assert_eq!(&seen[1], &Frame::Restarting);
        }
    }
}
