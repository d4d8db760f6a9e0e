//! Stored events, reduced to what admission needs.

use std::sync::Arc;

use nara_proto::event::SyncEvent;
use nara_proto::time::UnixNanos;

use super::rank::Rank;

/// The position of an event in time (ties by id) and in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) ts: UnixNanos,
    pub(super) id: Arc<str>,
    /// Increases with each stored event.
    pub(super) seq: i64,
}

impl Place {
    /// Returns whether `event` precedes this position in time.
    pub(super) fn is_after(&self, event: &SyncEvent) -> bool {
        (event.ts, event.id.as_str()) < (self.ts, &*self.id)
    }
}

/// A stored event, reduced to what admission needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) rank: Rank,
}

impl Held {
    /// Returns whether a new event may evict this one.
    pub(super) fn yields_to(&self, event: &SyncEvent, rank: Rank) -> bool {
        self.rank < rank || (self.rank == rank && !self.place.is_after(event))
    }
}

/// A verified round-trip measurement to a target.
#[derive(Clone, Debug)]
pub(super) struct HeldPing {
    pub(super) held: Held,
    pub(super) observer: String,
    pub(super) account: Option<String>,
}

/// Returns the measurement to evict for a new one, if any.
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
    // Among accounts of equal size, choose the one whose measurement is first in eviction order.
    let shares = pings.iter().rev().map(|ping| of(ping.account.as_deref()));
    let largest = shares.max_by_key(Vec::len)?;
    if largest.len() >= own.len() + 2 {
        return largest.first().map(|ping| &ping.held);
    }
    let oldest = own.first().copied().or(Some(first));
    oldest.filter(older).map(|ping| &ping.held)
}

#[cfg(test)]
mod tests {
    use nara_proto::event::{Payload, PingPayload};

    use super::*;
    use crate::ledger::rank::Priority;

    const RANK: Rank = Rank::common(Priority::Ping);

    fn ping(ts: i64, observer: &str) -> SyncEvent {
        let payload = PingPayload {
            observer: observer.to_owned(),
            target: "carol".to_owned(),
            rtt: 1.0,
            ..PingPayload::default()
        };
        SyncEvent::new(UnixNanos::new(ts), Payload::Ping(payload))
    }

    fn held(event: &SyncEvent, rank: Rank) -> Held {
        let place = Place {
            ts: event.ts,
            id: event.id.as_str().into(),
            seq: event.ts.get(),
        };
        Held { place, rank }
    }

    #[test]
    fn an_event_takes_the_place_of_a_lower_rank_and_within_its_rank_of_no_later_one() {
        let (old, new) = (ping(1, "alice"), ping(2, "alice"));
        assert!(held(&new, Rank::STRANGER).yields_to(&old, RANK));
        assert!(!held(&old, RANK).yields_to(&new, Rank::STRANGER));
        assert!(held(&old, RANK).yields_to(&new, RANK));
        assert!(!held(&new, RANK).yields_to(&old, RANK));
        // A preferred copy of the same event.
        assert!(held(&old, RANK).yields_to(&old, RANK));
    }

    #[test]
    fn an_account_loses_a_place_to_one_with_two_fewer() {
        let of = |account: &str, times: std::ops::Range<i64>| {
            times
                .map(|ts| HeldPing {
                    held: held(&ping(ts, &format!("puppet-{ts}")), RANK),
                    observer: format!("puppet-{ts}"),
                    account: Some(account.to_owned()),
                })
                .collect::<Vec<_>>()
        };
        let new = ping(9, "puppet-9");
        for (of_eve, of_mallory, goes) in [(2, 1, 3), (3, 1, 1), (3, 2, 4), (4, 2, 1)] {
            let mut pings = of("eve", 1..1 + of_eve);
            pings.extend(of("mallory", 1 + of_eve..1 + of_eve + of_mallory));
            let gone = ping_to_go(&pings, &new, RANK, Some("mallory")).unwrap();
            assert_eq!(gone.place.seq, goes, "{of_eve} against {of_mallory}");
        }
    }
}
