//! Who is there: every sign of it comes in here.

use std::time::{Duration, Instant};

use nara_proto::event::{Service, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixNanos;

use super::{Peer, PeerRegistry};
use crate::clock::monotonic_now as now;
use crate::ledger::{EventStore, LedgerError, ReadLimit};
use crate::offload::offload;

/// A goodbye that is younger than this was said just now, whatever the clock of its nara says.
const JUST_NOW: Duration = Duration::from_secs(120);

/// Events of a ledger from which the presence of naras is recalled: the newest ones, and the newest with which naras
/// came and went.
const RECALLED: usize = 500;

impl PeerRegistry {
    /// Notes what an event says about the presence of its emitter. It must have been **verified** with the key of the
    /// emitter; `wall_clock` is now.
    pub(crate) fn hear(&self, event: &SyncEvent, wall_clock: UnixNanos) {
        let Some(peer) = self.by_name(&event.emitter) else {
            return;
        };
        // An event of the future counts as one of now.
        let age = u64::try_from(wall_clock.get().saturating_sub(event.ts.get())).unwrap_or_default();
        let age = Duration::from_nanos(age);
        let Some(at) = now().checked_sub(age) else {
            // Before this machine started: nobody who was there then is known to be there now.
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

    /// Recalls from a ledger who came, who went, and who was heard of last; `wall_clock` is now. Events count that
    /// verify with the pinned key of their emitter.
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

    /// The nara with this name has just proven that it is there.
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
