//! Finds the difference between two sets of events in a few hundred bytes: `POST /events/reconcile` and
//! `POST /events/fetch`. Specification: `docs/protocol/reconciliation.md`.
//!
//! The frames are those of [negentropy](https://github.com/hoytech/negentropy), version 1 (range-based set
//! reconciliation). The initiator sends fingerprints of ranges of its set; the responder answers with finer
//! fingerprints where they differ, and with items where few are left. Only the initiator keeps state between rounds:
//! each request carries the scope and one frame, each answer one frame. Frames are raw bytes, not JSON.
//!
//! # Items
//!
//! The protocol orders items by a time and 32 bytes. The time is the event's time in whole **seconds** (0 before 1970),
//! because a bound in nanoseconds takes three times the bytes. The 32 bytes are an [`ItemId`], from which the event's
//! id can be recovered. Both are derived from the signed content of the event, so they cannot be chosen freely. A
//! fingerprint is 128 bits of a hash over the sum of all items of a range.

mod item;
mod reconciler;
mod scope;
mod set;

pub use item::ItemId;
pub use reconciler::{ReconcileError, Reconciler, respond};
pub use scope::{InvalidScope, Scope};
pub use set::{Change, ItemSet};

use crate::wire_struct;

/// The maximum size of a frame, in bytes: about 8,000 items.
pub const MAX_FRAME: usize = 256 << 10;

/// The maximum number of rounds: sets with more differences are better fetched page by page.
pub const MAX_ROUNDS: usize = 64;

wire_struct! {
    /// The body of `POST /events/fetch`: events by id. The answer is a [`SyncResponse`](crate::sync::SyncResponse) with
    /// the events that exist, in any order, as many as fit.
    pub struct FetchRequest {
        /// The name of the requester.
        pub from: String = "from",
        /// The ids, at most [`MAX_EVENTS`](crate::sync::MAX_EVENTS).
        pub ids: Option<Vec<String>> = "ids",
    }
}

#[cfg(test)]
mod tests;
