use std::fmt::Debug;

/// Says whether a name belongs to a nara that is known here: events about strangers are the first to go.
pub trait KnownNames: Debug + Send + Sync + 'static {
    /// Whether the name is known.
    fn is_known(&self, name: &str) -> bool;
}

/// How much a nara remembers (wire facts, section 8.6).
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

/// What a ledger keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Events in all.
    pub max_events: usize,
    /// Pings per target.
    pub pings_per_target: usize,
    /// Observations per observer and subject.
    pub observations_per_pair: usize,
}
