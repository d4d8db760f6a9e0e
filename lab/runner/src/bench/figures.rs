use serde::{Deserialize, Serialize};

/// The measurements of one round of one pair. `lab/go/peer` prints the same fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Figures {
    pub(super) ready_ms: f64,
    pub(super) first_ms: f64,
    pub(super) requests_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) down_mb_s: f64,
    pub(super) up_mb_s: f64,
    pub(super) memory_mb: f64,
}
