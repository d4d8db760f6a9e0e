//! Returns a stash to its owner without a request.

use std::sync::Arc;

use nara_proto::event::SyncEvent;
use nara_proto::go_json::Timestamp;
use nara_proto::identity::{NaraId, NaraName};
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage};

use crate::seldom::warn_seldom;
use crate::server::auth::sender::VerifiedSender;
use crate::server::route::stash::Sign;
use crate::server::route::state::Shared;

/// The maximum age of a `hey-there` that shows that its emitter has just started.
const FRESH: std::time::Duration = std::time::Duration::from_secs(5 * 60);

/// Returns the stash of an owner that calls after an absence.
pub(super) fn push_to_caller(shared: &Arc<Shared>, sender: &VerifiedSender) {
    if let Some(id) = sender.id() {
        offer(shared, id, sender.name(), Sign::Call);
    }
}

/// Returns the stash of an owner that introduces itself in a verified event.
pub(super) fn push_to_introduced(shared: &Arc<Shared>, event: &SyncEvent) {
    let age = shared.clock.now_nanos().get().saturating_sub(event.ts.get());
    let is_fresh = i64::try_from(FRESH.as_nanos()).is_ok_and(|fresh| age.abs() <= fresh);
    let emitter = shared.registry.by_name(&event.emitter).filter(|_| is_fresh);
    let info = emitter.map(|peer| peer.info());
    if let Some(info) = info
        && let (Some(id), Some(name)) = (&info.id, &info.name)
    {
        offer(shared, id, name, Sign::HeyThere);
    }
}

fn offer(shared: &Arc<Shared>, id: &NaraId, name: &NaraName, sign: Sign) {
    let Some(client) = &shared.client else { return };
    if !shared.stash.wants_push(id.as_str(), sign) {
        return;
    }
    let response = shared.stash.request(id.as_str(), "", shared.clock.now_seconds());
    let Ok(permit) = shared.replies.clone().try_acquire_owned() else {
        return;
    };
    if !response.found {
        return;
    }
    let local = &shared.local;
    let message = RuntimeMessage::new(
        local.name().as_str(),
        local.id().as_str(),
        Timestamp::utc(shared.clock.now_nanos()),
        MessagePayload::StashResponse(response),
    )
    .to(name.as_str(), id.as_str())
    .sign(local.keypair());
    let (client, id, name) = (client.clone(), id.clone(), name.clone());
    shared.background.spawn(async move {
        let _permit = permit;
        match client.peer(&id).send_runtime_message(&message).await {
            Ok(_) => tracing::debug!(to = %name, "a stash was returned to its owner"),
            Err(error) => {
                warn_seldom!(to = %name, error = &error as &dyn std::error::Error, "stash not delivered");
            }
        }
    });
}
