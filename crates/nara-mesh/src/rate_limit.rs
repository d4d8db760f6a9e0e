//! Rate limits.

/// The granted rate of requests: a steady rate, and a burst after a pause (a token bucket).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RateLimit {
    /// Requests per second in the long run; 0 counts as 1.
    pub per_second: u32,
    /// Requests at once after a pause; 0 counts as 1.
    pub burst: u32,
}

impl RateLimit {
    /// A steady rate and a burst.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}
