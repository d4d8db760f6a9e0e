//! The replay cache of both profiles: no request is accepted twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::identity::KeyId;
use crate::time::{UnixMillis, UnixSeconds};
use crate::v1::{FRESHNESS_WINDOW, RequestAuth};
use crate::v2::{ContentDigest, Nonce, RequestSignature};

/// Remembers each request for as long as it is fresh, so that it is accepted only once.
///
/// Insert verified requests only, so that strangers cannot fill the cache. A full cache refuses requests, because
/// forgetting one would allow a replay: it fails closed.
///
/// V1 peers may send two equal requests in one millisecond, with equal signatures (Ed25519 is deterministic). For
/// endpoints where a repetition is harmless, [`ReplayCache::insert_or_repeat`] therefore allows it from the same source
/// address.
///
/// A clock that is set back makes expired, forgotten requests fresh again. So a request that expires in the same second
/// as a forgotten one is refused ([`ReplayError::Forgotten`]); while the clock only advances, such a request is stale
/// anyway. Seconds in which no request was accepted stay usable: a clock that was hours ahead of all peers accepts
/// requests again as soon as it is corrected.
#[derive(Clone, Debug)]
pub struct ReplayCache {
    capacity: usize,
    seen: BTreeMap<ReplayKey, Seen>,
    /// Requests by the last second in which they are fresh.
    expiry: BTreeMap<UnixSeconds, BTreeSet<ReplayKey>>,
    forgotten: Forgotten,
}

/// The expiry seconds of forgotten requests, as ranges: first second to last.
#[derive(Clone, Debug, Default)]
struct Forgotten(BTreeMap<UnixSeconds, UnixSeconds>);

/// The maximum number of separate ranges. Beyond it, the oldest are merged, which refuses more than necessary.
const MAX_RANGES: usize = 4_096;

const SECOND: Duration = Duration::from_secs(1);

impl Forgotten {
    fn add(&mut self, second: UnixSeconds) {
        let (mut first, mut last) = (second, second);
        if let Some((&begin, &end)) = self.0.range(..=second).next_back() {
            if end >= second {
                return;
            }
            if end.saturating_add(SECOND) == second {
                first = begin;
            }
        }
        if let Some(end) = self.0.remove(&second.saturating_add(SECOND)) {
            last = end;
        }
        self.0.insert(first, last);
        if self.0.len() > MAX_RANGES
            && let Some((oldest, _)) = self.0.pop_first()
            && let Some((_, last)) = self.0.pop_first()
        {
            self.0.insert(oldest, last);
        }
    }

    /// Returns the last second of the range that contains this one.
    fn until(&self, second: UnixSeconds) -> Option<UnixSeconds> {
        let (_, &last) = self.0.range(..=second).next_back()?;
        (second <= last).then_some(last)
    }
}

/// The state of a remembered request.
#[derive(Clone, Copy, Debug)]
struct Seen {
    source: IpAddr,
    /// The number of bodies that arrived with this signature.
    bodies: usize,
}

/// The maximum number of bodies remembered per v1 signature: a peer sends no more different messages to one path in one
/// millisecond, and a stranger who repeats a signature cannot fill the cache.
const MAX_BODIES: usize = 64;

/// The identity of a request, and the time until which it is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayEntry {
    key: ReplayKey,
    until: UnixSeconds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ReplayKey {
    /// Nonces are unique per signer.
    Nonce(KeyId, Nonce),
    Signature([u8; 64]),
    /// The digest of a v1 signature and a body.
    Body([u8; 32]),
}

impl From<&RequestAuth> for ReplayEntry {
    fn from(auth: &RequestAuth) -> Self {
        Self {
            key: ReplayKey::Signature(*auth.signature().as_bytes()),
            until: auth.timestamp().saturating_add(FRESHNESS_WINDOW).to_seconds(),
        }
    }
}

impl From<&RequestSignature> for ReplayEntry {
    fn from(signed: &RequestSignature) -> Self {
        Self {
            key: ReplayKey::Nonce(signed.key_id(), signed.nonce()),
            until: signed.expires(),
        }
    }
}

/// The reason why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There were too many requests within the window.
    #[error("the replay cache is full")]
    Full,
    /// The clock was set back, and requests of this time were accepted and forgotten.
    #[error("the clock was set back, and requests of this time were accepted before and forgotten")]
    Forgotten {
        /// Requests that are signed later than this are newer than the forgotten ones.
        until: UnixSeconds,
    },
    /// This request was accepted before.
    #[error("replayed request")]
    Replayed,
}

