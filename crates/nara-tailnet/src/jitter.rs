use std::time::Duration;

/// A random part of a pause, at least half: so that what broke at once does not try again at once.
pub(crate) fn with_jitter(pause: Duration) -> Duration {
    // Without randomness it is the plain pause.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}
