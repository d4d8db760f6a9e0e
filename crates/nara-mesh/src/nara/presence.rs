//! The events with which a nara comes and goes.

use nara_proto::event::{ChauPayload, HeyTherePayload, Payload, SyncEvent};
use nara_proto::time::UnixNanos;

use crate::identity::LocalNara;

/// A signed `hey-there`; `mesh_ip` is empty if the nara cannot be called.
pub(super) fn introduction(local: &LocalNara, mesh_ip: &str, now: UnixNanos) -> SyncEvent {
    let payload = HeyTherePayload {
        from: local.name().as_str().to_owned(),
        public_key: local.public_key().to_base64(),
        mesh_ip: mesh_ip.to_owned(),
        id: local.id().to_string(),
        ..HeyTherePayload::default()
    };
    signed(local, Payload::HeyThere(payload), now)
}

/// A signed `chau`.
pub(super) fn goodbye(local: &LocalNara, now: UnixNanos) -> SyncEvent {
    let payload = ChauPayload {
        from: local.name().as_str().to_owned(),
        public_key: local.public_key().to_base64(),
        id: local.id().to_string(),
        ..ChauPayload::default()
    };
    signed(local, Payload::Chau(payload), now)
}

/// An event of this nara.
pub(super) fn signed(local: &LocalNara, payload: Payload, now: UnixNanos) -> SyncEvent {
    SyncEvent::signed(now, payload, local.name().as_str(), local.keypair())
}
