//! Vivaldi network coordinates: they estimate the round trip to every nara from a few measured round trips.
//!
//! Each nara has a position in a plane, a height above it, both in milliseconds, and an error, which says how far it
//! trusts its position. The estimated round trip between two naras is the distance in the plane plus both heights; the
//! height stands for the access link that all packets of a nara pass. Each measured round trip moves the nara along the
//! line to its peer, as a spring would; the less it trusts its own position compared with the peer's, the further it
//! moves (Dabek, Cox, Kaashoek, Morris: "Vivaldi", SIGCOMM 2004; heights are in section 5.4). V1 peers serve the same
//! coordinates at `GET /coordinates` (docs/protocol/v1.md, section 7.2).
//!
//! A peer's own coordinates are only a hint: values are bounded, a single sample moves a nara by at most
//! [`NetworkCoordinates::MAX_STEP_MS`], and an estimate may only decide the order of peers.
//!
//! ```
//! use std::time::Duration;
//! use nara_proto::coordinates::{NetworkCoordinates, estimate};
//! use nara_proto::peer::Coordinates;
//!
//! let mut own = NetworkCoordinates::default();
//! let peer = Coordinates { x: 10.0, y: 0.0, height: 1.0, error: 0.5 };
//! for _ in 0..100 {
//!     own.observe(&peer, Duration::from_millis(30), 7)?;
//! }
//! let rtt = estimate(own.get(), &peer).expect("both are valid");
//! assert!(rtt.abs_diff(Duration::from_millis(30)) < Duration::from_millis(1));
//! # Ok::<(), nara_proto::coordinates::UnusableSample>(())
//! ```

use std::time::Duration;

use crate::peer::Coordinates;

/// The share of a sample's error by which it moves a nara that has all the error (`c_c` in the paper).
const MOVE: f64 = 0.25;
/// The weight of a sample in the error (`c_e` in the paper).
const ERROR_WEIGHT: f64 = 0.25;
/// The lowest height, ms: a height of 0 would give no direction.
const MIN_HEIGHT: f64 = 0.000_01;
const MIN_ERROR: f64 = 0.001;
const MAX_ERROR: f64 = 2.0;
/// The error of a new nara.
const FIRST_ERROR: f64 = 1.0;
/// The greatest distance of a position from the origin, and the greatest height, ms: together, half a minute of round
/// trip.
const MAX_COORDINATE: f64 = 10_000.0;
/// The longest round trip that counts as a sample: a longer one measures a paused process, not a distance.
const MAX_RTT: Duration = Duration::from_secs(10);
/// Two positions closer than this, ms, give no direction.
const SAME_PLACE: f64 = 0.000_001;

/// The reason why a sample is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnusableSample {
    /// The coordinates of the peer are not finite or out of bounds.
    #[error("the coordinates of the peer are out of bounds")]
    Coordinates,
    /// The round trip is zero, or more than 10 s.
    #[error("the round trip took no time or too long")]
    RoundTrip,
}

/// The coordinates of this nara, which follow its measurements.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkCoordinates(Coordinates);

/// A new nara is at the origin.
impl Default for NetworkCoordinates {
    fn default() -> Self {
        Self(Coordinates {
            x: 0.0,
            y: 0.0,
            height: MIN_HEIGHT,
            error: FIRST_ERROR,
        })
    }
}

impl NetworkCoordinates {
    /// The longest distance, in milliseconds, that one sample moves a nara, so that no single peer can displace it far.
    pub const MAX_STEP_MS: f64 = 100.0;

    /// Resumes from saved coordinates, or starts at a new position if they are out of bounds.
    pub fn restore(saved: Coordinates) -> Self {
        if is_valid(&saved) {
            Self(bounded(saved))
        } else {
            Self::default()
        }
    }

    /// Returns the current coordinates.
    pub fn get(&self) -> &Coordinates {
        &self.0
    }

