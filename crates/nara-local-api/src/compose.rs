//! Events of this nara, made and signed.

use nara_mesh::LocalNara;
use nara_proto::event::{EventProblem, Payload, SocialPayload, SyncEvent};
use nara_proto::time::UnixNanos;

use crate::model::DmKind;

/// A given event, with id and signature if it has none.
pub fn complete(mut event: SyncEvent, nara: &LocalNara) -> SyncEvent {
    if event.id.is_empty() {
        event.id = event.compute_id();
    }
    if !event.is_signed() {
        nara.id().as_str().clone_into(&mut event.emitter_id);
        event.sign(nara.name().as_str(), nara.keypair());
    }
    event
}

/// A signed event that says something about a nara.
///
/// # Errors
/// [`EventProblem`] if the event could be read in another way than it is meant.
pub fn social(
    nara: &LocalNara,
    kind: DmKind,
    target: &str,
    text: &str,
    now: UnixNanos,
) -> Result<SyncEvent, EventProblem> {
    let payload = SocialPayload {
        kind: kind.as_str().to_owned(),
        actor: nara.name().to_string(),
        actor_id: nara.id().to_string(),
        target: target.to_owned(),
        reason: text.to_owned(),
        ..SocialPayload::default()
    };
    let (name, keypair) = (nara.name().as_str(), nara.keypair());
    let mut event = SyncEvent::try_signed(now, Payload::Social(payload), name, keypair)?;
    nara.id().as_str().clone_into(&mut event.emitter_id);
    Ok(event)
}
