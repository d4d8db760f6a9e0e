use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use nara_mesh::client::{CheckedEvent, ClientError, PeerHandle};
use nara_mesh::defaults;
use nara_mesh::ledger::ReadLimit;
use nara_proto::event::SyncEvent;
use nara_proto::go_json::Timestamp;
use nara_proto::runtime_message::{InvalidPayload, MessagePayload, RuntimeMessage};
use nara_proto::sync::MAX_EVENTS;
use serde_json::value::RawValue;

use crate::Problem;
use crate::compose::{complete, social};
use crate::model::{
    Counts, DirectMessage, DirectMessageReceipt, LiveEvent, MessageReceipt, OutboxEntry, OutgoingMessage,
    Zine, trust_word,
};
use crate::server::extract::{Body, CallParams, Path, Query};
use crate::server::outbox::keep::{self, Addressee};
use crate::server::state::{Answer, Shared};

/// The reference of the kinds and payloads of runtime messages.
const PAYLOADS: &str = "docs/protocol/v1.md, section 12.2, lists the kinds and their fields";

/// Send a direct message: one signed event
///
/// With `later`, a message that cannot be delivered now is kept, and delivered once the peer is seen.
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/dm",
    tag = "messages",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    request_body = DirectMessage,
    responses(
        (status = 200, body = DirectMessageReceipt),
        (status = 202, body = OutboxEntry, description = "It waits in the outbox"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn dm(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
    Body(message): Body<DirectMessage>,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    if let Some(later) = message.later {
        let addressee = Addressee::of(&peer, &handle)?;
        let event = event(&shared, message, Some(addressee.name().to_owned()))?;
        let draft = addressee.direct_message(&event);
        return keep::keep(&shared, draft, later, call.timeout()).await;
    }
    let about = match message.about {
        Some(_) => None,
        None if message.text.is_none() => None,
        None => Some(name_of(&handle).await?),
    };
    let event = event(&shared, message, about)?;
    let event_id = event.id.clone();
    let receipt = handle.send_dm(event).await.map_err(keep::advised)?;
    let receipt = DirectMessageReceipt {
        event_id,
        recipient: receipt.from.clone(),
        stored: receipt.success,
        verified: receipt.is_verified(),
    };
    Ok(Json(receipt).into_response())
}

/// Returns the event of a message: composed, or completed. `recipient`: the default subject of a text.
fn event(shared: &Shared, message: DirectMessage, recipient: Option<String>) -> Result<SyncEvent, Problem> {
    let nara = shared.nara.local();
    let event = match (message.event, message.text) {
        (Some(event), None) => {
            let event = event
                .decode()
                .map_err(|error| Problem::invalid(format!("event: {error}")))?;
            complete(event, nara)
        }
        (None, Some(text)) => {
            let about = message.about.or(recipient).unwrap_or_default();
            let now = shared.nara.client().clock().now_nanos();
            social(nara, message.kind, &about, &text, now)
                .map_err(|problem| Problem::invalid(format!("the message cannot be signed: {problem}")))?
        }
        _ => return Err(Problem::invalid("a direct message has either a text or an event")),
    };
    match event.validate() {
        Ok(()) => Ok(event),
        Err(problem) => Err(Problem::invalid(format!("the event is malformed: {problem}"))),
    }
}

/// Returns the name of a peer: as registered, else from its unsigned `/ping`.
async fn name_of(handle: &PeerHandle) -> Result<String, ClientError> {
    match handle.known().and_then(|peer| peer.info().name) {
        Some(name) => Ok(name.to_string()),
        None => Ok(handle.ping().await?.response.from),
    }
}

/// Exchange the events of the last minutes with a peer
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/zine",
    tag = "messages",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    responses((status = 200, body = Zine), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn zine(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
) -> Answer<Zine> {
    let handle = shared.peer(&peer, call.timeout())?;
    let ledger = shared.nara.ledger();
    let now = shared.nara.client().clock().now_nanos();
    let since = now.saturating_sub(defaults::ZINE_WINDOW);
    let ours = ledger.since(since, ReadLimit::events(MAX_EVENTS)).await?;
    let sent = ours.len();
    let zine = handle.exchange_zine(ours).await?.into_inner();
    let teller = handle.known().and_then(|peer| peer.info().name);
    let counts = Counts::of_answer(&zine.events);
    let live = |checked: &CheckedEvent| LiveEvent::told(&checked.event, trust_word(checked.trust));
    let events = zine.events.accepted.iter().map(live).collect();
    let outcomes = ledger.insert(zine.events.accepted, teller).await?;
    Ok(Json(Zine {
        from: zine.from,
        created_at_s: zine.ts.get(),
        sent,
        events,
        counts: counts.with_outcomes(&outcomes),
    }))
}

/// Send a runtime message, and wait for its reply if requested
///
/// With `later`, a message that cannot be delivered now is kept, and delivered once the peer is seen.
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/messages",
    tag = "messages",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    request_body = OutgoingMessage,
    responses(
        (status = 200, body = MessageReceipt),
        (status = 202, body = OutboxEntry, description = "It waits in the outbox"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn runtime(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
    Body(outgoing): Body<OutgoingMessage>,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    let message = runtime_message(&shared, &handle, &outgoing)?;
    if let Some(later) = outgoing.later {
        if outgoing.wait {
            let problem = Problem::invalid("`later` and `wait` exclude each other");
            return Err(problem.hint("omit `wait`: the reply arrives in the inbox"));
        }
        let draft = Addressee::of(&peer, &handle)?.runtime_message(&message);
        return keep::keep(&shared, draft, later, call.timeout()).await;
    }
    let reply = if outgoing.wait {
        let reply = handle.call_runtime(&message).await?;
        String::from_utf8(reply.to_json())
            .ok()
            .and_then(|json| RawValue::from_string(json).ok())
    } else {
        let sent = handle.send_runtime_message(&message).await;
        sent.map_err(keep::advised)?;
        None
    };
    let receipt = MessageReceipt {
        message_id: message.id,
        reply,
    };
    Ok(Json(receipt).into_response())
}

/// Creates a signed message to a peer.
fn runtime_message(
    shared: &Shared,
    handle: &PeerHandle,
    outgoing: &OutgoingMessage,
) -> Result<RuntimeMessage, Problem> {
    let nara = shared.nara.local();
    let fields = serde_json::from_str(outgoing.payload.get())
        .map_err(|_| Problem::invalid_field("payload", "it must be an object"))?;
    let payload = MessagePayload::from_fields(&outgoing.kind, &fields).map_err(|invalid| match invalid {
        InvalidPayload::Field { name, reason } => {
            Problem::invalid_field(format!("payload.{name}"), reason).hint(PAYLOADS)
        }
        invalid => Problem::invalid_field("kind", invalid).hint(PAYLOADS),
    })?;
    let now = Timestamp::utc(shared.nara.client().clock().now_nanos());
    let known = handle.known().map(|peer| peer.info());
    let name = known
        .as_ref()
        .and_then(|info| info.name.as_ref())
        .map_or("", |name| name.as_str());
    let id = known
        .as_ref()
        .and_then(|info| info.id.as_ref())
        .map_or("", |id| id.as_str());
    let message = RuntimeMessage::new(nara.name().as_str(), nara.id().as_str(), now, payload);
    Ok(message.to(name, id).sign(nara.keypair()))
}
