//! Which bytes are a key, and which signatures it verifies: compared with `ed25519-dalek`, which the crate does not use
//! for single signatures.

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity as _;
use ed25519_dalek::Verifier as _;
use proptest::prelude::*;
use sha2::{Digest as _, Sha512};

use super::*;
use crate::identity::{KeyPair, Soul};

/// The group order, little endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Returns the verdict, on which all implementations must agree.
fn verdict(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let oracle = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes()).unwrap();
    let expected = oracle
        .verify(
            message,
            &ed25519_dalek::Signature::from_bytes(signature.as_bytes()),
        )
        .is_ok();
    assert_eq!(key.verify(message, signature).is_ok(), expected);
    expected
}

fn keypair(seed: u8) -> KeyPair {
    KeyPair::from_soul(&Soul::bond([seed; 32], "alice"))
}

/// Returns R and S of a signature.
fn halves(signature: &Signature) -> ([u8; 32], [u8; 32]) {
    let bytes = signature.as_bytes();
    (*bytes.first_chunk().unwrap(), *bytes.last_chunk().unwrap())
}

fn joined(r: [u8; 32], s: [u8; 32]) -> Signature {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&r);
    bytes[32..].copy_from_slice(&s);
    Signature::from_bytes(bytes)
}

/// Returns S of a signature with any R, as the owner of the secret scalar would compute it.
fn respond(r: &[u8; 32], nonce: Scalar, key: &PublicKey, secret: Scalar, message: &[u8]) -> (Scalar, Scalar) {
    let hash = Sha512::new()
        .chain_update(r)
        .chain_update(key.as_bytes())
        .chain_update(message)
        .finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    (nonce + k * secret, k)
}

#[test]
fn s_plus_multiples_of_the_group_order_is_refused() {
    let keypair = keypair(1);
    let signature = keypair.sign(b"message");
    let (r, mut s) = halves(&signature);
    let mut tried = 0;
    // 15 L + S still fits into 32 bytes.
    for _ in 0..15 {
        let mut carry = 0;
        for (byte, add) in s.iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            *byte = sum.to_le_bytes()[0];
            carry = sum >> 8;
        }
        if carry == 0 {
            tried += 1;
            assert!(!verdict(&keypair.public_key(), b"message", &joined(r, s)));
        }
    }
    assert!(tried >= 14);
}

#[test]
fn s_with_high_bits_is_refused() {
    let keypair = keypair(2);
    let signature = keypair.sign(b"message");
    assert!(verdict(&keypair.public_key(), b"message", &signature));
    for bits in 1..8 {
        let (r, mut s) = halves(&signature);
        s[31] |= bits << 5;
        assert!(!verdict(&keypair.public_key(), b"message", &joined(r, s)));
    }
}

#[test]
fn the_owner_may_choose_r_of_small_order_but_only_in_its_canonical_spelling() {
    // With nonce 0 the equation holds for R = identity. Any other R of small order leaves its own torsion.
    let secret = Scalar::from(0x1234_5678_u64);
    let key = PublicKey::from_bytes((secret * ED25519_BASEPOINT_POINT).compress().to_bytes()).unwrap();
    for point in EIGHT_TORSION {
        let r = point.compress().to_bytes();
        let (s, _) = respond(&r, Scalar::ZERO, &key, secret, b"message");
        let is_identity = point == EdwardsPoint::identity();
        assert_eq!(verdict(&key, b"message", &joined(r, s.to_bytes())), is_identity);
    }
    let mut second_spellings = vec![];
    let mut sign_bit = EdwardsPoint::identity().compress().to_bytes();
    sign_bit[31] |= 0x80;
    second_spellings.push(sign_bit);
    let mut unreduced = [0xff; 32];
    unreduced[0] = 0xee;
    second_spellings.push(unreduced);
    unreduced[31] = 0x7f;
    second_spellings.push(unreduced);
    for r in second_spellings {
        let (s, _) = respond(&r, Scalar::ZERO, &key, secret, b"message");
        assert!(!verdict(&key, b"message", &joined(r, s.to_bytes())));
    }
}

#[test]
fn r_with_a_torsion_component_is_refused() {
    let secret = Scalar::from(99u8);
    let nonce = Scalar::from(7_777u64);
    let key = PublicKey::from_bytes((secret * ED25519_BASEPOINT_POINT).compress().to_bytes()).unwrap();
    for point in EIGHT_TORSION {
        let r = (nonce * ED25519_BASEPOINT_POINT + point).compress().to_bytes();
        let (s, _) = respond(&r, nonce, &key, secret, b"message");
        let is_plain = point == EdwardsPoint::identity();
        assert_eq!(verdict(&key, b"message", &joined(r, s.to_bytes())), is_plain);
    }
}

