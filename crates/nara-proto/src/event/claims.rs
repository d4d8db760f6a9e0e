//! What an event claims, judged before any signature is looked at: who acted, in which names, and whether the signed
//! text can be read in one way only.

use super::voters::MAX_VOTERS;
use super::{EventProblem, InvalidEvent, MAX_EVENT_BYTES, Service, SyncEvent};
use crate::go_json::{self, Field as _};
use crate::identity::NaraName;

/// The names of the services whose events v1 peers also pass on without a signature.
pub(super) const fn may_be_unsigned(service: Service) -> bool {
    // V1 peers emit their observations unsigned, and old ledgers hold unsigned `social` events.
    matches!(service, Service::Observation | Service::Social)
}

/// Whether the payloads of a service carry their own proof, so that the envelope proves nothing.
pub(super) const fn proves_itself(service: Service) -> bool {
    matches!(service, Service::Checkpoint | Service::Succession)
}

/// Checks everything but time and signatures. `content` is the content string of the event.
pub(super) fn check(event: &SyncEvent, content: &str) -> Result<Service, EventProblem> {
    event.validate()?;
    let service = event.service().ok_or(InvalidEvent::UnknownService)?;
    // Most are far below: their JSON need not be written to see it.
    if event.most_bytes() > MAX_EVENT_BYTES && go_json::to_vec(event).len() > MAX_EVENT_BYTES {
        return Err(EventProblem::TooLarge);
    }
    if event.id.as_bytes() != super::id_digits(event.ts, &event.svc, content) {
        return Err(EventProblem::ForgedId);
    }
    if event.ts.get().is_negative() {
        // Pages begin at 1970: such an event would be stored and never told.
        return Err(InvalidEvent::OutOfRange("ts").into());
    }
    if let Some(payload) = event.checkpoint.as_deref() {
        let voters = payload.voter_ids.as_deref().unwrap_or_default();
        if voters.len() > MAX_VOTERS {
            return Err(InvalidEvent::OutOfRange("voter_ids").into());
        }
        // Its id is the one of version 1, and what its voters signed is not.
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

/// Checks that the content string splits into the fields of the payload in one way only.
///
/// The wire does not escape colons. One field may have them all the same, since the others, which have none, fix where
/// it begins and ends: the text of a `social` event, the target of the others. The actor of a signed event is the
/// emitter, which picks the key, so it is fixed as well.
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
                // No observer stands in front of its subject.
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
        // The name stands between texts without colons.
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