    /// Applies a measured round trip to a peer that reports the coordinates `peer`. `random` gives the direction if
    /// both have the same position.
    ///
    /// # Errors
    /// [`UnusableSample`]; the coordinates are unchanged then.
    pub fn observe(&mut self, peer: &Coordinates, rtt: Duration, random: u32) -> Result<(), UnusableSample> {
        if rtt.is_zero() || rtt > MAX_RTT {
            return Err(UnusableSample::RoundTrip);
        }
        if !is_valid(peer) {
            return Err(UnusableSample::Coordinates);
        }
        let rtt = rtt.as_secs_f64() * 1000.0;
        let own = &self.0;
        let peer = bounded(peer.clone());
        let (dx, dy) = (own.x - peer.x, own.y - peer.y);
        let plane = dx.hypot(dy);
        let distance = plane + own.height + peer.height;
        let weight = own.error / (own.error + peer.error);

        let sample_error = (distance - rtt).abs() / rtt;
        let error_weight = ERROR_WEIGHT * weight;
        let error = sample_error * error_weight + own.error * (1.0 - error_weight);

        let limit = Self::MAX_STEP_MS;
        let step = (MOVE * weight * (rtt - distance)).clamp(-limit, limit);
        // The unit vector from the peer to us; its height is the share of both heights in the distance.
        let (ux, uy, uh) = if plane > SAME_PLACE {
            (
                dx / distance,
                dy / distance,
                (own.height + peer.height) / distance,
            )
        } else {
            let angle = f64::from(random) / f64::from(u32::MAX) * std::f64::consts::TAU;
            (angle.cos(), angle.sin(), 0.0)
        };
        self.0 = bounded(Coordinates {
            x: own.x + step * ux,
            y: own.y + step * uy,
            height: own.height + step * uh,
            error,
        });
        Ok(())
    }
}

/// Returns the estimated round trip between two naras; `None` if the coordinates of one are out of bounds.
pub fn estimate(one: &Coordinates, other: &Coordinates) -> Option<Duration> {
    if !is_valid(one) || !is_valid(other) {
        return None;
    }
    let plane = (one.x - other.x).hypot(one.y - other.y);
    let millis = plane + one.height.max(MIN_HEIGHT) + other.height.max(MIN_HEIGHT);
    Some(Duration::from_secs_f64(millis / 1000.0))
}

fn is_valid(coordinates: &Coordinates) -> bool {
    let Coordinates { x, y, height, error } = coordinates;
    let is_in = |value: f64, low: f64| value.is_finite() && (low..=MAX_COORDINATE).contains(&value);
    is_in(*x, -MAX_COORDINATE) && is_in(*y, -MAX_COORDINATE) && is_in(*height, 0.0) && is_in(*error, 0.0)
}

