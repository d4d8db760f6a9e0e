use std::time::Duration;

use crate::time::UnixMillis;

/// A source of strictly increasing times for signing.
///
/// Ed25519 is deterministic: two equal requests in one millisecond would have the same signature, and the second would
/// look like a replay of the first.
///
/// ```
/// use nara_proto::{v1::Stamp, time::UnixMillis};
///
/// let mut stamp = Stamp::default();
/// let now = UnixMillis::new(1000);
/// assert_eq!(stamp.next(now), now);
/// assert_eq!(stamp.next(now), UnixMillis::new(1001));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Stamp {
    last: Option<UnixMillis>,
}

impl Stamp {
    /// The furthest that a stamp may run ahead of the clock. If a clock is set back by more than this, the last stamp
    /// was wrong, and stamps follow the clock again.
    const MAX_LEAD: Duration = Duration::from_secs(10);

    /// Returns the next time: `now`, or one millisecond after the last one, whichever is later.
    pub fn next(&mut self, now: UnixMillis) -> UnixMillis {
        let next = match self.last {
            Some(last) if last >= now && last.abs_diff(now) <= Self::MAX_LEAD => {
                last.saturating_add(Duration::from_millis(1))
            }
            _ => now,
        };
        self.last = Some(next);
        next
    }
}
