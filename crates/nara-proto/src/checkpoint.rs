//! Attestations, and the multi-signatures of checkpoints that consist of them (docs/protocol/v1.md, section 11).

use crate::event::voters::signed_text;
pub use crate::event::voters::{MAX_VOTERS, MIN_VALID_SIGNATURES, Tally, tally, voter_text};
use crate::event::{CheckpointPayload, Observation};
use crate::identity::{KeyPair, PublicKey, VerifyError, verify_base64};
use crate::time::UnixSeconds;
use crate::wire_struct;

wire_struct! {
    /// A signed statement of one nara about another, or about itself.
    pub struct Attestation {
        /// The version of the signed text; 0 counts as 1.
        pub version: i64 = "version",
        /// The name of the subject. Not signed.
        pub subject: String = "subject",
        /// The nara id of the subject.
        pub subject_id: String = "subject_id",
        /// The attested observation; only restarts, total uptime and start time are signed.
        pub observation: Observation = "observation",
        /// The name of the attester. Not signed.
        pub attester: String = "attester",
        /// The nara id of the attester.
        pub attester_id: String = "attester_id",
        /// The last checkpoint that the attester has seen; signed from version 2 on.
        pub last_seen_checkpoint_id: String = "last_seen_checkpoint_id", omit,
        /// The time that the observation describes, in **seconds**.
        pub as_of_time: UnixSeconds = "as_of_time",
        /// The signature, base64.
        pub signature: String = "signature",
    }
}

/// The error for an [`Attestation`] whose field contains a colon: the signed text could be split into other fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a colon in {0} makes the signed text ambiguous")]
pub struct AmbiguousAttestation(pub &'static str);

impl Attestation {
    /// Returns the text that is signed, before hashing.
    pub fn signed_text(&self) -> String {
        signed_text(
            self.version,
            &self.attester_id,
            &self.subject_id,
            self.as_of_time,
            &self.observation,
            &self.last_seen_checkpoint_id,
        )
    }

    /// Signs the attestation. The ids may come from a peer.
    ///
    /// # Errors
    /// [`AmbiguousAttestation`], before anything is signed, if an id contains a colon: the signature would be valid for
    /// other attestations as well.
    pub fn sign(&mut self, keypair: &KeyPair) -> Result<(), AmbiguousAttestation> {
        self.check_split()?;
        self.signature = keypair.sign(self.signed_text().as_bytes()).to_base64();
        Ok(())
    }

    /// Verifies the signature with the key of the attester.
    ///
    /// # Errors
    /// [`VerifyError`] if the signature is not the attester's, or if the signed text can be split into other fields.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        self.check_split().map_err(|_| VerifyError)?;
        verify_base64(key, self.signed_text().as_bytes(), &self.signature)
    }

    fn check_split(&self) -> Result<(), AmbiguousAttestation> {
        let ids = [
            ("attester_id", &self.attester_id),
            ("subject_id", &self.subject_id),
            ("last_seen_checkpoint_id", &self.last_seen_checkpoint_id),
        ];
        match ids.into_iter().find(|(_, id)| id.contains(':')) {
            Some((field, _)) => Err(AmbiguousAttestation(field)),
            None => Ok(()),
        }
    }

    /// Returns whether the nara attests about itself.
    pub fn is_self_attestation(&self) -> bool {
        self.attester_id == self.subject_id
    }
}

/// The latest `as_of_time` of checkpoints about `r2d2` that are discarded (docs/protocol/v1.md, section 8.6).
const R2D2_CUT_OFF: UnixSeconds = UnixSeconds::new(1_768_774_453);

/// Returns whether the mesh agreed to discard this checkpoint.
pub fn is_filtered_at_ingest(checkpoint: &CheckpointPayload) -> bool {
    checkpoint.subject == "r2d2" && checkpoint.as_of_time <= R2D2_CUT_OFF
}
