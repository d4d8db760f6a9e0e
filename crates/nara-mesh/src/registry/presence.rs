//! The presence of peers: all signs of life are recorded here.

use std::time::{Duration, Instant};

use nara_proto::event::{Service, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixNanos;

use super::{Peer, PeerRegistry};
use crate::clock::monotonic_now as now;
use crate::ledger::{EventStore, LedgerError, ReadLimit};
use crate::offload::offload;

/// A goodbye that is younger than this counts as made now, whatever clock its nara has.
const JUST_NOW: Duration = Duration::from_secs(120);

/// The number of events of a ledger from which the presence of naras is restored: the newest ones, and the newest
/// introductions and goodbyes.
const RECALLED: usize = 500;

impl PeerRegistry {
    /// Records what an event says about the presence of its emitter. It must be **verified** with the emitter's key;
    /// `wall_clock` is the current time.
    pub(crate) fn hear(&self, event: &SyncEvent, wall_clock: UnixNanos) {
        let Some(peer) = self.by_name(&event.emitter) else {
            return;
        };
        // A future event counts as current.
        let age = u64::try_from(wall_clock.get().saturating_sub(event.ts.get())).unwrap_or_default();
        let age = Duration::from_nanos(age);
        let Some(at) = now().checked_sub(age) else {
            // From before this machine started: it does not show that the nara is online now.
            return;
        };
        let mut signs = peer.signs_of_life();
        match event.service() {
            Some(Service::HeyThere) => signs.introduced(at, event.ts),
            Some(Service::Chau) if age <= JUST_NOW => signs.goodbye(now(), event.ts),
            Some(Service::Chau) => signs.goodbye(at, event.ts),
            _ => signs.alive(at),
        }
    }

    /// Restores presence from the introductions, goodbyes and newest events of a ledger; `wall_clock` is the current
    /// time. Only events that verify with the pinned key of their emitter count.
    ///
    /// # Errors
    /// [`LedgerError`] if the ledger cannot be read.
    pub async fn recall_presence<L: EventStore + ?Sized>(
        &self,
        ledger: &L,
        wall_clock: UnixNanos,
    ) -> Result<(), LedgerError> {
        let comings = EventFilter {
            services: [Service::HeyThere, Service::Chau]
                .map(|s| s.as_str().to_owned())
                .to_vec(),
            ..EventFilter::default()
        };
        for filter in [comings, EventFilter::default()] {
            let mut events = ledger.recent(filter, ReadLimit::events(RECALLED)).await?;
            let registry = self.clone();
            let verify = move || {
                events.retain(|checked| {
                    let event = &checked.event;
                    let key = registry.by_name(&event.emitter).and_then(|peer| peer.key());
                    key.is_some_and(|key| event.has_genuine_id() && event.verify(&key).is_ok())
                });
                events
            };
            for checked in offload(true, verify).await {
                self.hear(&checked.event, wall_clock);
            }
        }
        Ok(())
    }

    /// Records that the nara with this name has just proven to be online.
    pub(crate) fn showed_life(&self, name: &NaraName) {
        if let Some(peer) = self.by_name(name.as_str()) {
            peer.note_alive(now());
        }
    }
}

impl Peer {
    pub(crate) fn note_alive(&self, at: Instant) {
        self.signs_of_life().alive(at);
    }

    pub(super) fn note_lost(&self, at: Instant) {
        self.signs_of_life().lost(at);
    }
}
