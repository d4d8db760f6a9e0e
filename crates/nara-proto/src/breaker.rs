//! The circuit breaker of one peer: a call to a peer that is known to be down fails at once instead of after five
//! seconds.

use std::time::{Duration, Instant};

/// The settings of a [`Breaker`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// The number of consecutive failures that open the breaker.
    pub threshold: u32,
    /// How long it stays open the first time.
    pub initial_pause: Duration,
    /// The longest that it stays open. Each failed probe doubles the pause up to this limit.
    pub max_pause: Duration,
}

impl Default for BreakerConfig {
    /// Three consecutive failures, or one if the peer is unreachable, open the breaker for 1 s at first and 60 s at
    /// most: in a mesh of hundreds, a returning peer should not wait longer than a minute to be noticed.
    fn default() -> Self {
        Self {
            threshold: 3,
            initial_pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(60),
        }
    }
}

/// The circuit breaker of one peer: closed, open, or on probation.
///
/// ```
/// use std::time::{Duration, Instant};
/// use nara_proto::breaker::{Breaker, BreakerConfig, Failure};
///
/// # let now = Instant::now();
/// let mut breaker = Breaker::new(BreakerConfig::default());
/// let permit = breaker.admit(now).expect("closed");
/// breaker.failed(permit, Failure::Unreachable, now, 0);
/// assert!(breaker.admit(now).is_err(), "open");
/// assert!(breaker.admit(now + Duration::from_secs(2)).is_ok(), "one probe");
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Incremented with each transition, so that the outcome of an old call cannot change a newer state.
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One probe is in flight.
    Probation {
        pause: Duration,
    },
}

/// The permit to make one call; return it with the outcome of the call.
#[derive(Debug)]
#[must_use = "the breaker waits for the outcome of the call"]
pub struct Permit {
    generation: u64,
    probe: bool,
}

impl Permit {
    /// Returns whether this call is the one probe of a breaker on probation.
    pub const fn is_probe(&self) -> bool {
        self.probe
    }
}

/// The error of a call that was not made because the peer is known to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer is down; the next attempt is in {} ms", .retry_in.as_millis())]
pub struct CircuitOpen {
    /// The time until the next probe may start; zero while one is in flight.
    pub retry_in: Duration,
}

/// The kind of failure of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The peer was reached, but it answered too late or the connection broke off.
    NoAnswer,
    /// The peer could not be reached; opens the breaker at once.
    Unreachable,
}

/// The state of a breaker, as named in metrics and listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls fail at once.
    Open,
    /// A probe may start or is in flight.
    Probation,
}

