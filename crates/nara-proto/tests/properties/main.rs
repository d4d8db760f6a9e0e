//! Properties of the protocol core that hold for every input.

mod auth;
mod events;
mod hostile;
mod signing;
mod spelling;
mod verdicts;

use nara_proto::identity::{KeyPair, NaraName, Soul};
use proptest::collection::vec;
use proptest::prelude::*;

/// Generates any text, including control characters and unassigned code points.
pub(crate) fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

/// Generates a valid name of a nara.
pub(crate) fn name() -> impl Strategy<Value = NaraName> {
    text().prop_filter_map("not a name", |text| text.parse().ok())
}

/// Generates any keypair.
pub(crate) fn keypair() -> impl Strategy<Value = KeyPair> {
    any::<[u8; 32]>().prop_map(|seed| KeyPair::from_soul(&Soul::bond(seed, "alice")))
}
