use std::fmt::Debug;
use std::ops::Sub;
use std::sync::Arc;
use std::time::Duration;

use crate::defaults;

/// What is known about the nara with a name, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Standing {
    /// No key is known for it: events about it are the first to go.
    Stranger,
    /// Its key was passed on by another nara. What it signs is charged to whoever told it.
    Introduced,
    /// Its key was learned from its own address. What it signs is charged to itself.
    Met,
    /// The operator gave its key. What it signs is the last to go.
    Configured,
    /// It is this nara itself. What it signs does not go for what others sign, up to half of the room.
    Own,
}

impl Standing {
    /// Whether it is this nara itself, or the operator gave its key.
    pub(super) fn is_configured(self) -> bool {
        self >= Self::Configured
    }
}

/// Tells the standing of the naras that events name.
///
/// The ledger asks it while locked, so it must be quick and must not call the ledger.
pub trait KnownNames: Debug + Send + Sync + 'static {
    /// The standing of the nara with this name. This nara itself is [`Standing::Own`].
    fn standing(&self, name: &str) -> Standing;
}

/// Has met every nara: no event counts as an event about strangers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EveryoneKnown;

impl KnownNames for EveryoneKnown {
    fn standing(&self, _: &str) -> Standing {
        Standing::Met
    }
}

/// The part of the ledger that one account is guaranteed as long as no more than eight claim theirs: an eighth. Room that
/// nobody claims may be used by anybody; an account over its quota is the first that is pruned.
const QUOTA: usize = 8;

/// The part of the ledger that an account has before anybody keeps more: a sixty-fourth.
const FLOOR: usize = 64;

/// The room for unverified events, as a part of the room for verified ones, on top of it: a tenth.
const UNVERIFIED: usize = 10;

/// What a ledger keeps (docs/protocol/v1.md, section 8.6). The default is [`RetentionPolicy::MEDIUM`].
///
/// Verified and unverified events do not compete for room. Each verified event is charged to one account: its emitter,
/// if that nara was met, else the peer that told it. When the ledger is too large, events go in this order: those of
/// accounts over their quota, those about strangers, those of the largest accounts, then by service, the oldest first.
/// Those of this nara and of configured peers are the last: first those of peers over their quota, then those of this nara
/// beyond half of the room, then those of the largest peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Verified events in all. The ledger is pruned to this size when it is more than 1 % over; unverified events may
    /// take a tenth of it on top.
    ///
    /// Checkpoints, restarts and first sightings are pruned only from accounts over their quota; if they alone are as
    /// many, further ones are not stored, so that nobody can fill the disk with them.
    pub max_events: usize,
    /// The same in bytes of JSON.
    pub max_bytes: usize,
    /// The largest event, in bytes of JSON. Real ones have a few hundred.
    pub max_event_bytes: usize,
    /// How far ahead of our clock the time of an event may be: one of the far future would never be the oldest.
    pub max_ahead: Duration,
    /// How long unverified events are kept.
    pub unverified_for: Duration,
    /// Pings per target, from all observers.
    pub pings_per_target: usize,
    /// Observations per observer and subject. Restarts may exceed it until there is a checkpoint that
    /// counts them.
    pub observations_per_pair: usize,
}

impl RetentionPolicy {
    /// The memory mode `hog` of v1 peers: 320,000 verified events.
    pub const HOG: Self = Self::sized(320_000);

    /// The memory mode `medium`: 80,000 verified events.
    pub const MEDIUM: Self = Self::sized(80_000);

    /// The memory mode `short`: 20,000 verified events.
    pub const SHORT: Self = Self::sized(20_000);

    /// Keeps everything: for tests, benchmarks and archives.
    pub const UNLIMITED: Self = Self {
        max_events: usize::MAX,
        max_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
        max_ahead: Duration::MAX,
        unverified_for: Duration::MAX,
        pings_per_target: usize::MAX,
        observations_per_pair: usize::MAX,
    };

    const fn sized(max_events: usize) -> Self {
        Self {
            max_events,
            max_bytes: max_events * defaults::EVENT_BYTES,
            max_event_bytes: defaults::MAX_EVENT_BYTES,
            max_ahead: defaults::MAX_EVENT_AHEAD,
            unverified_for: defaults::UNVERIFIED_EVENTS_FOR,
            pings_per_target: 5,
            observations_per_pair: 20,
        }
    }

