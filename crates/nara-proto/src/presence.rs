//! The presence of a nara: one state from its events, calls to it, and reports of the network.
//!
//! The states are those that v1 peers send in observations (docs/protocol/v1.md, section 8.3).

use std::fmt;
use std::time::{Duration, Instant};

use crate::time::UnixNanos;

/// The time without a sign of life after which a nara is missing: three of the longest intervals between zines of v1
/// peers.
pub const MISSING_AFTER: Duration = Duration::from_secs(15 * 60);

/// Signs of life within this time after a goodbye do not revoke it: they are requests that were in flight.
const STILL_ON_THE_WAY: Duration = Duration::from_secs(10);

/// The presence of a nara.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PresenceState {
    /// Nothing is known.
    #[default]
    Unknown,
    /// It gave a sign of life within [`MISSING_AFTER`].
    Online,
    /// It sent a goodbye.
    Offline,
    /// It does not answer, or gave no sign of life, and sent no goodbye.
    Missing,
}

impl PresenceState {
    /// Returns the word of v1 peers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Online => "ONLINE",
            Self::Offline => "OFFLINE",
            Self::Missing => "MISSING",
        }
    }
}

impl fmt::Display for PresenceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The signs of life of one nara. It reads no clock.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// use nara_proto::presence::{Presence, PresenceState};
/// use nara_proto::time::UnixNanos;
///
/// let now = Instant::now();
/// let mut presence = Presence::default();
/// presence.alive(now);
/// assert_eq!(presence.state(now), PresenceState::Online);
/// presence.goodbye(now, UnixNanos::new(1));
/// assert_eq!(presence.state(now + Duration::from_secs(3600)), PresenceState::Offline);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Presence {
    alive: Option<Instant>,
    /// The time of its last introduction or goodbye, by its own clock.
    said: Option<UnixNanos>,
    goodbye: Option<Instant>,
    lost: Option<Instant>,
}

impl Presence {
    /// Records a sign of life: it answered, called, or signed an event.
    pub fn alive(&mut self, at: Instant) {
        self.alive = self.alive.max(Some(at));
    }

    /// Records an introduction at `at`, dated `said` by the peer's clock. It revokes an earlier goodbye.
    pub fn introduced(&mut self, at: Instant, said: UnixNanos) {
        if self.said <= Some(said) {
            self.said = Some(said);
            self.goodbye = None;
        }
        self.alive(at);
    }

    /// Records a goodbye at `at`, dated `said` by the peer's clock. One that precedes its last introduction, or that is
    /// already known, is ignored.
    pub fn goodbye(&mut self, at: Instant, said: UnixNanos) {
        let is_news = self.said < Some(said) || (self.said == Some(said) && self.goodbye.is_none());
        if is_news {
            self.said = Some(said);
            self.goodbye = Some(at);
        }
    }

    /// Records that it did not answer a call, or that the network reports it as offline.
    pub fn lost(&mut self, at: Instant) {
        self.lost = self.lost.max(Some(at));
    }

    /// Returns the time of the last sign of life.
    pub fn last_alive(&self) -> Option<Instant> {
        self.alive
    }

    /// Returns the presence at `now`.
    pub fn state(&self, now: Instant) -> PresenceState {
        let said_goodbye = self.goodbye.is_some_and(|goodbye| {
            self.alive
                .is_none_or(|alive| alive.saturating_duration_since(goodbye) <= STILL_ON_THE_WAY)
        });
        if said_goodbye {
            return PresenceState::Offline;
        }
        match (self.alive, self.lost) {
            (None, None) => PresenceState::Unknown,
            (alive, lost) if lost > alive => PresenceState::Missing,
            (Some(alive), _) if now.saturating_duration_since(alive) <= MISSING_AFTER => {
                PresenceState::Online
            }
            _ => PresenceState::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns an arbitrary instant to start from.
    #[expect(clippy::disallowed_methods, reason = "a test needs some start")]
    fn begin() -> Instant {
        Instant::now()
    }

    #[test]
    fn without_a_sign_of_life_the_presence_is_unknown() {
        assert_eq!(Presence::default().state(begin()), PresenceState::Unknown);
    }

    #[test]
    fn a_nara_without_a_sign_of_life_is_missing_after_a_while() {
        let (mut presence, now) = (Presence::default(), begin());
        presence.alive(now);
        assert_eq!(presence.state(now + MISSING_AFTER), PresenceState::Online);
        assert_eq!(
            presence.state(now + MISSING_AFTER + SECOND),
            PresenceState::Missing
        );
    }

    #[test]
    fn a_nara_that_does_not_answer_is_missing_until_its_next_sign_of_life() {
        let (mut presence, now) = (Presence::default(), begin());
        presence.lost(now);
        assert_eq!(presence.state(now), PresenceState::Missing);
        presence.alive(now + SECOND);
        assert_eq!(presence.state(now + SECOND), PresenceState::Online);
        presence.lost(now + 2 * SECOND);
        assert_eq!(presence.state(now + 2 * SECOND), PresenceState::Missing);
    }

    #[test]
    fn a_goodbye_outlasts_requests_in_flight_and_ends_with_a_later_sign_of_life() {
        let (mut presence, now) = (Presence::default(), begin());
        presence.alive(now);
        presence.goodbye(now + SECOND, UnixNanos::new(1));
        presence.alive(now + 2 * SECOND);
        presence.lost(now + 3 * SECOND);
        assert_eq!(presence.state(now + 3 * SECOND), PresenceState::Offline);
        presence.alive(now + 60 * SECOND);
        assert_eq!(presence.state(now + 60 * SECOND), PresenceState::Online);
    }

    #[test]
    fn the_later_of_introduction_and_goodbye_counts_by_the_clock_of_the_nara() {
        let now = begin();
        let [first, second] = [1, 2].map(UnixNanos::new);
        // They arrive together, or the older one later.
        let mut presence = Presence::default();
        presence.goodbye(now, first);
        presence.introduced(now, second);
        assert_eq!(presence.state(now), PresenceState::Online);
        presence.goodbye(now + SECOND, first);
        assert_eq!(presence.state(now + SECOND), PresenceState::Online);
        presence.goodbye(now + SECOND, UnixNanos::new(3));
        assert_eq!(presence.state(now + SECOND), PresenceState::Offline);
        // It returns without an introduction, and its goodbye arrives once more.
        presence.alive(now + 60 * SECOND);
        presence.goodbye(now + 61 * SECOND, UnixNanos::new(3));
        assert_eq!(presence.state(now + 61 * SECOND), PresenceState::Online);
    }
}
