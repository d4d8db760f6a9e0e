//! A signed request: what must be signed, whether it was, and if not, what was probably signed instead.

use std::time::Duration;

use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, request_signature_base, signed_path};

use super::cause::{Attempt, Candidates};
use super::claim::{Claim, SignatureText, TimestampText};

/// What became of a claim.
#[derive(Debug)]
pub(crate) struct Report {
    /// The bytes that must be signed, if the timestamp is a number.
    pub(crate) base: Option<Vec<u8>>,
    pub(crate) timestamp: TimestampText,
    pub(crate) signature: SignatureText,
    /// Whether the signature is one of the key over the base.
    pub(crate) signature_verifies: bool,
    /// How far the request and the receiver's clock are apart, if that is too far.
    pub(crate) stale_by: Option<Duration>,
    /// What was signed instead, if a likely mistake explains the signature.
    pub(crate) attempt: Option<Attempt>,
}

impl Report {
    /// Verifies a claim; if the signature does not verify, tries what is signed by mistake. `others` are other
    /// naras whose name or key may have been used.
    pub(crate) fn new(
        claim: &Claim<'_>,
        key: &PublicKey,
        now: UnixMillis,
        others: &[(String, PublicKey)],
    ) -> Self {
        let timestamp = TimestampText::parse(claim.timestamp);
        let signature = SignatureText::parse(claim.signature);
        // The query is not signed.
        let path = claim.path.split('?').next().unwrap_or_default();
        let base = timestamp
            .time()
            .map(|time| request_signature_base(claim.name, time, claim.method, &signed_path(path)));
        let signature_verifies = base
            .as_ref()
            .zip(signature.signature())
            .is_some_and(|(base, signature)| key.verify(base, signature).is_ok());
        let stale_by = timestamp
            .time()
            .map(|time| time.abs_diff(now))
            .filter(|by| *by > FRESHNESS_WINDOW);
        let attempt = signature
            .signature()
            .filter(|_| !signature_verifies)
            .and_then(|signature| Candidates::new(claim, key, others).find(signature));
        Self {
            base,
            timestamp,
            signature,
            signature_verifies,
            stale_by,
            attempt,
        }
    }

    /// Whether a receiver accepts the request (if it did not come before).
    pub(crate) fn is_valid(&self) -> bool {
        self.signature_verifies
            && self.stale_by.is_none()
            && matches!(self.timestamp, TimestampText::Canonical(_))
            && matches!(self.signature, SignatureText::Canonical(_))
    }
}
