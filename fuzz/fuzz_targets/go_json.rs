//! The reader of JSON itself: it takes nothing that is no JSON, and times have one meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::read_twice;
use nara_proto::go_json::Timestamp;
use nara_proto::peer::CoordinatesResponse;
use nara_proto::sync::SyncRequest;
use serde::de::IgnoredAny;

fuzz_target!(|json: &[u8]| {
    let taken = [
        read_twice::<SyncRequest>(json).is_some(),
        read_twice::<CoordinatesResponse>(json).is_some(),
        read_twice::<Option<Vec<String>>>(json).is_some(),
        read_twice::<Option<Vec<i64>>>(json).is_some(),
    ];
    // Broken UTF-8 is repaired, and only the first value is read.
    let text = String::from_utf8_lossy(json);
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<IgnoredAny>();
    if taken.contains(&true) {
        assert!(matches!(values.next(), Some(Ok(_))), "not JSON: {text:?}");
    }
    if let Ok(time) = Timestamp::parse(&text) {
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
        let _ = time.to_nanos();
    }
});
