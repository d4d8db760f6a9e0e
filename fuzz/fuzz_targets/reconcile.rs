//! Reconciliation frames, as requests and as answers, and scopes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::first_line;
use nara_proto::reconcile::{ItemId, ItemSet, Reconciler, Scope, respond};
use nara_proto::time::UnixNanos;

fn set() -> ItemSet {
    ItemSet::new((0..40_i64).map(|index| {
        let id = ItemId::of_event(&format!("{index:032x}")).expect("an id of an event");
        (UnixNanos::new(1_769_000_000_000_000_000 + index), id, None)
    }))
}

fuzz_target!(|bytes: &[u8]| {
    let (query, frames) = first_line(bytes);
    if let Ok(scope) = Scope::from_query(&String::from_utf8_lossy(query)) {
        let written = scope.to_query().unwrap_or_default();
        assert_eq!(Scope::from_query(&written), Ok(scope.clone()));
        let _ = set().within(&scope);
    }
    let _ = respond(set(), frames);
    let (mut reconciler, _) = Reconciler::begin(set()).expect("a first frame");
    for frame in frames.split(|byte| *byte == b'|') {
        if !matches!(reconciler.take(frame), Ok(Some(_))) {
            break;
        }
    }
    let _ = (reconciler.missing_here(), reconciler.missing_there());
});