impl ReplayCache {
    /// Returns a cache for at most `capacity` requests within the window. Each takes about 250 bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: BTreeMap::new(),
            expiry: BTreeMap::new(),
            forgotten: Forgotten::default(),
        }
    }

    /// Remembers a verified request.
    ///
    /// # Errors
    /// [`ReplayError::Replayed`] if it is known, [`ReplayError::Forgotten`] if it may have been forgotten,
    /// [`ReplayError::Full`] if the cache is full.
    pub fn insert(
        &mut self,
        request: impl Into<ReplayEntry>,
        source: IpAddr,
        now: UnixMillis,
    ) -> Result<(), ReplayError> {
        let ReplayEntry { key, until } = request.into();
        self.expire(now);
        if self.seen.contains_key(&key) {
            return Err(ReplayError::Replayed);
        }
        if let Some(last) = self.forgotten.until(until) {
            let until = last.saturating_add(SECOND).saturating_sub(FRESHNESS_WINDOW);
            return Err(ReplayError::Forgotten { until });
        }
        if self.seen.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        self.seen.insert(key, Seen { source, bodies: 0 });
        self.expiry.entry(until).or_default().insert(key);
        Ok(())
    }

    /// Remembers the body of a request whose signature is remembered: the same body with the same signature is a
    /// replay.
    ///
    /// # Errors
    /// [`ReplayError::Replayed`] if it is known, or its signature is not remembered (any more); [`ReplayError::Full`]
    /// if the cache is full.
    pub fn insert_body(
        &mut self,
        request: &RequestAuth,
        body: &ContentDigest,
        now: UnixMillis,
    ) -> Result<(), ReplayError> {
        let ReplayEntry { key, until } = request.into();
        self.expire(now);
        let full = self.seen.len() >= self.capacity;
        let Some(signature) = self.seen.get_mut(&key) else {
            return Err(ReplayError::Replayed);
        };
        let mut hasher = Sha256::new();
        hasher.update(request.signature().as_bytes());
        hasher.update(body.as_bytes());
        let body = ReplayKey::Body(hasher.finalize().into());
        let source = signature.source;
        let too_many = signature.bodies >= MAX_BODIES;
        signature.bodies += 1;
        if self.seen.contains_key(&body) {
            return Err(ReplayError::Replayed);
        }
        if full || too_many {
            return Err(ReplayError::Full);
        }
        self.seen.insert(body, Seen { source, bodies: 0 });
        self.expiry.entry(until).or_default().insert(body);
        Ok(())
    }

    /// Like [`ReplayCache::insert`], but accepts a repetition from the source address of the first request.
    ///
    /// # Errors
    /// [`ReplayError::Replayed`] if it is known from another source, [`ReplayError::Full`] if the cache is full.
    pub fn insert_or_repeat(
        &mut self,
        request: impl Into<ReplayEntry>,
        source: IpAddr,
        now: UnixMillis,
    ) -> Result<(), ReplayError> {
        let entry = request.into();
        match self.insert(entry, source, now) {
            Err(ReplayError::Replayed)
                if self
                    .seen
                    .get(&entry.key)
                    .is_some_and(|seen| seen.source == source) =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Returns the number of remembered requests.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Returns whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn expire(&mut self, now: UnixMillis) {
        let current = now.to_seconds();
        // One second later, because a request is accepted to the end of its last second.
        while let Some(entry) = self.expiry.first_entry().filter(|entry| *entry.key() < current) {
            let second = *entry.key();
            Self::forget(&mut self.seen, &mut self.forgotten, second, entry.remove());
        }
        // Accepted before the clock was set back: it does not become fresh for a long time, if ever.
        let latest = current.saturating_add(2 * FRESHNESS_WINDOW + SECOND);
        while self.seen.len() >= self.capacity
            && let Some(entry) = self.expiry.last_entry().filter(|entry| *entry.key() > latest)
        {
            let second = *entry.key();
            Self::forget(&mut self.seen, &mut self.forgotten, second, entry.remove());
        }
    }

    fn forget(
        seen: &mut BTreeMap<ReplayKey, Seen>,
        forgotten: &mut Forgotten,
        second: UnixSeconds,
        keys: BTreeSet<ReplayKey>,
    ) {
        forgotten.add(second);
        for key in keys {
            seen.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{KeyPair, Soul};
    use crate::v2::{ContentDigest, Recipient, RequestLine, RequestToSign, SignedBody, Signer};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ELSEWHERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn auth(at: i64) -> RequestAuth {
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
        RequestAuth::sign(
            &keypair,
            &"alice".parse().unwrap(),
            UnixMillis::new(at),
            "POST",
            "/dm",
        )
    }

    #[test]
    fn a_request_is_accepted_once() {
        let mut cache = ReplayCache::new(10);
        let now = UnixMillis::new(100_000);
        assert_eq!(cache.insert(&auth(100_000), HERE, now), Ok(()));
        assert_eq!(
            cache.insert(&auth(100_000), HERE, now),
            Err(ReplayError::Replayed)
        );
        assert_eq!(cache.insert(&auth(100_001), HERE, now), Ok(()));
        assert_eq!(cache.insert_or_repeat(&auth(100_001), HERE, now), Ok(()));
        assert_eq!(
            cache.insert_or_repeat(&auth(100_001), ELSEWHERE, now),
            Err(ReplayError::Replayed)
        );
    }

    #[test]
    fn another_body_with_the_same_signature_is_another_message_and_the_same_is_a_replay() {
        let mut cache = ReplayCache::new(10);
        let now = UnixMillis::new(100_000);
        let (request, first, second) = (auth(100_000), ContentDigest::of(b"1"), ContentDigest::of(b"2"));
        assert_eq!(
            cache.insert_body(&request, &first, now),
            Err(ReplayError::Replayed)
        );
        cache.insert_or_repeat(&request, HERE, now).unwrap();
        assert_eq!(cache.insert_body(&request, &first, now), Ok(()));
        assert_eq!(cache.insert_body(&request, &second, now), Ok(()));
        assert_eq!(
            cache.insert_body(&request, &first, now),
            Err(ReplayError::Replayed)
        );
        assert_eq!(
            cache.insert_body(&request, &second, now),
            Err(ReplayError::Replayed)
        );
        let late = UnixMillis::new(200_000);
        assert_eq!(
            cache.insert_body(&request, &first, late),
            Err(ReplayError::Replayed)
        );
    }

    #[test]
    fn one_signature_cannot_fill_the_cache_with_bodies() {
        let mut cache = ReplayCache::new(1_000);
        let now = UnixMillis::new(100_000);
        let request = auth(100_000);
        cache.insert_or_repeat(&request, HERE, now).unwrap();
        for number in 0..200_u32 {
            let outcome = cache.insert_body(&request, &ContentDigest::of(&number.to_be_bytes()), now);
            let fits = usize::try_from(number).unwrap() < MAX_BODIES;
            assert_eq!(outcome, if fits { Ok(()) } else { Err(ReplayError::Full) });
        }
        assert_eq!(cache.len(), 1 + MAX_BODIES);
        assert_eq!(cache.insert(&auth(100_001), HERE, now), Ok(()));
    }

    #[test]
    fn a_full_cache_takes_no_further_body() {
        let mut cache = ReplayCache::new(1);
        let now = UnixMillis::new(100_000);
        cache.insert_or_repeat(&auth(100_000), HERE, now).unwrap();
        let outcome = cache.insert_body(&auth(100_000), &ContentDigest::of(b"1"), now);
        assert_eq!(outcome, Err(ReplayError::Full));
    }

    fn signed(signer: &str, at: i64, random: u8) -> RequestSignature {
        let now = UnixMillis::new(at);
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], signer));
        Signer::new(keypair, signer.parse().unwrap()).sign_request(&RequestToSign {
            line: RequestLine {
                method: "POST",
                path: "/dm",
                query: None,
            },
            to: &Recipient::Name("bob".parse().unwrap()),
            body: SignedBody::Digest(ContentDigest::of(b"")),
            now,
            nonce: Nonce::new(now, [random; 10]),
            channel: None,
        })
    }

    #[test]
    fn a_nonce_is_used_once_until_it_expires() {
        let mut cache = ReplayCache::new(10);
        let now = UnixMillis::new(100_000);
        assert_eq!(cache.insert(&signed("alice", 100_000, 1), HERE, now), Ok(()));
        assert_eq!(cache.insert(&signed("alice", 100_000, 2), HERE, now), Ok(()));
        for now in [100_000, 130_999] {
            assert_eq!(
                cache.insert(&signed("alice", 100_000, 1), HERE, UnixMillis::new(now)),
                Err(ReplayError::Replayed)
            );
        }
        assert_eq!(cache.len(), 2);
        cache
            .insert(&signed("alice", 131_000, 3), HERE, UnixMillis::new(131_000))
            .unwrap();
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn the_cache_says_how_many_requests_it_remembers() {
        let mut cache = ReplayCache::new(10);
        assert!(cache.is_empty());
        for at in [100_000, 100_001] {
            cache.insert(&auth(at), HERE, UnixMillis::new(at)).unwrap();
        }
        assert_eq!((cache.len(), cache.is_empty()), (2, false));
    }

    #[test]
    fn a_full_cache_refuses_and_recovers_when_entries_go_stale() {
        let mut cache = ReplayCache::new(2);
        let now = UnixMillis::new(100_000);
        cache.insert(&auth(100_000), HERE, now).unwrap();
        cache.insert(&auth(100_001), HERE, now).unwrap();
        assert_eq!(cache.insert(&auth(100_002), HERE, now), Err(ReplayError::Full));
        assert_eq!(
            cache.insert(&auth(132_000), HERE, UnixMillis::new(132_000)),
            Ok(())
        );
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_forgotten_request_fresh() {
        let mut cache = ReplayCache::new(10);
        let at = |millis| UnixMillis::new(millis);
        cache.insert(&auth(100_000), HERE, at(100_000)).unwrap();
        cache.insert(&auth(200_000), HERE, at(200_000)).unwrap();
        let until = UnixSeconds::new(101);
        for request in [100_000, 100_001, 100_999] {
            assert_eq!(
                cache.insert(&auth(request), HERE, at(100_001)),
                Err(ReplayError::Forgotten { until })
            );
        }
        assert_eq!(cache.insert(&auth(101_000), HERE, at(101_000)), Ok(()));
    }

    #[test]
    fn a_clock_that_was_hours_ahead_takes_requests_as_soon_as_it_is_set_right() {
        let mut cache = ReplayCache::new(3);
        let (ahead, right) = (10_000_000, 2_800_000);
        for number in 0..3 {
            let at = ahead + number * 1_000;
            cache.insert(&auth(at), HERE, UnixMillis::new(at)).unwrap();
        }
        // They do not stay in the cache until the wrong time arrives.
        for number in 0..3 {
            let at = right + number * 1_000;
            assert_eq!(cache.insert(&auth(at), HERE, UnixMillis::new(at)), Ok(()));
        }
        // When it arrives, they are still not fresh.
        for number in 0..3 {
            let at = ahead + number * 1_000;
            let outcome = cache.insert(&auth(at), HERE, UnixMillis::new(ahead));
            assert!(
                matches!(outcome, Err(ReplayError::Forgotten { .. })),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn forgotten_seconds_take_bounded_memory_and_none_is_lost() {
        let mut forgotten = Forgotten::default();
        let last = 4 * i64::try_from(MAX_RANGES).unwrap();
        for second in (0..last).step_by(2) {
            forgotten.add(UnixSeconds::new(second));
            assert!(forgotten.0.len() <= MAX_RANGES);
        }
        for second in 0..last {
            let known = forgotten.until(UnixSeconds::new(second)).is_some();
            assert!(known || second % 2 == 1, "{second}");
        }
        assert_eq!(forgotten.until(UnixSeconds::new(last - 1)), None);
        let mut whole = Forgotten::default();
        for second in [5, 7, 6, 4, 9, 8, 7] {
            whole.add(UnixSeconds::new(second));
        }
        assert_eq!(whole.0.len(), 1);
        assert_eq!(whole.until(UnixSeconds::new(4)), Some(UnixSeconds::new(9)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// For any order and any clock jumps: a fresh request that was accepted is never accepted again, and the cache
        /// stays bounded.
        #[test]
        fn nothing_fresh_is_accepted_twice(
            steps in proptest::collection::vec(
                (prop_oneof![0_i64..4_000, -90_000_i64..90_000], -31_000_i64..31_000),
                1..40,
            ),
        ) {
            let mut cache = ReplayCache::new(8);
            let mut accepted = BTreeSet::new();
            let mut now = 1_000_000;
            for (advance, skew) in steps {
                now += advance;
                let auth = auth(now + skew);
                if auth.check_fresh(UnixMillis::new(now)).is_err() {
                    continue;
                }
                let outcome = cache.insert(&auth, HERE, UnixMillis::new(now));
                if accepted.contains(&(now + skew)) {
                    let refused = matches!(outcome, Err(ReplayError::Replayed | ReplayError::Forgotten { .. }));
                    prop_assert!(refused, "{outcome:?}");
                } else if outcome.is_ok() {
                    accepted.insert(now + skew);
                }
                prop_assert!(cache.len() <= 8);
            }
        }
    }
}
