//! The checks of an event before its signature: the actor, the names, and that the signed text is unambiguous.

use super::voters::MAX_VOTERS;
use super::{EventProblem, InvalidEvent, MAX_EVENT_BYTES, Service, SyncEvent};
use crate::go_json::{self, Field as _};
use crate::identity::NaraName;

/// Returns whether v1 peers also forward events of this service without a signature.
pub(super) const fn may_be_unsigned(service: Service) -> bool {
    // V1 peers emit their observations unsigned, and old ledgers hold unsigned `social` events.
    matches!(service, Service::Observation | Service::Social)
}

/// Returns whether the payloads of a service carry their own proof, so that the envelope proves nothing.
pub(super) const fn proves_itself(service: Service) -> bool {
    matches!(service, Service::Checkpoint | Service::Succession)
}

/// Checks everything except time and signatures. `content` is the content string of the event.
pub(super) fn check(event: &SyncEvent, content: &str) -> Result<Service, EventProblem> {
    event.validate()?;
    let service = event.service().ok_or(InvalidEvent::UnknownService)?;
    // Most events are far below the limit, so their JSON is not written to measure it.
    if event.most_bytes() > MAX_EVENT_BYTES && go_json::to_vec(event).len() > MAX_EVENT_BYTES {
        return Err(EventProblem::TooLarge);
    }
    if event.id.as_bytes() != super::id_digits(event.ts, &event.svc, content) {
        return Err(EventProblem::ForgedId);
    }
    if event.ts.get().is_negative() {
        // Pages begin at 1970: such an event would be stored, but never returned.
        return Err(InvalidEvent::OutOfRange("ts").into());
    }
    if let Some(payload) = event.checkpoint.as_deref() {
        let voters = payload.voter_ids.as_deref().unwrap_or_default();
        if voters.len() > MAX_VOTERS {
            return Err(InvalidEvent::OutOfRange("voter_ids").into());
        }
        // Its id would be the one of version 1, but its voters signed another text.
        if payload.version < 0 {
            return Err(InvalidEvent::OutOfRange("version").into());
        }
    }
    check_names(event)?;
    check_split(event, service)?;
    let names_an_emitter = event.is_signed() || !event.emitter.is_empty();
    if !proves_itself(service) && names_an_emitter && event.emitter != event.actor() {
        return Err(EventProblem::NotTheActor);
    }
    Ok(service)
}

fn check_names(event: &SyncEvent) -> Result<(), EventProblem> {
    let witness = event.social.as_deref().map_or("", |payload| &payload.witness);
    for (field, name) in [
        ("actor", event.actor()),
        ("target", event.target()),
        ("witness", witness),
    ] {
        if !name.is_empty() && NaraName::check(name).is_err() {
            return Err(EventProblem::NotAName(field));
        }
    }
    Ok(())
}

/// Checks that the content string can be split into the fields of the payload in only one way.
///
/// The wire does not escape colons. One field may contain colons, since the other fields, which have none, delimit it:
/// the text of a `social` event, the target of other events. The actor of a signed event is the emitter, which selects
/// the key, so it is fixed as well.
fn check_split(event: &SyncEvent, service: Service) -> Result<(), EventProblem> {
    let plain = |field: &'static str, text: &str| {
        if text.contains(':') {
            Err(EventProblem::Ambiguous(field))
        } else {
            Ok(())
        }
    };
    if !event.is_signed() && service != Service::Succession {
        plain("actor", event.actor())?;
    }
    match service {
        Service::Social => {
            plain("target", event.target())?;
            event
                .social
                .as_deref()
                .map_or(Ok(()), |payload| plain("witness", &payload.witness))
        }
        Service::Observation => event.observation.as_deref().map_or(Ok(()), |payload| {
            match payload.kind.as_str() {
                // The content of a restart has no observer in front of the subject.
                "restart" => plain("subject", &payload.subject),
                "first-seen" if !matches!(&*payload.online_state, "" | "ONLINE" | "OFFLINE" | "MISSING") => {
                    Err(EventProblem::Ambiguous("online_state"))
                }
                _ => Ok(()),
            }
        }),
        Service::HeyThere => event
            .hey_there
            .as_deref()
            .map_or(Ok(()), |payload| plain("PublicKey", &payload.public_key)),
        Service::Chau => event
            .chau
            .as_deref()
            .map_or(Ok(()), |payload| plain("PublicKey", &payload.public_key)),
        // The name stands between two texts without colons.
        Service::Succession => event.succession.as_deref().map_or(Ok(()), |payload| {
            plain("old_key", &payload.old_key)?;
            plain("new_key", &payload.new_key)
        }),
        Service::Seen => event
            .seen
            .as_deref()
            .map_or(Ok(()), |payload| plain("via", &payload.via)),
        Service::Checkpoint => event.checkpoint.as_deref().map_or(Ok(()), |payload| {
            plain("subject", &payload.subject)?;
            plain("subject_id", &payload.subject_id)?;
            plain("previous_checkpoint_id", &payload.previous_checkpoint_id)?;
            let mut voters = payload.voter_ids.iter().flatten();
            voters.try_for_each(|voter| plain("voter_ids", voter))
        }),
        Service::Ping => Ok(()),
    }
}
