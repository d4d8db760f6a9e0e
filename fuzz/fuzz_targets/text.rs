//! Names, ids, keys, souls, signatures, cursors, and the encodings that they use.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_proto::encoding::{base64_decode_canonical, base64_decode_lenient, base64_encode};
use nara_proto::identity::{NaraId, NaraName, PublicKey, Signature, Soul};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::Cursor;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(decoded) = base64_decode_canonical(bytes) {
        assert_eq!(base64_encode(&decoded).as_bytes(), bytes);
        assert_eq!(base64_decode_lenient(bytes), Ok(decoded));
    }
    if let Ok(decoded) = base64_decode_lenient(bytes) {
        assert_eq!(
            base64_decode_canonical(base64_encode(&decoded).as_bytes()),
            Ok(decoded)
        );
    }
    if let Ok(signature) = Signature::from_canonical_base64(bytes) {
        assert_eq!(signature.to_base64().as_bytes(), bytes);
    }
    if let Ok(key) = <[u8; 32]>::try_from(bytes)
        .map_err(drop)
        .and_then(|key| PublicKey::from_bytes(key).map_err(drop))
    {
        assert_eq!(key.as_bytes(), bytes);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(name) = text.parse::<NaraName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(id) = text.parse::<NaraId>() {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(soul) = text.parse::<Soul>() {
        let _ = soul.is_bonded_to("alice");
        assert_eq!(
            soul.expose()
                .parse::<Soul>()
                .map(|again| again.expose() == soul.expose()),
            Ok(true)
        );
    }
    if let Ok(key) = PublicKey::from_base64(text) {
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
    }
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Ok(cursor) = text.parse::<ArrivalCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
});
