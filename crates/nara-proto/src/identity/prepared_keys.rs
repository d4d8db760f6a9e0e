use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{PreparedKey, PublicKey, Signature, Verifier, VerifyError};

/// Verifies signatures and keeps a [`PreparedKey`] for the keys that are used most, within a bound on memory.
///
/// A key is prepared when it has verified [`PreparedKeys::PREPARE_AFTER`] signatures. When there are as many
/// as `capacity`, the one that has not verified a signature for longest is dropped. Only signatures that
/// verify count: garbage sent in a peer's name neither prepares a key nor keeps nor drops one.
///
/// Shared between threads by reference. The lock is held for a look-up only, never while verifying or
/// preparing.
#[derive(Debug)]
pub struct PreparedKeys {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    prepared: BTreeMap<PublicKey, Prepared>,
    /// Signatures that keys verified which are not prepared.
    counts: BTreeMap<PublicKey, u32>,
    /// Counts the uses of prepared keys: the order in which they were last used.
    uses: u64,
}

#[derive(Debug)]
struct Prepared {
    key: Arc<PreparedKey>,
    last_use: u64,
}

impl PreparedKeys {
    /// How many keys are prepared unless told otherwise: their tables occupy 8.4 MB
    /// ([`PreparedKey::BYTES`] each).
    pub const DEFAULT_CAPACITY: usize = 64;
    /// How many signatures a key verifies before it is prepared.
    pub const PREPARE_AFTER: u32 = 16;
    /// For how many keys signatures are counted: 50 kB.
    const MAX_COUNTED: usize = 1024;

    /// Prepares up to `capacity` keys: as many as there are peers that call often. With 0, no key is prepared.
    pub const fn new(capacity: usize) -> Self {
        let state = State {
            prepared: BTreeMap::new(),
            counts: BTreeMap::new(),
            uses: 0,
        };
        Self {
            capacity,
            state: Mutex::new(state),
        }
    }

    /// A key that verifies with its prepared form if there is one.
    ///
    /// The verification with which the key is due also prepares it, which costs it about as much as four more.
    pub fn of(&self, key: &PublicKey) -> impl Verifier {
        Counted {
            keys: self,
            key: *key,
        }
    }

    /// The prepared form of a key, if there is one.
    pub fn prepared(&self, key: &PublicKey) -> Option<Arc<PreparedKey>> {
        self.state()
            .prepared
            .get(key)
            .map(|prepared| Arc::clone(&prepared.key))
    }

    /// How many keys are prepared.
    pub fn len(&self) -> usize {
        self.state().prepared.len()
    }

    /// Whether no key is prepared.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key whose verifications are counted.
struct Counted<'a> {
    keys: &'a PreparedKeys,
    key: PublicKey,
}

impl Verifier for Counted<'_> {
    fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), VerifyError> {
        let Self { keys, key } = self;
        match keys.prepared(key) {
            Some(prepared) => prepared.verify(message, signature)?,
            None => key.verify(message, signature)?,
        }
        if keys.capacity > 0 && keys.state().count(key) {
            let prepared = Arc::new(PreparedKey::new(key));
            keys.state().insert(prepared, keys.capacity);
        }
        Ok(())
    }
}

impl Default for PreparedKeys {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}

impl State {
    /// Notes that a key verified a signature. True if it is now due to be prepared; of several threads that
    /// note the same key, one is told so.
    fn count(&mut self, key: &PublicKey) -> bool {
        if let Some(prepared) = self.prepared.get_mut(key) {
            self.uses += 1;
            prepared.last_use = self.uses;
            return false;
        }
        if self.counts.len() >= PreparedKeys::MAX_COUNTED && !self.counts.contains_key(key) {
            // Forget the keys that are rarely used, and half of what is known of the others.
            self.counts.retain(|_, count| {
                *count /= 2;
                *count > 0
            });
            if self.counts.len() >= PreparedKeys::MAX_COUNTED {
                return false;
            }
        }
        let count = self.counts.entry(*key).or_default();
        *count += 1;
        let due = *count >= PreparedKeys::PREPARE_AFTER;
        if due {
            self.counts.remove(key);
        }
        due
    }

