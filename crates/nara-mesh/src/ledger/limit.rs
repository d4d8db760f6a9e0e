/// How much a read gives at most. It ends at whichever limit comes first.
///
/// The first event is always given, however large it is, so that a reader that goes on behind the last event makes
/// progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Events.
    pub events: usize,
    /// Bytes of events as JSON.
    pub bytes: usize,
}

impl ReadLimit {
    /// So many events, however large they are.
    pub const fn events(events: usize) -> Self {
        Self {
            events,
            bytes: usize::MAX,
        }
    }

    /// The same with a limit of bytes.
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }
}

/// What is left of the bytes of a [`ReadLimit`] while events are read.
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

    /// Whether an event of this size is still given.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.left || self.is_first;
        self.is_first = false;
        self.left = if fits { self.left.saturating_sub(bytes) } else { 0 };
        fits
    }
}
