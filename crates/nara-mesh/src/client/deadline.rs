use std::time::Duration;

use tokio::time::Instant;

/// Returns the deadline of a limit that starts now.
pub(super) fn deadline_after(limit: Duration) -> Instant {
    let now = Instant::now();
    // A limit beyond the range of the clock means no limit.
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}
