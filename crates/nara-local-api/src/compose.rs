//! Composes and signs events of this nara.

use nara_mesh::LocalNara;
use nara_proto::event::{EventProblem, Payload, SocialPayload, SyncEvent};
use nara_proto::time::UnixNanos;

use crate::model::DmKind;

/// Completes an event with an id and a signature if it has none.
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

/// Creates a signed social event about a nara.
///
/// # Errors
/// [`EventProblem`] if the event would be ambiguous.
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
