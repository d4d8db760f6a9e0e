//! Conformance of server and client with recordings of v1 peers, over real sockets.
//!
//! The harness and the table of deviations are shared with `nara-proto`'s conformance test. `NARA_VECTORS` names
//! another folder of vectors.

mod client_wire;
#[path = "../../../nara-proto/tests/conformance/deviations.rs"]
mod deviations;
#[path = "../support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
#[path = "../../../nara-proto/tests/conformance/harness.rs"]
#[expect(dead_code, reason = "the other runner uses more of it")]
mod harness;
mod http_exchange;
#[path = "../support/raw_http.rs"]
mod raw_http;
mod server;
mod sync_select;

use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;

use harness::Check;
use tokio::runtime::Runtime;

/// The runtime of all servers and clients.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime can be started"));

const CHECKS: [(&str, Check); 3] = [
    ("client_wire.json", client_wire::client_wire),
    ("http.json", http_exchange::exchange),
    ("sync_select.json", sync_select::sync_select),
];

fn main() -> ExitCode {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../nara-proto/tests/vectors");
    let folder = std::env::var_os("NARA_VECTORS").unwrap_or_else(|| default.into());
    let only_list = std::env::args().any(|arg| arg == "--list");
    harness::run(Path::new(&folder), only_list, &CHECKS)
}
