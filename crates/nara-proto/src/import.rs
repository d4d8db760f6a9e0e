//! Import of a backup into the nara whose soul made it (docs/protocol/v1.md, section 7.10).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::encoding::{InvalidBase64, base64_decode_lenient};
use crate::event::SyncEvent;
use crate::identity::{KeyPair, PublicKey, Signature};
use crate::time::{UnixMillis, UnixSeconds, go_duration};
use crate::wire_struct;
use crate::zine::with_ids;

/// How far the time of an import request may lie from now, either way.
pub const IMPORT_WINDOW: Duration = Duration::from_secs(300);

wire_struct! {
    /// Body of `POST /api/events/import`, signed with the *receiver's own* key.
    pub struct ImportRequest {
        /// The events to import.
        pub events: Option<Vec<SyncEvent>> = "events",
        /// When it was signed, in **seconds**.
        pub ts: UnixSeconds = "ts",
        /// The signature, base64.
        pub sig: String = "sig",
    }
}

wire_struct! {
    /// Answer of `POST /api/events/import`.
    pub struct ImportResponse {
        /// Whether the import was carried out.
        pub success: bool = "success",
        /// How many events are new here.
        pub imported: i64 = "imported",
        /// How many were not imported: known already, or refused.
        pub duplicates: i64 = "duplicates",
        /// How many of these were refused; an extension.
        pub refused: i64 = "refused", omit,
        /// How many were signed by a nara whose key is not known here, or refused for their signature or the lack of one.
        pub warnings: i64 = "warnings", omit,
        /// What went wrong.
        pub error: String = "error", omit,
    }
}

/// Why an import request is refused. `Display` is the reason that the peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Not signed with the receiver's own key.
    #[error("signature verification failed")]
    BadSignature,
    /// The signature is not base64.
    #[error("invalid signature encoding: {0}")]
    Encoding(InvalidBase64),
    /// Too old, or from the future.
    #[error("timestamp too old or in future: {}", go_duration(*.by, *.ahead))]
    Stale {
        /// How far the two clocks are apart.
        by: Duration,
        /// Whether the request comes from the future of the receiver.
        ahead: bool,
    },
}

impl ImportRequest {
    /// A signed request.
    pub fn signed(events: Vec<SyncEvent>, ts: UnixSeconds, own: &KeyPair) -> Self {
        let mut request = Self {
            events: Some(events),
            ts,
            sig: String::new(),
        };
        request.sig = own.sign(&request.digest()).to_base64();
        request
    }

    /// The events; empty if the list is absent.
    pub fn events(&self) -> &[SyncEvent] {
        self.events.as_deref().unwrap_or_default()
    }

    /// The text whose hash is signed: `"{ts}:"` and the ids.
    pub fn digest_preimage(&self) -> String {
        with_ids(format!("{}:", self.ts), self.events())
    }

    /// The SHA-256 that is signed.
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
