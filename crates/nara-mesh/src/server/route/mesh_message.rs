use std::sync::Arc;

use http::StatusCode;
use nara_proto::endpoint::{Endpoint as _, MeshMessage};
use nara_proto::event::KeyLookup as _;
use nara_proto::identity::NaraId;
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage};

use crate::ledger::Standing;
use crate::registry::{PeerInfo, PinnedKey, RegisterError, standing};
use crate::seldom::{shown, warn_seldom};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::route::body::read;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /mesh/message` (docs/protocol/v1.md, sections 7.7 and 12.3). The answer is always empty.
pub(super) async fn handle(asked: Asked) -> Result<StatusCode, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let body = match read(body, MeshMessage::MAX_REQUEST, &shared.limits).await {
        Err(Rejection::BodyBroken) => return Err(Rejection::BadRequest),
        outcome => outcome?,
    };
    if let Err(dropped) = receive(&shared, &sender, &body).await {
        warn_seldom!(sender = %sender.name(), address = %sender.address(), reason = %dropped, "runtime message dropped");
    }
    Ok(StatusCode::OK)
}

/// The reason why a message is dropped, for our log only.
#[derive(Debug, thiserror::Error)]
enum Dropped {
    #[error("{0}")]
    Message(#[from] nara_proto::runtime_message::MessageError),
    #[error("the message is addressed to {0}")]
    NotForUs(String),
    #[error("the message claims to come from {claimed}, who did not send the request")]
    OtherSender { claimed: String },
    #[error("the stash belongs to {owner}, not to the sender")]
    NotTheOwner { owner: String },
    #[error("no key is known for {0}")]
    UnknownKey(String),
    #[error("signature verification failed")]
    BadSignature,
    #[error("its id cannot be bound to its sender: {0}")]
    Conflict(RegisterError),
}

async fn receive(shared: &Arc<Shared>, sender: &VerifiedSender, body: &[u8]) -> Result<(), Dropped> {
    let mut message = RuntimeMessage::from_json(body)?;
    if !message.to_id.is_empty() && message.to_id != shared.local.id().as_str() {
        return Err(Dropped::NotForUs(shown_text(&message.to_id)));
    }
    verify(shared, sender, &message)?;
    // The signature of the message does not cover this text.
    sender.name().as_str().clone_into(&mut message.from);

    // Only now: with an unverified reply, any peer could answer in the name of the requested one.
    let message = match &shared.client {
        Some(client) if !message.in_reply_to.is_empty() => match client.pending_replies().resolve(message) {
            Ok(()) => return Ok(()),
            Err(message) => *message,
        },
        _ => message,
    };
    if let Some(payload) = answer(shared, &message).await? {
        reply(shared, &message, payload);
    }
    shared.handler.on_runtime_message(&message);
    Ok(())
}

/// Verifies that the sender of the request signed the message.
fn verify(shared: &Shared, sender: &VerifiedSender, message: &RuntimeMessage) -> Result<(), Dropped> {
    let id = || shown_text(&message.from_id);
    let Some(key) = shared.key_of_id(&message.from_id) else {
        return bind_id(shared, sender, message);
    };
    if key != *sender.key() {
        return Err(Dropped::OtherSender { claimed: id() });
    }
    // V1 peers do not sign this kind. The request proves that its sender is the nara `from_id`.
    if matches!(message.payload, MessagePayload::StashRefresh(_)) && message.signature.is_empty() {
        return Ok(());
    }
    message.verify(&key).map_err(|_| Dropped::BadSignature)
}

/// Binds an unused id to the nara that signed both the request and the message. V1 peers announce their id nowhere
/// else.
fn bind_id(shared: &Shared, sender: &VerifiedSender, message: &RuntimeMessage) -> Result<(), Dropped> {
    let claimed = || shown_text(&message.from_id);
    if sender.id().is_some() {
        return Err(Dropped::OtherSender { claimed: claimed() });
    }
    let unknown = || Dropped::UnknownKey(claimed());
    let id: NaraId = message.from_id.parse().map_err(|_| unknown())?;
    message.verify(sender.key()).map_err(|_| Dropped::BadSignature)?;
    let peer = shared
        .registry
        .by_name(sender.name().as_str())
        .ok_or_else(unknown)?;
    let pinned = peer.info().key.filter(|pinned| pinned.key == *sender.key());
    let pinned = pinned.ok_or_else(unknown)?;
    let info = PeerInfo {
        id: Some(id.clone()),
        name: Some(sender.name().clone()),
        key: Some(PinnedKey {
            id: Some(id),
            ..pinned
        }),
        ..PeerInfo::default()
    };
    shared.registry.register(info).map_err(Dropped::Conflict)?;
    tracing::info!(sender = %sender.name(), id = %claimed(), "learned the id of a peer");
    Ok(())
}

/// Returns the reply of the built-in stash. An owner is served only if it is the signer.
async fn answer(shared: &Shared, message: &RuntimeMessage) -> Result<Option<MessagePayload>, Dropped> {
    let owner_is_signer = |owner: &str| {
        if owner == message.from_id {
            Ok(())
        } else {
            Err(Dropped::NotTheOwner {
                owner: shown_text(owner),
            })
        }
    };
    let now = shared.clock.now_seconds();
    // Version 0 runs no handler on v1 peers either (docs/protocol/v1.md, section 12.3).
    if message.version == 0 {
        return Ok(None);
    }
    Ok(match &message.payload {
        MessagePayload::StashStore(store) => {
            // The stash itself reports a missing owner.
            if !store.owner_id.is_empty() {
                owner_is_signer(&store.owner_id)?;
            }
            let is_configured = |id: &str| {
                let owner = id.parse().ok().and_then(|id| shared.registry.by_id(&id));
                owner.is_some_and(|owner| owner.with_info(standing) == Standing::Configured)
            };
            let ack = shared.stash.store(store.clone(), now, is_configured).await;
            Some(MessagePayload::StashAck(ack))
        }
        MessagePayload::StashRequest(request) => {
            owner_is_signer(&request.owner_id)?;
            let response = shared.stash.request(&request.owner_id, &request.request_id, now);
            Some(MessagePayload::StashResponse(response))
        }
        MessagePayload::StashRefresh(refresh) => {
            owner_is_signer(&refresh.owner_id)?;
            let response = shared.stash.request(&refresh.owner_id, "", now);
            response.found.then_some(MessagePayload::StashResponse(response))
        }
        _ => None,
    })
}

/// Sends a reply as a separate request. V1 peers send it before they answer; we do not make the peer wait for it.
fn reply(shared: &Arc<Shared>, message: &RuntimeMessage, payload: MessagePayload) {
    let Ok(to) = message.from_id.parse::<NaraId>() else {
        return;
    };
    let Some(client) = shared.client.clone() else {
        warn_seldom!(%to, "cannot reply to a runtime message: the server has no client");
        return;
    };
    let Ok(permit) = shared.replies.clone().try_acquire_owned() else {
        warn_seldom!(%to, limit = shared.limits.replies, "too many replies in flight: reply dropped");
        return;
    };
    let local = &shared.local;
    let unsolicited = matches!(message.payload, MessagePayload::StashRefresh(_));
    let mut reply = message.reply(
        local.name().as_str(),
        local.id().as_str(),
        shared.clock.now_nanos(),
        payload,
        local.keypair(),
    );
    if unsolicited {
        // The signature does not cover it.
        reply.in_reply_to.clear();
    }
    shared.background.spawn(async move {
        let _permit = permit;
        if let Err(error) = client.peer(&to).send_runtime_message(&reply).await {
            warn_seldom!(%to, error = &error as &dyn std::error::Error, "reply not delivered");
        }
    });
}

fn shown_text(text: &str) -> String {
    shown(text).to_string()
}
