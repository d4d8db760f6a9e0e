use std::collections::BTreeMap;
use std::sync::Arc;

use nara_proto::checkpoint::is_filtered_at_ingest;
use nara_proto::event::{Service, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::time::UnixNanos;

use super::Insertion;
use super::retention::{Priority, Retention};

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
    fn is_after(&self, event: &SyncEvent) -> bool {
        (event.ts, event.id.as_str()) < (self.ts, &*self.id)
    }
}

/// An event that was about strangers when it was stored.
pub(super) struct Stranger {
    pub(super) place: Place,
    pub(super) actor: String,
    pub(super) target: String,
}

/// What the rules of retention need of a storage. Every method is a look-up in an index.
pub(super) trait Shelf {
    type Error;

    /// Whether an event with this id is stored.
    fn contains(&mut self, id: &str) -> Result<bool, Self::Error>;

    /// Stores an event whose id is new; its place in the order of arrival.
    fn add(
        &mut self,
        event: SyncEvent,
        priority: Priority,
        stranger: bool,
        origin: Option<&NaraName>,
    ) -> Result<i64, Self::Error>;

    /// Removes an event.
    fn remove(&mut self, place: &Place) -> Result<(), Self::Error>;

    /// Notes that the event is not about strangers any more.
    fn acquaint(&mut self, place: &Place) -> Result<(), Self::Error>;

    /// The number of stored events.
    fn count(&self) -> usize;

    /// How many of those are never pruned.
    fn count_kept(&self) -> usize;

    /// How many pings of a target are stored, at most `limit`.
    fn count_pings(&mut self, target: &str, limit: usize) -> Result<usize, Self::Error>;

    /// The oldest ping of a target.
    fn oldest_ping(&mut self, target: &str) -> Result<Option<Place>, Self::Error>;

    /// How many observations of a pair are stored, at most `limit`.
    fn count_observations(&mut self, pair: (&str, &str), limit: usize) -> Result<usize, Self::Error>;

    /// The oldest restart, or the oldest other observation, of a pair.
    fn oldest_observation(&mut self, pair: (&str, &str), restart: bool)
    -> Result<Option<Place>, Self::Error>;

    /// Whether a checkpoint about this subject is stored.
    fn has_checkpoint(&mut self, subject: &str) -> Result<bool, Self::Error>;

    /// The oldest events about strangers, at most `limit`.
    fn oldest_strangers(&mut self, limit: usize) -> Result<Vec<Stranger>, Self::Error>;

    /// The oldest events of a priority, at most `limit`.
    fn oldest(&mut self, priority: Priority, limit: usize) -> Result<Vec<Place>, Self::Error>;
}

/// What became of events that were to be stored.
pub(super) struct Admitted {
    /// One outcome for each.
    pub(super) outcomes: Vec<Insertion>,
    /// Those that are stored: their places in the order of arrival, and their indices.
    pub(super) stored: BTreeMap<i64, usize>,
}

/// Stores the events that the rules of retention let in (docs/protocol/v1.md, section 8.6) and removes those that have
/// to go for them. An event that does not outlive the call was not retained.
pub(super) fn admit<S: Shelf>(
    shelf: &mut S,
    retention: &Retention,
    events: Vec<SyncEvent>,
    origin: Option<&NaraName>,
) -> Result<Admitted, S::Error> {
    let mut admission = Admission {
        shelf,
        retention,
        origin,
        outcomes: Vec::with_capacity(events.len()),
        stored: BTreeMap::new(),
    };
    for event in events {
        admission.take(event)?;
    }
    admission.prune()?;
    Ok(Admitted {
        outcomes: admission.outcomes,
        stored: admission.stored,
    })
}

struct Admission<'a, S> {
    shelf: &'a mut S,
    retention: &'a Retention,
    origin: Option<&'a NaraName>,
    outcomes: Vec<Insertion>,
    /// The outcomes of the events that are stored, by order of arrival.
    stored: BTreeMap<i64, usize>,
}

/// How many events are looked up at once while pruning.
const PRUNE_BATCH: usize = 1_000;

