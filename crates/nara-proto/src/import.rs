//! Import of a backup into the nara that made it (docs/protocol/v1.md, section 7.10).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::encoding::{InvalidBase64, base64_decode_lenient};
use crate::event::SyncEvent;
use crate::identity::{KeyPair, PublicKey, Signature};
use crate::time::{UnixMillis, UnixSeconds, go_duration};
use crate::wire_struct;
use crate::zine::with_ids;

/// The greatest difference between the time of an import request and now, either way.
pub const IMPORT_WINDOW: Duration = Duration::from_secs(300);

wire_struct! {
    /// The body of `POST /api/events/import`, signed with the *receiver's own* key.
    pub struct ImportRequest {
        /// The events to import.
        pub events: Option<Vec<SyncEvent>> = "events",
        /// The time of signing, in **seconds**.
        pub ts: UnixSeconds = "ts",
        /// The signature, base64.
        pub sig: String = "sig",
    }
}

wire_struct! {
    /// The answer of `POST /api/events/import`.
    pub struct ImportResponse {
        /// Whether the import was carried out.
        pub success: bool = "success",
        /// The number of events that were new here.
        pub imported: i64 = "imported",
        /// The number of events that were not imported: already known, or refused.
        pub duplicates: i64 = "duplicates",
        /// How many of these were refused; an extension.
        pub refused: i64 = "refused", omit,
        /// The number of events whose signer's key is unknown here, or that were refused for an invalid or missing
        /// signature.
        pub warnings: i64 = "warnings", omit,
        /// The error, if any.
        pub error: String = "error", omit,
    }
}

/// The reason why an import request is refused. `Display` is the text that the peer receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// It is not signed with the receiver's own key.
    #[error("signature verification failed")]
    BadSignature,
    /// The signature is not base64.
    #[error("invalid signature encoding: {0}")]
    Encoding(InvalidBase64),
    /// It is too old, or from the future.
    #[error("timestamp too old or in future: {}", go_duration(*.by, *.ahead))]
    Stale {
        /// The difference between the two clocks.
        by: Duration,
        /// Whether the request is from the receiver's future.
        ahead: bool,
    },
}

impl ImportRequest {
    /// Returns a signed request.
    pub fn signed(events: Vec<SyncEvent>, ts: UnixSeconds, own: &KeyPair) -> Self {
        let mut request = Self {
            events: Some(events),
            ts,
            sig: String::new(),
        };
        request.sig = own.sign(&request.digest()).to_base64();
        request
    }

    /// Returns the events; empty if the list is absent.
    pub fn events(&self) -> &[SyncEvent] {
        self.events.as_deref().unwrap_or_default()
    }

    /// Returns the text whose hash is signed: `"{ts}:"` and the ids.
    pub fn digest_preimage(&self) -> String {
        with_ids(format!("{}:", self.ts), self.events())
    }

    /// Returns the SHA-256 digest that is signed.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.digest_preimage()).into()
    }

    /// Verifies that the request was made with the receiver's own key, within [`IMPORT_WINDOW`] of `now`.
    ///
    /// # Errors
    /// [`ImportError`] for an import that must be refused.
    pub fn verify(&self, own: &PublicKey, now: UnixMillis) -> Result<(), ImportError> {
        let made = self.ts.to_millis();
        let by = now.abs_diff(made);
        if by > IMPORT_WINDOW {
            return Err(ImportError::Stale {
                by,
                ahead: made > now,
            });
        }
        let bytes = base64_decode_lenient(self.sig.as_bytes()).map_err(ImportError::Encoding)?;
        let signature = Signature::from_bytes(bytes.try_into().map_err(|_| ImportError::BadSignature)?);
        own.verify(&self.digest(), &signature)
            .map_err(|_| ImportError::BadSignature)
    }
}
