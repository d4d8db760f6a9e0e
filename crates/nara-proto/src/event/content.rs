use super::{Service, SyncEvent};
use crate::go_json::one_decimal;

/// Returns the content string of an event (docs/protocol/v1.md, section 8.4). The wire format does not escape colons
/// inside values.
pub(super) fn content(event: &SyncEvent) -> String {
    fn of(event: &SyncEvent) -> Option<String> {
        Some(match event.service()? {
            Service::Social => {
                let p = event.social.as_deref()?;
                format!("{}:{}:{}:{}:{}", p.kind, p.actor, p.target, p.reason, p.witness)
            }
            Service::Ping => {
                let p = event.ping.as_deref()?;
                format!("{}:{}:{}", p.observer, p.target, one_decimal(p.rtt))
            }
            Service::Observation => {
                let p = event.observation.as_deref()?;
                if p.kind == "restart" {
                    format!("{}:restart:{}:{}", p.subject, p.restart_num, p.start_time)
                } else {
                    format!(
                        "{}:{}:{}:{}:{}:{}",
                        p.observer, p.subject, p.kind, p.online_state, p.start_time, p.restart_num
                    )
                }
            }
            Service::HeyThere => {
                let p = event.hey_there.as_deref()?;
                format!("hey_there:{}:{}:{}", p.from, p.public_key, p.mesh_ip)
            }
            Service::Chau => {
                let p = event.chau.as_deref()?;
                format!("chau:{}:{}", p.from, p.public_key)
            }
            Service::Seen => {
                let p = event.seen.as_deref()?;
                format!("seen:{}:{}:{}", p.observer, p.subject, p.via)
            }
            Service::Succession => {
                let p = event.succession.as_deref()?;
                format!(
                    "succession:{}:{}:{}:{}:{}",
                    p.name, p.old_key, p.new_key, p.at, p.reason
                )
            }
            Service::Checkpoint => {
                let p = event.checkpoint.as_deref()?;
                let who = if p.subject_id.is_empty() {
                    &p.subject
                } else {
                    &p.subject_id
                };
                let o = &p.observation;
                let (as_of, start) = (p.as_of_time, o.start_time);
                if p.version < 2 {
                    format!(
                        "checkpoint:{who}:{as_of}:{start}:{}:{}",
                        o.restarts, o.total_uptime
                    )
                } else {
                    format!(
                        "checkpoint:v2:{who}:{as_of}:{start}:{}:{}:{}",
                        o.restarts, o.total_uptime, p.previous_checkpoint_id
                    )
                }
            }
        })
    }
    of(event).unwrap_or_default()
}
