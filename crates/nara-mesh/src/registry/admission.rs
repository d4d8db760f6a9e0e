use std::net::IpAddr;
use std::time::Instant;

use nara_proto::breaker::{Breaker, BreakerState, CircuitOpen, Failure, Permit};

use super::{Peer, PeerEvent, PeerRegistry};
use crate::clock::monotonic_now as now;

/// Leave to call a peer. Dropped without an outcome, it counts as a call that was given up.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    registry: &'a PeerRegistry,
    peer: &'a Peer,
    permit: Option<Permit>,
    began: Instant,
}

impl PeerRegistry {
    /// Asks the breaker of a peer for leave to call it.
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

    /// The peer showed itself by a message that was **verified** with its key: its breaker closes, so that it is called
    /// again at once.
    pub fn sign_of_life(&self, peer: &Peer) {
        self.seen(peer);
        peer.note_alive(now());
        self.came_online(peer);
    }

    /// Notes that a peer has proven that it holds its key, by a message from this address.
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

    /// The network says that the peer is there again: its breaker closes.
    pub(crate) fn came_online(&self, peer: &Peer) {
        // A breaker that no call has made is closed.
        if peer.noted().is_some() {
            self.close_breaker(peer, Breaker::sign_of_life);
        }
    }

    /// Somebody has a reason to call the peer now, such as an operator who asks for it: the next call is made, also if the last
    /// ones failed.
    pub fn give_a_chance(&self, peer: &Peer) {
        let at = now();
        self.change_breaker(peer, at, |breaker| breaker.give_a_chance(at));
    }

    /// The network says that the peer went offline: its breaker opens, without a call that waits for it.
    pub fn sign_of_death(&self, peer: &Peer) {
        let (random, at) = (spread(), now());
        peer.note_lost(at);
        self.change_breaker(peer, at, |breaker| breaker.sign_of_death(at, random));
    }

    /// Closes a breaker and tells subscribers if it was not closed before. Nearly always it was, and no clock is read.
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

    /// Changes a breaker and tells subscribers if that opened or closed it.
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
    /// When leave was given.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// The peer answered, whatever it said.
    pub(crate) fn succeeded(mut self) {
        if let Some(permit) = self.permit.take() {
            self.registry
                .close_breaker(self.peer, |breaker| breaker.succeeded(permit));
        }
    }

    /// The peer did not answer.
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

/// Spreads the pauses of breakers; without randomness they all take the plain pause.
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
