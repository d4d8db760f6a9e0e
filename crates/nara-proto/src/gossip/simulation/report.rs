use std::time::Duration;

/// The results of a simulation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// How many naras were not down all the time.
    pub live: usize,
    /// What became of each event.
    pub events: Vec<EventReport>,
    /// How many pairs of a live nara and an event it does not have there are at the end: 0 if gossip works.
    pub missing: usize,
    /// Whether at the end the open streams lead from every live nara to every other.
    pub connected: bool,
    /// Streams that are open at the end.
    pub streams: usize,
    /// Subscriptions that were begun in all.
    pub subscriptions: usize,
    /// Zines that were exchanged in all.
    pub zines: usize,
}

/// How an event spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventReport {
    /// How long it took to each nara that was never cut off, shortest first; its maker, with zero, is one.
    pub delays: Vec<Duration>,
    /// How often it was received over streams, by all naras together, first copies included.
    pub copies: u64,
    /// The largest number of hops on which a nara first received it.
    pub hops: u32,
}

impl EventReport {
    /// How long it took until this part of the naras, from 0 to 1, had it.
    pub fn time_to(&self, part: f64) -> Duration {
        let rank = (part * self.delays.len() as f64).ceil() as usize;
        let index = rank.clamp(1, self.delays.len().max(1)) - 1;
        self.delays.get(index).copied().unwrap_or_default()
    }

    /// How long it took until everybody had it.
    pub fn time_to_all(&self) -> Duration {
        self.time_to(1.0)
    }
}

impl Report {
    /// How many copies of an event a nara received over streams on average; its maker receives some as well.
    pub fn redundancy(&self) -> f64 {
        let copies: u64 = self.events.iter().map(|event| event.copies).sum();
        let expected = self.live * self.events.len();
        copies as f64 / expected.max(1) as f64
    }
}
