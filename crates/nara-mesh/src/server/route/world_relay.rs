use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use nara_proto::endpoint::{Endpoint as _, WorldRelay};
use nara_proto::event::{KeyLookup as _, Payload, SocialPayload, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::peer::Receipt;
use nara_proto::world::{MIN_ID_LEN, WorldMessage, next_hop};
use tokio::time::Instant;

use crate::defaults;
use crate::ledger::LedgerError;
use crate::own_events;
use crate::seldom::warn_seldom;
use crate::server::answer::json::{JSON_UTF8, json};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::route::body::read_json;
use crate::server::route::ingest::in_turn;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// The part of the caller's time that is reserved for the way back: the answer must arrive before it gives up.
const MARGIN: Duration = Duration::from_millis(250);

/// The maximum number of hops that are verified inline.
const VERIFIED_HERE: usize = 16;

/// The maximum length of a text that is hashed inline, in bytes.
const HASHED_HERE: usize = 64 << 10;

/// `POST /world/relay` (docs/protocol/v1.md, section 7.6).
///
/// The message is forwarded before the answer, like on v1 peers, within the time that the caller of the first hop
/// waits: 5 s from the arrival of the request, less a margin.
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let deadline = Instant::now() + defaults::CALL_TIMEOUT - MARGIN;
    let message = read_json(body, WorldRelay::MAX_REQUEST, &shared.limits).await?;
    let mut message = verify_chain(&shared, &sender, message).await?;
    // Before our hop: a message that cannot be forwarded is not accepted.
    if message.id.len() < MIN_ID_LEN {
        return Err(Rejection::ShortWorldId);
    }
    // Without a hop, only the sender proves the originator.
    if message.hops().is_empty() {
        sender.must_be("originator", &message.originator)?;
    }

    let local = &shared.local;
    message.add_hop(local.name().as_str(), shared.clock.now_seconds(), local.keypair())?;
    let is_home = message.is_complete();
    // No hop proves the originator. This nara knows the messages that it originated itself; any other message in its
    // name is treated as passing through, and ends here.
    let complete = is_home
        && shared
            .client
            .as_ref()
            .is_some_and(|client| client.began(&message));
    tracing::info!(
        sender = %sender.name(), originator = %crate::seldom::shown(&message.originator), complete,
        hops = message.hops().len(), "world message"
    );
    if complete || !is_home {
        remember(&shared, &message, complete).await?;
    }
    shared.handler.on_world_message(&message, complete);
    if !is_home {
        forward(&shared, &message, deadline).await?;
    }
    let receipt = Receipt {
        from: local.name().as_str().to_owned(),
        success: true,
    };
    Ok(json(StatusCode::OK, JSON_UTF8, &receipt))
}

/// Verifies all hops. Many hops, or a large text, are verified off the async threads and in the turn of the sender: a
/// peer may add hundreds of its own.
async fn verify_chain(
    shared: &Arc<Shared>,
    sender: &VerifiedSender,
    message: WorldMessage,
) -> Result<WorldMessage, Rejection> {
    let many = message.hops().len() > VERIFIED_HERE || message.message.len() > HASHED_HERE;
    let known = shared.clone();
    let work = move || {
        let outcome = message.verify_chain(|name| known.key_of_name(name));
        outcome.map(|()| message)
    };
    Ok(in_turn(shared, many, Some(sender.name().clone()), work).await?)
}

/// Stores that the message passed through, like v1 peers, but signed.
async fn remember(shared: &Shared, message: &WorldMessage, complete: bool) -> Result<(), Rejection> {
    let name = shared.local.name().as_str();
    let payload = SocialPayload {
        kind: "observation".to_owned(),
        actor: name.to_owned(),
        target: message.originator.clone(),
        reason: if complete {
            "journey-complete"
        } else {
            "journey-pass"
        }
        .to_owned(),
        ..SocialPayload::default()
    };
    let now = shared.clock.now_nanos();
    let event = SyncEvent::try_signed(now, Payload::Social(payload), name, shared.local.keypair());
    // The originator is text from a peer. Only a name without separators becomes part of a text that we sign; any other
    // message yields no event and is still forwarded.
    match event {
        Ok(event) => match own_events::append(&*shared.ledger, &shared.known_keys, event, now).await {
            // Only a note; the message is forwarded nevertheless.
            Ok(_) | Err(LedgerError::NotRetained) => {}
            Err(error) => return Err(error.into()),
        },
        Err(problem) => tracing::info!(%problem, "no event is stored for a world message"),
    }
    Ok(())
}

/// Forwards the message to the next nara. A nara that cannot be reached, or that asks for a pause, did not get it, so
/// the next best is tried; after any other failure the message may be on its way, and must not be duplicated.
async fn forward(shared: &Shared, message: &WorldMessage, deadline: Instant) -> Result<(), Rejection> {
    let client = shared.client.as_ref().ok_or(Rejection::Stuck)?;
    let mut online = shared.online_names().to_vec();
    let mut unreachable = None;
    loop {
        let Some(next) = choose(shared, message, &online) else {
            return Err(unreachable.unwrap_or(Rejection::Stuck));
        };
        let failed = |reason| Rejection::Forward {
            nara: next.to_string(),
            reason,
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(unreachable.unwrap_or_else(|| failed("no time left".to_owned())));
        }
        let next_peer = client.peer(&next).with_timeout(remaining);
        match next_peer.relay_world_message(message).await {
            Ok(_) => return Ok(()),
            Err(error) => {
                warn_seldom!(%next, error = &error as &dyn std::error::Error, "world message not forwarded");
                // Addresses, ids and keys of our peers must not be disclosed to the caller.
                let reason = if error.is_unreachable() || error.is_unknown_peer() {
                    "it cannot be reached"
                } else if error.is_rate_limited() {
                    "it asks for a pause"
                } else {
                    "it did not take the message"
                };
                let rejection = failed(reason.to_owned());
                if !error.is_unreachable() && !error.is_unknown_peer() && !error.is_rate_limited() {
                    return Err(rejection);
                }
                unreachable = Some(rejection);
            }
        }
        online.retain(|name| *name != next);
    }
}

fn choose(shared: &Shared, message: &WorldMessage, online: &[NaraName]) -> Option<NaraName> {
    let visited: Vec<&str> = message.hops().iter().map(|hop| hop.nara.as_str()).collect();
    let names: Vec<&str> = online.iter().map(NaraName::as_str).collect();
    let clout = shared.handler.clout();
    let clout: BTreeMap<&str, f64> = clout
        .iter()
        .map(|(name, clout)| (name.as_str(), *clout))
        .collect();
    let next = next_hop(
        shared.local.name().as_str(),
        &message.originator,
        &visited,
        &names,
        &clout,
    )?;
    online.iter().find(|name| name.as_str() == next).cloned()
}
