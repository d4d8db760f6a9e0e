use tokio::time::Instant;

use crate::defaults;

/// How far the stored cursor lags behind what was read.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    events: usize,
    /// When the first unsaved change happened, if any.
    since: Option<Instant>,
}

impl Unsaved {
    pub(super) fn add(&mut self, events: usize) {
        self.events += events;
        self.since.get_or_insert_with(Instant::now);
    }

    pub(super) fn is_any(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + defaults::STREAM_CURSOR_INTERVAL)
    }

    pub(super) fn is_due(&self) -> bool {
        self.events >= defaults::STREAM_CURSOR_EVENTS
            || self.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }
}