impl<S: Shelf> Admission<'_, S> {
    fn take(&mut self, mut event: SyncEvent) -> Result<(), S::Error> {
        if event.id.is_empty() {
            event.id = event.compute_id();
        }
        let outcome = if self.shelf.contains(&event.id)? {
            Insertion::Duplicate
        } else if is_forgotten(&event) {
            Insertion::Forgotten
        } else if self.make_room(&event)? {
            let priority = Priority::of(&event);
            let stranger = Priority::may_be_stranger(&event)
                && self.retention.is_about_strangers(event.actor(), event.target());
            let seq = self.shelf.add(event, priority, stranger, self.origin)?;
            self.stored.insert(seq, self.outcomes.len());
            Insertion::Stored
        } else {
            Insertion::NotRetained
        };
        self.outcomes.push(outcome);
        Ok(())
    }

    /// Whether the event may be stored; what has to go for it is gone then.
    fn make_room(&mut self, event: &SyncEvent) -> Result<bool, S::Error> {
        let policy = self.retention.policy;
        if Priority::of(event).is_kept() && self.shelf.count_kept() >= policy.max_events {
            return Ok(false);
        }
        match event.service() {
            Some(Service::Ping) => self.make_room_for_ping(event, policy.pings_per_target),
            Some(Service::Observation) => self.make_room_for_observation(event, policy.observations_per_pair),
            _ => Ok(true),
        }
    }

    fn make_room_for_ping(&mut self, event: &SyncEvent, limit: usize) -> Result<bool, S::Error> {
        if limit == usize::MAX {
            // Not counted: that would be all there are.
            return Ok(true);
        }
        while self.shelf.count_pings(event.target(), limit)? >= limit {
            match self.shelf.oldest_ping(event.target())? {
                Some(oldest) if !oldest.is_after(event) => self.remove(&oldest)?,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The new event competes with those that are there, so that an old one that comes again does not push
    /// out a newer one.
    fn make_room_for_observation(&mut self, event: &SyncEvent, limit: usize) -> Result<bool, S::Error> {
        if limit == usize::MAX {
            return Ok(true);
        }
        let pair = (event.actor(), event.target());
        let is_restart = Priority::of(event) == Priority::Restart;
        while self.shelf.count_observations(pair, limit)? >= limit {
            let other = self.shelf.oldest_observation(pair, false)?;
            let oldest = if other.is_some() || !is_restart {
                other.filter(|oldest| is_restart || !oldest.is_after(event))
            } else if self.shelf.has_checkpoint(event.target())? {
                self.shelf
                    .oldest_observation(pair, true)?
                    .filter(|oldest| !oldest.is_after(event))
            } else {
                // Restarts are not lost before a checkpoint counts them.
                return Ok(true);
            };
            match oldest {
                Some(oldest) => self.remove(&oldest)?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn prune(&mut self) -> Result<(), S::Error> {
        let mut excess = self.retention.policy.excess(self.shelf.count());
        while excess > 0 {
            let strangers = self.shelf.oldest_strangers(excess.min(PRUNE_BATCH))?;
            if strangers.is_empty() {
                break;
            }
            for stranger in strangers {
                if self
                    .retention
                    .is_about_strangers(&stranger.actor, &stranger.target)
                {
                    self.remove(&stranger.place)?;
                    excess -= 1;
                } else {
                    self.shelf.acquaint(&stranger.place)?;
                }
            }
        }
        for priority in Priority::PRUNED {
            while excess > 0 {
                let oldest = self.shelf.oldest(priority, excess.min(PRUNE_BATCH))?;
                if oldest.is_empty() {
                    break;
                }
                for place in oldest {
                    self.remove(&place)?;
                    excess -= 1;
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, place: &Place) -> Result<(), S::Error> {
        if let Some(index) = self.stored.remove(&place.seq) {
            self.outcomes[index] = Insertion::NotRetained;
        }
        self.shelf.remove(place)
    }
}

fn is_forgotten(event: &SyncEvent) -> bool {
    event.service() == Some(Service::Checkpoint)
        && event.checkpoint.as_deref().is_some_and(is_filtered_at_ingest)
}
