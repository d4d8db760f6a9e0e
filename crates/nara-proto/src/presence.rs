//! Whether a nara is there: what its events, calls to it and the network say, as one answer.
//!
//! The words are those of v1 peers, which tell each other about them in observations (docs/protocol/v1.md, section 8.3).

use std::fmt;
use std::time::{Duration, Instant};

use crate::time::UnixNanos;

/// After so long without a sign of life a nara is missing: three of the longest rounds of zines of v1 peers.
pub const MISSING_AFTER: Duration = Duration::from_secs(15 * 60);

/// Signs of life up to so long behind a goodbye do not revoke it: requests that were on their way.
const STILL_ON_THE_WAY: Duration = Duration::from_secs(10);

/// Whether a nara is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PresenceState {
    /// Nothing is known.
    #[default]
    Unknown,
    /// It gave a sign of life within [`MISSING_AFTER`].
    Online,
    /// It said goodbye.
    Offline,
    /// It does not answer, or gives no sign of life, and said no goodbye.
    Missing,
}

impl PresenceState {
    /// The word of v1 peers.
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

/// The signs of life of one nara. Reads no clock.
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
    /// It gave a sign of life: it answered, called, or signed an event.
    pub fn alive(&mut self, at: Instant) {
        self.alive = self.alive.max(Some(at));
    }

    /// It introduced itself at `at`, and by its own clock at `said`: an earlier goodbye is over.
    pub fn introduced(&mut self, at: Instant, said: UnixNanos) {
        if self.said <= Some(said) {
            self.said = Some(said);
            self.goodbye = None;
        }
        self.alive(at);
    }

    /// It said goodbye at `at`, and by its own clock at `said`. One from before its last introduction, or that is known
    /// already, means nothing.
    pub fn goodbye(&mut self, at: Instant, said: UnixNanos) {
        let is_news = self.said < Some(said) || (self.said == Some(said) && self.goodbye.is_none());
        if is_news {
            self.said = Some(said);
            self.goodbye = Some(at);
        }
    }

    /// It did not answer a call, or the network says that it is not there.
    pub fn lost(&mut self, at: Instant) {
        self.lost = self.lost.max(Some(at));
    }

    /// The last sign of life.
    pub fn last_alive(&self) -> Option<Instant> {
        self.alive
    }

    /// Whether it is there.
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

    /// Any moment: an `Instant` comes from nowhere else.
    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere")]
    fn begin() -> Instant {
        Instant::now()
    }

    #[test]
    fn nothing_is_known_of_a_nara_that_gave_no_sign() {
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
    fn a_goodbye_holds_for_what_was_on_its_way_and_ends_with_a_later_sign_of_life() {
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
        // They come together, or the older one later.
        let mut presence = Presence::default();
        presence.goodbye(now, first);
        presence.introduced(now, second);
        assert_eq!(presence.state(now), PresenceState::Online);
        presence.goodbye(now + SECOND, first);
        assert_eq!(presence.state(now + SECOND), PresenceState::Online);
        presence.goodbye(now + SECOND, UnixNanos::new(3));
        assert_eq!(presence.state(now + SECOND), PresenceState::Offline);
        // It is back without a word; its goodbye comes once more.
        presence.alive(now + 60 * SECOND);
        presence.goodbye(now + 61 * SECOND, UnixNanos::new(3));
        assert_eq!(presence.state(now + 61 * SECOND), PresenceState::Online);
    }
}
