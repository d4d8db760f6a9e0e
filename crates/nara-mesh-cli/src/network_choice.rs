//! The network to use where none was asked for.

use std::path::Path;

use nara_tailnet::tailscaled::TailscaledNode;

use crate::cli::{NetworkArgs, NetworkKind};
use crate::connect::block_on;
use crate::failure::{Failure, Outcome};

/// The network to join, and why this one.
pub(crate) fn choose(args: &NetworkArgs, program: &Path) -> Outcome<(NetworkKind, &'static str)> {
    if let Some(kind) = args.network {
        return Ok((kind, "as asked for"));
    }
    if block_on(async { Ok(TailscaledNode::is_running_at(args.socket.clone()).await) })? {
        return Ok((NetworkKind::Tailscaled, "it runs on this machine"));
    }
    if is_on_path(program) {
        let why = "this machine's tailscaled is not on a tailnet, and the program is installed";
        return Ok((NetworkKind::Managed, why));
    }
    if cfg!(feature = "embedded") {
        return Ok((NetworkKind::Embedded, "no tailscaled is installed"));
    }
    Err(Failure::usage("no way to join a tailnet: no tailscaled runs, and the program is not installed").hint(
        "install Tailscale (https://tailscale.com/download) and log in with `tailscale up`, or install only the program \
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