    /// Sets the number of verified events in all.
    #[must_use]
    pub const fn max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// Sets the number of bytes in all.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the size of the largest event.
    #[must_use]
    pub const fn max_event_bytes(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Sets the distance to the future.
    #[must_use]
    pub const fn max_ahead(mut self, max_ahead: Duration) -> Self {
        self.max_ahead = max_ahead;
        self
    }

    /// Sets the time for which unverified events are kept.
    #[must_use]
    pub const fn unverified_for(mut self, unverified_for: Duration) -> Self {
        self.unverified_for = unverified_for;
        self
    }

    /// Sets the number of pings per target.
    #[must_use]
    pub const fn pings_per_target(mut self, pings: usize) -> Self {
        self.pings_per_target = pings;
        self
    }

    /// Sets the number of observations per observer and subject.
    #[must_use]
    pub const fn observations_per_pair(mut self, observations: usize) -> Self {
        self.observations_per_pair = observations;
        self
    }

    /// The room for verified events.
    pub(super) const fn room(&self) -> Size {
        Size {
            events: self.max_events,
            bytes: self.max_bytes,
        }
    }

    /// What one account is guaranteed of it.
    pub(super) fn quota(&self) -> Size {
        self.room().part(QUOTA)
    }

    /// What this nara is guaranteed of it.
    pub(super) fn half(&self) -> Size {
        self.room().part(2)
    }

    /// The room for statements about keys, within the room for verified events.
    pub(super) fn statements_room(&self) -> Size {
        self.room().part(QUOTA)
    }

    /// What an account has before the observations that others keep.
    pub(super) fn floor(&self) -> Size {
        self.room().part(FLOOR)
    }

    /// The room for unverified events.
    pub(super) fn unverified_room(&self) -> Size {
        self.room().part(UNVERIFIED)
    }

    /// What one teller, or one claimed emitter, may take of it.
    pub(super) fn unverified_quota(&self) -> Size {
        self.unverified_room().part(QUOTA)
    }

    /// How much is to be pruned from verified events of this size: nothing until they are more than 1 % too large,
    /// so that the work is done for many insertions at once.
    pub(super) fn excess(&self, held: Size) -> Size {
        let room = self.room();
        let over = |held: usize, room: usize| {
            if held > room.saturating_add(room / 100) {
                held - room
            } else {
                0
            }
        };
        Size {
            events: over(held.events, room.events),
            bytes: over(held.bytes, room.bytes),
        }
    }
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self::MEDIUM
    }
}

/// A number of events, and their bytes as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Size {
    pub(super) const fn one(bytes: usize) -> Self {
        Self { events: 1, bytes }
    }

    pub(super) const fn is_zero(self) -> bool {
        self.events == 0 && self.bytes == 0
    }

    /// Whether it is beyond a limit, in events or in bytes.
    pub(super) const fn exceeds(self, limit: Self) -> bool {
        self.events > limit.events || self.bytes > limit.bytes
    }

    #[must_use]
    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// A part of it, at least one event.
    pub(super) fn part(self, divisor: usize) -> Self {
        Self {
            events: self.events.div_ceil(divisor),
            bytes: self.bytes.div_ceil(divisor),
        }
    }

    #[must_use]
    pub(super) fn min(self, other: Self) -> Self {
        Self {
            events: self.events.min(other.events),
            bytes: self.bytes.min(other.bytes),
        }
    }

    /// Where it is something at all, at least this part of `whole`.
    #[must_use]
    pub(super) fn at_least(self, whole: Self, divisor: usize) -> Self {
        let raised = |some: usize, whole: usize| if some == 0 { 0 } else { some.max(whole / divisor) };
        Self {
            events: raised(self.events, whole.events),
            bytes: raised(self.bytes, whole.bytes),
        }
    }
}

impl Sub for Size {
    type Output = Self;

    /// Less, but not less than nothing.
    fn sub(self, less: Self) -> Self {
        Self {
            events: self.events.saturating_sub(less.events),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// The policy of a ledger and whom it knows.
#[derive(Clone, Debug)]
pub(super) struct Retention {
    pub(super) policy: RetentionPolicy,
    pub(super) known: Arc<dyn KnownNames>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            policy: RetentionPolicy::default(),
            known: Arc::new(EveryoneKnown),
        }
    }
}

impl Retention {
    /// Whether one of the two is a nara that is not known here. An empty name is nobody.
    pub(super) fn is_about_strangers(&self, actor: &str, target: &str) -> bool {
        [actor, target]
            .into_iter()
            .any(|name| !name.is_empty() && self.known.standing(name) == Standing::Stranger)
    }
}
