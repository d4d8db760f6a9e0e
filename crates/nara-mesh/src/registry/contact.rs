use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nara_proto::breaker::{Breaker, BreakerConfig};
use nara_proto::identity::PublicKey;
use nara_proto::peer::Coordinates;
use tokio::sync::Semaphore;

use super::peer_clock::PeerClock;
use crate::defaults;

/// What calls and requests leave behind about a peer, and the keys that it had before. Made with the first of it: most
/// peers of a large registry are never called.
#[derive(Debug)]
pub(super) struct Contact {
    breaker: Mutex<Breaker>,
    pub(super) in_flight: Semaphore,
    clock: Mutex<PeerClock>,
    distance: Mutex<Distance>,
    marks: Mutex<Marks>,
}

/// What is known of the way to a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Distance {
    /// Where the peer says that it is: a hint, whatever it says.
    pub(super) told: Option<Coordinates>,
    pub(super) measured: Option<Duration>,
}

/// Plain values about a peer. None is kept beyond the process.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// It asked not to be called before.
    pub(super) not_before: Option<Instant>,
    /// From where it has proven that it holds its key, if that was its address then.
    pub(super) proven_at: Option<IpAddr>,
    /// When its turn began to be called without a proof that it is at its address.
    pub(super) turn: Option<Instant>,
    /// The keys that were its own before a successor was followed: whoever has the last one had them, too.
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

/// Every method of what is locked leaves it valid, whatever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
