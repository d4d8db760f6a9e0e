use super::{Service, SyncEvent};

/// The rule that an event violates (docs/protocol/v1.md, section 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidEvent {
    /// A required field is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// The payload that goes with the service is missing.
    #[error("the payload of service {0} is missing")]
    MissingPayload(Service),
    /// A number is out of its range.
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// A value is not one of the allowed words.
    #[error("{0} is not one of the allowed words")]
    UnknownWord(&'static str),
    /// The service is unknown.
    #[error("the service is unknown")]
    UnknownService,
    /// A checkpoint has more or fewer voters than signatures.
    #[error("{voters} voters but {signatures} signatures")]
    VoterCount {
        /// The number of voter ids.
        voters: usize,
        /// The number of signatures.
        signatures: usize,
    },
}

pub(super) fn validate(event: &SyncEvent) -> Result<(), InvalidEvent> {
    not_empty(&event.svc, "svc")?;
    in_range(event.ts.get() != 0, "ts")?;
    let service = event.service().ok_or(InvalidEvent::UnknownService)?;
    let missing = InvalidEvent::MissingPayload(service);
    match service {
        Service::Social => {
            let p = event.social.as_deref().ok_or(missing)?;
            one_of(
                &p.kind,
                &["tease", "observed", "gossip", "observation", "service"],
                "type",
            )?;
            not_empty(&p.actor, "actor")?;
            not_empty(&p.target, "target")
        }
        Service::Ping => {
            let p = event.ping.as_deref().ok_or(missing)?;
            not_empty(&p.observer, "observer")?;
            not_empty(&p.target, "target")?;
            in_range(p.rtt > 0.0, "rtt")
        }
        Service::Observation => {
            let p = event.observation.as_deref().ok_or(missing)?;
            not_empty(&p.observer, "observer")?;
            not_empty(&p.subject, "subject")?;
            one_of(&p.kind, &["restart", "first-seen", "status-change"], "type")?;
            in_range((1..=3).contains(&p.importance), "importance")?;
            match p.kind.as_str() {
                "restart" => {
                    in_range(p.start_time.get() > 0, "start_time")?;
                    in_range(p.restart_num >= 0, "restart_num")
                }
                "first-seen" => in_range(p.start_time.get() > 0, "start_time"),
                _ => one_of(&p.online_state, &["ONLINE", "OFFLINE", "MISSING"], "online_state"),
            }
        }
        Service::HeyThere => {
            let p = event.hey_there.as_deref().ok_or(missing)?;
            not_empty(&p.from, "From")?;
            not_empty(&p.public_key, "PublicKey")
        }
        Service::Chau => not_empty(&event.chau.as_deref().ok_or(missing)?.from, "From"),
        Service::Succession => {
            let p = event.succession.as_deref().ok_or(missing)?;
            not_empty(&p.name, "name")?;
            not_empty(&p.old_key, "old_key")?;
            in_range(p.at.get() > 0, "at")?;
            one_of(&p.reason, &["rotation", "retirement"], "reason")
        }
        Service::Seen => {
            let p = event.seen.as_deref().ok_or(missing)?;
            not_empty(&p.observer, "observer")?;
            not_empty(&p.subject, "subject")?;
            not_empty(&p.via, "via")
        }
        Service::Checkpoint => {
            let p = event.checkpoint.as_deref().ok_or(missing)?;
            not_empty(&p.subject, "subject")?;
            in_range(p.as_of_time.get() > 0, "as_of_time")?;
            in_range(p.observation.restarts >= 0, "restarts")?;
            in_range(p.observation.total_uptime >= 0, "total_uptime")?;
            let voters = p.voter_ids.as_ref().map_or(0, Vec::len);
            let signatures = p.signatures.as_ref().map_or(0, Vec::len);
            if voters == signatures {
                Ok(())
            } else {
                Err(InvalidEvent::VoterCount { voters, signatures })
            }
        }
    }
}

fn not_empty(value: &str, field: &'static str) -> Result<(), InvalidEvent> {
    if value.is_empty() {
        Err(InvalidEvent::Empty(field))
    } else {
        Ok(())
    }
}

fn in_range(ok: bool, field: &'static str) -> Result<(), InvalidEvent> {
    if ok {
        Ok(())
    } else {
        Err(InvalidEvent::OutOfRange(field))
    }
}

fn one_of(value: &str, allowed: &[&str], field: &'static str) -> Result<(), InvalidEvent> {
    if allowed.contains(&value) {
        Ok(())
    } else {
        Err(InvalidEvent::UnknownWord(field))
    }
}
