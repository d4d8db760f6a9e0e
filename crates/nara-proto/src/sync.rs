//! Event sync: `POST /events/sync` (docs/protocol/v1.md, section 7.3).

mod cursor;
mod pager;
mod select;

pub use cursor::{Cursor, InvalidCursor};
pub use pager::{PageError, Pager};
pub use select::{EventFilter, MAX_EVENTS, SyncMode, is_critical, sample_weight, sample_weight_of};

use sha2::{Digest as _, Sha256};

use crate::event::SyncEvent;
use crate::identity::{KeyPair, PublicKey, VerifyError, verify_base64};
use crate::time::{UnixNanos, UnixSeconds};
use crate::wire_struct;
use crate::zine::with_ids;

wire_struct! {
    /// The body of `POST /events/sync`. [`SyncRequest::mode`] parses it as one of the four modes.
    pub struct SyncRequest {
        /// The name of the requester.
        pub from: String = "from",
        /// The requested services; absent or empty for all.
        pub services: Option<Vec<String>> = "services",
        /// The requested names, as actor or target; absent or empty for all.
        pub subjects: Option<Vec<String>> = "subjects",
        /// `sample`, `page` or `recent`; any other value means the legacy mode.
        pub mode: String = "mode", omit,
        /// Mode `sample`: the number of events.
        pub sample_size: i64 = "sample_size", omit,
        /// Mode `page`: only events later than this, decimal **nanoseconds**.
        pub cursor: String = "cursor", omit,
        /// Mode `page`: the number of events.
        pub page_size: i64 = "page_size", omit,
        /// Mode `recent`: the number of events.
        pub limit: i64 = "limit", omit,
        /// Legacy mode: only events later than this, in **nanoseconds**.
        pub since_time: UnixNanos = "since_time", omit,
        /// Legacy mode: the index of the slice.
        pub slice_index: i64 = "slice_index", omit,
        /// Legacy mode: the number of slices.
        pub slice_total: i64 = "slice_total", omit,
        /// Legacy mode: the number of events.
        pub max_events: i64 = "max_events", omit,
        /// Mode `page`, an extension: a [`Cursor`]. A peer that supports it prefers it to `cursor` and returns
        /// `next_after` in the answer; v1 peers ignore it.
        pub after: String = "after", omit,
    }
}

impl SyncRequest {
    /// Returns a request for one page of events behind `after`, oldest first. `size` is limited to [`MAX_EVENTS`].
    pub fn page(after: Option<&Cursor>, size: usize) -> Self {
        let mut request = Self {
            mode: "page".to_owned(),
            page_size: clamp(size),
            ..Self::default()
        };
        if let Some(after) = after {
            request.cursor = after.ts().to_string();
            request.after = after.to_string();
        }
        request
    }

    /// Returns a request for the newest events, newest first.
    pub fn recent(limit: usize) -> Self {
        Self {
            mode: "recent".to_owned(),
            limit: clamp(limit),
            ..Self::default()
        }
    }

    /// Returns a request for a random sample that favours critical and recent events.
    pub fn sample(size: usize) -> Self {
        Self {
            mode: "sample".to_owned(),
            sample_size: clamp(size),
            ..Self::default()
        }
    }

    /// Restricts the request to these services.
    #[must_use]
    pub fn services<S: Into<String>>(mut self, services: impl IntoIterator<Item = S>) -> Self {
        self.services = Some(services.into_iter().map(Into::into).collect());
        self
    }

    /// Restricts the request to events about these names.
    #[must_use]
    pub fn subjects<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.subjects = Some(subjects.into_iter().map(Into::into).collect());
        self
    }
}

fn clamp(size: usize) -> i64 {
    i64::try_from(size.min(MAX_EVENTS)).expect("at most MAX_EVENTS")
}

wire_struct! {
    /// The answer of `POST /events/sync`.
    pub struct SyncResponse {
        /// The name of the responder.
        pub from: String = "from",
        /// The events; `null` when nothing matched.
        pub events: Option<Vec<SyncEvent>> = "events",
        /// Mode `page`: the start of the next page, if this one is full.
        pub next_cursor: String = "next_cursor", omit,
        /// The time of the answer, in **seconds**.
        pub ts: UnixSeconds = "ts", omit,
        /// The signature, base64. It covers `from`, `ts` and the ids only.
        pub sig: String = "sig", omit,
        /// Mode `page`, an extension: the [`Cursor`] behind the last event, if the request had `after` and more may
        /// follow.
        pub next_after: String = "next_after", omit,
        /// Mode `page`, an extension: the responder's total number of events, if the request had `after` and no filter.
        pub total: u64 = "total", omit,
    }
}

impl SyncResponse {
    /// Returns a signed response. An empty list is written as `null`, as by v1 peers.
    pub fn signed(from: &str, events: Vec<SyncEvent>, ts: UnixSeconds, keypair: &KeyPair) -> Self {
        let mut response = Self::unsigned(from, events, ts);
        response.sig = keypair.sign(&response.digest()).to_base64();
        response
    }

    /// Returns a response without the inner signature, for a response that is proven as a whole: by a v2 signature, or
    /// by the connection.
    pub fn unsigned(from: &str, events: Vec<SyncEvent>, ts: UnixSeconds) -> Self {
        Self {
            from: from.to_owned(),
            events: (!events.is_empty()).then_some(events),
            ts,
            ..Self::default()
        }
    }

    /// Returns the events; empty if the list is absent.
    pub fn events(&self) -> &[SyncEvent] {
        self.events.as_deref().unwrap_or_default()
    }

    /// Returns the text whose hash is signed: `"{from}:{ts}:"` and the ids.
    pub fn digest_preimage(&self) -> String {
        with_ids(format!("{}:{}:", self.from, self.ts), self.events())
    }

    /// Returns the SHA-256 digest that is signed.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.digest_preimage()).into()
    }

    /// Verifies the inner signature with the responder's key. It covers the ids only: the events must be verified
    /// separately.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not the responder's.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        verify_base64(key, &self.digest(), &self.sig)
    }
}
