use std::fmt;
use std::time::Duration;

/// The state of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamState {
    /// Catching up with stored or missed events.
    CatchingUp,
    /// Opening a stream.
    Connecting,
    /// Ended: see the last item.
    Ended,
    /// We were too slow: events come from the ledger of the peer until the stream catches up.
    Lagged,
    /// Events come as they arrive.
    Live,
    /// The peer has no streams: its newest events are polled.
    Polling {
        /// The polling interval.
        every: Duration,
    },
    /// Waiting before a reconnect.
    Waiting {
        /// The pause.
        retry_in: Duration,
        /// Why the last stream ended or could not be opened.
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
            Self::Polling { every } => write!(f, "no streams there, polling every {} ms", every.as_millis()),
            Self::Waiting { retry_in, why } => write!(f, "{why}; again in {} ms", retry_in.as_millis()),
        }
    }
}
