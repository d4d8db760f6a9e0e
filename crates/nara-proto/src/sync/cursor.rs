use std::fmt;
use std::str::FromStr;

use crate::event::SyncEvent;
use crate::time::UnixNanos;

/// A position in the order of events by time and id, behind the event that it names.
///
/// The v1 cursor is only a time, so events with the same time as the last one of a page are lost (docs/protocol/v1.md,
/// section 7.3). This cursor loses no event. Its text is `"{ts}:{id}"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    ts: UnixNanos,
    id: String,
}

/// The error for a text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor (expected nanoseconds, a colon and an event id)")]
pub struct InvalidCursor;

impl Cursor {
    /// The maximum length of the id in the text of a cursor. Ids have 32 bytes.
    pub const MAX_ID: usize = 256;

    /// The position before all events.
    pub const START: Self = Self {
        ts: UnixNanos::new(i64::MIN),
        id: String::new(),
    };

    /// Returns the position behind the event with this time and id.
    pub fn new(ts: UnixNanos, id: &str) -> Self {
        Self {
            ts,
            id: id.to_owned(),
        }
    }

    /// Returns the position behind all events with a time up to `ts`, like the v1 cursor.
    pub fn after_time(ts: UnixNanos) -> Self {
        // Precedes every id of the next nanosecond, since no id is empty.
        match ts.get().checked_add(1) {
            Some(next) => Self {
                ts: UnixNanos::new(next),
                id: String::new(),
            },
            // There is no later time, and no id sorts behind this one.
            None => Self {
                ts,
                id: char::MAX.to_string(),
            },
        }
    }

    /// Returns the position behind `event`.
    pub fn behind(event: &SyncEvent) -> Self {
        Self::new(event.ts, &event.id)
    }

    /// Returns the time of the event that the cursor is behind.
    pub fn ts(&self) -> UnixNanos {
        self.ts
    }

    /// Returns the id of the event that the cursor is behind; empty if it is before all events of that time.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ts, self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (ts, id) = text.split_once(':').ok_or(InvalidCursor)?;
        let ts = ts.parse().map_err(|_| InvalidCursor)?;
        if id.len() > Self::MAX_ID {
            return Err(InvalidCursor);
        }
        Ok(Self {
            ts: UnixNanos::new(ts),
            id: id.to_owned(),
        })
    }
}
