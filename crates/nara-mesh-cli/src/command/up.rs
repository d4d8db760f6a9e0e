//! `up`: joins a network, finds the naras on it, and serves.

mod finding;
mod host_name;
mod join;

pub(super) use finding::describe;

use std::path::PathBuf;

use nara_tailnet::tailscaled::TailscaledNode;

use self::join::Join;
use super::serving::{Serving, v1_address};
use crate::cli::{NetworkArgs, NetworkKind, UpArgs};
use crate::connect::block_on;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(args: &UpArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    // A key that cannot be read is said before anything is started.
    let auth_key = settings.auth_key(args)?;
    let (kind, why) = choose(&args.on, &args.tailscaled)?;
    let folder = settings.managed_folder(&nara)?;
    let host_name = match args.host_name.clone() {
        Some(host_name) => host_name,
        None => host_name::kept(&settings.data_dir(&nara)?, &nara)?,
    };
    let join = Join {
        kind,
        why,
        socket: args.on.socket.clone(),
        folder,
        program: args.tailscaled.clone(),
        host_name,
        control_url: args.control_url.clone(),
        auth_key,
        ephemeral: args.ephemeral,
        plain_control: args.danger_plain_control,
        udp_port: args.udp_port.unwrap_or(0),
        relay_only: args.relay_only,
        wait: args.wait,
        port: args.port,
        skip: args.on.skip.clone(),
    };
    block_on(async {
        let mut serving = Serving::prepare(&args.serving, printer).await?;
        let joined = join.run(&nara, printer).await?;
        let outcome = async {
            let builder = joined.network(settings.builder(nara)?, serving.feed());
            serving.on(joined.on_network());
            let v1 = v1_address(&args.serving, true, joined.address);
            let nara = serving.start(builder, v1, settings).await?;
            joined.tell_serving(&nara, printer)?;
            let telling = joined.tell_status(serving.feed().clone());
            let outcome = serving.run(nara, settings).await;
            drop(telling);
            outcome
        }
        .await;
        joined.leave(printer).await;
        outcome
    })
}

/// The network to join, and why this one.
pub(super) fn choose(args: &NetworkArgs, program: &std::path::Path) -> Outcome<(NetworkKind, &'static str)> {
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

fn is_on_path(program: &std::path::Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| folder.join(program).is_file())
}
