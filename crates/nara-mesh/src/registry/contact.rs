use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nara_proto::breaker::{Breaker, BreakerConfig};
use nara_proto::identity::PublicKey;
use nara_proto::peer::Coordinates;
use tokio::sync::Semaphore;

use super::peer_clock::PeerClock;
use crate::defaults;

/// The state that calls to and requests from a peer create, and its former keys. Created lazily: most peers of a
/// large registry are never called.
#[derive(Debug)]
pub(super) struct Contact {
    breaker: Mutex<Breaker>,
    pub(super) in_flight: Semaphore,
    clock: Mutex<PeerClock>,
    distance: Mutex<Distance>,
    marks: Mutex<Marks>,
}

/// The distance to a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Distance {
    /// The coordinates that the peer claims: only a hint.
    pub(super) told: Option<Coordinates>,
    pub(super) measured: Option<Duration>,
}

/// Volatile facts about a peer.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The end of the pause that it asked for.
    pub(super) not_before: Option<Instant>,
    /// The address at which it has proven its key, if that was its address then.
    pub(super) proven_at: Option<IpAddr>,
    /// When its turn began to be called without proof of its address.
    pub(super) turn: Option<Instant>,
    /// Its keys before a succession was followed: the holder of the last one had them as well.
    pub(super) former_keys: Vec<PublicKey>,
}

impl Contact {
    pub(super) fn new(breaker: BreakerConfig) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(breaker)),
            in_flight: Semaphore::const_new(defaults::MAX_IN_FLIGHT_PER_PEER),
            clock: Mutex::default(),
            distance: Mutex::default(),
            marks: Mutex::default(),
        }
    }

    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        lock(&self.breaker)
    }

    pub(super) fn clock(&self) -> MutexGuard<'_, PeerClock> {
        lock(&self.clock)
    }

    pub(super) fn distance(&self) -> MutexGuard<'_, Distance> {
        lock(&self.distance)
    }

    pub(super) fn marks(&self) -> MutexGuard<'_, Marks> {
        lock(&self.marks)
    }
}

/// Returns every method of the locked values leaves them valid, even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
