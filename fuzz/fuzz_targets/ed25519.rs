//! Verifies signatures with our code and two other libraries, which must all agree.
//!
//! The input determines key, message and signature: a valid one, with up to 128 bytes laid over key and
//! signature.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nara_fuzz::nara;
use nara_proto::identity::{PublicKey, Signature};

fuzz_target!(|bytes: &[u8]| {
    let Some((places, message)) = bytes.split_at_checked(4) else {
        return;
    };
    let keypair = nara("alice").keypair().clone();
    let mut signed = [0; 96];
    signed[..32].copy_from_slice(keypair.public_key().as_bytes());
    signed[32..].copy_from_slice(keypair.sign(message).as_bytes());
    // Copies up to 16 bytes of the message to two positions.
    for place in places.chunks_exact(2) {
        let (from, count) = (usize::from(place[0]) % 96, usize::from(place[1]) % 17);
        for (to, byte) in signed[from..].iter_mut().zip(message).take(count) {
            *to ^= byte;
        }
    }
    let (key, signature) = signed.split_at(32);
    let (key, signature): ([u8; 32], [u8; 64]) = (
        key.try_into().expect("the length fits"),
        signature.try_into().expect("the length fits"),
    );
    let Ok(public_key) = PublicKey::from_bytes(key) else {
        return;
    };
    let verified = public_key
        .verify(message, &Signature::from_bytes(signature))
        .is_ok();
    let dalek = ed25519_dalek::VerifyingKey::from_bytes(&key).is_ok_and(|key| {
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        ed25519_dalek::Verifier::verify(&key, message, &signature).is_ok()
    });
    assert_eq!(verified, dalek, "ed25519-dalek");
    // Zebra uses the cofactored equation, which accepts a superset.
    let zebra = ed25519_zebra::VerificationKey::try_from(key).is_ok_and(|key| {
        key.verify(&ed25519_zebra::Signature::from_bytes(&signature), message)
            .is_ok()
    });
    assert!(zebra || !verified, "ed25519-zebra");
});
