//! A simulation of thousands of gossiping naras in one process, on a simulated clock.
//!
//! Each nara decides with [`Gossip`](super::Gossip); the simulation provides the network and the streams: links with a
//! latency, naras that are down, naras that are cut off for a minute and return. A stream resumes where it ended, like
//! the real one. The same [`Plan`] gives the same [`Report`].
//!
//! Not simulated: the time to verify and store an event ([`Plan::processing`] stands for it), full queues, and packet
//! loss.
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

/// The parameters of a simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The number of naras.
    pub naras: usize,
    /// The gossip settings of each nara.
    pub config: GossipConfig,
    /// The number of events that random naras make, one after another.
    pub events: usize,
    /// The pause between two events.
    pub event_pause: Duration,
    /// The shortest and longest one-way latency; each link has its own.
    pub latency: (Duration, Duration),
    /// The time in which a nara verifies and stores an event.
    pub processing: Duration,
    /// The share of naras, from 0 to 1, that are down all the time. The others do not know which.
    pub dead: f64,
    /// The share of naras, from 0 to 1, that are cut off for [`Plan::CUT`] at some time while events are made.
    pub cut: f64,
    /// The seed of everything random.
    pub seed: u64,
}

impl Plan {
    /// The time that naras have to find neighbours before the first event.
    pub const WARM_UP: Duration = Duration::from_secs(60);

    /// How long a nara is cut off; longer than [`Plan::SILENCE`].
    pub const CUT: Duration = Duration::from_secs(60);

    /// The silence after which a stream counts as broken: three keep-alives of 15 s.
    pub const SILENCE: Duration = Duration::from_secs(45);

    /// The pause of a subscription before it dials again.
    pub const REDIAL: Duration = Duration::from_secs(2);

    /// How long the simulation continues after the last event and the last cut.
    pub const SETTLE: Duration = Duration::from_secs(120);

    /// Returns a plan of ten events, links of 10 to 50 ms, 1 ms of processing, and no nara down.
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
