//! `up`: joins a network, finds the naras on it, and serves.

mod finding;
mod host_name;
mod join;

use self::join::Join;
use super::serving::{Serving, v1_address};
use crate::cli::UpArgs;
use crate::connect::block_on_all_cores;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::network_choice::choose;
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(args: &UpArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    // An unreadable key is reported before anything is started.
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
        port_mapping: !args.no_port_mapping,
        wait: args.wait,
        port: args.port,
        skip: args.on.skip.clone(),
    };
    block_on_all_cores(async {
        let mut serving = Serving::prepare(&args.serving, settings, printer).await?;
        let joined = join.run(&nara, printer).await?;
        let outcome = async {
            let builder = joined.network(settings.builder(nara)?, serving.feed());
            serving.on(joined.on_network());
            let v1 = v1_address(&args.serving, true, joined.address);
            let Some(nara) = serving.start(builder, v1, settings).await? else {
                return Ok(Exit::Ok);
            };
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
