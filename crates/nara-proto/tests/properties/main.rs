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

/// Any text, control characters and unassigned code points included.
pub(crate) fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

/// A text that can be the name of a nara.
pub(crate) fn name() -> impl Strategy<Value = NaraName> {
    text().prop_filter_map("not a name", |text| text.parse().ok())
}

/// Any keypair.
pub(crate) fn keypair() -> impl Strategy<Value = KeyPair> {
    any::<[u8; 32]>().prop_map(|seed| KeyPair::from_soul(&Soul::bond(seed, "alice")))
}
