//! Messages of an event stream, and requests for one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{first_line, nara};
use nara_proto::stream::{ArrivalCursor, StreamMessage, StreamOpening, StreamRequest};

fuzz_target!(|bytes: &[u8]| {
    let (event, rest) = first_line(bytes);
    let (id, data) = first_line(rest);
    let [event, id, data] = [event, id, data].map(String::from_utf8_lossy);
    if let Ok(StreamMessage::Hello(hello)) = StreamMessage::decode(Some(&event), Some(&id), &data) {
        let opening = StreamOpening {
            request_signature: &id,
            query: &event,
            last_event_id: &data,
        };
        let _ = (hello.check(), hello.start(), hello.epoch(), hello.reason());
        let _ = hello.verify(opening, &nara("alice").public_key());
    }
    if let Ok(cursor) = id.parse::<ArrivalCursor>() {
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }
    if let Ok(request) = StreamRequest::from_query(&data) {
        assert_eq!(StreamRequest::from_query(&request.to_query()), Ok(request));
    }
});
