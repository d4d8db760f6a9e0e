//! Chooses the network if none was requested.

use std::path::Path;

use nara_tailnet::tailscaled::TailscaledNode;

use crate::cli::{NetworkArgs, NetworkKind};
use crate::connect::block_on;
use crate::failure::{Failure, Outcome};

/// Returns the network to join and the reason.
pub(crate) fn choose(args: &NetworkArgs, program: &Path) -> Outcome<(NetworkKind, &'static str)> {
    if let Some(kind) = args.network {
        return Ok((kind, "as requested"));
    }
    if block_on(async { Ok(TailscaledNode::is_running_at(args.socket.clone()).await) })? {
        return Ok((NetworkKind::Tailscaled, "it runs on this machine"));
    }
    if is_on_path(program) {
        let why = "this machine's tailscaled is not on a tailnet, but the program is installed";
        return Ok((NetworkKind::Managed, why));
    }
    if cfg!(feature = "embedded") {
        return Ok((NetworkKind::Embedded, "no tailscaled is installed"));
    }
    Err(Failure::usage("cannot join a tailnet: tailscaled is neither running nor installed").hint(
        "install Tailscale (https://tailscale.com/download) and log in with `tailscale up`, or install only \
         tailscaled and pass --network managed; without a tailnet: --network loopback",
    ))
}

fn is_on_path(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
