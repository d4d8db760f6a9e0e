//! Events that are stored, as far as admission needs to know them.

use std::sync::Arc;

use nara_proto::event::SyncEvent;
use nara_proto::time::UnixNanos;

use super::rank::Rank;

/// Where an event stands: in time (ties by id), and in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) ts: UnixNanos,
    pub(super) id: Arc<str>,
    /// Rises with each event that is stored.
    pub(super) seq: i64,
}

impl Place {
    /// Whether `event` comes before this place in time.
    pub(super) fn is_after(&self, event: &SyncEvent) -> bool {
        (event.ts, event.id.as_str()) < (self.ts, &*self.id)
    }
}

/// An event that is stored, with what admission needs to know about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) rank: Rank,
}

impl Held {
    /// Whether a new event may take its place.
    pub(super) fn yields_to(&self, event: &SyncEvent, rank: Rank) -> bool {
        self.rank < rank || (self.rank == rank && !self.place.is_after(event))
    }
}

/// A verified measurement of the round trip to one target.
#[derive(Clone, Debug)]
pub(super) struct HeldPing {
    pub(super) held: Held,
    pub(super) observer: String,
    pub(super) account: Option<String>,
}

/// Which measurement goes for a new one, if any does.
pub(super) fn ping_to_go<'a>(
    pings: &'a [HeldPing],
    event: &SyncEvent,
    rank: Rank,
    account: Option<&str>,
) -> Option<&'a Held> {
    let older = |ping: &&'a HeldPing| ping.held.yields_to(event, rank);
    if let Some(own) = pings.iter().find(|ping| ping.observer == event.actor()) {
        return Some(own).filter(older).map(|ping| &ping.held);
    }
    let first = pings.first()?;
    let of = |account: Option<&str>| -> Vec<&'a HeldPing> {
        let same = |ping: &&HeldPing| ping.held.rank <= rank && ping.account.as_deref() == account;
        pings.iter().filter(same).collect()
    };
    let own = of(account);
    // Of two that have as many, the one whose measurement is the first to go.
    let shares = pings.iter().rev().map(|ping| of(ping.account.as_deref()));
    let largest = shares.max_by_key(Vec::len)?;
    if largest.len() >= own.len() + 2 {
        return largest.first().map(|ping| &ping.held);
    }
    let oldest = own.first().copied().or(Some(first));
    oldest.filter(older).map(|ping| &ping.held)
}
