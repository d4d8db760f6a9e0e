use super::{EventProblem, EventTrust, EventVerdict, SyncEvent};

/// An event that may be stored, and the trust in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CheckedEvent {
    /// The event. Its id matches its content.
    pub event: SyncEvent,
    /// The trust in the event.
    pub trust: EventTrust,
}

impl CheckedEvent {
    /// Returns an event with the verdict of [`verify_events`](super::verify_events).
    pub fn new(event: SyncEvent, trust: EventTrust) -> Self {
        Self { event, trust }
    }

    /// Returns a verified event: its signature was verified, or this nara signed it itself.
    pub fn verified(event: SyncEvent) -> Self {
        Self::new(event, EventTrust::Verified)
    }

    /// Returns whether the signature was verified.
    pub fn is_verified(&self) -> bool {
        self.trust == EventTrust::Verified
    }
}

/// A received event that must not be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedEvent {
    /// Its claimed id.
    pub id: String,
    /// Its claimed emitter; if it has none, its claimed actor.
    pub emitter: String,
    /// The reason for the refusal.
    pub problem: EventProblem,
}

impl RefusedEvent {
    /// Returns a refused event with the reason for the refusal.
    pub fn new(event: SyncEvent, problem: EventProblem) -> Self {
        Self {
            emitter: match event.emitter.is_empty() {
                true => event.actor().to_owned(),
                false => event.emitter,
            },
            id: event.id,
            problem,
        }
    }
}

/// The checked events of one answer.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct CheckedEvents {
    /// The accepted events, in the order of the answer.
    pub accepted: Vec<CheckedEvent>,
    /// The refused events, in the order of the answer.
    pub refused: Vec<RefusedEvent>,
}

impl CheckedEvents {
    /// Sorts events by the verdicts of [`verify_events`](super::verify_events).
    pub fn sort(events: Vec<SyncEvent>, verdicts: Vec<EventVerdict>) -> Self {
        let mut checked = Self::default();
        for (event, verdict) in events.into_iter().zip(verdicts) {
            match verdict {
                Ok(trust) => checked.accepted.push(CheckedEvent::new(event, trust)),
                Err(problem) => checked.refused.push(RefusedEvent::new(event, problem)),
            }
        }
        checked
    }

    /// Returns the number of events, accepted and refused.
    pub fn received(&self) -> usize {
        self.accepted.len() + self.refused.len()
    }

    /// Appends the events of another answer.
    pub fn append(&mut self, mut more: Self) {
        self.accepted.append(&mut more.accepted);
        self.refused.append(&mut more.refused);
    }

    /// Returns the accepted events, without their trust.
    pub fn into_events(self) -> Vec<SyncEvent> {
        self.accepted.into_iter().map(|checked| checked.event).collect()
    }
}
