//! The signatures of the bench: the same cost as a nara's headers, with one key for both ends.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

/// Returns the key of the bench, with the same seed as in `lab/go/peer`.
pub(super) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

const NAME: &str = "bench";

/// Signs a request or an answer: `suffix` is method and path, or the hash of the body.
pub(super) fn sign(key: &SigningKey, headers: &mut HeaderMap, suffix: &str) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let signature = key.sign(format!("{NAME}{now}{suffix}").as_bytes());
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    set("x-nara-name", NAME.to_owned());
    set("x-nara-timestamp", now.to_string());
    set("x-nara-signature", STANDARD.encode(signature.to_bytes()));
}

/// Returns whether the headers are signed for this suffix.
pub(super) fn verify(key: &SigningKey, headers: &HeaderMap, suffix: &str) -> bool {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let signed = format!("{}{}{suffix}", text("x-nara-name"), text("x-nara-timestamp"));
    STANDARD
        .decode(text("x-nara-signature"))
        .ok()
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .is_some_and(|signature| {
            key.verifying_key()
                .verify_strict(signed.as_bytes(), &signature)
                .is_ok()
        })
}

/// Returns the hash of a body, in the signed encoding.
pub(super) fn body_hash(body: &[u8]) -> String {
    STANDARD.encode(Sha256::digest(body))
}
