//! `event_social.json`, `event_ping.json`, `event_observation.json`, `event_hey_there.json`, `event_chau.json`,
//! `event_seen.json`.

use nara_proto::event::SyncEvent;
use nara_proto::go_json;
use nara_proto::identity::{KeyPair, Signature};
use sha2::{Digest as _, Sha256};

use crate::harness::{Case, Unreadable};

/// Parses the JSON of the case and compares our output with it.
pub(crate) fn decode<T: go_json::Merge + serde::Serialize>(case: &Case<'_>) -> Result<T, Unreadable> {
    let json = case.text("json")?;
    let value = go_json::from_slice::<T>(json.as_bytes())
        .map_err(|error| case.fail("json", json, error.to_string()))?;
    case.check("json", go_json::to_string(&value));
    Ok(value)
}

/// Returns the keypair of the case's soul, compared with its public key.
pub(crate) fn keypair(case: &Case<'_>) -> Result<KeyPair, Unreadable> {
    let keypair = KeyPair::from_soul(&case.parsed("soul")?);
    case.check("public_key_b64", keypair.public_key().to_base64());
    Ok(keypair)
}

/// Returns whether `text` is the signature of `keypair` over `message`: Ed25519 is deterministic.
pub(crate) fn is_signature_of(text: &str, keypair: &KeyPair, message: &[u8]) -> bool {
    Signature::from_base64(text).is_ok_and(|signature| signature == keypair.sign(message))
}

pub(crate) fn event(case: &Case<'_>) -> Result<(), Unreadable> {
    let event: SyncEvent = decode(case)?;
    let keypair = keypair(case)?;
    case.check("json_sha256", hex::encode(Sha256::digest(case.text("json")?)));
    case.check("service", event.svc.as_str());
    case.check("timestamp_ns", event.ts.to_string());
    case.check("emitter", event.emitter.as_str());
    case.check("content_string", event.content());
    case.check("id_preimage", event.id_preimage());
    case.check("id", event.id.as_str());
    case.check("recomputed_id", event.compute_id());
    case.check("event_valid", event.validate().is_ok());
    case.claim(
        "recomputed_id",
        "an id is genuine if it is the recomputed one",
        event.has_genuine_id() == (case.text("id")? == case.text("recomputed_id")?),
    );

    let signed = event.is_signed();
    case.check_optional("signature_b64", signed.then_some(event.sig.as_str()));
    case.check_optional("signing_preimage", signed.then(|| event.signing_preimage()));
    case.check_optional(
        "signing_digest_hex",
        signed.then(|| hex::encode(event.signing_digest())),
    );
    let verified = event.verify(&keypair.public_key()).is_ok();
    case.check("expect", if verified { "valid" } else { "invalid" });
    let mut again = event.clone();
    again.sign(case.text("signer_name")?, &keypair);
    let same = Signature::from_base64(&again.sig) == Signature::from_base64(&event.sig);
    case.claim(
        "signature_b64",
        "the signer's signature verifies, and only that one",
        event.emitter != again.emitter || same == verified,
    );

    let introduction = match (&event.hey_there, &event.chau) {
        (Some(payload), _) => Some(payload.signature.as_str()),
        (_, Some(payload)) => Some(payload.signature.as_str()),
        _ => None,
    };
    if let Some(inner) = introduction {
        case.check("embedded_key_verify", event.verify_with_embedded_key().is_ok());
        if case.has("inner_signature_b64") {
            case.check("inner_signature_b64", inner);
            let verified = event.embedded_key().is_some_and(|key| {
                Signature::from_base64(inner)
                    .is_ok_and(|signature| key.verify(event.content().as_bytes(), &signature).is_ok())
            });
            case.check("inner_verify", verified);
        }
    }
    Ok(())
}
