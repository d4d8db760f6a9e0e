//! No input of a peer makes a reader panic.

use http::HeaderMap;
use nara_proto::checkpoint::Attestation;
use nara_proto::endpoint::{
    AllCheckpoints, DirectMessage, Endpoint, EventsImport, EventsSync, GetCoordinates, GossipZine, PeerQuery,
    Ping, WorldRelay,
};
use nara_proto::event::SyncEvent;
use nara_proto::go_json::{self, Timestamp};
use nara_proto::identity::{NaraId, NaraName, PublicKey, Signature, Soul};
use nara_proto::import::ImportRequest;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::sync::{Cursor, SyncRequest, SyncResponse};
use nara_proto::v1::{RequestAuth, ResponseAuth};
use nara_proto::world::WorldMessage;
use nara_proto::zine::Zine;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::text;

/// Generates bytes that are sometimes nearly JSON: tokens that matter to a reader, and any other bytes.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: [&str; 28] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\ud800",
        "null",
        "true",
        "1e400",
        "-1",
        "0.5",
        "\"id\"",
        "\"ts\"",
        "\"svc\":\"ping\"",
        "\"ping\":{",
        "\"events\":[",
        "\"hops\":[",
        "\"payload\":",
        "\"AA==\"",
        "\"kind\":\"stash:store\"",
        "\"timestamp\":\"2026-01-22T23:10:56Z\"",
        "\"version\":1",
        "\"rtt\":",
        "\"checkpoint\":{",
        " ",
    ];
    let piece = prop_oneof![
        4 => (0..PIECES.len()).prop_map(|index| PIECES[index].as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop_oneof![vec(any::<u8>(), 0..64), nearly_json()]) {
        if let Ok(event) = go_json::from_slice::<SyncEvent>(&bytes) {
            let _ = (event.validate(), event.compute_id(), event.actor(), event.target());
        }
        if let Ok(request) = go_json::from_slice::<SyncRequest>(&bytes) {
            let _ = (request.mode(), request.filter());
        }
        let _ = go_json::from_slice::<SyncResponse>(&bytes).map(|response| response.digest());
        let _ = go_json::from_slice::<Zine>(&bytes).map(|zine| zine.digest());
        let _ = go_json::from_slice::<ImportRequest>(&bytes).map(|request| request.digest());
        let _ = go_json::from_slice::<WorldMessage>(&bytes).map(|message| message.verify_chain(|_| None));
        let _ = go_json::from_slice::<Attestation>(&bytes).map(|attestation| attestation.signed_text());
        let _ = RuntimeMessage::from_json(&bytes).map(|message| message.to_json());
        let _ = EventsSync::decode(&bytes).is_ok();
        let _ = GossipZine::decode(&bytes).is_ok();
        let _ = DirectMessage::decode(&bytes).is_ok();
        let _ = WorldRelay::decode(&bytes).is_ok();
        let _ = EventsImport::decode(&bytes).is_ok();
        let _ = Ping::decode(&bytes).is_ok();
        let _ = GetCoordinates::decode(&bytes).is_ok();
        let _ = PeerQuery::decode(&bytes).is_ok();
        let _ = AllCheckpoints::decode(&bytes).is_ok();
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in text(), bytes in vec(any::<u8>(), 0..48)) {
        for text in [text.as_str(), &String::from_utf8_lossy(&bytes), &bs58::encode(&bytes).into_string()] {
            let _ = (text.parse::<Soul>(), text.parse::<NaraId>(), text.parse::<NaraName>());
            let _ = (text.parse::<Cursor>(), Timestamp::parse(text), PublicKey::from_base64(text));
            let _ = Signature::from_base64(text);
        }
        if let Ok(bytes) = <[u8; 32]>::try_from(&bytes[..bytes.len().min(32)]) {
            let _ = PublicKey::from_bytes(bytes);
        }
    }

    #[test]
    fn no_headers_make_a_reader_panic(values in vec((0_usize..3, vec(any::<u8>(), 0..20)), 0..5)) {
        let mut headers = HeaderMap::new();
        for (which, value) in values {
            let name = ["x-nara-name", "x-nara-timestamp", "x-nara-signature"][which];
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        let _ = (RequestAuth::from_headers(&headers), ResponseAuth::from_headers(&headers));
    }

    /// Digits and punctuation only, so that most texts pass the first checks.
    #[test]
    fn no_time_text_panics_or_changes_when_written_again(
        text in vec(proptest::sample::select(b"0123456789-:TZ+.,".to_vec()), 18..36),
        fields in (0_u32..10_000, 0_u32..14, 0_u32..33, 0_u32..25, 0_u32..61, 0_u32..61),
        offset in 0_u32..1_500,
    ) {
        let (year, month, day, hour, minute, second) = fields;
        let sign = if offset % 2 == 0 { '+' } else { '-' };
        let likely = format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{sign}{:02}:{:02}",
            offset / 60,
            offset % 60,
        );
        for text in [String::from_utf8_lossy(&text).as_ref(), &likely] {
            if let Ok(time) = Timestamp::parse(text) {
                prop_assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
                prop_assert!(time >= time && time.to_nanos() == time.to_nanos());
            }
        }
    }
}
