use std::sync::Arc;

use axum::response::Response;
use http::StatusCode;
use nara_proto::endpoint::{DirectMessage, Endpoint as _};
use nara_proto::event::{
    EventProblem, EventTrust, EventVerdict, KeyLookup as _, MAX_EVENT_BYTES, MAX_EVENT_LEAD, Service,
    SyncEvent,
};
use nara_proto::peer::Receipt;

use crate::ledger::{CheckedEvent, Insertion};
use crate::offload::are_many;
use crate::server::answer::json::{JSON_UTF8, json};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::route::body::read_json;
use crate::server::route::ingest::{in_turn, is_small};
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /dm` (docs/protocol/v1.md, section 7.5).
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let mut event: SyncEvent = read_json(body, DirectMessage::MAX_REQUEST, &shared.limits).await?;
    if !is_small(&event) {
        return Err(Rejection::BodyTooLarge(MAX_EVENT_BYTES));
    }
    check_signature(&shared, &event)?;
    sender.must_be("emitter", &event.emitter)?;

    let success = match event.validate() {
        // The signature is valid, but the event must not be stored: answered like v1 peers.
        Err(error) => {
            tracing::info!(sender = %sender.name(), %error, "direct message not stored");
            false
        }
        Ok(()) if !event.has_genuine_id() => return Err(Rejection::ForgedId),
        Ok(()) => match trust(&shared, &sender, &mut event).await {
            Err(problem) => {
                tracing::info!(sender = %sender.name(), %problem, "direct message not kept");
                false
            }
            Ok(trust) => keep(&shared, &sender, CheckedEvent::new(event, trust)).await?,
        },
    };
    let receipt = Receipt {
        from: shared.local.name().as_str().to_owned(),
        success,
    };
    Ok(json(StatusCode::OK, JSON_UTF8, &receipt))
}

/// Returns the trust in an event whose signature by the sender is valid: the actor must be its emitter, and its time
/// not in the future.
async fn trust(shared: &Arc<Shared>, sender: &VerifiedSender, event: &mut SyncEvent) -> EventVerdict {
    let now = shared.clock.now_nanos();
    // These are proven by voters or by an old key. The sender's signature proves nothing about them.
    if let Some(Service::Checkpoint | Service::Succession) = event.service() {
        let (keys, mut judged) = (shared.known_keys.clone(), [event.clone()]);
        let many = are_many(&judged);
        let work = move || {
            let verdict = keys.judge(&mut judged, now)[0];
            (judged, verdict)
        };
        let ([judged], verdict) = in_turn(shared, many, Some(sender.name().clone()), work).await;
        *event = judged;
        return verdict;
    }
    if event.ts > now.saturating_add(MAX_EVENT_LEAD) {
        return Err(EventProblem::Future);
    }
    event.check_claims()?;
    event.remove_uncovered();
    Ok(EventTrust::Verified)
}

fn check_signature(shared: &Shared, event: &SyncEvent) -> Result<(), Rejection> {
    if event.emitter.is_empty() || !event.is_signed() {
        return Err(Rejection::UnsignedEvent);
    }
    let key = shared
        .key_of_name(&event.emitter)
        .ok_or(Rejection::UnknownEmitter)?;
    // Every payload has some content.
    if let Some(service) = event.service().filter(|_| event.content().is_empty()) {
        return Err(Rejection::MissingPayload(service));
    }
    event.verify(&key).map_err(|_| Rejection::InvalidSignature)
}

/// Stores the event. `false` if the application refuses it, or it is known already, or not retained.
async fn keep(shared: &Shared, sender: &VerifiedSender, checked: CheckedEvent) -> Result<bool, Rejection> {
    if !shared.handler.accepts(&checked.event) {
        return Ok(false);
    }
    if checked.is_verified() {
        shared.registry.hear(&checked.event, shared.clock.now_nanos());
    }
    let events = vec![checked.clone()];
    let insertions = shared.ledger.insert(events, Some(sender.name().clone())).await?;
    let stored = matches!(insertions.first(), Some(Insertion::Stored));
    // A statement about an unknown nara is stored for later, and is not a message.
    if stored && checked.is_verified() {
        shared.handler.on_direct_message(sender, &checked.event);
    }
    Ok(stored)
}
