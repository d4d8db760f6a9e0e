//! Which path packets to one peer take: a state machine without I/O. Time is what its caller says.
//!
//! While packets go to the peer, all addresses that are known of it are pinged, and it is asked through the relay to
//! do the same: a firewall lets in what it takes for an answer. The first address that answers is the path. From then
//! on the path is pinged each second. When a ping stays unanswered, the other addresses are asked too, because either
//! end may have moved; when more stay unanswered, packets go through the relay again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nara_mesh::proto::backoff::Backoff;

/// The path is pinged this often.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// So many pings in a row may stay unanswered before the path counts as dead.
const MISSES: u32 = 3;
/// An answer is waited for at least and at most this long. With the slowest answers, a path that dies is left
/// `HEARTBEAT + MISSES * SLOWEST` = 4 s after its last pong.
const QUICKEST: Duration = Duration::from_millis(500);
const SLOWEST: Duration = Duration::from_secs(1);
/// The pauses between two searches double from the first to the last: without a path to a shorter one, since a firewall may open again.
const FIRST_SEARCH: Duration = Duration::from_secs(1);
const LAST_SEARCH: Duration = Duration::from_secs(16);
const WITHOUT_PATH: Duration = Duration::from_secs(5);
/// With a path, a better one is looked for this often.
const BETTER: Duration = Duration::from_secs(30);
/// Another path has to be this much faster than the present one, as a part of its time and absolutely.
const FASTER: f64 = 0.67;
const FASTER_BY: Duration = Duration::from_millis(1);
/// An address is not pinged more often than this because of what a peer sends.
const PING_AGAIN: Duration = Duration::from_millis(400);
/// What is known of a peer is forgotten when nothing went on for this long.
const FORGET: Duration = Duration::from_secs(120);

/// Addresses of a peer that are tried.
pub(super) const MAX_CANDIDATES: usize = 32;

/// What the state machine wants to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Ping the peer at this address.
    Ping(SocketAddr),
    /// Ask the peer, through a relay, to ping us.
    Call,
    /// Send packets to this address from now on; `None`: through the relay.
    Route(Option<SocketAddr>),
}

/// From where an address is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The peer pinged from there.
    Pinged,
    /// The peer asked to be pinged there.
    Called,
    /// Control says so.
    Listed,
}

#[derive(Debug)]
struct Candidate {
    source: Source,
    pinged: Option<Instant>,
}

#[derive(Debug)]
struct Best {
    address: SocketAddr,
    latency: Duration,
    /// When the last ping went there, and whether it was answered.
    pinged: Instant,
    answered: bool,
    misses: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    candidates: BTreeMap<SocketAddr, Candidate>,
    best: Option<Best>,
    active: bool,
    /// When the search goes on, and the pauses after that.
    search: Instant,
    backoff: Backoff,
    /// A ping of the path that is not answered begins no search before that.
    search_again: Instant,
    /// When something happened last that makes it worth to know the peer.
    used: Instant,
    wishes: Vec<Wish>,
}

impl Session {
    pub(super) fn new(listed: &[SocketAddr], now: Instant) -> Self {
        let mut this = Self {
            candidates: BTreeMap::new(),
            best: None,
            active: false,
            search: now,
            backoff: Backoff::new(FIRST_SEARCH, LAST_SEARCH),
            search_again: now,
            used: now,
            wishes: Vec::new(),
        };
        this.set_listed(listed);
        this
    }

    /// What is to be done since this was asked last.
    pub(super) fn wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// The path, if there is one that works.
    pub(super) fn path(&self) -> Option<SocketAddr> {
        self.best.as_ref().map(|best| best.address)
    }

    pub(super) fn knows(&self, address: &SocketAddr) -> bool {
        self.candidates.contains_key(address)
    }

    /// The addresses that control lists are these now.
    pub(super) fn set_listed(&mut self, listed: &[SocketAddr]) {
        self.replace(Source::Listed, listed);
    }

    /// Whether packets go to the peer now.
    pub(super) fn set_active(&mut self, active: bool, now: Instant) {
        if active {
            self.used = now;
        }
        if active == self.active {
            return;
        }
        self.active = active;
        if active {
            self.search_now(now);
        } else {
            // Nobody would notice that it dies.
            self.leave();
        }
    }

    /// We can be reached elsewhere than before: the peer has to know, and our pings may come from there now.
    pub(super) fn moved(&mut self, now: Instant) {
        if !self.active {
            return;
        }
        if self.best.is_none() {
            self.search_now(now);
        } else {
            self.check(now);
            self.wishes.push(Wish::Call);
        }
    }

    /// The node has slept: a path of before leads nowhere, or soon will.
    pub(super) fn slept(&mut self, now: Instant) {
        self.leave();
        if self.active {
            self.search_now(now);
        }
    }

    /// The peer asks, through a relay, to be pinged at these addresses.
    pub(super) fn called(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.used = now;
        self.replace(Source::Called, addresses);
        self.check(now);
        for address in addresses {
            self.ping_if_due(*address, now);
        }
    }

    /// A ping of the peer came from there.
    pub(super) fn pinged(&mut self, from: SocketAddr, now: Instant) {
        let is_new = self.add(from, Source::Pinged);
        if is_new {
            self.used = now;
        }
        if self.best.is_none() && (is_new || self.active) {
            self.ping_if_due(from, now);
        } else if self.path() != Some(from) {
            // Perhaps the peer has moved.
            self.check(now);
        }
    }