fn bounded(coordinates: Coordinates) -> Coordinates {
    Coordinates {
        x: coordinates.x.clamp(-MAX_COORDINATE, MAX_COORDINATE),
        y: coordinates.y.clamp(-MAX_COORDINATE, MAX_COORDINATE),
        height: coordinates.height.clamp(MIN_HEIGHT, MAX_COORDINATE),
        error: coordinates.error.clamp(MIN_ERROR, MAX_ERROR),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;

    const NODES: usize = 100;

    /// The round trips of 100 naras in four regions up to 150 ms apart, each behind its own access link, in
    /// milliseconds. Each path is up to 10 % longer than the geometry says, so no placement explains all of them.
    fn matrix(random: &mut Xoshiro256PlusPlus) -> Vec<Vec<f64>> {
        let regions = [(0.0, 0.0), (90.0, 10.0), (40.0, 120.0), (-60.0, 70.0)];
        let places: Vec<(f64, f64, f64)> = (0..NODES)
            .map(|node| {
                let (x, y) = regions[node % regions.len()];
                let mut near = || random.random_range(-12.0_f64..12.0);
                (x + near(), y + near(), 1.0 + near().abs())
            })
            .collect();
        let mut matrix = vec![vec![0.0_f64; NODES]; NODES];
        for one in 0..NODES {
            for other in 0..one {
                let (a, b) = (places[one], places[other]);
                let direct = (a.0 - b.0).hypot(a.1 - b.1) + a.2 + b.2;
                let rtt = direct * random.random_range(1.0..1.1);
                matrix[one][other] = rtt;
                matrix[other][one] = rtt;
            }
        }
        matrix
    }

    fn median_error(naras: &[NetworkCoordinates], matrix: &[Vec<f64>]) -> f64 {
        let mut errors = Vec::new();
        for one in 0..NODES {
            for other in 0..one {
                let estimated = estimate(naras[one].get(), naras[other].get()).unwrap();
                let rtt = matrix[one][other];
                errors.push((estimated.as_secs_f64() * 1000.0 - rtt).abs() / rtt);
            }
        }
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    }

    #[test]
    fn a_hundred_naras_converge_to_a_median_error_of_15_percent() {
        for seed in 0..3 {
            let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
            let matrix = matrix(&mut random);
            let mut naras = vec![NetworkCoordinates::default(); NODES];
            assert!(median_error(&naras, &matrix) > 0.9);
            // A ping every 5 s for a quarter of an hour.
            for _ in 0..180 {
                for one in 0..NODES {
                    let other = (one + random.random_range(1..NODES)) % NODES;
                    let jitter = random.random_range(0.95..1.15);
                    let rtt = Duration::from_secs_f64(matrix[one][other] * jitter / 1000.0);
                    let peer = naras[other].get().clone();
                    naras[one].observe(&peer, rtt, random.next_u32()).unwrap();
                }
            }
            let error = median_error(&naras, &matrix);
            assert!(error <= 0.15, "seed {seed}: median relative error {error}");
        }
    }

    #[test]
    fn a_liar_moves_a_nara_by_no_more_than_a_step_and_honest_peers_bring_it_back() {
        let mut own = NetworkCoordinates::default();
        let honest = Coordinates {
            x: 20.0,
            y: 5.0,
            height: 1.0,
            error: 0.2,
        };
        let rtt = Duration::from_millis(25);
        for _ in 0..50 {
            own.observe(&honest, rtt, 1).unwrap();
        }
        let before = own.get().clone();
        let liar = Coordinates {
            x: 9_999.0,
            y: -9_999.0,
            height: 9_999.0,
            error: 0.0,
        };
        own.observe(&liar, Duration::from_millis(1), 1).unwrap();
        let moved = (own.get().x - before.x).hypot(own.get().y - before.y);
        assert!(moved <= NetworkCoordinates::MAX_STEP_MS);
        for _ in 0..50 {
            own.observe(&honest, rtt, 1).unwrap();
        }
        let estimated = estimate(own.get(), &honest).unwrap();
        assert!(
            estimated.abs_diff(rtt) < Duration::from_millis(2),
            "{estimated:?}"
        );
    }

    #[test]
    fn samples_out_of_bounds_change_nothing() {
        let mut own = NetworkCoordinates::default();
        let good = Coordinates {
            x: 1.0,
            y: 1.0,
            height: 1.0,
            error: 1.0,
        };
        for rtt in [Duration::ZERO, MAX_RTT + Duration::from_nanos(1)] {
            assert_eq!(own.observe(&good, rtt, 0), Err(UnusableSample::RoundTrip));
        }
        for change in [
            |peer: &mut Coordinates| peer.x = f64::NAN,
            |peer: &mut Coordinates| peer.y = f64::INFINITY,
            |peer: &mut Coordinates| peer.height = -1.0,
            |peer: &mut Coordinates| peer.height = MAX_COORDINATE * 2.0,
            |peer: &mut Coordinates| peer.error = -0.1,
        ] {
            let mut bad = good.clone();
            change(&mut bad);
            let outcome = own.observe(&bad, Duration::from_millis(5), 0);
            assert_eq!(outcome, Err(UnusableSample::Coordinates));
            assert_eq!(estimate(own.get(), &bad), None);
            assert_eq!(NetworkCoordinates::restore(bad), NetworkCoordinates::default());
        }
        assert_eq!(own, NetworkCoordinates::default());
        assert_eq!(NetworkCoordinates::restore(good.clone()).get(), &good);
    }

    #[test]
    fn two_naras_at_one_place_drift_apart() {
        let mut own = NetworkCoordinates::default();
        let peer = NetworkCoordinates::default();
        own.observe(peer.get(), Duration::from_millis(10), u32::MAX / 4)
            .unwrap();
        assert!(own.get().y > 1.0 && own.get().x.abs() < 0.001, "{own:?}");
    }

    proptest! {
        #[test]
        fn any_sample_leaves_coordinates_in_bounds(
            peers in proptest::collection::vec((any::<(f64, f64, f64, f64)>(), any::<u64>(), any::<u32>()), 0..40),
        ) {
            let mut own = NetworkCoordinates::default();
            for ((x, y, height, error), nanos, random) in peers {
                let scale = |value: f64| if value.is_finite() { value % 20_000.0 } else { value };
                let peer = Coordinates { x: scale(x), y: scale(y), height: scale(height), error: scale(error) };
                let _ = own.observe(&peer, Duration::from_nanos(nanos % 11_000_000_000), random);
                prop_assert!(is_valid(own.get()), "{:?}", own);
                prop_assert!((MIN_ERROR..=MAX_ERROR).contains(&own.get().error));
                prop_assert!(own.get().height >= MIN_HEIGHT);
            }
        }
    }
}
