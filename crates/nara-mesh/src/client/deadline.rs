use std::time::Duration;

use tokio::time::Instant;

/// The point in time when a limit that begins now is over.
pub(super) fn deadline_after(limit: Duration) -> Instant {
    let now = Instant::now();
    // A limit beyond the range of the clock is no limit.
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}
