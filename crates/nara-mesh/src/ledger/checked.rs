use nara_proto::event::{CheckedEvent, EventTrust, SyncEvent};

/// Returns the trust in a stored event.
pub(super) fn stored_trust(event: &SyncEvent, verified: bool) -> EventTrust {
    match (verified, event.is_signed()) {
        (true, _) => EventTrust::Verified,
        (false, true) => EventTrust::UnknownKey,
        (false, false) => EventTrust::Unsigned,
    }
}

/// Strips the trust from events.
pub(super) fn without_trust(checked: Vec<CheckedEvent>) -> Vec<SyncEvent> {
    checked.into_iter().map(|checked| checked.event).collect()
}
