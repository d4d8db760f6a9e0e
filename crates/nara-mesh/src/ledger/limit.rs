/// The maximum size of a read, which ends at whichever limit comes first.
///
/// The first event is always returned, however large it is, so that a reader that continues after the last event
/// makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Number of events.
    pub events: usize,
    /// Size of the events in bytes of JSON.
    pub bytes: usize,
}

impl ReadLimit {
    /// Limits the number of events, but not their size.
    pub const fn events(events: usize) -> Self {
        Self {
            events,
            bytes: usize::MAX,
        }
    }

    /// Adds a limit in bytes.
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

/// The remaining bytes of a [`ReadLimit`] during a read.
#[derive(Debug)]
pub(super) struct ByteBudget {
    left: usize,
    is_first: bool,
}

impl ByteBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            left: bytes,
            is_first: true,
        }
    }

    /// Returns whether an event of this size still fits.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left || self.is_first;
        self.is_first = false;
        self.left = if fits { self.left.saturating_sub(bytes) } else { 0 };
        fits
    }
}
