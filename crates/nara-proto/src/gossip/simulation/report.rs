use std::time::Duration;

/// The results of a simulation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The number of naras that were not down all the time.
    pub live: usize,
    /// The spread of each event.
    pub events: Vec<EventReport>,
    /// The number of pairs of a live nara and an event that it lacks at the end: 0 if gossip works.
    pub missing: usize,
    /// Whether at the end the open streams connect every live nara to every other.
    pub connected: bool,
    /// The number of streams that are open at the end.
    pub streams: usize,
    /// The number of subscriptions that were started.
    pub subscriptions: usize,
    /// The number of zines that were exchanged.
    pub zines: usize,
}

/// The spread of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventReport {
    /// The delay to each nara that was never cut off, shortest first; includes the maker, with zero.
    pub delays: Vec<Duration>,
    /// How often all naras together received it over streams, first copies included.
    pub copies: u64,
    /// The largest number of hops on which a nara first received it.
    pub hops: u32,
}

impl EventReport {
    /// Returns the time until this share of the naras, from 0 to 1, had it.
    pub fn time_to(&self, part: f64) -> Duration {
        let rank = (part * self.delays.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.delays.len().max(1)) - 1;
        self.delays.get(index).copied().unwrap_or_default()
    }

    /// Returns the time until all naras had it.
    pub fn time_to_all(&self) -> Duration {
        self.time_to(1.0)
    }
}

impl Report {
    /// Returns the average number of copies that a nara received over streams; the maker receives some as well.
    pub fn redundancy(&self) -> f64 {
        let copies: u64 = self.events.iter().map(|event| event.copies).sum();
        let expected = self.live * self.events.len();
        copies as f64 / expected.max(1) as f64
    }
}
