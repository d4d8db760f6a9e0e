use std::time::Duration;

use tokio::time::Instant;

use crate::defaults;

/// Returns the deadline of a limit that starts now.
pub(super) fn deadline_after(limit: Duration) -> Instant {
    let now = Instant::now();
    // A limit beyond the range of the clock means no limit.
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into()))
}

/// The time limit for the body of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyTime {
    pub(super) deadline: Instant,
    /// If set, the body may arrive for [`defaults::SLOW_ANSWER`] beyond the deadline, with pauses of at most this
    /// duration.
    pub(super) patience: Option<Duration>,
}

impl From<Instant> for BodyTime {
    fn from(deadline: Instant) -> Self {
        let patience = None;
        Self { deadline, patience }
    }
}

impl BodyTime {
    /// Returns the time by which the next bytes must arrive.
    pub(super) fn next(self) -> Instant {
        match self.patience {
            Some(pause) => deadline_after(pause).clamp(self.deadline, self.deadline + defaults::SLOW_ANSWER),
            None => self.deadline,
        }
    }
}
