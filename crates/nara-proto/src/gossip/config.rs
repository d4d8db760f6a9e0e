use std::time::Duration;

/// The settings of [`Gossip`](super::Gossip).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipConfig {
    /// The number of peers to subscribe to. With 0, the nara gossips by zines alone.
    pub degree: usize,
    /// How long a stream may stay closed before another peer replaces the neighbour.
    pub patience: Duration,
    /// The pause after the first failure of a peer; each consecutive failure doubles it.
    pub pause: Duration,
    /// The longest pause after a failure.
    pub max_pause: Duration,
    /// When to check again whether a peer without streams supports them now.
    pub ask_again: Duration,
    /// The shortest and longest pause between two rounds of zines.
    pub zine_pause: (Duration, Duration),
    /// The fewest and most peers of one round of zines.
    pub zine_peers: (usize, usize),
    /// The maximum number of peers whose failures or support for streams are remembered.
    pub remembered: usize,
}

impl Default for GossipConfig {
    /// - Degree 6: each neighbour adds one copy of every event for every nara. In the simulation of 1,000 naras of
    ///   which 5 % are down, an event reaches all others in about 150 ms; with degree 3 in 230 ms, with 12 in 100 ms.
    /// - Patience 10 s: longer than a restart of a server, shorter than a person waits.
    /// - Pause 30 s to 15 min: a peer that is down for a day costs a hundred attempts.
    /// - Streams checked again after an hour: a peer gains them by an update, which is rare.
    /// - Zines every 30 to 300 s to 3 to 5 peers, like v1 peers (docs/protocol/v1.md, section 10).
    /// - 1,024 remembered peers: more than can fail within the longest pause.
    fn default() -> Self {
        Self {
            degree: Self::DEFAULT_DEGREE,
            patience: Duration::from_secs(10),
            pause: Duration::from_secs(30),
            max_pause: Duration::from_secs(15 * 60),
            ask_again: Duration::from_secs(60 * 60),
            zine_pause: (Duration::from_secs(30), Duration::from_secs(300)),
            zine_peers: (3, 5),
            remembered: 1024,
        }
    }
}

impl GossipConfig {
    /// The degree of [`GossipConfig::default`].
    pub const DEFAULT_DEGREE: usize = 6;

    /// Returns the default with another number of peers to subscribe to.
    pub fn with_degree(degree: usize) -> Self {
        Self {
            degree,
            ..Self::default()
        }
    }
}
