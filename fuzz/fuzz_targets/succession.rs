//! Succession statements, as events and as words, and the lineage of a name under a peer's statements.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::{NOW, first_line, nara, read_twice};
use nara_proto::event::{SuccessionPayload, SyncEvent};
use nara_proto::identity::{KeyPair, Soul};
use nara_proto::succession::{KeyState, Lineage, Succession};

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "alice"))
}

fuzz_target!(|bytes: &[u8]| {
    let (steps, json) = first_line(bytes);
    if let Some(payload) = read_twice::<SuccessionPayload>(json)
        && let Ok(statement) = Succession::from_payload(&payload)
    {
        assert_eq!(
            Succession::from_words(&statement.to_words().join(" ")),
            Ok(statement)
        );
    }
    if let Some(event) = read_twice::<SyncEvent>(json) {
        let _ = Succession::from_event(&event);
    }
    let _ = Succession::from_words(&String::from_utf8_lossy(json));

    // Each byte is a statement about one of eight keys: the high half is the old key, the low half the new
    // one.
    let name = nara("alice").name().clone();
    let mut lineage = Lineage::new(name.clone(), keypair(0).public_key());
    for step in steps.iter().take(64) {
        let (old, new) = (keypair(step >> 4 & 7), keypair(step & 7));
        let statement = Succession::rotate(&name, &old, &new, NOW)
            .unwrap_or_else(|_| Succession::retire(&name, &old, NOW));
        let was_in_conflict = lineage.state() == KeyState::Conflict;
        let _ = lineage.observe(&statement);
        assert!(!was_in_conflict || lineage.state() == KeyState::Conflict);
        if let KeyState::Holds(key) = lineage.state() {
            assert!(!lineage.is_replaced(&key));
        }
        assert!(lineage.steps().len() <= Lineage::MAX_STEPS);
    }
});
