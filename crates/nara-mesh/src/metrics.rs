//! The names of all metrics, for the recorder of whoever runs the program (crate `metrics`).
//!
//! Without a recorder they cost next to nothing. Names end in their unit; counters end in `_total`. No label ever
//! has a value that a peer chooses freely: names of peers are in the log.

/// Requests that were refused, by `reason`: one of a fixed set of words.
pub const REQUESTS_REFUSED: &str = "nara_mesh_requests_refused_total";

/// Peers whose clock is 5 s or more from ours, now.
pub const CLOCKS_SKEWED: &str = "nara_mesh_clocks_skewed";

/// How far the clocks of the peers that were called last are ahead of ours, the median, in seconds: what most of them
/// share is an error of ours.
pub const CLOCK_OFFSET_SECONDS: &str = "nara_mesh_clock_offset_seconds";

/// Messages of peers that do less than they have proven that they can, by `direction` (`request`, `response`).
pub const DOWNGRADES: &str = "nara_mesh_downgrades_total";

/// Keys that were offered for a nara and not pinned, by `reason`: `conflict` (another key is pinned), `policy` (the
/// trust policy refused it), `untrusted` (the operator does not trust the nara).
pub const KEYS_REFUSED: &str = "nara_mesh_keys_refused_total";

/// Requests that claimed to come from another nara than the one to which their source address belongs.
pub const ADDRESS_MISMATCHES: &str = "nara_mesh_address_mismatches_total";
