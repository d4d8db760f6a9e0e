//! `sync_response.json`, `zine.json`, `import_request.json`: signatures over lists of event ids.

use nara_proto::go_json;
use nara_proto::identity::KeyPair;
use nara_proto::import::ImportRequest;
use nara_proto::sync::SyncResponse;
use nara_proto::time::UnixSeconds;
use nara_proto::zine::Zine;
use sha2::{Digest as _, Sha256};

use crate::events::{decode, is_signature_of, keypair};
use crate::harness::{Case, Unreadable};

/// Checks the common part of the three files: the digest, the signature and the verdict.
fn check_signature(
    case: &Case<'_>,
    keypair: &KeyPair,
    (preimage, digest): (String, [u8; 32]),
    signature: &str,
    verified: bool,
) {
    case.check("digest_preimage", preimage);
    case.check("digest_hex", hex::encode(digest));
    case.check("signature_b64", signature);
    case.check("expect", if verified { "valid" } else { "invalid" });
    case.claim(
        "signature_b64",
        "a signature that verifies is the one that the keypair makes",
        !verified || is_signature_of(signature, keypair, &digest),
    );
}

pub(crate) fn sync_response(case: &Case<'_>) -> Result<(), Unreadable> {
    let response: SyncResponse = decode(case)?;
    let keypair = keypair(case)?;
    let verified = response.verify(&keypair.public_key()).is_ok();
    let signed = (response.digest_preimage(), response.digest());
    check_signature(case, &keypair, signed, &response.sig, verified);
    case.check(
        "http_body_sha256",
        hex::encode(Sha256::digest(go_json::to_body(&response))),
    );
    case.check_texts(
        "received_event_ids",
        response.events().iter().map(|event| event.id.as_str()),
    );
    let unchanged = case.texts("signed_event_ids")?.concat() == case.texts("received_event_ids")?.concat();
    case.claim(
        "signed_event_ids",
        "other ids break the signature",
        unchanged || !verified,
    );
    Ok(())
}

pub(crate) fn zine(case: &Case<'_>) -> Result<(), Unreadable> {
    let zine: Zine = decode(case)?;
    let keypair = keypair(case)?;
    let verified = zine.verify(&keypair.public_key()).is_ok();
    let signed = (zine.digest_preimage(), zine.digest());
    check_signature(case, &keypair, signed, &zine.signature, verified);
    Ok(())
}

pub(crate) fn import_request(case: &Case<'_>) -> Result<(), Unreadable> {
    let request: ImportRequest = decode(case)?;
    let keypair = keypair(case)?;
    let now = UnixSeconds::new(case.int("server_now_s")?).to_millis();
    let outcome = request.verify(&keypair.public_key(), now);
    let signed = (request.digest_preimage(), request.digest());
    check_signature(case, &keypair, signed, &request.sig, outcome.is_ok());
    case.check_optional("error", outcome.err().map(|error| error.to_string()));
    Ok(())
}
