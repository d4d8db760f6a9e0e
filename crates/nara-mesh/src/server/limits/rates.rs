//! Rate limits of many keys, with bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::ShrinkableKeyedStateStore;
use governor::{Quota, RateLimiter};

use crate::clock::monotonic_now as now;
use crate::rate_limit::RateLimit;

/// The maximum number of keys with their own rate, at about 50 bytes each. Keys that have not used their allowance lately
/// are forgotten first; if all are busy, all new keys share one allowance, and known keys are unaffected.
const MAX_KEYS: usize = 16_384;

/// The shortest interval between two sweeps of a full table: each sweep scans all of it.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

fn quota(limit: RateLimit) -> Quota {
    // Rates above one per nanosecond cannot be measured.
    let per_second = NonZeroU32::new(limit.per_second.min(1_000_000_000)).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(per_second).allow_burst(NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN))
}

/// The rates of many keys, each with its own allowance.
#[derive(Debug)]
pub(in crate::server) struct Rates<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, BoundedStore<K>, RuntimeClock, NoOpMiddleware<Instant>>,
    max_keys: usize,
    swept: Mutex<Option<Instant>>,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    pub(in crate::server) fn new(limit: RateLimit) -> Self {
        Self::with_quota(quota(limit), MAX_KEYS)
    }

    pub(in crate::server) fn per_minute(count: u32) -> Self {
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        Self::with_quota(Quota::per_minute(count), MAX_KEYS)
    }

    fn with_quota(quota: Quota, max_keys: usize) -> Self {
        Self {
            limiter: RateLimiter::new(quota, BoundedStore::new(max_keys), RuntimeClock),
            max_keys,
            swept: Mutex::default(),
        }
    }

    /// Counts one more request of this key, or returns the required pause.
    pub(in crate::server) fn check(&self, key: &K) -> Result<(), Duration> {
        if self.limiter.len() >= self.max_keys {
            self.sweep();
        }
        self.limiter
            .check_key(key)
            .map_err(|not_until| not_until.wait_time_from(now()))
    }

    fn sweep(&self) {
        // A plain value is valid even if a thread panicked.
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|at| now().duration_since(at) >= SWEEP_PAUSE) {
            *swept = Some(now());
            drop(swept);
            self.limiter.retain_recent();
        }
    }
}

/// The clock of tokio's timers, so that tests can pause time.
#[derive(Clone, Copy, Debug)]
struct RuntimeClock;

impl Clock for RuntimeClock {
    type Instant = Instant;

    fn now(&self) -> Instant {
        now()
    }
}

/// The states of a bounded number of keys, and one shared state for all others.
#[derive(Debug)]
struct BoundedStore<K> {
    table: Mutex<Table<K>>,
    max_keys: usize,
}

#[derive(Debug)]
struct Table<K> {
    known: HashMap<K, Nanos>,
    others: Option<Nanos>,
}

impl<K> BoundedStore<K> {
    fn new(max_keys: usize) -> Self {
        let table = Table {
            known: HashMap::new(),
            others: None,
        };
        Self {
            table: Mutex::new(table),
            max_keys,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table<K>> {
        // No method panics between two changes of the table.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> StateStore for BoundedStore<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut table = self.table();
        if let Some(state) = table.known.get_mut(key) {
            let (outcome, next) = decide(Some(*state))?;
            *state = next;
            return Ok(outcome);
        }
        let full = table.known.len() >= self.max_keys;
        let (outcome, next) = decide(table.others.filter(|_| full))?;
        if full {
            table.others = Some(next);
        } else {
            table.known.insert(key.clone(), next);
        }
        Ok(outcome)
    }
}

impl<K: Hash + Eq + Clone> ShrinkableKeyedStateStore<K> for BoundedStore<K> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.table().known.retain(|_, state| *state > drop_below);
    }

    fn shrink_to_fit(&self) {
        self.table().known.shrink_to_fit();
    }

    fn len(&self) -> usize {
        self.table().known.len()
    }

    fn is_empty(&self) -> bool {
        self.table().known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(per_second: u32, burst: u32, max_keys: usize) -> Rates<u32> {
        Rates::with_quota(quota(RateLimit::new(per_second, burst)), max_keys)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_granted_and_then_the_steady_rate() {
        let rates = rates(2, 3, 10);
        for _ in 0..3 {
            assert_eq!(rates.check(&1), Ok(()));
        }
        assert_eq!(rates.check(&1), Err(Duration::from_millis(500)));
        assert_eq!(rates.check(&2), Ok(()), "another key has its own");
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(rates.check(&1), Ok(()));
        assert!(rates.check(&1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn newcomers_share_one_allowance_when_the_table_is_full() {
        let rates = rates(1, 2, 2);
        for key in [1, 2] {
            assert_eq!(rates.check(&key), Ok(()));
        }
        assert_eq!(rates.check(&3), Ok(()));
        assert_eq!(rates.check(&4), Ok(()));
        assert!(rates.check(&5).is_err(), "the shared one is used up");
        assert_eq!(rates.check(&1), Ok(()), "a known key still has its own");
        assert_eq!(rates.limiter.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_keys_make_room() {
        let rates = rates(1, 2, 2);
        for key in [1, 2] {
            assert_eq!(rates.check(&key), Ok(()));
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        for _ in 0..2 {
            assert_eq!(rates.check(&3), Ok(()));
        }
        assert!(rates.check(&3).is_err(), "its own, and it is used up");
        assert_eq!(rates.check(&4), Ok(()));
        assert_eq!(rates.limiter.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn immeasurable_limits_refuse_no_request() {
        let rates = rates(u32::MAX, u32::MAX, 2);
        for _ in 0..10_000 {
            assert_eq!(rates.check(&1), Ok(()));
        }
        assert_eq!(rates_of_zero().check(&1), Ok(()), "0 counts as 1");
    }

    fn rates_of_zero() -> Rates<u32> {
        rates(0, 0, 2)
    }
}
