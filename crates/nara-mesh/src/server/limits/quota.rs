//! Quotas: a total limit, a limit per key, and a rate per key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::rate_limit::RateLimit;
use crate::server::limits::rates::Rates;

/// Bounds the held amount and the rate of requests. Its memory is bounded by the held amount.
///
/// The limit of a key shrinks with the square of the free share. So keys that take all they can never leave almost
/// nothing, as they would if each took a fixed part of the free amount: of 1,024, with 64 for each key, 16 keys leave
/// half, and 112 an eighth.
#[derive(Debug)]
pub(in crate::server) struct Quota<K: Hash + Eq + Clone> {
    rate: Option<(RateLimit, Rates<K>)>,
    counts: Arc<Counts<K>>,
}

#[derive(Debug)]
struct Counts<K> {
    held: Mutex<Held<K>>,
    limit: usize,
    limit_per_key: usize,
}

#[derive(Debug)]
struct Held<K> {
    total: usize,
    by_key: HashMap<K, usize>,
}

/// The amount that one holder has taken, released on drop.
#[derive(Debug)]
pub(in crate::server) struct Share<K: Hash + Eq + Clone> {
    counts: Arc<Counts<K>>,
    key: K,
    amount: AtomicUsize,
}

/// The reason why no more may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Exceeded {
    /// The total limit, or the limit of this key beside the others, is reached.
    All,
    /// This key holds its maximum, which is this amount.
    OfKey(usize),
    /// The rate limit of this key is exceeded.
    Rate {
        /// The limit.
        limit: RateLimit,
        /// The time until the next request is allowed.
        retry_after: Duration,
    },
}

impl<K: Hash + Eq + Clone> Quota<K> {
    /// Returns a quota of at most `limit` in total, and `limit_per_key` for each key; `usize::MAX` for no limit.
    pub(in crate::server) fn new(limit: usize, limit_per_key: usize) -> Self {
        let held = Held {
            total: 0,
            by_key: HashMap::new(),
        };
        Self {
            rate: None,
            counts: Arc::new(Counts {
                held: Mutex::new(held),
                limit,
                limit_per_key,
            }),
        }
    }

    /// Adds a rate limit per key.
    pub(in crate::server) fn with_rate(mut self, limit: Option<RateLimit>) -> Self {
        self.rate = limit.map(|limit| (limit, Rates::new(limit)));
        self
    }

    /// Adds a limit per key and minute.
    pub(in crate::server) fn with_rate_per_minute(mut self, count: u32) -> Self {
        self.rate = Some((RateLimit::new(1, count), Rates::per_minute(count)));
        self
    }

    /// Takes one unit for a key, if allowed.
    pub(in crate::server) fn take(&self, key: &K) -> Result<Share<K>, Exceeded> {
        self.check_rate(key)?;
        let share = self.share(key.clone());
        share.grow(1)?;
        Ok(share)
    }

    /// Counts one more request of a key, and holds nothing.
    pub(in crate::server) fn check_rate(&self, key: &K) -> Result<(), Exceeded> {
        let Some((limit, rates)) = &self.rate else {
            return Ok(());
        };
        rates.check(key).map_err(|retry_after| Exceeded::Rate {
            limit: *limit,
            retry_after,
        })
    }

    /// Returns the keys that hold something, in order, if they have a limit.
    pub(in crate::server) fn holders(&self) -> Vec<K>
    where
        K: Ord,
    {
        let mut holders: Vec<K> = self.counts.held().by_key.keys().cloned().collect();
        holders.sort_unstable();
        holders
    }

    /// Returns an empty share, which may grow.
    pub(in crate::server) fn share(&self, key: K) -> Share<K> {
        Share {
            counts: self.counts.clone(),
            key,
            amount: AtomicUsize::new(0),
        }
    }
}

/// Returns the limit of a key beside the others.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share need not be exact"
)]
fn fair(limit: usize, limit_per_key: usize, left: usize) -> usize {
    let part = left as f64 / limit as f64;
    (limit_per_key.min(limit) as f64 * part * part).ceil() as usize
}

impl<K: Hash + Eq + Clone> Share<K> {
    /// Takes this amount more, or nothing.
    pub(in crate::server) fn grow(&self, amount: usize) -> Result<(), Exceeded> {
        let Counts {
            limit, limit_per_key, ..
        } = *self.counts;
        let mut held = self.counts.held();
        let Held { total, by_key } = &mut *held;
        if self.counts.is_bounded() {
            let of_key = by_key.entry(self.key.clone());
            let before = match &of_key {
                Entry::Occupied(of_key) => *of_key.get(),
                Entry::Vacant(_) => 0,
            };
            let after = before.saturating_add(amount);
            if after > limit_per_key {
                return Err(Exceeded::OfKey(limit_per_key));
            }
            let fits = amount <= limit.saturating_sub(*total);
            let left_by_others = limit.saturating_sub(*total - before);
            if !fits || after > fair(limit, limit_per_key, left_by_others) {
                return Err(Exceeded::All);
            }
            of_key.insert_entry(after);
        }
        *total += amount;
        drop(held);
        self.amount.fetch_add(amount, Ordering::Relaxed);
        Ok(())
    }

