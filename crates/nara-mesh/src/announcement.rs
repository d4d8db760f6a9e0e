//! The signed announcement of this nara: its capabilities and its port.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use http::HeaderValue;
use nara_proto::time::{UnixMillis, UnixSeconds};
use nara_proto::v2::Capability;

use crate::defaults;
use crate::identity::LocalNara;
use crate::registry::PeerProtocol;

/// The capabilities of this nara, as `/ping` and, if necessary, its requests announce them. Any stranger may ask, so
/// they are signed at most once a second.
#[derive(Debug)]
pub(crate) struct Announcement {
    local: LocalNara,
    protocol: PeerProtocol,
    /// Whether it accepts streamed request bodies.
    streams: bool,
    /// Whether it accepts requests that only the handshake proves.
    handshake: bool,
    /// 0 while it does not listen.
    port: AtomicU16,
    signed: Mutex<Option<(UnixSeconds, HeaderValue)>>,
}

impl Announcement {
    pub(crate) fn new(local: LocalNara, protocol: PeerProtocol, streams: bool, handshake: bool) -> Self {
        Self {
            local,
            protocol,
            streams,
            handshake,
            port: AtomicU16::new(0),
            signed: Mutex::default(),
        }
    }

    /// Records the port on which it listens.
    pub(crate) fn listens_on(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
        *self.signed() = None;
    }

    /// Returns the value of the header; `None` if there is nothing to announce.
    pub(crate) fn at(&self, now: UnixMillis) -> Option<HeaderValue> {
        if self.protocol.is_empty() {
            return None;
        }
        let second = now.to_seconds();
        let mut signed = self.signed();
        match &*signed {
            Some((at, value)) if *at == second => Some(value.clone()),
            _ => {
                let capability = Capability {
                    streams: self.streams && self.protocol.v2,
                    id: self.local.id().clone(),
                    v2: self.protocol.v2,
                    tls: self.protocol.tls,
                    raw_public_key: self.protocol.raw_public_key,
                    handshake: self.handshake && self.protocol.v2 && self.protocol.tls,
                    port: NonZeroU16::new(self.port.load(Ordering::Relaxed)),
                    at: now,
                };
                let value = self.local.signer().sign_capability(&capability).to_field();
                *signed = Some((second, value.clone()));
                Some(value)
            }
        }
    }

    /// Returns the value of the request header; `None` if peers find this nara without it.
    pub(crate) fn for_request(&self, now: UnixMillis) -> Option<HeaderValue> {
        match self.port.load(Ordering::Relaxed) {
            0 | defaults::MESH_PORT | defaults::LEGACY_MESH_PORT => None,
            _ => self.at(now),
        }
    }

    fn signed(&self) -> std::sync::MutexGuard<'_, Option<(UnixSeconds, HeaderValue)>> {
        // A plain value is valid even if a thread panicked.
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
