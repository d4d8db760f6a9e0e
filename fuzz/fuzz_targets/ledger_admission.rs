//! Arbitrary events in arbitrary order, verified or not: an unverified event never displaces a verified one,
//! and the bounds hold.

#![no_main]

use std::collections::BTreeSet;

use futures_util::FutureExt as _;
use libfuzzer_sys::fuzz_target;
use nara_fuzz::ledger::{Reader, known_naras};
use nara_mesh::ledger::{EventStore as _, Insertion, MemoryLedger, ReadLimit, RetentionPolicy};
use nara_proto::sync::{Cursor, EventFilter};

/// Larger than any input can fill, so that only the rules of a service can drop verified events.
const ROOM: usize = 100_000;

fuzz_target!(|data: &[u8]| {
    let policy = RetentionPolicy::default()
        .max_events(ROOM)
        .pings_per_target(usize::MAX)
        .observations_per_pair(usize::MAX);
    let ledger = MemoryLedger::new()
        .with_retention(policy)
        .with_known_names(known_naras());
    let mut reader = Reader::new(data);
    let mut verified = BTreeSet::new();
    while let Some((events, teller)) = reader.batch() {
        let outcomes = ledger.insert(events.clone(), teller).now_or_never();
        let outcomes = outcomes
            .expect("memory does not wait")
            .expect("memory does not fail");
        assert_eq!(outcomes.len(), events.len());
        for (checked, outcome) in events.iter().zip(outcomes) {
            if checked.is_verified() && outcome == Insertion::Stored {
                verified.insert(checked.event.id.clone());
            }
        }
        let page = ledger.page(
            EventFilter::default(),
            Cursor::START,
            ReadLimit::events(usize::MAX),
        );
        let stored = page
            .now_or_never()
            .expect("memory does not wait")
            .expect("memory does not fail");
        let ids: BTreeSet<_> = stored.iter().map(|checked| checked.event.id.clone()).collect();
        assert_eq!(ids.len(), stored.len(), "an id is stored once");
        assert!(verified.is_subset(&ids), "a verified event was lost");
    }
});
