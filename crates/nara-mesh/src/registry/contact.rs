use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nara_proto::breaker::{Breaker, BreakerConfig};
use nara_proto::identity::PublicKey;
use nara_proto::peer::Coordinates;
use tokio::sync::Semaphore;

use super::peer_clock::PeerClock;
use crate::defaults;

/// The state from calls and requests of a peer, and its former keys. It is created on first use: most peers of a large
/// registry are never called.
#[derive(Debug)]
pub(super) struct Contact {
    breaker: Mutex<Breaker>,
    pub(super) in_flight: Semaphore,
    clock: Mutex<PeerClock>,
    distance: Mutex<Distance>,
    marks: Mutex<Marks>,
}

/// The known distance of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Distance {
    /// The coordinates that the peer reports: only a hint.
    pub(super) told: Option<Coordinates>,
    pub(super) measured: Option<Duration>,
}

/// Plain values about a peer, which are not stored.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The peer asked not to be called before this time.
    pub(super) not_before: Option<Instant>,
    /// The address from which it proved that it holds its key, if that was its address then.
    pub(super) proven_at: Option<IpAddr>,
    /// When its turn began for calls without a proof that it is at its address.
    pub(super) turn: Option<Instant>,
    /// Its keys before a successor was followed: the holder of the last one held them, too.
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

/// Every method leaves the locked value valid, even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
