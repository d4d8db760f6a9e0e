//! Explains the signature of a request: the signature base, whether it verifies, and the likely mistake if
//! not.

use std::time::Duration;

use nara_proto::identity::PublicKey;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, request_signature_base, signed_path};

use super::cause::{Attempt, Candidates};
use super::claim::{Claim, SignatureText, TimestampText};

/// The outcome of verifying a claim.
#[derive(Debug)]
pub(crate) struct Report {
    /// The signature base, if the timestamp is a number.
    pub(crate) base: Option<Vec<u8>>,
    pub(crate) timestamp: TimestampText,
    pub(crate) signature: SignatureText,
    /// Whether the signature verifies over the base with the key.
    pub(crate) signature_verifies: bool,
    /// The clock skew between request and receiver, if too large.
    pub(crate) stale_by: Option<Duration>,
    /// The likely mistake that explains the signature.
    pub(crate) attempt: Option<Attempt>,
}

impl Report {
    /// Verifies a claim; on failure, tries common signing mistakes. `others` are other naras whose name or
    /// key may have been used by mistake.
    pub(crate) fn new(
        claim: &Claim<'_>,
        key: &PublicKey,
        now: UnixMillis,
        others: &[(String, PublicKey)],
    ) -> Self {
        let timestamp = TimestampText::parse(claim.timestamp);
        let signature = SignatureText::parse(claim.signature);
        // Profile v1 does not cover the query.
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

    /// Returns whether a receiver would accept the request, replays aside.
    pub(crate) fn is_valid(&self) -> bool {
        self.signature_verifies
            && self.stale_by.is_none()
            && matches!(self.timestamp, TimestampText::Canonical(_))
            && matches!(self.signature, SignatureText::Canonical(_))
    }
}
