//! The fields of an event that neither its id nor a signature covers: any forwarding peer may have changed them.

use super::claims::proves_itself;
use super::{Observation, Service, SyncEvent};
use crate::go_json::one_decimal;
use crate::identity::Signature;

/// Removes what is meaningless in any event: the payloads of other services, the emitter's id, and other spellings of
/// the signature (v1 peers accept base64 with line feeds).
pub(super) fn remove_foreign(event: &mut SyncEvent) {
    event.emitter_id.clear();
    if Signature::from_canonical_base64(event.sig.as_bytes()).is_err()
        && let Ok(signature) = Signature::from_base64(&event.sig)
    {
        event.sig = signature.to_base64();
    }
    let Some(service) = event.service() else { return };
    event.social.take_if(|_| service != Service::Social);
    event.ping.take_if(|_| service != Service::Ping);
    event.observation.take_if(|_| service != Service::Observation);
    event.hey_there.take_if(|_| service != Service::HeyThere);
    event.chau.take_if(|_| service != Service::Chau);
    event.seen.take_if(|_| service != Service::Seen);
    event.checkpoint.take_if(|_| service != Service::Checkpoint);
    event.succession.take_if(|_| service != Service::Succession);
}

/// Removes each field that is not covered, or sets it to the value that follows from the covered fields. Afterwards all
/// copies of a verified event are equal.
pub(super) fn remove_uncovered(event: &mut SyncEvent) {
    remove_foreign(event);
    if let Some(payload) = &mut event.social {
        payload.actor_id.clear();
        payload.target_id.clear();
    }
    if let Some(payload) = &mut event.ping {
        payload.observer_id.clear();
        payload.target_id.clear();
        payload.rtt = covered_rtt(payload.rtt);
    }
    if let Some(payload) = &mut event.observation {
        payload.observer_id.clear();
        payload.subject_id.clear();
        payload.is_backfill = false;
        payload.last_restart = crate::time::UnixSeconds::default();
        payload.cluster_name.clear();
        payload.observer_uptime = 0;
        let is_restart = payload.kind == "restart";
        if is_restart {
            payload.online_state.clear();
        }
        // V1 peers rate them like this; 3 is critical.
        payload.importance = if is_restart || payload.kind == "first-seen" {
            3
        } else {
            2
        };
    }
    if let Some(payload) = &mut event.hey_there {
        payload.id.clear();
        payload.signature.clear();
    }
    if let Some(payload) = &mut event.chau {
        payload.id.clear();
        payload.signature.clear();
    }
    if let Some(payload) = &mut event.seen {
        payload.observer_id.clear();
        payload.subject_id.clear();
    }
    if let Some(payload) = &mut event.checkpoint {
        payload.round = 0;
        if payload.version < 2 {
            // Its voters signed version 1, and no other checkpoint.
            payload.version = 1;
            payload.previous_checkpoint_id.clear();
        }
        let Observation {
            restarts,
            total_uptime,
            start_time,
            ..
        } = payload.observation;
        payload.observation = Observation {
            restarts,
            total_uptime,
            start_time,
            ..Observation::default()
        };
    }
    if event.service().is_some_and(proves_itself) {
        event.emitter.clear();
        event.sig.clear();
    }
}

/// Returns the round trip with the covered precision, one decimal, but above 0.
fn covered_rtt(rtt: f64) -> f64 {
    /// Prints as 0.0 with one decimal, like every value below 0.05.
    const BELOW_PRECISION: f64 = 0.01;
    match one_decimal(rtt).parse() {
        Ok(covered) if covered > 0.0 => covered,
        _ => BELOW_PRECISION,
    }
}