    /// Returns the amount that all shares of its key hold.
    pub(in crate::server) fn held_by_key(&self) -> usize {
        let held = self.counts.held();
        held.by_key.get(&self.key).copied().unwrap_or_default()
    }

    /// Returns the amount that it holds.
    pub(in crate::server) fn amount(&self) -> usize {
        self.amount.load(Ordering::Relaxed)
    }
}

impl<K: Hash + Eq + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        let amount = *self.amount.get_mut();
        if amount == 0 {
            return;
        }
        let mut held = self.counts.held();
        held.total -= amount;
        if self.counts.is_bounded()
            && let Entry::Occupied(mut of_key) = held.by_key.entry(self.key.clone())
        {
            *of_key.get_mut() -= amount;
            if *of_key.get() == 0 {
                of_key.remove();
            }
        }
    }
}

impl<K> Counts<K> {
    /// Returns whether keys have a limit.
    fn is_bounded(&self) -> bool {
        self.limit.min(self.limit_per_key) < usize::MAX
    }

    fn held(&self) -> MutexGuard<'_, Held<K>> {
        // Counting cannot panic half-way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_in_all_and_by_key_and_come_back() {
        let quota = Quota::new(3, 2);
        let first = quota.take(&"a").unwrap();
        let _second = quota.take(&"a").unwrap();
        assert_eq!(quota.take(&"a").unwrap_err(), Exceeded::OfKey(2));
        let _third = quota.take(&"b").unwrap();
        assert_eq!(quota.take(&"c").unwrap_err(), Exceeded::All);
        drop(first);
        let _fourth = quota.take(&"c").unwrap();
        assert_eq!(quota.holders(), ["a", "b", "c"]);
        assert_eq!(Quota::new(1, 0).take(&"a").unwrap_err(), Exceeded::OfKey(0));
    }

    #[test]
    fn a_share_grows_within_the_bounds_and_gives_back_all_of_it() {
        let quota = Quota::new(10, 6);
        let first = quota.share("a");
        first.grow(4).unwrap();
        let second = quota.share("a");
        assert_eq!(second.grow(3), Err(Exceeded::OfKey(6)));
        second.grow(2).unwrap();
        let third = quota.share("b");
        assert_eq!(third.grow(5), Err(Exceeded::All));
        assert_eq!(third.grow(1), Ok(()), "every key may have this little");
        assert_eq!(first.amount(), 4);
        drop((first, second, third));
        let held = quota.counts.held();
        assert_eq!((held.total, held.by_key.len()), (0, 0));
    }

    #[test]
    fn without_a_limit_no_key_is_remembered() {
        let quota = Quota::new(usize::MAX, usize::MAX);
        let _share = quota.take(&"a").unwrap();
        assert!(quota.counts.held().by_key.is_empty());
    }

    fn take_all(quota: &Quota<usize>, key: usize) -> Vec<Share<usize>> {
        std::iter::repeat_with(|| quota.take(&key))
            .map_while(Result::ok)
            .collect()
    }

    #[test]
    fn keys_that_take_all_they_can_leave_some_for_another() {
        const ALL: usize = 1_024;
        for greedy in 0..200_usize {
            let quota = Quota::new(ALL, 64);
            let _held: Vec<_> = (1..=greedy).map(|key| take_all(&quota, key)).collect();
            let part = 1.0 + greedy as f64 / 16.0;
            let expected = 64.0 / (part * part);
            let left = take_all(&quota, 0).len();
            assert!(left >= 1 && left as f64 >= expected / 2.0, "{greedy}: {left}");
        }
    }

    #[test]
    fn a_key_has_its_limit_when_others_hold_little() {
        let quota = Quota::new(1_000, 500);
        let alone = quota.share("a");
        alone.grow(500).unwrap();
        assert_eq!(alone.grow(1), Err(Exceeded::OfKey(500)));
        let other = quota.share("b");
        assert_eq!(other.grow(126), Err(Exceeded::All), "a quarter of 500");
        other.grow(125).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_asks_too_often_is_told_when_it_may_ask_again() {
        let limit = RateLimit::new(2, 1);
        let quota = Quota::new(9, 9).with_rate(Some(limit));
        assert!(quota.take(&"a").is_ok());
        let exceeded = quota.take(&"a").unwrap_err();
        let retry_after = Duration::from_millis(500);
        assert_eq!(exceeded, Exceeded::Rate { limit, retry_after });
        assert!(quota.take(&"b").is_ok());
    }
}
