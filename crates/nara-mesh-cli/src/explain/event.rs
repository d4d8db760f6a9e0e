//! A signed event: its id and what its signature covers.

use nara_proto::event::{InvalidEvent, SyncEvent};
use nara_proto::identity::PublicKey;
use serde::Serialize;
use utoipa::ToSchema;

use super::hex;

/// The findings about an event.
#[derive(Debug)]
pub(crate) struct EventReport {
    pub(crate) id_preimage: String,
    pub(crate) recomputed_id: String,
    pub(crate) genuine_id: bool,
    pub(crate) signing_preimage: String,
    pub(crate) signing_digest: String,
    pub(crate) well_formed: Result<(), InvalidEvent>,
    /// Whether the signature verifies; `None` without a key or without a signature.
    pub(crate) signature_verifies: Option<bool>,
}

impl EventReport {
    /// Examines an event with the key of its emitter, if known.
    pub(crate) fn new(event: &SyncEvent, key: Option<&PublicKey>) -> Self {
        Self {
            id_preimage: event.id_preimage(),
            recomputed_id: event.compute_id(),
            genuine_id: event.has_genuine_id(),
            signing_preimage: event.signing_preimage(),
            signing_digest: hex(&event.signing_digest()),
            well_formed: event.validate(),
            signature_verifies: key
                .filter(|_| event.is_signed())
                .map(|key| event.verify(key).is_ok()),
        }
    }

    /// Returns the lines of `--explain`.
    pub(crate) fn lines(&self) -> Vec<String> {
        vec![
            format!("id preimage       {}", super::escape(self.id_preimage.as_bytes())),
            format!(
                "recomputed id     {}  (first 16 bytes of its SHA-256)",
                self.recomputed_id
            ),
            format!(
                "signing preimage  {}",
                super::escape(self.signing_preimage.as_bytes())
            ),
            format!("signed digest     {}  (its SHA-256)", self.signing_digest),
        ]
    }

    pub(crate) fn printed(&self) -> PrintedReport {
        PrintedReport {
            id_preimage: self.id_preimage.clone(),
            recomputed_id: self.recomputed_id.clone(),
            genuine_id: self.genuine_id,
            signing_preimage: self.signing_preimage.clone(),
            signing_digest_hex: self.signing_digest.clone(),
            well_formed: self.well_formed.is_ok(),
            problem: self.well_formed.err().map(|problem| problem.to_string()),
            signature_verifies: self.signature_verifies,
        }
    }
}

/// The findings about an event, as JSON.
#[derive(Serialize, ToSchema)]
pub(crate) struct PrintedReport {
    /// The text that the id is the hash of.
    id_preimage: String,
    /// The id computed from the content.
    recomputed_id: String,
    /// Whether the event carries that id.
    genuine_id: bool,
    /// The text that the signed digest is the hash of.
    signing_preimage: String,
    signing_digest_hex: String,
    well_formed: bool,
    /// Why the event is malformed.
    problem: Option<String>,
    /// Absent without a key or without a signature.
    signature_verifies: Option<bool>,
}
