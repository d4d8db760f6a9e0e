use std::fmt;
use std::str::FromStr;

use crate::event::SyncEvent;
use crate::time::UnixNanos;

/// A place in the order of events by time and id, behind the event that it names.
///
/// The inherited cursor is a time alone, so events with the time of the last one of a page are lost (docs/protocol/v1.md, section 7.3). This one loses nothing. Its text is `"{ts}:{id}"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    ts: UnixNanos,
    id: String,
}

/// A text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor (expected nanoseconds, a colon and an event id)")]
pub struct InvalidCursor;

impl Cursor {
    /// The most bytes that the id may have in the text of a cursor. Ids are 32 long.
    pub const MAX_ID: usize = 256;

    /// The place before all events.
    pub const START: Self = Self {
        ts: UnixNanos::new(i64::MIN),
        id: String::new(),
    };

    /// The place behind the event with this time and id.
    pub fn new(ts: UnixNanos, id: &str) -> Self {
        Self {
            ts,
            id: id.to_owned(),
        }
    }

    /// The place behind all events with a time up to `ts`: the meaning of the inherited cursor.
    pub fn after_time(ts: UnixNanos) -> Self {
        // Before every id of the next nanosecond, since no id is empty.
        match ts.get().checked_add(1) {
            Some(next) => Self {
                ts: UnixNanos::new(next),
                id: String::new(),
            },
            // Nothing is later than the end of time; no id sorts behind this one.
            None => Self {
                ts,
                id: char::MAX.to_string(),
            },
        }
    }

    /// The place behind `event`.
    pub fn behind(event: &SyncEvent) -> Self {
        Self::new(event.ts, &event.id)
    }

    /// The time of the event that the cursor is behind.
    pub fn ts(&self) -> UnixNanos {
        self.ts
    }

    /// The id of the event that the cursor is behind; empty: before all events of that time.
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
