use std::fmt::Debug;
use std::ops::Sub;
use std::sync::Arc;
use std::time::Duration;

use crate::defaults;

/// The standing of a nara, from the least known to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Standing {
    /// No key is known: events about it are evicted first.
    Stranger,
    /// Another nara passed its key on. Events that it signs are charged to the peer that sent them.
    Introduced,
    /// Its key was learned from its own address. Events that it signs are charged to itself.
    Met,
    /// The operator gave its key. Events that it signs are evicted last.
    Configured,
    /// This nara itself. Its own events are not evicted for events of others, up to half of the room.
    Own,
}

impl Standing {
    /// Returns whether it is this nara itself, or the operator gave its key.
    pub(super) fn is_configured(self) -> bool {
        self >= Self::Configured
    }
}

/// Provides the standing of the naras that events name.
///
/// The ledger calls it while locked, so it must be quick and must not call the ledger.
pub trait KnownNames: Debug + Send + Sync + 'static {
    /// Returns the standing of the nara with this name. This nara itself is [`Standing::Own`].
    fn standing(&self, name: &str) -> Standing;
}

/// Treats every nara as met: no event counts as an event about strangers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EveryoneKnown;

impl KnownNames for EveryoneKnown {
    fn standing(&self, _: &str) -> Standing {
        Standing::Met
    }
}

/// The quota of an account, as a divisor of the ledger: an eighth, guaranteed as long as no more than eight
/// accounts claim it. Others may use unclaimed room; an account over its quota is pruned first.
const QUOTA: usize = 8;

/// The floor of an account, as a divisor of the ledger: a sixty-fourth. An account gets it before others keep
/// more.
const FLOOR: usize = 64;

/// The room for unverified events, as a divisor of the room for verified ones: a tenth, in addition to it.
const UNVERIFIED: usize = 10;

/// The limits of what a ledger keeps (docs/protocol/v1.md, section 8.6). The default is
/// [`RetentionPolicy::MEDIUM`].
///
/// Verified and unverified events do not compete for room. Each verified event is charged to one account: its
/// emitter if that nara was met, else the peer that sent it. When the ledger is too large, events are evicted in
/// this order: from accounts over their quota, about strangers, from the largest accounts, then by service,
/// oldest first. Events of this nara and of configured peers come last: first from peers over their quota, then
/// from this nara beyond half of the room, then from the largest peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Maximum number of verified events. The ledger is pruned to this size when it is more than 1 % over;
    /// unverified events may take an additional tenth.
    ///
    /// Checkpoints, restarts and first sightings are pruned only from accounts over their quota. If they alone
    /// reach the maximum, further ones are not stored, so that they cannot fill the disk.
    pub max_events: usize,
    /// Maximum size of the verified events in bytes of JSON, enforced like `max_events`.
    pub max_bytes: usize,
    /// Maximum size of an event in bytes of JSON. Real events have a few hundred bytes.
    pub max_event_bytes: usize,
    /// How far ahead of our clock the time of an event may be: an event in the far future would never be the
    /// oldest.
    pub max_ahead: Duration,
    /// How long unverified events are kept.
    pub unverified_for: Duration,
    /// Pings per target, over all observers.
    pub pings_per_target: usize,
    /// Observations per observer and subject. Restarts may exceed it until a checkpoint counts them.
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

    /// Sets the maximum number of verified events.
    #[must_use]
    pub const fn max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
        self
    }

    /// Sets the maximum size of the verified events in bytes of JSON.
    #[must_use]
    pub const fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Sets the maximum size of an event in bytes of JSON.
    #[must_use]
    pub const fn max_event_bytes(mut self, max_event_bytes: usize) -> Self {
        self.max_event_bytes = max_event_bytes;
        self
    }

    /// Sets how far in the future the time of an event may be.
    #[must_use]
    pub const fn max_ahead(mut self, max_ahead: Duration) -> Self {
        self.max_ahead = max_ahead;
        self
    }

    /// Sets how long unverified events are kept.
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

    /// Returns the room for verified events.
    pub(super) const fn room(&self) -> Size {
        Size {
            events: self.max_events,
            bytes: self.max_bytes,
        }
    }

    /// Returns the quota that each account is guaranteed of the room.
    pub(super) fn quota(&self) -> Size {
        self.room().part(QUOTA)
    }

    /// Returns the half of the room that this nara is guaranteed.
    pub(super) fn half(&self) -> Size {
        self.room().part(2)
    }

    /// Returns the room for statements about keys, within the room for verified events.
    pub(super) fn statements_room(&self) -> Size {
        self.room().part(QUOTA)
    }

    /// Returns the floor that an account gets before others keep protected events.
    pub(super) fn floor(&self) -> Size {
        self.room().part(FLOOR)
    }

    /// Returns the room for unverified events.
    pub(super) fn unverified_room(&self) -> Size {
        self.room().part(UNVERIFIED)
    }

    /// Returns the quota of one sender, or one claimed emitter, of the room for unverified events.
    pub(super) fn unverified_quota(&self) -> Size {
        self.unverified_room().part(QUOTA)
    }

    /// Returns how much to prune from verified events of this size: nothing until they are more than 1 % over, so
    /// that one pruning serves many insertions.
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

/// A number of events and their size as JSON.
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

    /// Returns whether it exceeds a limit, in events or in bytes.
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

    /// Returns a fraction of it, rounded up.
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

    /// Raises each nonzero value to at least `1/divisor` of `whole`.
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

    /// Saturates at zero.
    fn sub(self, less: Self) -> Self {
        Self {
            events: self.events.saturating_sub(less.events),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }
}

/// The policy of a ledger, and the naras it knows.
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
    /// Returns whether either name belongs to an unknown nara. Empty names are ignored.
    pub(super) fn is_about_strangers(&self, actor: &str, target: &str) -> bool {
        [actor, target]
            .into_iter()
            .any(|name| !name.is_empty() && self.known.standing(name) == Standing::Stranger)
    }
}
