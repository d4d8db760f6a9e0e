use std::collections::BTreeSet;

use nara_proto::event::SyncEvent;
use nara_proto::sync::EventFilter;

/// An [`EventFilter`] with its names in sets: a peer may send a hundred thousand names.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    /// Services to match; empty matches all.
    pub(super) services: BTreeSet<&'a str>,
    /// Subjects to match; empty matches all.
    pub(super) subjects: BTreeSet<&'a str>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(filter: &'a EventFilter) -> Self {
        Self {
            services: filter.services.iter().map(String::as_str).collect(),
            subjects: filter.subjects.iter().map(String::as_str).collect(),
        }
    }

    pub(super) fn matches(&self, event: &SyncEvent) -> bool {
        self.matches_parts(&event.svc, event.actor(), event.target())
    }

    pub(super) fn matches_parts(&self, svc: &str, actor: &str, target: &str) -> bool {
        (self.services.is_empty() || self.services.contains(svc))
            && (self.subjects.is_empty() || self.subjects.contains(actor) || self.subjects.contains(target))
    }
}
