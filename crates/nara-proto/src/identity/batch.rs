use std::collections::VecDeque;
use std::ops::Range;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng as _;
use ed25519_zebra::VerificationKeyBytes;
use ed25519_zebra::batch::Verifier;

use super::{PublicKey, Signature};

/// A key, a digest, and a signature of the key over the digest.
type Item = (PublicKey, [u8; 32], Signature);

/// The largest number of signatures for which single verification is faster than a batch.
const MAX_SINGLE: usize = 8;

/// The number of points of a batch that cost at most one single verification. A batch decompresses and multiplies one
/// point per signature and one per distinct key.
const POINTS_PER_SINGLE: usize = 4;

/// Verifies signatures over 32-byte digests and returns the indices of the invalid ones, in ascending order.
///
/// All signatures are verified as one batch, which for thousands of signatures of a few keys costs a fifth of single
/// verification. If that fails, the batch is halved and the halves are verified, until few signatures are left for
/// single verification. Signatures of one key stay together, so that one bad key spoils few batches. Once batches have
/// cost as much as single verification of all signatures, the rest is verified singly: however many are bad, the total
/// cost is at most about twice that.
///
/// `random` seeds the coefficients of all batches: 32 fresh random bytes. An attacker who can predict them can make
/// bad signatures cancel each other.
///
/// # When a batch and a single verification differ
/// A batch needs the equation of RFC 8032, section 5.1.7, with the cofactor; [`PublicKey::verify`] uses the one
/// without. Every signature that verifies singly verifies in a batch. The converse has exceptions: signatures whose R
/// is non-canonical, or whose R or key has a component of small order that the equation without the cofactor does not
/// cancel. (If the batch fails, those that end in single verification are refused.)
///
/// R and the key are hashed into the equation, so no other signature can be turned into such an exception: it takes the
/// secret key. It proves as much as any other signature: the owner of the key signed this digest. The owner only gains
/// that naras disagree about it, so not all naras are certain to reach the same verdict.
pub(crate) fn verify_batch(items: &[Item], random: [u8; 32]) -> Vec<usize> {
    let mut search = Search::new(items, random);
    search.run();
    search.bad.sort_unstable();
    search.bad
}

/// The search for the invalid signatures.
struct Search<'a> {
    items: &'a [Item],
    /// The indices of the items, sorted by key.
    order: Vec<usize>,
    /// Generates the coefficients of all batches, each used once.
    rng: ChaCha20Rng,
    /// The number of points that batches may still cost.
    budget: usize,
    /// The indices of the invalid items.
    bad: Vec<usize>,
}

/// The verdict on a range of signatures.
enum Verdict {
    Good,
    Bad,
    /// A batch would cost more than single verification.
    Open,
}

impl<'a> Search<'a> {
    fn new(items: &'a [Item], random: [u8; 32]) -> Self {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|&index| items[index].0);
        Self {
            items,
            order,
            rng: ChaCha20Rng::from_seed(random),
            budget: items.len().saturating_mul(POINTS_PER_SINGLE),
            bad: Vec::new(),
        }
    }

    fn run(&mut self) {
        let all = 0..self.order.len();
        // Ranges that contain a bad signature, largest first.
        let mut spoiled = VecDeque::new();
        match self.verify_as_batch(all.clone()) {
            Verdict::Good => {}
            Verdict::Bad => spoiled.push_back(all),
            Verdict::Open => self.verify_singly(all),
        }
        while let Some(range) = spoiled.pop_front() {
            let middle = range.start + range.len() / 2;
            let (left, right) = (range.start..middle, middle..range.end);
            match self.verify_as_batch(left.clone()) {
                // If the left half is good, the right one is bad.
                Verdict::Good => spoiled.push_back(right),
                Verdict::Bad => {
                    spoiled.push_back(left);
                    match self.verify_as_batch(right.clone()) {
                        Verdict::Good => {}
                        Verdict::Bad => spoiled.push_back(right),
                        Verdict::Open => self.verify_singly(right),
                    }
                }
                Verdict::Open => self.verify_singly(range),
            }
        }
    }

    fn verify_as_batch(&mut self, range: Range<usize>) -> Verdict {
        let indices = &self.order[range];
        let keys = indices
            .chunk_by(|a, b| self.items[*a].0 == self.items[*b].0)
            .count();
        let Some(budget) = self.budget.checked_sub(indices.len() + keys) else {
            return Verdict::Open;
        };
        if indices.len() <= MAX_SINGLE {
            return Verdict::Open;
        }
        self.budget = budget;
        let mut batch = Verifier::new();
        for &index in indices {
            let (key, digest, signature) = &self.items[index];
            let key = VerificationKeyBytes::from(*key.as_bytes());
            batch.queue((
                key,
                ed25519_zebra::Signature::from_bytes(signature.as_bytes()),
                digest,
            ));
        }
        match batch.verify(&mut self.rng) {
            Ok(()) => Verdict::Good,
            Err(_) => Verdict::Bad,
        }
    }