impl Breaker {
    /// Returns a closed breaker.
    pub const fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed { failures: 0 },
            generation: 0,
        }
    }

    /// Requests a permit for a call.
    ///
    /// # Errors
    /// [`CircuitOpen`] if the peer is known to be down.
    pub fn admit(&mut self, now: Instant) -> Result<Permit, CircuitOpen> {
        let probe = match self.state {
            State::Closed { .. } => false,
            State::Open { until, pause } if until <= now => {
                self.state = State::Probation { pause };
                true
            }
            State::Open { until, .. } => {
                return Err(CircuitOpen {
                    retry_in: until.saturating_duration_since(now),
                });
            }
            State::Probation { .. } => {
                return Err(CircuitOpen {
                    retry_in: Duration::ZERO,
                });
            }
        };
        Ok(Permit {
            generation: self.generation,
            probe,
        })
    }

    /// Records an answer, of whatever status: the peer is reachable.
    pub fn succeeded(&mut self, permit: Permit) {
        if permit.generation == self.generation {
            self.close();
        }
    }

    /// Records a failed call. `random` spreads the pause between 0.8 and 1.2 of its length, so that not all peers of a
    /// returning nara call it in the same instant.
    pub fn failed(&mut self, permit: Permit, failure: Failure, now: Instant, random: u32) {
        if permit.generation != self.generation {
            return;
        }
        match self.state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                if failure == Failure::Unreachable || failures >= self.config.threshold {
                    self.open(now, self.config.initial_pause, random);
                } else {
                    self.state = State::Closed { failures };
                }
            }
            State::Probation { pause } => {
                let pause = pause.saturating_mul(2).min(self.config.max_pause);
                self.open(now, pause, random);
            }
            State::Open { .. } => {}
        }
    }

    /// Records a call that was cancelled before its outcome was known.
    pub fn cancelled(&mut self, permit: Permit, now: Instant) {
        if let State::Probation { pause } = self.state
            && permit.probe
            && permit.generation == self.generation
        {
            // The next caller probes.
            self.state = State::Open { until: now, pause };
        }
    }

    /// Closes the breaker: a verified request from the peer arrived, its address was reported anew, or the tailnet
    /// reports it as online.
    pub fn sign_of_life(&mut self) {
        self.close();
    }

    /// Lets the next call through at once as a probe, because there is a reason to call the peer now.
    pub fn give_a_chance(&mut self, now: Instant) {
        if matches!(self.state, State::Open { .. }) {
            self.state = State::Open {
                until: now,
                pause: self.config.initial_pause,
            };
        }
    }

    /// Opens the breaker: the tailnet reports the peer as offline.
    pub fn sign_of_death(&mut self, now: Instant, random: u32) {
        if matches!(self.state, State::Closed { .. }) {
            self.open(now, self.config.initial_pause, random);
        }
    }

    /// Returns whether calls go through, independent of the time.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// Returns the state at `now`.
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until, .. } if until > now => BreakerState::Open,
            State::Open { .. } | State::Probation { .. } => BreakerState::Probation,
        }
    }

    fn open(&mut self, now: Instant, pause: Duration, random: u32) {
        let spread = 0.8 + 0.4 * f64::from(random) / f64::from(u32::MAX);
        let wait = pause.mul_f64(spread).min(self.config.max_pause);
        self.state = State::Open {
            until: now + wait,
            pause,
        };
        self.generation += 1;
    }

    fn close(&mut self) {
        if !matches!(self.state, State::Closed { .. }) {
            self.generation += 1;
        }
        self.state = State::Closed { failures: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u32 = u32::MAX / 2;

    /// An arbitrary start; only differences matter.
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other source")]
    fn epoch() -> Instant {
        Instant::now()
    }

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(BreakerConfig::default());
        let permit = breaker.admit(now).unwrap();
        breaker.failed(permit, Failure::Unreachable, now, HALF);
        breaker
    }

    #[test]
    fn late_answers_open_it_only_when_they_repeat() {
        let now = epoch();
        let mut breaker = Breaker::new(BreakerConfig::default());
        for _ in 0..2 {
            let permit = breaker.admit(now).unwrap();
            breaker.failed(permit, Failure::NoAnswer, now, HALF);
        }
        let permit = breaker.admit(now).unwrap();
        breaker.succeeded(permit);
        for _ in 0..3 {
            let permit = breaker.admit(now).unwrap();
            breaker.failed(permit, Failure::NoAnswer, now, HALF);
        }
        assert!(breaker.admit(now).is_err());
    }

    #[test]
    fn one_probe_goes_and_decides() {
        let now = epoch();
        let mut breaker = open(now);
        let later = now + Duration::from_secs(2);
        let probe = breaker.admit(later).unwrap();
        assert!(probe.is_probe());
        assert_eq!(breaker.admit(later).unwrap_err().retry_in, Duration::ZERO);
        breaker.succeeded(probe);
        assert_eq!(breaker.state(later), BreakerState::Closed);
    }

    #[test]
    fn the_pause_doubles_to_its_cap() {
        let mut now = epoch();
        let mut breaker = open(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let wait = breaker.admit(now).unwrap_err().retry_in;
            pauses.push(wait.as_secs_f64().round() as u64);
            now += wait;
            let probe = breaker.admit(now).unwrap();
            breaker.failed(probe, Failure::NoAnswer, now, HALF);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let wait = open(now).admit(now).unwrap_err().retry_in;
        assert!(wait <= BreakerConfig::default().max_pause);
    }

    #[test]
    fn a_sign_of_life_closes_it_and_late_outcomes_do_not_open_it_again() {
        let now = epoch();
        let mut breaker = Breaker::new(BreakerConfig::default());
        let old = breaker.admit(now).unwrap();
        let permit = breaker.admit(now).unwrap();
        breaker.failed(permit, Failure::Unreachable, now, HALF);
        breaker.sign_of_life();
        assert!(breaker.admit(now).is_ok());
        breaker.failed(old, Failure::Unreachable, now, HALF);
        assert!(breaker.admit(now).is_ok());
    }

    #[test]
    fn a_chance_lets_one_call_through_at_once() {
        let now = epoch();
        let mut breaker = open(now);
        assert!(breaker.admit(now).is_err());
        breaker.give_a_chance(now);
        let permit = breaker.admit(now).unwrap();
        assert!(permit.is_probe() && breaker.admit(now).is_err());
        // A second chance does not disturb the probe in flight.
        breaker.give_a_chance(now);
        assert!(breaker.admit(now).is_err());
        breaker.succeeded(permit);
        assert_eq!(breaker.state(now), BreakerState::Closed);
        breaker.give_a_chance(now);
        assert_eq!(breaker.state(now), BreakerState::Closed);
    }

    #[test]
    fn a_cancelled_probe_lets_the_next_one_go() {
        let now = epoch();
        let mut breaker = open(now);
        let later = now + Duration::from_secs(2);
        let probe = breaker.admit(later).unwrap();
        breaker.cancelled(probe, later);
        assert!(breaker.admit(later).unwrap().is_probe());
    }
}
