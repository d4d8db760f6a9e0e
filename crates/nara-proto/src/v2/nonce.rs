use std::fmt;

use crate::encoding;
use crate::time::UnixMillis;

/// Makes each signed request unique: 16 bytes that one sender never uses twice.
///
/// The first six are the time of signing in milliseconds, as in a UUID of version 7; `created` has seconds only. So
/// a receiver that has just started can tell a request of before from one of now
/// ([`RequestSignature::signed_at`](super::RequestSignature::signed_at)). Sixteen random bytes are valid too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// The nonce of a request that is signed at `now`, with ten random bytes.
    pub fn new(now: UnixMillis, random: [u8; 10]) -> Self {
        let [_, _, time @ ..] = now.get().to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&time);
        bytes[6..].copy_from_slice(&random);
        Self(bytes)
    }

    /// The nonce with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The time in its first bytes; meaningless if the nonce is all random.
    pub(super) fn time(&self) -> UnixMillis {
        let mut time = [0; 8];
        time[2..].copy_from_slice(&self.0[..6]);
        UnixMillis::new(i64::from_be_bytes(time))
    }

    pub(super) fn append_base64(self, text: &mut String) {
        encoding::base64_append(&self.0, text);
    }

    pub(super) fn from_base64(text: &str) -> Option<Self> {
        encoding::base64_decode_exactly(text.as_bytes()).map(Self)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", encoding::base64_encode(&self.0))
    }
}
