//! `attestation.json` and `event_checkpoint.json`.

use nara_proto::checkpoint::{Attestation, is_filtered_at_ingest, tally, voter_text};
use nara_proto::event::SyncEvent;

use crate::auth::known_keys;
use crate::events::{decode, is_signature_of, keypair};
use crate::harness::{Case, Unreadable};

pub(crate) fn attestation(case: &Case<'_>) -> Result<(), Unreadable> {
    let attestation: Attestation = decode(case)?;
    let keypair = keypair(case)?;
    let text = attestation.signed_text();
    case.check("signable_content", text.as_str());
    case.check("signature_b64", attestation.signature.as_str());
    case.check("self_attestation", attestation.is_self_attestation());
    let verified = attestation.verify(&keypair.public_key()).is_ok();
    case.check("expect", if verified { "valid" } else { "invalid" });
    case.claim(
        "signature_b64",
        "the attester's signature verifies, and only that one",
        verified == is_signature_of(&attestation.signature, &keypair, text.as_bytes()),
    );
    Ok(())
}

pub(crate) fn checkpoint(case: &Case<'_>) -> Result<(), Unreadable> {
    let event: SyncEvent = decode(case)?;
    case.check("id", event.id.as_str());
    case.check("recomputed_id", event.compute_id());
    case.check("content_string", event.content());
    case.check("id_preimage", event.id_preimage());
    case.check("event_valid", event.validate().is_ok());
    let Some(payload) = event.checkpoint.as_deref() else {
        return Err(case.fail("json", "a checkpoint", event.svc));
    };
    case.check("filtered_at_ingest", is_filtered_at_ingest(payload));
    let voters = payload.voter_ids.as_deref().unwrap_or_default();
    case.check_texts(
        "signed_content_per_voter",
        voters.iter().map(|voter| voter_text(payload, voter)),
    );

    let keys = known_keys(case, "known_keys_by_id")?;
    let tally = tally(payload, |id| keys.get(id).copied());
    case.check("valid_count", tally.valid);
    case.check("known_count", tally.known);
    case.check("total_count", tally.total);
    // The verdict of v1 peers; our own counts each voter once.
    case.check(
        "expect",
        if tally.is_valid_elsewhere() {
            "valid"
        } else {
            "invalid"
        },
    );
    case.claim(
        "expect",
        "what is valid here is valid for v1 peers",
        tally.is_valid_elsewhere() || !tally.is_valid(),
    );
    Ok(())
}
