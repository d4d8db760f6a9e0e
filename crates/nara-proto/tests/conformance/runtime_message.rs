//! `runtime_message.json`.

use nara_proto::identity::{KeyPair, NaraId, Soul};
use nara_proto::runtime_message::{
    MessageError, MessagePayload, RuntimeMessage, StashAck, StashResponse, stash_refusal,
};
use nara_proto::time::UnixSeconds;
use sha2::{Digest as _, Sha256};

use crate::events::{is_signature_of, keypair};
use crate::harness::{Case, Unreadable};

pub(crate) fn runtime_message(case: &Case<'_>) -> Result<(), Unreadable> {
    let keypair = keypair(case)?;
    as_made(case, &keypair)?;

    let message = RuntimeMessage::from_json(case.text("json")?.as_bytes());
    let known = case.flag("sender_key_known")?;
    let outcome = match &message {
        Err(_) => "error",
        Ok(message) if message.payload.kind() == "stash-refresh" => {
            // No v1 peer verifies this kind, so the verdict does not depend on the signature.
            "accepted"
        }
        Ok(message) if known && message.verify(&keypair.public_key()).is_ok() => "accepted",
        Ok(_) => "dropped",
    };
    case.check("expect", if outcome == "accepted" { "valid" } else { "invalid" });

    let receiver = case.inner(case.object("receiver")?);
    let own = crate::events::keypair(&receiver)?;
    let soul: Soul = receiver.parsed("soul")?;
    let (own_name, own_id) = (receiver.text("name")?, receiver.text("nara_id")?);
    receiver.check("nara_id", NaraId::derive(&soul, own_name).as_str());
    case.absorb("receiver", receiver);

    let receive = case.inner(case.object("receive")?);
    receive.check("outcome", outcome);
    receive.prose(&["error"]);
    match message {
        Ok(message) if outcome == "accepted" => reply(&receive, &message, own_name, own_id, &own)?,
        _ => {}
    }
    case.absorb("receive", receive);
    Ok(())
}

/// Checks the message as its sender made it, before any change on the way: rebuilt from its signed JSON, which contains
/// everything that is signed. For an unknown kind, only signature and id can be checked.
fn as_made(case: &Case<'_>, keypair: &KeyPair) -> Result<(), Unreadable> {
    let signed = case.text("signed_json")?;
    let signature = case.text("signature_b64")?;
    let same = is_signature_of(signature, keypair, signed.as_bytes());
    case.claim("signature_b64", "the sender's signature over signed_json", same);
    let digest = Sha256::digest(case.text("id_preimage")?);
    let id: String = bs58::encode(digest).into_string().chars().take(16).collect();
    case.check("id", id);

    match RuntimeMessage::from_json(signed.as_bytes()) {
        Ok(message) => {
            case.check("signed_json", String::from_utf8_lossy(&message.signed_json()));
            case.check("kind", message.payload.kind());
            case.check("from_id", message.from_id.as_str());
            case.check("id", message.id.as_str());
            case.check("id", message.compute_id());
            case.check("id_preimage", message.id_preimage());
        }
        Err(MessageError::UnknownKind(kind)) => {
            case.check("kind", kind);
            case.prose(&["from_id"]);
        }
        Err(error) => return Err(case.fail("signed_json", signed, error.to_string())),
    }
    Ok(())
}

/// Checks the reply of the receiver. Its stored stashes are not part of the format, so a returned stash is taken from
/// the reply itself.
fn reply(
    receive: &Case<'_>,
    request: &RuntimeMessage,
    own_name: &str,
    own_id: &str,
    own: &KeyPair,
) -> Result<(), Unreadable> {
    let answered = receive.has("reply_json");
    let stated = if answered {
        let json = receive.text("reply_json")?;
        let stated = RuntimeMessage::from_json(json.as_bytes());
        Some(stated.map_err(|error| receive.fail("reply_json", json, error.to_string()))?)
    } else {
        None
    };
    let stored = stated.as_ref().and_then(|reply| match &reply.payload {
        MessagePayload::StashResponse(response) if response.found => Some(response),
        _ => None,
    });
    let now = stated.as_ref().and_then(|reply| reply.timestamp.to_nanos());
    let now_s = now.map_or(UnixSeconds::new(0), |now| now.to_seconds());

    let payload = match &request.payload {
        // Version 0 has no handler.
        _ if request.version == 0 => None,
        MessagePayload::StashStore(store) => {
            let refusal = stash_refusal(store);
            Some(MessagePayload::StashAck(StashAck {
                owner_id: store.owner_id.clone(),
                stored_at: now_s,
                success: refusal.is_none(),
                reason: refusal.unwrap_or_default().to_owned(),
            }))
        }
        MessagePayload::StashRequest(asked) => Some(response(&asked.owner_id, &asked.request_id, stored)),
        MessagePayload::StashRefresh(asked) => {
            stored.map(|stored| response(&asked.owner_id, "", Some(stored)))
        }
        _ => None,
    };
    receive.claim(
        "reply_json",
        "a reply if the kind has one",
        payload.is_some() == answered,
    );
    let (Some(payload), Some(now)) = (payload, now) else {
        return Ok(());
    };
    let mut reply = request.reply(own_name, own_id, now, payload, own);
    if let MessagePayload::StashRefresh(asked) = &request.payload {
        // A new message to the owner, not a reply.
        reply.in_reply_to.clear();
        reply = reply.to(&request.from, &asked.owner_id).sign(own);
    }
    receive.check("reply_json", String::from_utf8_lossy(&reply.to_json()));
    receive.check("reply_signed_json", String::from_utf8_lossy(&reply.signed_json()));
    receive.check("reply_to_id", reply.to_id.as_str());
    let again = RuntimeMessage::from_json(&reply.to_json());
    receive.claim(
        "reply_json",
        "reads back and verifies",
        again.is_ok_and(|again| again == reply && again.verify(&own.public_key()).is_ok()),
    );
    Ok(())
}

fn response(owner_id: &str, request_id: &str, stored: Option<&StashResponse>) -> MessagePayload {
    MessagePayload::StashResponse(StashResponse {
        owner_id: owner_id.to_owned(),
        request_id: request_id.to_owned(),
        found: stored.is_some(),
        ..stored.cloned().unwrap_or_default()
    })
}
