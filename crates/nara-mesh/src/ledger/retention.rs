use std::fmt::Debug;
use std::sync::Arc;

use nara_proto::event::{Service, SyncEvent};

/// Tells whether a name belongs to a known nara: events about strangers are pruned first.
///
/// The ledger asks it while locked, so it must be quick and must not call the ledger. It should know the nara
/// itself too.
pub trait KnownNames: Debug + Send + Sync + 'static {
    /// Whether the name is known.
    fn is_known(&self, name: &str) -> bool;
}

/// Knows every name: no event counts as an event about strangers.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryoneKnown;

impl KnownNames for EveryoneKnown {
    fn is_known(&self, _: &str) -> bool {
        true
    }
}

/// How much a nara remembers (docs/protocol/v1.md, section 8.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryMode {
    /// 320,000 events.
    Hog,
    /// 80,000 events.
    #[default]
    Medium,
    /// 20,000 events.
    Short,
}

impl MemoryMode {
    /// The limit of events.
    pub const fn max_events(self) -> usize {
        match self {
            Self::Hog => 320_000,
            Self::Medium => 80_000,
            Self::Short => 20_000,
        }
    }
}

/// What a ledger keeps (docs/protocol/v1.md, section 8.6). The default is [`MemoryMode::Medium`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Events in all. The ledger is pruned to this size when it is more than 1 % over.
    ///
    /// Checkpoints, restarts and first sightings are never pruned. If they alone reach the limit, further ones are
    /// not stored, so that no peer can fill the disk with them.
    pub max_events: usize,
    /// Pings per target, from all observers.
    pub pings_per_target: usize,
    /// Observations per observer and subject. Restarts may exceed it until there is a checkpoint that
    /// counts them.
    pub observations_per_pair: usize,
}

impl RetentionPolicy {
    /// Keeps everything: for tests, benchmarks and archives.
    pub const UNLIMITED: Self = Self {
        max_events: usize::MAX,
        pings_per_target: usize::MAX,
        observations_per_pair: usize::MAX,
    };

    /// Sets the number of events in all.
    #[must_use]
    pub const fn max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events;
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

    /// How many events are to be pruned from a ledger of `total`: none until it is more than 1 % too large,
    /// so that the work is done for many insertions at once.
    pub(super) const fn excess(&self, total: usize) -> usize {
        let slack = self.max_events / 100;
        if total > self.max_events.saturating_add(slack) {
            total - self.max_events
        } else {
            0
        }
    }
}

impl From<MemoryMode> for RetentionPolicy {
    fn from(mode: MemoryMode) -> Self {
        Self {
            max_events: mode.max_events(),
            pings_per_target: 5,
            observations_per_pair: 20,
        }
    }
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        MemoryMode::default().into()
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
            .any(|name| !name.is_empty() && !self.known.is_known(name))
    }
}

/// How dear an event is when the ledger is too large: the lowest go first. The numbers are stored in
/// databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Priority {
    Ping = 0,
    Seen = 1,
    Social = 2,
    /// Changes of status, introductions and goodbyes.
    Presence = 3,
    FirstSeen = 4,
    Checkpoint = 5,
    Restart = 6,
}

impl Priority {
    /// Those that are pruned, in this order.
    pub(super) const PRUNED: [Self; 4] = [Self::Ping, Self::Seen, Self::Social, Self::Presence];

    /// The priority of an event.
    pub(super) fn of(event: &SyncEvent) -> Self {
        match event.service() {
            Some(Service::Ping) => Self::Ping,
            Some(Service::Seen) => Self::Seen,
            Some(Service::Social) => Self::Social,
            Some(Service::Checkpoint) => Self::Checkpoint,
            Some(Service::Observation) => match event.observation.as_deref().map(|p| p.kind.as_str()) {
                Some("restart") => Self::Restart,
                Some("first-seen") => Self::FirstSeen,
                _ => Self::Presence,
            },
            // Introductions and goodbyes; and what this version does not know, it does not give up first.
            _ => Self::Presence,
        }
    }

    /// Whether it is never pruned.
    pub(super) fn is_kept(self) -> bool {
        self >= Self::FirstSeen
    }

    /// Whether being about strangers makes an event go first. Introductions and goodbyes are how strangers
    /// become known.
    pub(super) fn may_be_stranger(event: &SyncEvent) -> bool {
        !Self::of(event).is_kept() && !matches!(event.service(), Some(Service::HeyThere | Service::Chau))
    }
}
