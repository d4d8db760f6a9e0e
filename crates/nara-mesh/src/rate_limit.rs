//! Rate limits.

/// A rate limit: a steady rate, and a burst after a pause (a token bucket).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// The long-term number of requests per second; 0 counts as 1.
    pub per_second: u32,
    /// The number of requests at once after a pause; 0 counts as 1.
    pub burst: u32,
}

impl RateLimit {
    /// Returns a limit with this steady rate and burst.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}
