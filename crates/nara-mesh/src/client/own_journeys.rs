use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nara_proto::world::WorldMessage;

/// Maximum number of remembered journeys; the newest are kept. A message travels for seconds.
const REMEMBERED: usize = 1_024;

/// The world messages that this nara originated. Nothing in a message proves its originator, so without this
/// record the nara would accept any message in its name as its own.
#[derive(Debug, Default)]
pub(super) struct OwnJourneys {
    /// A keyed hash of each message, so that others cannot construct a collision.
    begun: Mutex<VecDeque<u64>>,
    hasher: RandomState,
}

impl OwnJourneys {
    pub(super) fn begin(&self, message: &WorldMessage) {
        let mark = self.mark(message);
        let mut begun = self.begun();
        if begun.contains(&mark) {
            return;
        }
        if begun.len() == REMEMBERED {
            begun.pop_front();
        }
        begun.push_back(mark);
    }

    pub(super) fn has(&self, message: &WorldMessage) -> bool {
        let mark = self.mark(message);
        self.begun().contains(&mark)
    }

    fn mark(&self, message: &WorldMessage) -> u64 {
        self.hasher
            .hash_one((&message.id, &message.message, &message.originator))
    }

    fn begun(&self) -> MutexGuard<'_, VecDeque<u64>> {
        // Every change is complete when it could panic.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::time::UnixNanos;

    use super::*;

    #[test]
    fn a_journey_is_known_with_its_text_and_the_newest_are_kept() {
        let message = |number: i64| WorldMessage::new("alice", "hello", UnixNanos::new(number));
        let journeys = OwnJourneys::default();
        for number in 0..=1_024 {
            journeys.begin(&message(number));
            journeys.begin(&message(number));
        }
        assert!(journeys.has(&message(1_024)) && journeys.has(&message(1)));
        assert!(!journeys.has(&message(0)), "the oldest is forgotten");
        let mut other = message(1_024);
        other.message = "I resign".to_owned();
        assert!(!journeys.has(&other));
    }
}
