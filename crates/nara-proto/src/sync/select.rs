use super::{Cursor, SyncRequest};
use crate::event::{Service, SyncEvent};
use crate::time::UnixNanos;

/// The maximum number of events in one answer.
pub const MAX_EVENTS: usize = 5000;

/// The number of events in mode `recent` when the request does not give one.
const DEFAULT_RECENT: usize = 100;

/// A sync request, parsed as one of the four modes, with every limit in range (docs/protocol/v1.md, section 7.3).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncMode {
    /// Oldest first, later than `since` if that is positive; the positions with index `slice_index` modulo
    /// `slice_total`; of these the newest `max_events`.
    Legacy {
        /// Only events later than this, if positive.
        since: UnixNanos,
        /// The index of the slice.
        slice_index: usize,
        /// The number of slices; at least 1.
        slice_total: usize,
        /// The number of events.
        max_events: usize,
    },
    /// The first `size` events behind `after`, oldest first.
    Page {
        /// The start of the page.
        after: Cursor,
        /// The number of events.
        size: usize,
        /// Whether the requester supports our cursor and expects it in the answer.
        lossless: bool,
    },
    /// The newest `limit` events, newest first.
    Recent {
        /// The number of events.
        limit: usize,
    },
    /// All critical events and a weighted random choice of the others, oldest first.
    Sample {
        /// The number of events.
        size: usize,
    },
}

impl SyncRequest {
    /// Parses the request as one of the four modes. Limits out of range and unreadable cursors fall back to their
    /// defaults, as on v1 peers.
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

    /// Returns the filter of the request.
    pub fn filter(&self) -> EventFilter {
        EventFilter {
            services: self.services.clone().unwrap_or_default(),
            subjects: self.subjects.clone().unwrap_or_default(),
        }
    }
}

/// A filter of events. The default selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// The names of services; empty for all.
    pub services: Vec<String>,
    /// The names of naras, as actor or target; empty for all.
    pub subjects: Vec<String>,
}

impl EventFilter {
    /// Returns whether the filter selects an event.
    pub fn matches(&self, event: &SyncEvent) -> bool {
        let service = self.services.is_empty() || self.services.contains(&event.svc);
        let is_subject = |name: &str| self.subjects.iter().any(|subject| subject == name);
        service && (self.subjects.is_empty() || is_subject(event.actor()) || is_subject(event.target()))
    }

    /// Returns whether the filter selects every event.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.subjects.is_empty()
    }
}

/// Returns whether a sample must include the event: checkpoints, introductions, goodbyes, and observations of the
/// highest importance.
pub fn is_critical(event: &SyncEvent) -> bool {
    match event.service() {
        Some(Service::Checkpoint | Service::HeyThere | Service::Chau | Service::Succession) => true,
        Some(Service::Observation) => event.observation.as_deref().is_some_and(|p| p.importance == 3),
        _ => false,
    }
}

/// Returns the weight of an event in a sample that `responder` draws at `now`: it falls with age, and rises with
/// importance and for events about the responder.
///
/// The v1 constant makes the half-life 14.4 days, not the intended 30 days (defect G15). Weights only shape a random
/// choice, so both sides need not agree on them; ours equal those of v1 peers.
pub fn sample_weight(event: &SyncEvent, responder: &str, now: UnixNanos) -> f64 {
    let importance = match event.observation.as_deref() {
        Some(payload) if event.service() == Some(Service::Observation) => payload.importance,
        _ => 0,
    };
    let about_responder = [event.emitter.as_str(), event.actor(), event.target()].contains(&responder);
    sample_weight_of(event.ts, importance, about_responder, now)
}

/// Returns the [`sample_weight`] of an event from its parts. `importance` is the importance of an observation, and 0
/// for other events.
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