    /// A ping to this address was answered after that time.
    pub(super) fn ponged(&mut self, address: SocketAddr, latency: Duration, now: Instant) {
        if !self.active || !self.knows(&address) {
            return;
        }
        match &mut self.best {
            Some(best) if best.address == address => {
                best.latency = (best.latency * 7 + latency) / 8;
                best.answered = true;
                best.misses = 0;
                return;
            }
            Some(best) => {
                let is_faster = latency.as_secs_f64() < best.latency.as_secs_f64() * FASTER
                    && latency + FASTER_BY < best.latency;
                // A path that has stopped to answer is no competition.
                if !is_faster && best.misses == 0 {
                    return;
                }
            }
            None => {}
        }
        self.best = Some(Best {
            address,
            latency,
            pinged: now,
            answered: true,
            misses: 0,
        });
        self.search = now + BETTER;
        self.search_again = now;
        self.backoff.reset();
        self.wishes.push(Wish::Route(Some(address)));
    }

    /// The system refuses to send to this address.
    pub(super) fn refused(&mut self, address: SocketAddr, now: Instant) {
        if self.path() == Some(address) {
            self.leave();
            self.search = now + FIRST_SEARCH;
        }
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Instant) {
        if !self.active {
            return;
        }
        if let Some(best) = &mut self.best
            && now >= best.due()
        {
            if !best.answered {
                best.misses += 1;
            }
            if best.misses >= MISSES {
                tracing::debug!(address = %best.address, "a direct path stopped answering");
                self.leave();
                self.search_now(now);
            } else {
                best.pinged = now;
                best.answered = false;
                let address = best.address;
                if best.misses == 1 && now >= self.search_again {
                    // Another one may answer before this one is given up. On a line that loses packets that is seldom so.
                    self.search = now;
                    self.search_again = now + self.backoff.after_failure(u32::MAX);
                }
                self.ping(address, now);
            }
        }
        if now >= self.search {
            self.search(now);
        }
    }

    /// When [`Self::timeout`] is due; `None`: it is not.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if !self.active {
            return None;
        }
        let beat = self.best.as_ref().map(Best::due);
        Some(beat.map_or(self.search, |beat| beat.min(self.search)))
    }

    /// Whether the peer is of no interest any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        !self.active && now.saturating_duration_since(self.used) >= FORGET
    }

    /// Asks now whether the path still works, instead of with the next heartbeat.
    fn check(&mut self, now: Instant) {
        if let Some(best) = &mut self.best
            && best.answered
            && now.saturating_duration_since(best.pinged) >= PING_AGAIN
        {
            best.pinged = now;
            best.answered = false;
            let address = best.address;
            self.ping(address, now);
        }
    }

    fn search_now(&mut self, now: Instant) {
        self.search = now;
        self.backoff.reset();
        self.timeout(now);
    }

    /// Pings all addresses.
    fn search(&mut self, now: Instant) {
        let has_path = self.best.is_some();
        let addresses: Vec<_> = self.candidates.keys().copied().collect();
        for address in addresses {
            if self.path() != Some(address) {
                self.ping(address, now);
            }
        }
        if has_path {
            self.search = now + BETTER;
        } else {
            self.wishes.push(Wish::Call);
            // Whole pauses: the state machine has no randomness.
            self.search = now + self.backoff.after_failure(u32::MAX).min(WITHOUT_PATH);
        }
    }

    fn leave(&mut self) {
        if self.best.take().is_some() {
            self.backoff.reset();
            self.wishes.push(Wish::Route(None));
        }
    }

    fn ping(&mut self, address: SocketAddr, now: Instant) {
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.pinged = Some(now);
            self.wishes.push(Wish::Ping(address));
        }
    }

    fn ping_if_due(&mut self, address: SocketAddr, now: Instant) {
        let is_due = self.candidates.get(&address).is_some_and(|candidate| {
            candidate
                .pinged
                .is_none_or(|pinged| now.saturating_duration_since(pinged) >= PING_AGAIN)
        });
        if is_due {
            self.ping(address, now);
        }
    }

    /// The addresses of one source are these, and no others.
    fn replace(&mut self, source: Source, addresses: &[SocketAddr]) {
        let path = self.path();
        self.candidates.retain(|address, candidate| {
            // The path stays for as long as it works, whatever is said about it.
            candidate.source != source || addresses.contains(address) || path == Some(*address)
        });
        for address in addresses {
            self.add(*address, source);
        }
    }

    /// Takes an address in, if there is room. Says whether it is new.
    fn add(&mut self, address: SocketAddr, source: Source) -> bool {
        if let Some(known) = self.candidates.get_mut(&address) {
            known.source = known.source.max(source);
            return false;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let path = self.path();
            // What control says is worth more than what anybody on the way could say.
            let worst = self
                .candidates
                .iter()
                .filter(|(address, candidate)| candidate.source <= source && path != Some(**address))
                .min_by_key(|(_, candidate)| (candidate.source, candidate.pinged))
                .map(|(address, _)| *address);
            let Some(worst) = worst else { return false };
            self.candidates.remove(&worst);
        }
        self.candidates
            .insert(address, Candidate { source, pinged: None });
        true
    }
}

impl Best {
    /// When the next ping is due, or the answer to the last one is overdue.
    fn due(&self) -> Instant {
        if self.answered {
            self.pinged + HEARTBEAT
        } else {
            self.pinged + (self.latency * 4).clamp(QUICKEST, SLOWEST)
        }
    }
}

#[cfg(test)]
mod tests;
