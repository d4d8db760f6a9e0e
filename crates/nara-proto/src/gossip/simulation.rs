//! Thousands of gossiping naras in one process, on a clock that only the simulation moves.
//!
//! Every nara makes its decisions with [`Gossip`](super::Gossip); around them the simulation plays the network
//! and the streams: links with a latency, naras that are down, naras that are cut off for a minute and come
//! back. A stream resumes where it ended, like the real one. The same [`Plan`] gives the same [`Report`].
//!
//! What is not simulated: the time that it takes to verify and store an event ([`Plan::processing`] stands for
//! it), full queues, and lost packets.
//!
//! ```
//! use nara_proto::gossip::simulation::{self, Plan};
//!
//! let report = simulation::run(&Plan::new(50, 1));
//! assert_eq!(report.missing, 0);
//! assert!(report.connected);
//! ```

mod nara;
mod network;
mod report;

pub use report::{EventReport, Report};

use std::time::Duration;

use super::GossipConfig;

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many naras.
    pub naras: usize,
    /// How each of them gossips.
    pub config: GossipConfig,
    /// How many events are made, by random naras, one after another.
    pub events: usize,
    /// The pause between two events.
    pub event_pause: Duration,
    /// The shortest and longest latency of a link, one way; each link has one of its own.
    pub latency: (Duration, Duration),
    /// How long a nara takes to verify and store an event.
    pub processing: Duration,
    /// Which part of the naras, from 0 to 1, is down all the time. The others do not know which.
    pub dead: f64,
    /// Which part of the naras, from 0 to 1, is cut off for [`Plan::CUT`] at some time while events are made.
    pub cut: f64,
    /// Everything random follows from this.
    pub seed: u64,
}

impl Plan {
    /// How long a nara has to find neighbours before the first event.
    pub const WARM_UP: Duration = Duration::from_secs(60);

    /// How long a nara that is cut off stays so; longer than [`Plan::SILENCE`].
    pub const CUT: Duration = Duration::from_secs(60);

    /// After how long without a sign of life a stream counts as broken: three keep-alives of 15 s.
    pub const SILENCE: Duration = Duration::from_secs(45);

    /// How long a subscription waits before it dials again.
    pub const REDIAL: Duration = Duration::from_secs(2);

    /// How long the simulation continues after the last event and the last cut.
    pub const SETTLE: Duration = Duration::from_secs(120);

    /// Ten events, links of 10 to 50 ms, 1 ms of processing, nobody down.
    pub fn new(naras: usize, seed: u64) -> Self {
        Self {
            naras,
            config: GossipConfig::default(),
            events: 10,
            event_pause: Duration::from_secs(1),
            latency: (Duration::from_millis(10), Duration::from_millis(50)),
            processing: Duration::from_millis(1),
            dead: 0.0,
            cut: 0.0,
            seed,
        }
    }
}

/// Runs a plan to its end.
pub fn run(plan: &Plan) -> Report {
    network::Network::new(plan).run()
}

#[cfg(test)]
mod tests;
