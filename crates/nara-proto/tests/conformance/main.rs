//! Conformance of `nara-proto` with the vectors that were recorded from v1 peers.
//!
//! Reads every `*.json` in the folder named by `NARA_VECTORS` (default: `tests/vectors` of this crate) and checks every
//! field of every case that this crate can compute. The runner of `nara-mesh` checks the fields that need a running
//! server or client (`Case::left_to_mesh`), with the same [`harness`] and table of [`deviations`]. Unknown files,
//! unknown fields and expectations that cannot be checked are failures.

mod auth;
mod checkpoints;
mod client_wire;
mod deviations;
mod encoding;
mod events;
mod harness;
mod http_exchange;
mod id_lists;
mod identity;
mod runtime_message;
mod sync_select;
mod world;

use std::path::Path;
use std::process::ExitCode;

use harness::Check;

const CHECKS: [(&str, Check); 25] = [
    ("attestation.json", checkpoints::attestation),
    ("client_wire.json", client_wire::client_wire),
    ("event_chau.json", events::event),
    ("event_checkpoint.json", checkpoints::checkpoint),
    ("event_decode.json", encoding::event_decode),
    ("event_hey_there.json", events::event),
    ("event_observation.json", events::event),
    ("event_ping.json", events::event),
    ("event_seen.json", events::event),
    ("event_social.json", events::event),
    ("http.json", http_exchange::exchange),
    ("http_fixture.json", http_exchange::fixture),
    ("identity.json", identity::identity),
    ("identity_resolve.json", identity::resolve),
    ("import_request.json", id_lists::import_request),
    ("json_encoding.json", encoding::json_encoding),
    ("request_auth.json", auth::request),
    ("response_auth.json", auth::response),
    ("runtime_message.json", runtime_message::runtime_message),
    ("self_encryption.json", identity::self_encryption),
    ("sync_response.json", id_lists::sync_response),
    ("sync_select.json", sync_select::sync_select),
    ("world.json", world::chain),
    ("world_next_hop.json", world::next_hop),
    ("zine.json", id_lists::zine),
];

#[expect(
    clippy::disallowed_methods,
    reason = "the command line and the folder are the user's interface"
)]
fn main() -> ExitCode {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");
    let folder = std::env::var_os("NARA_VECTORS").unwrap_or_else(|| default.into());
    let only_list = std::env::args().any(|arg| arg == "--list");
    harness::run(Path::new(&folder), only_list, &CHECKS)
}
