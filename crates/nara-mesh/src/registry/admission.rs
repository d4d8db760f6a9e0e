use std::net::IpAddr;
use std::time::Instant;

use nara_proto::breaker::{Breaker, BreakerState, CircuitOpen, Failure, Permit};

use super::{Peer, PeerEvent, PeerRegistry};
use crate::clock::monotonic_now as now;

/// The permit to call a peer. Dropped without an outcome, it counts as a cancelled call.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    registry: &'a PeerRegistry,
    peer: &'a Peer,
    permit: Option<Permit>,
    began: Instant,
}

impl PeerRegistry {
    /// Requests a permit from the breaker of a peer.
    pub(crate) fn admit<'a>(&'a self, peer: &'a Peer) -> Result<Admission<'a>, CircuitOpen> {
        let began = now();
        let permit = peer.breaker().admit(began)?;
        Ok(Admission {
            registry: self,
            peer,
            permit: Some(permit),
            began,
        })
    }

    /// Records a sign of life: a message that was **verified** with the peer's key. Its breaker closes, so that it is
    /// called again at once.
    pub fn sign_of_life(&self, peer: &Peer) {
        self.seen(peer);
        peer.note_alive(now());
        self.came_online(peer);
    }

    /// Records that a peer has proven that it holds its key, by a message from this address.
    pub(crate) fn seen_at(&self, peer: &Peer, ip: IpAddr) {
        let ip = ip.to_canonical();
        let (is_its, introduced) = peer.with_info(|info| {
            let source = info.key.as_ref().map(|key| &key.source);
            let introduced = source.is_some_and(|source| source.introducer().is_some());
            (info.ip() == Some(ip), introduced)
        });
        if is_its && peer.note_proven_at(ip) && introduced {
            self.emit(PeerEvent::Seen(peer.info()));
        }
    }

    /// Records that the network reports the peer as online: its breaker closes.
    pub(crate) fn came_online(&self, peer: &Peer) {
        // Without a call there is no breaker, and it counts as closed.
        if peer.noted().is_some() {
            self.close_breaker(peer, Breaker::sign_of_life);
        }
    }

    /// Lets the next call through even if the last ones failed, because there is a reason to call the peer now, such as
    /// a request of the operator.
    pub fn give_a_chance(&self, peer: &Peer) {
        let at = now();
        self.change_breaker(peer, at, |breaker| breaker.give_a_chance(at));
    }

    /// Records that the network reports the peer as offline: its breaker opens without waiting for a failed call.
    pub fn sign_of_death(&self, peer: &Peer) {
        let (random, at) = (spread(), now());
        peer.note_lost(at);
        self.change_breaker(peer, at, |breaker| breaker.sign_of_death(at, random));
    }

    /// Closes a breaker and notifies subscribers if it was not closed. Nearly always it was, and the clock is not read.
    fn close_breaker(&self, peer: &Peer, close: impl FnOnce(&mut Breaker)) {
        let (was_closed, is_closed) = {
            let mut breaker = peer.breaker();
            let was_closed = breaker.is_closed();
            close(&mut breaker);
            (was_closed, breaker.is_closed())
        };
        if is_closed && !was_closed {
            self.emit(PeerEvent::BreakerClosed(peer.info()));
        }
    }

    /// Changes a breaker and notifies subscribers if that opened or closed it.
    fn change_breaker(&self, peer: &Peer, at: Instant, change: impl FnOnce(&mut Breaker)) {
        let (before, after) = {
            let mut breaker = peer.breaker();
            let before = breaker.state(at);
            change(&mut breaker);
            (before, breaker.state(at))
        };
        match (before, after) {
            (BreakerState::Closed, BreakerState::Open) => self.emit(PeerEvent::BreakerOpened(peer.info())),
            (BreakerState::Open | BreakerState::Probation, BreakerState::Closed) => {
                self.emit(PeerEvent::BreakerClosed(peer.info()));
            }
            _ => {}
        }
    }
}

impl Admission<'_> {
    /// Returns when the permit was given.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// Records that the peer answered, whatever the answer.
    pub(crate) fn succeeded(mut self) {
        if let Some(permit) = self.permit.take() {
            self.registry
                .close_breaker(self.peer, |breaker| breaker.succeeded(permit));
        }
    }

    /// Records that the peer did not answer.
    pub(crate) fn failed(mut self, failure: Failure) {
        if let Some(permit) = self.permit.take() {
            let (random, at) = (spread(), now());
            self.peer.note_lost(at);
            self.registry.change_breaker(self.peer, at, |breaker| {
                breaker.failed(permit, failure, at, random);
            });
        }
    }
}

/// Returns a random number to spread the pauses of breakers; without randomness all take the same pause.
fn spread() -> u32 {
    getrandom::u32().unwrap_or(u32::MAX / 2)
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.peer.breaker().cancelled(permit, now());
        }
    }
}
