//! The JSON reader: it accepts only JSON, and times are unambiguous.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::read_twice;
use nara_proto::go_json::Timestamp;
use nara_proto::peer::CoordinatesResponse;
use nara_proto::sync::SyncRequest;
use serde::Deserialize as _;
use serde::de::IgnoredAny;

fuzz_target!(|json: &[u8]| {
    let taken = [
        read_twice::<SyncRequest>(json).is_some(),
        read_twice::<CoordinatesResponse>(json).is_some(),
        read_twice::<Option<Vec<String>>>(json).is_some(),
        read_twice::<Option<Vec<i64>>>(json).is_some(),
    ];
    // Invalid UTF-8 is replaced, and only the first value is read.
    let text = String::from_utf8_lossy(json);
    if taken.contains(&true) {
        let mut reader = serde_json::Deserializer::from_str(&text);
        assert!(IgnoredAny::deserialize(&mut reader).is_ok(), "not JSON: {text:?}");
    }
    if let Ok(time) = Timestamp::parse(&text) {
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        let _ = time.to_nanos();
    }
});
