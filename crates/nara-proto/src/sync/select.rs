use super::{Cursor, SyncRequest};
use crate::event::{Service, SyncEvent};
use crate::time::UnixNanos;

/// The most events that one answer carries.
pub const MAX_EVENTS: usize = 5000;

/// How many events mode `recent` gives when the request does not say.
const DEFAULT_RECENT: usize = 100;

/// A sync request, read as one of the four modes, with every limit in its range (docs/protocol/v1.md, section 7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// Oldest first, later than `since` if that is positive; of every `slice_total` positions the one with
    /// index `slice_index`; of those the newest `max_events`.
    Legacy {
        /// Only events later than this, if positive.
        since: UnixNanos,
        /// Which slice.
        slice_index: usize,
        /// Of how many; at least 1.
        slice_total: usize,
        /// How many events.
        max_events: usize,
    },
    /// The first `size` events behind `after`, oldest first.
    Page {
        /// Where the page begins.
        after: Cursor,
        /// How many events.
        size: usize,
        /// Whether the requester understands our cursor and wants it in the answer.
        lossless: bool,
    },
    /// The newest `limit` events, newest first.
    Recent {
        /// How many events.
        limit: usize,
    },
    /// All critical events and a weighted random choice of the others, oldest first.
    Sample {
        /// How many events.
        size: usize,
    },
}

impl SyncRequest {
    /// Reads the request as one of the four modes. Limits out of range and cursors that cannot be read fall
    /// back to their defaults, as on v1 peers.
    pub fn mode(&self) -> SyncMode {
        let limit = |value: i64, default: usize| match usize::try_from(value) {
            Ok(value) if (1..=MAX_EVENTS).contains(&value) => value,
            _ => default,
        };
        match self.mode.as_str() {
            "page" => {
                let after = self.after.parse().ok();
                let lossless = after.is_some();
                let after = after
                    .unwrap_or_else(|| Cursor::after_time(UnixNanos::new(self.cursor.parse().unwrap_or(0))));
                SyncMode::Page {
                    after,
                    size: limit(self.page_size, MAX_EVENTS),
                    lossless,
                }
            }
            "recent" => SyncMode::Recent {
                limit: limit(self.limit, DEFAULT_RECENT),
            },
            "sample" => SyncMode::Sample {
                size: limit(self.sample_size, MAX_EVENTS),
            },
            _ => {
                let slice_total = usize::try_from(self.slice_total).unwrap_or(0).max(1);
                let slice_index = usize::try_from(self.slice_index)
                    .ok()
                    .filter(|&index| index < slice_total)
                    .unwrap_or(0);
                let max_events = limit(self.max_events, MAX_EVENTS);
                SyncMode::Legacy {
                    since: self.since_time,
                    slice_index,
                    slice_total,
                    max_events,
                }
            }
        }
    }

    /// Which events the request is about.
    pub fn filter(&self) -> EventFilter {
        EventFilter {
            services: self.services.clone().unwrap_or_default(),
            subjects: self.subjects.clone().unwrap_or_default(),
        }
    }
}

/// Which events are wanted. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Names of services; empty: all.
    pub services: Vec<String>,
    /// Names of naras, as actor or target; empty: all.
    pub subjects: Vec<String>,
}

impl EventFilter {
    /// Whether an event is wanted.
    pub fn matches(&self, event: &SyncEvent) -> bool {
        let service = self.services.is_empty() || self.services.contains(&event.svc);
        let is_subject = |name: &str| self.subjects.iter().any(|subject| subject == name);
        service && (self.subjects.is_empty() || is_subject(event.actor()) || is_subject(event.target()))
    }

    /// Whether every event is wanted.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.subjects.is_empty()
    }
}

/// Whether a sample must have the event: checkpoints, introductions, goodbyes, and observations of the
/// highest importance.
pub fn is_critical(event: &SyncEvent) -> bool {
    match event.service() {
        Some(Service::Checkpoint | Service::HeyThere | Service::Chau | Service::Succession) => true,
        Some(Service::Observation) => event.observation.as_deref().is_some_and(|p| p.importance == 3),
        _ => false,
    }
}

/// The weight of an event in a sample that `responder` draws at `now`: it falls with age and rises with
/// importance and with being about the responder.
///
/// The inherited constant makes the half-life 14.4 days, not the 30 days that it was meant to be (defect G15).
/// Weights only shape a random choice, so both sides need not agree on them; ours follow v1 peers.
pub fn sample_weight(event: &SyncEvent, responder: &str, now: UnixNanos) -> f64 {
    let importance = match event.observation.as_deref() {
        Some(payload) if event.service() == Some(Service::Observation) => payload.importance,
        _ => 0,
    };
    let about_responder = [event.emitter.as_str(), event.actor(), event.target()].contains(&responder);
    sample_weight_of(event.ts, importance, about_responder, now)
}

/// [`sample_weight`] of an event of which only these parts are at hand. `importance` is that of an
/// observation, and 0 for other events.
pub fn sample_weight_of(ts: UnixNanos, importance: i64, about_responder: bool, now: UnixNanos) -> f64 {
    const DECAY_HOURS: f64 = 720.0 * 0.693;
    let age_hours = now.get().saturating_sub(ts.get()) as f64 / 3.6e12;
    let importance = match importance {
        3 => 5.0,
        2 => 2.0,
        _ => 1.0,
    };
    (-age_hours / DECAY_HOURS).exp() * importance * if about_responder { 2.0 } else { 1.0 }
}
