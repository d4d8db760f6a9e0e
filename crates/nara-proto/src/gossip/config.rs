use std::time::Duration;

/// How a nara gossips.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GossipConfig {
    /// To how many peers it subscribes. With 0 it gossips by zines alone.
    pub degree: usize,
    /// How long a stream may stay closed before another peer takes its place.
    pub patience: Duration,
    /// How long a peer that failed is left alone at first; each failure in a row doubles it.
    pub pause: Duration,
    /// The longest that a peer that failed is left alone.
    pub max_pause: Duration,
    /// When a peer without streams is asked again whether it has them now.
    pub ask_again: Duration,
    /// The shortest and longest pause between two rounds of zines.
    pub zine_pause: (Duration, Duration),
    /// The fewest and most peers of one round of zines.
    pub zine_peers: (usize, usize),
    /// How many peers it remembers that failed, or of which it knows whether they have streams.
    pub remembered: usize,
}

impl Default for GossipConfig {
    /// - Degree 6: each one more is one more copy of every event for everybody. In the simulation of 1,000 naras of
    ///   which 5 % are down, an event reaches all others in about 150 ms; with 3 that takes 230 ms, with 12 100 ms.
    /// - Patience 10 s: longer than a restart of a server, shorter than a person waits.
    /// - Pause 30 s to 15 min: a peer that is down for a day costs a hundred attempts.
    /// - Asked again after an hour: a peer gets streams by being updated, which is rare.
    /// - Zines every 30 to 300 s to 3 to 5 peers: what v1 peers do (docs/protocol/v1.md, section 10).
    /// - Remembered 1,024: more than anybody fails at within the longest pause.
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

    /// The default, with another number of peers to subscribe to.
    pub fn with_degree(degree: usize) -> Self {
        Self {
            degree,
            ..Self::default()
        }
    }
}
