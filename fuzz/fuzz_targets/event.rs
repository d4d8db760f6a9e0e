//! Events as in syncs, zines, direct messages, imports and streams.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{nara, read_twice};
use nara_proto::checkpoint::{is_filtered_at_ingest, tally};
use nara_proto::event::SyncEvent;
use nara_proto::sync::Cursor;

fuzz_target!(|json: &[u8]| {
    let Some(event) = read_twice::<SyncEvent>(json) else {
        return;
    };
    let key = nara("alice").public_key();
    let _ = (
        event.validate(),
        event.actor(),
        event.target(),
        event.verify(&key),
    );
    assert_eq!(event.compute_id(), event.compute_id());
    let cursor = Cursor::behind(&event);
    let short = event.id.len() <= Cursor::MAX_ID;
    assert_eq!(cursor.to_string().parse().ok(), short.then_some(cursor));
    if let Some(checkpoint) = &event.checkpoint {
        let _ = (
            tally(checkpoint, |_| Some(key)),
            is_filtered_at_ingest(checkpoint),
        );
    }
});