    fn verify_singly(&mut self, range: Range<usize>) {
        for &index in &self.order[range] {
            let (key, digest, signature) = &self.items[index];
            if key.verify(digest, signature).is_err() {
                self.bad.push(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::scalar::Scalar;
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha512};

    use super::*;
    use crate::identity::{KeyPair, Soul};

    /// Returns signatures of `keys` keys in turn.
    fn signed(count: usize, keys: usize) -> Vec<Item> {
        let keypairs: Vec<_> = (0..keys)
            .map(|key| KeyPair::from_soul(&Soul::bond([key.to_le_bytes()[0]; 32], "alice")))
            .collect();
        let digest = |index: usize| std::array::from_fn(|i| index.to_le_bytes()[i % 8]);
        (0..count)
            .map(|index| {
                let keypair = &keypairs[index % keys];
                (keypair.public_key(), digest(index), keypair.sign(&digest(index)))
            })
            .collect()
    }

    fn spoil(item: &mut Item) {
        item.1[5] ^= 0x10;
    }

    #[test]
    fn nothing_is_bad_in_an_empty_batch() {
        assert!(verify_batch(&[], [0; 32]).is_empty());
    }

    #[test]
    fn nothing_is_bad_when_all_are_good() {
        for count in [1, MAX_SINGLE, MAX_SINGLE + 1, 100] {
            assert!(verify_batch(&signed(count, 7), [1; 32]).is_empty());
        }
    }

    #[test]
    fn one_bad_signature_is_named_wherever_it_is() {
        for count in [1, MAX_SINGLE, MAX_SINGLE + 1, 3 * MAX_SINGLE + 1] {
            for bad in 0..count {
                let mut items = signed(count, 3);
                spoil(&mut items[bad]);
                assert_eq!(verify_batch(&items, [2; 32]), [bad]);
            }
        }
    }

    #[test]
    fn several_bad_signatures_are_named_in_ascending_order() {
        let mut items = signed(120, 10);
        let bad = [0, 3, 50, 51, 52, 119];
        for index in bad {
            spoil(&mut items[index]);
        }
        assert_eq!(verify_batch(&items, [3; 32]), bad);
    }

    #[test]
    fn all_are_named_when_all_are_bad() {
        let mut items = signed(100, 10);
        items.iter_mut().for_each(spoil);
        assert_eq!(verify_batch(&items, [4; 32]), Vec::from_iter(0..100));
    }

    #[test]
    fn duplicates_are_judged_each() {
        let mut items = signed(20, 2);
        items.extend_from_within(..);
        assert!(verify_batch(&items, [5; 32]).is_empty());
        spoil(&mut items[7]);
        items[27] = items[7];
        assert_eq!(verify_batch(&items, [5; 32]), [7, 27]);
    }

    #[test]
    fn bytes_that_are_no_signature_are_bad() {
        let mut items = signed(40, 4);
        items[3].2 = Signature::from_bytes([0xff; 64]);
        let mut no_point = *items[30].2.as_bytes();
        no_point[..32].copy_from_slice(&[2; 32]);
        items[30].2 = Signature::from_bytes(no_point);
        assert_eq!(verify_batch(&items, [6; 32]), [3, 30]);
    }

    #[test]
    fn batches_that_cost_more_than_the_budget_are_not_verified() {
        let items = signed(20, 3);
        let mut search = Search::new(&items, [7; 32]);
        search.budget = 42;
        assert!(matches!(search.verify_as_batch(0..20), Verdict::Good));
        assert_eq!(search.budget, 42 - 20 - 3);
        assert!(matches!(search.verify_as_batch(0..20), Verdict::Open));
        assert_eq!(search.budget, 19);
    }

    #[test]
    fn every_batch_draws_new_coefficients() {
        let items = signed(20, 1);
        let mut search = Search::new(&items, [7; 32]);
        search.budget = 1000;
        for batches in 1..=3 {
            assert!(matches!(search.verify_as_batch(0..20), Verdict::Good));
            // 128 bits are 4 words.
            assert_eq!(search.rng.get_word_pos(), batches * 20 * 4);
        }
    }

    #[test]
    fn a_batch_accepts_exceptions_that_only_the_owner_of_the_key_can_make() {
        // R is off by a point of small order. Only the owner of the secret scalar can make this: here it is 9.
        let secret = Scalar::from(9u8);
        let key = PublicKey::from_bytes((secret * ED25519_BASEPOINT_POINT).compress().to_bytes()).unwrap();
        let nonce = Scalar::from(1234u64);
        let r = (nonce * ED25519_BASEPOINT_POINT + EIGHT_TORSION[1])
            .compress()
            .to_bytes();
        let mut items = signed(30, 3);
        let digest = [9; 32];
        let hash = Sha512::new()
            .chain_update(r)
            .chain_update(key.as_bytes())
            .chain_update(digest)
            .finalize();
        let s = nonce + Scalar::from_bytes_mod_order_wide(&hash.into()) * secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(s.as_bytes());
        let signature = Signature::from_bytes(signature);
        items.push((key, digest, signature));
        assert!(key.verify(&digest, &signature).is_err());
        assert!(verify_batch(&items, [9; 32]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_batch_finds_the_signatures_that_single_verification_refuses(
            keys in 1..12usize,
            bad in prop::collection::vec(prop::bool::weighted(0.1), 1..90),
            random: [u8; 32],
        ) {
            let mut items = signed(bad.len(), keys);
            for (item, bad) in items.iter_mut().zip(&bad) {
                if *bad {
                    spoil(item);
                }
            }
            let expected: Vec<_> = (0..items.len()).filter(|&i| {
                let (key, digest, signature) = &items[i];
                key.verify(digest, signature).is_err()
            }).collect();
            prop_assert_eq!(verify_batch(&items, random), expected);
        }
    }
}
