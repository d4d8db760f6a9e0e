use nara_proto::event::{EventTrust, SyncEvent};

/// An event that may be stored, and how far to trust it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckedEvent {
    /// The event. Its id follows from its content.
    pub event: SyncEvent,
    /// How far to trust it.
    pub trust: EventTrust,
}

impl CheckedEvent {
    /// An event with the verdict of [`verify_events`](nara_proto::event::verify_events).
    pub fn new(event: SyncEvent, trust: EventTrust) -> Self {
        Self { event, trust }
    }

    /// An event whose signature was verified, or that this nara signed itself.
    pub fn verified(event: SyncEvent) -> Self {
        Self::new(event, EventTrust::Verified)
    }

    /// Whether the signature was verified.
    pub fn is_verified(&self) -> bool {
        self.trust == EventTrust::Verified
    }
}

/// How far an event of a ledger can be trusted.
pub(super) fn stored_trust(event: &SyncEvent, verified: bool) -> EventTrust {
    match (verified, event.is_signed()) {
        (true, _) => EventTrust::Verified,
        (false, true) => EventTrust::UnknownKey,
        (false, false) => EventTrust::Unsigned,
    }
}
