use std::sync::{Mutex, PoisonError};

use http::HeaderValue;
use nara_proto::time::{UnixMillis, UnixSeconds};
use nara_proto::v2::Capability;

use crate::identity::LocalNara;
use crate::registry::PeerProtocol;

/// What this nara can do, as `/ping` tells it. Anybody may ask, so it is signed at most once a second.
#[derive(Debug)]
pub(in crate::server) struct Announcement {
    local: LocalNara,
    protocol: PeerProtocol,
    /// Whether it takes request bodies that are streams.
    streams: bool,
    signed: Mutex<Option<(UnixSeconds, HeaderValue)>>,
}

impl Announcement {
    pub(in crate::server) fn new(local: LocalNara, protocol: PeerProtocol, streams: bool) -> Self {
        Self {
            local,
            protocol,
            streams,
            signed: Mutex::default(),
        }
    }

    /// The value of the header; `None` if there is nothing to tell.
    pub(in crate::server) fn at(&self, now: UnixMillis) -> Option<HeaderValue> {
        if self.protocol.is_empty() {
            return None;
        }
        let second = now.to_seconds();
        // A plain value: valid whatever happened.
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*signed {
            Some((at, value)) if *at == second => Some(value.clone()),
            _ => {
                let capability = Capability {
                    streams: self.streams && self.protocol.v2,
                    id: self.local.id().clone(),
                    v2: self.protocol.v2,
                    tls: self.protocol.tls,
                    raw_public_key: self.protocol.raw_public_key,
                    at: now,
                };
                let value = self.local.signer().sign_capability(&capability).to_field();
                *signed = Some((second, value.clone()));
                Some(value)
            }
        }
    }
}
