//! A small ledger with arbitrary events: bounds on number and size hold, and events of configured peers are
//! displaced only by their own.

#![no_main]

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use nara_fuzz::ledger::{Reader, known_naras, pinned_event};
use nara_mesh::ledger::{CheckedEvent, EventStore as _, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_proto::go_json;
use nara_proto::sync::{Cursor, EventFilter};

const EVENTS: usize = 40;
const BYTES: usize = 20_000;

/// Events of a configured peer, which are dropped last.
const PINNED: usize = 5;

fuzz_target!(|data: &[u8]| {
    let policy = RetentionPolicy::default().max_events(EVENTS).max_bytes(BYTES);
    let ledger = MemoryLedger::new()
        .with_retention(policy)
        .with_known_names(known_naras());
    let pinned: Vec<_> = (0..PINNED).map(pinned_event).collect();
    let insert = |events: Vec<CheckedEvent>, teller| {
        let inserted = ledger.insert(events, teller).now_or_never();
        inserted
            .expect("memory does not wait")
            .expect("memory does not fail")
    };
    insert(pinned.iter().cloned().map(CheckedEvent::verified).collect(), None);
    let mut reader = Reader::new(data).without_configured_emitters();
    while let Some((events, teller)) = reader.batch() {
        insert(events, teller);
        let page = ledger.page(
            EventFilter::default(),
            Cursor::START,
            ReadLimit::events(usize::MAX),
        );
        let stored = page
            .now_or_never()
            .expect("memory does not wait")
            .expect("memory does not fail");
        let stored: Vec<_> = stored.into_iter().map(|checked| checked.event).collect();
        // A tenth more for unverified events, and one per cent of slack.
        assert!(
            stored.len() <= EVENTS + EVENTS / 10 + 1,
            "{} events",
            stored.len()
        );
        let bytes: usize = stored.iter().map(|event| go_json::to_vec(event).len()).sum();
        assert!(bytes <= BYTES + BYTES / 10 + BYTES / 100 + 1, "{bytes} bytes");
        for event in &pinned {
            assert!(stored.contains(event), "an event of a configured peer was lost");
        }
    }
});