    fn insert(&mut self, key: Arc<PreparedKey>, capacity: usize) {
        let public_key = *key.public_key();
        self.counts.remove(&public_key);
        while self.prepared.len() >= capacity && !self.prepared.contains_key(&public_key) {
            let oldest = self.prepared.iter().min_by_key(|(_, prepared)| prepared.last_use);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                break;
            };
            self.prepared.remove(&oldest);
        }
        self.uses += 1;
        self.prepared.insert(
            public_key,
            Prepared {
                key,
                last_use: self.uses,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KeyPair, Soul};

    fn keypair(seed: usize) -> KeyPair {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        KeyPair::from_soul(&Soul::bond(bytes, "alice"))
    }

    fn verify_times(keys: &PreparedKeys, keypair: &KeyPair, times: u32) {
        let signature = keypair.sign(b"message");
        for _ in 0..times {
            keys.of(&keypair.public_key())
                .verify(b"message", &signature)
                .unwrap();
        }
    }

    #[test]
    fn a_key_is_prepared_after_sixteen_signatures_and_still_says_the_same() {
        let keys = PreparedKeys::default();
        let keypair = keypair(1);
        verify_times(&keys, &keypair, PreparedKeys::PREPARE_AFTER - 1);
        assert!(keys.prepared(&keypair.public_key()).is_none());
        verify_times(&keys, &keypair, 1);
        assert!(keys.prepared(&keypair.public_key()).is_some());
        verify_times(&keys, &keypair, 1);
        let signature = keypair.sign(b"message");
        assert_eq!(
            keys.of(&keypair.public_key()).verify(b"other", &signature),
            Err(VerifyError)
        );
    }

    #[test]
    fn signatures_that_do_not_verify_count_for_nothing() {
        let keys = PreparedKeys::new(1);
        let (victim, other) = (keypair(1), keypair(2));
        let garbage = Signature::from_bytes([1; 64]);
        for _ in 0..2 * PreparedKeys::PREPARE_AFTER {
            assert_eq!(
                keys.of(&victim.public_key()).verify(b"message", &garbage),
                Err(VerifyError)
            );
        }
        assert!(keys.is_empty() && keys.state().counts.is_empty());

        verify_times(&keys, &other, PreparedKeys::PREPARE_AFTER);
        for _ in 0..2 * PreparedKeys::PREPARE_AFTER {
            assert_eq!(
                keys.of(&victim.public_key()).verify(b"message", &garbage),
                Err(VerifyError)
            );
        }
        assert!(keys.prepared(&other.public_key()).is_some());
    }

    #[test]
    fn the_key_unused_for_longest_is_dropped() {
        let keys = PreparedKeys::new(2);
        let [first, second, third] = [1, 2, 3].map(keypair);
        verify_times(&keys, &first, PreparedKeys::PREPARE_AFTER);
        verify_times(&keys, &second, PreparedKeys::PREPARE_AFTER);
        verify_times(&keys, &first, 1);
        verify_times(&keys, &third, PreparedKeys::PREPARE_AFTER);
        assert_eq!(keys.len(), 2);
        assert!(keys.prepared(&first.public_key()).is_some());
        assert!(keys.prepared(&second.public_key()).is_none());
    }

    #[test]
    fn counting_is_bounded_and_forgets_the_rarely_used_first() {
        let mut state = State::default();
        let busy = keypair(0).public_key();
        for _ in 0..PreparedKeys::PREPARE_AFTER - 1 {
            assert!(!state.count(&busy));
        }
        for seed in 1..=PreparedKeys::MAX_COUNTED {
            assert!(!state.count(&keypair(seed).public_key()));
            assert!(state.counts.len() <= PreparedKeys::MAX_COUNTED);
        }
        assert_eq!(state.counts.get(&busy), Some(&7));
        assert_eq!(state.counts.len(), 2);
    }

    #[test]
    fn a_full_table_of_busy_keys_stays_bounded() {
        let mut state = State::default();
        for seed in 0..PreparedKeys::MAX_COUNTED {
            for _ in 0..2 {
                state.count(&keypair(seed).public_key());
            }
        }
        assert!(!state.count(&keypair(usize::MAX).public_key()));
        assert_eq!(state.counts.len(), PreparedKeys::MAX_COUNTED);
    }

    #[test]
    fn nothing_is_prepared_without_capacity() {
        let keys = PreparedKeys::new(0);
        verify_times(&keys, &keypair(1), 2 * PreparedKeys::PREPARE_AFTER);
        assert!(keys.is_empty());
    }

    #[test]
    fn threads_share_the_keys() {
        let keys = PreparedKeys::new(4);
        let keypairs: Vec<_> = (0..6).map(keypair).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for keypair in &keypairs {
                        verify_times(&keys, keypair, PreparedKeys::PREPARE_AFTER);
                    }
                });
            }
        });
        assert_eq!(keys.len(), 4);
    }
}
