use std::fmt;
use std::time::Duration;

/// What a subscription is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamState {
    /// Events come that were there already, or were missed.
    CatchingUp,
    /// It opens a stream.
    Connecting,
    /// It has ended: see its last item.
    Ended,
    /// We were too slow for the stream: events come from the ledger of the peer until it has caught up.
    Lagged,
    /// Events come as they arrive.
    Live,
    /// It waits before it connects again.
    Waiting {
        /// How long.
        retry_in: Duration,
        /// What ended the last stream, or kept it from opening.
        why: String,
    },
}

impl fmt::Display for StreamState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchingUp => f.write_str("catching up"),
            Self::Connecting => f.write_str("connecting"),
            Self::Ended => f.write_str("ended"),
            Self::Lagged => f.write_str("too slow, catching up"),
            Self::Live => f.write_str("live"),
            Self::Waiting { retry_in, why } => write!(f, "{why}; again in {} ms", retry_in.as_millis()),
        }
    }
}