#[test]
fn a_key_of_mixed_order_verifies_when_its_torsion_cancels() {
    let secret = Scalar::from(31_337u64);
    let mut verdicts = [0; 2];
    for point in &EIGHT_TORSION[1..] {
        let mixed = secret * ED25519_BASEPOINT_POINT + point;
        let key = PublicKey::from_bytes(mixed.compress().to_bytes()).unwrap();
        for message in 0..24u8 {
            let nonce = Scalar::from(message) + Scalar::ONE;
            let r = (nonce * ED25519_BASEPOINT_POINT).compress().to_bytes();
            let (s, k) = respond(&r, nonce, &key, secret, &[message]);
            let cancels = (k * point).compress() == EdwardsPoint::identity().compress();
            let verified = verdict(&key, &[message], &joined(r, s.to_bytes()));
            assert_eq!(verified, cancels);
            verdicts[usize::from(verified)] += 1;
        }
    }
    assert!(
        verdicts[0] > 0 && verdicts[1] > 0,
        "both verdicts must occur: {verdicts:?}"
    );
}

#[test]
fn a_key_of_small_order_is_refused() {
    for point in EIGHT_TORSION {
        let mut bytes = point.compress().to_bytes();
        assert_eq!(PublicKey::from_bytes(bytes), Err(InvalidPublicKey));
        bytes[31] ^= 0x80;
        assert_eq!(PublicKey::from_bytes(bytes), Err(InvalidPublicKey));
    }
}

#[test]
fn a_key_is_shown_as_it_is_written() {
    let text = "19wPl4NX4ygV1BYJrndZMPWuc5x3eM33PkrBMUzFJRQ=";
    let key = PublicKey::from_base64(text).unwrap();
    assert_eq!(
        (key.to_base64(), key.to_string()),
        (text.to_owned(), text.to_owned())
    );
}

#[test]
fn a_key_in_a_second_spelling_is_refused() {
    let mut spelled_twice = 0;
    for low in 0..19 {
        let mut canonical = [0; 32];
        canonical[0] = low;
        let mut second = [0xff; 32];
        second[0] = 0xed + low;
        second[31] = 0x7f;
        spelled_twice += usize::from(PublicKey::from_bytes(canonical).is_ok());
        assert_eq!(PublicKey::from_bytes(second), Err(InvalidPublicKey));
    }
    assert!(spelled_twice > 0, "no key of the test had a canonical spelling");
}

#[test]
fn the_largest_reduced_coordinate_is_reduced() {
    let mut bytes = [0xff; 32];
    bytes[0] = 0xec;
    assert!(is_reduced(&bytes));
    bytes[0] = 0xed;
    assert!(!is_reduced(&bytes));
}

#[test]
fn bytes_that_are_no_point_are_refused() {
    let mut bytes = [0; 32];
    bytes[0] = 2;
    assert_eq!(PublicKey::from_bytes(bytes), Err(InvalidPublicKey));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn both_verifiers_agree_on_true_signatures_and_on_flipped_bits(
        seed: [u8; 32],
        message in prop::collection::vec(any::<u8>(), 1..200),
        bits in prop::collection::vec(0..512usize, 1..4),
        message_bit: prop::sample::Index,
        key_bit in 0..256usize,
    ) {
        let keypair = KeyPair::from_soul(&Soul::bond(seed, "alice"));
        let key = keypair.public_key();
        let signature = keypair.sign(&message);
        prop_assert!(verdict(&key, &message, &signature));

        let mut tampered = *signature.as_bytes();
        for bit in bits {
            tampered[bit / 8] ^= 1 << (bit % 8);
        }
        let tampered = Signature::from_bytes(tampered);
        prop_assert_eq!(verdict(&key, &message, &tampered), tampered == signature);

        let mut other = message.clone();
        let bit = message_bit.index(message.len() * 8);
        other[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!verdict(&key, &other, &signature));

        let mut other = *key.as_bytes();
        other[key_bit / 8] ^= 1 << (key_bit % 8);
        if let Ok(other) = PublicKey::from_bytes(other) {
            prop_assert!(!verdict(&other, &message, &signature));
        }
    }

    #[test]
    fn both_verifiers_agree_on_arbitrary_signatures(seed: [u8; 32], message: Vec<u8>, r: [u8; 32], s: [u8; 32]) {
        let key = KeyPair::from_soul(&Soul::bond(seed, "alice")).public_key();
        let reduced = Scalar::from_bytes_mod_order(s).to_bytes();
        verdict(&key, &message, &joined(r, s));
        verdict(&key, &message, &joined(r, reduced));
    }
}
