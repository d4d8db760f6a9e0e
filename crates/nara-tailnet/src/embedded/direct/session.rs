//! Chooses the path of packets to one peer: a state machine without I/O, in the time of its caller.
//!
//! While packets are sent to the peer, all its known addresses are pinged, and a message through the relay asks it to
//! do the same, since firewalls admit answers. The first address that answers becomes the path and is pinged every
//! second. If a ping is unanswered, the other addresses are pinged too, because either end may have moved. After
//! further unanswered pings, packets use the relay again. If the peer sends its addresses while a ping of the path is
//! unanswered, they use the relay until an address answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nara_mesh::proto::backoff::Backoff;

use super::limit::Limit;

/// The interval between pings of the path.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// The number of consecutive unanswered pings after which a path is dead.
const MISSES: u32 = 3;
/// The minimum and maximum ping timeouts. With the maximum, a dead path is left `HEARTBEAT + MISSES * SLOWEST` = 4 s
/// after its last pong.
const QUICKEST: Duration = Duration::from_millis(500);
const SLOWEST: Duration = Duration::from_secs(1);
/// The first and the maximum pause between searches; pauses double. Without a path the maximum is shorter, since a
/// firewall may open again.
const FIRST_SEARCH: Duration = Duration::from_secs(1);
const LAST_SEARCH: Duration = Duration::from_secs(16);
const WITHOUT_PATH: Duration = Duration::from_secs(5);
/// The interval between searches for a better path.
const BETTER: Duration = Duration::from_secs(30);
/// How much faster another path must be to replace the present one, as a fraction of its latency and as an absolute
/// difference.
const FASTER: f64 = 0.67;
const FASTER_BY: Duration = Duration::from_millis(1);
/// The minimum interval between pings of an address that a peer can cause.
const PING_AGAIN: Duration = Duration::from_millis(400);
/// The maximum number of pings that a peer can cause at once and per second, whatever addresses it names.
const CAUSED_AT_ONCE: f64 = 64.0;
const CAUSED_PER_SECOND: f64 = 16.0;
/// A session is removed after this idle time.
const FORGET: Duration = Duration::from_secs(120);

/// The maximum number of addresses tried per peer.
pub(super) const MAX_CANDIDATES: usize = 32;

/// A request of the state machine to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Ping this address of the peer.
    Ping(SocketAddr),
    /// Send the peer our addresses through a relay, so that it pings them.
    Call,
    /// Set the path of packets; `None` for the relay.
    Route(Option<SocketAddr>),
}

/// The source of a known address, in ascending order of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The source address of a ping from the peer.
    Pinged,
    /// An address that the peer asked us to ping.
    Called,
    /// An address listed by the control server.
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
    /// The time of the last ping to the address, and whether it was answered.
    pinged: Instant,
    answered: bool,
    misses: u32,
}

/// The path to one peer; see the module.
#[derive(Debug)]
pub(super) struct Session {
    candidates: BTreeMap<SocketAddr, Candidate>,
    best: Option<Best>,
    active: bool,
    /// The time of the next search, and the pauses after that.
    search: Instant,
    backoff: Backoff,
    /// Before this time, an unanswered ping of the path starts no search.
    search_again: Instant,
    /// Limits the pings that the peer causes, except those of searches.
    caused: Limit,
    /// The time of the last activity that keeps the session.
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
            caused: Limit::new(CAUSED_AT_ONCE, CAUSED_PER_SECOND, now),
            used: now,
            wishes: Vec::new(),
        };
        this.set_listed(listed);
        this
    }

    /// Takes the pending requests.
    pub(super) fn wishes(&mut self) -> Vec<Wish> {
        std::mem::take(&mut self.wishes)
    }

    /// Returns the working path, if any.
    pub(super) fn path(&self) -> Option<SocketAddr> {
        self.best.as_ref().map(|best| best.address)
    }

    pub(super) fn knows(&self, address: &SocketAddr) -> bool {
        self.candidates.contains_key(address)
    }

    /// Sets the addresses listed by the control server.
    pub(super) fn set_listed(&mut self, listed: &[SocketAddr]) {
        self.replace(Source::Listed, listed);
    }

    /// Sets whether packets are sent to the peer.
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
            // Without pings, a dead path would go unnoticed.
            self.leave();
        }
    }

    /// Our addresses have changed: the peer must learn them, and our pings may now come from them.
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

    /// Drops the path after a sleep, since it no longer works or soon will not.
    pub(super) fn slept(&mut self, now: Instant) {
        self.leave();
        if self.active {
            self.search_now(now);
        }
    }

    /// Processes a request of the peer, through a relay, to ping these addresses.
    pub(super) fn called(&mut self, addresses: &[SocketAddr], now: Instant) {
        self.used = now;
        self.replace(Source::Called, addresses);
        if self.best.as_ref().is_some_and(|best| best.misses > 0) {
            // The peer has moved. The relay that brought this message works now; a new path takes another round trip.
            self.leave();
            self.search_now(now);
        } else {
            self.check(now);
        }
        for address in addresses {
            self.ping_if_due(*address, now);
        }
    }

    /// Processes a ping of the peer from this address.
    pub(super) fn pinged(&mut self, from: SocketAddr, now: Instant) {
        let is_new = self.add(from, Source::Pinged);
        if is_new {
            self.used = now;
        }
        if self.best.is_none() && (is_new || self.active) {
            self.ping_if_due(from, now);
        } else if self.path() != Some(from) {
            // The peer may have moved.
            self.check(now);
        }
    }

    /// Processes a pong from this address.
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
                // A silent path is replaced by any other.
                if !is_faster && !best.is_silent(now) {
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

    /// Records that the system cannot send to this address.
    pub(super) fn refused(&mut self, address: SocketAddr, now: Instant) {
        if self.path() == Some(address) {
            self.leave();
            self.search = now + FIRST_SEARCH;
        }
    }

    /// Runs due timers.
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
                    // Another path may answer before this one is given up. On a lossy line, this happens at most once
                    // per pause.
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

    /// Returns when [`Self::timeout`] is due; `None` for never.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        if !self.active {
            return None;
        }
        let beat = self.best.as_ref().map(Best::due);
        Some(beat.map_or(self.search, |beat| beat.min(self.search)))
    }

    /// Returns whether the session can be removed.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        !self.active && now.saturating_duration_since(self.used) >= FORGET
    }

    /// Pings the path now instead of at the next heartbeat.
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
            // Without jitter: the state machine uses no randomness.
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
        if is_due && self.caused.take(now) {
            self.ping(address, now);
        }
    }

    /// Replaces the addresses of one source.
    fn replace(&mut self, source: Source, addresses: &[SocketAddr]) {
        let path = self.path();
        self.candidates.retain(|address, candidate| {
            // Keep a working path, whatever is listed.
            candidate.source != source || addresses.contains(address) || path == Some(*address)
        });
        for address in addresses {
            self.add(*address, source);
        }
    }

    /// Adds an address if there is room. Returns whether it is new.
    fn add(&mut self, address: SocketAddr, source: Source) -> bool {
        if let Some(known) = self.candidates.get_mut(&address) {
            known.source = known.source.max(source);
            return false;
        }
        if self.candidates.len() >= MAX_CANDIDATES {
            let path = self.path();
            // Addresses listed by the control server take precedence over those that peers send.
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
    /// Returns whether a ping was not answered in the usual time.
    fn is_silent(&self, now: Instant) -> bool {
        self.misses > 0 || !self.answered && now.saturating_duration_since(self.pinged) > self.latency
    }

    /// Returns when the next ping is due, or when the last one times out.
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
