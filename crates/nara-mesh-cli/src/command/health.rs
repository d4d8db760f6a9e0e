//! `health`: checks that the nara of this machine answers, for supervisors and containers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use nara_local_api::client::LocalClient;
use nara_mesh::client::MeshClient;
use nara_mesh::transport::TcpTransport;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::HealthArgs;
use crate::connect::{block_on, guest};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::printer::{Printer, harmless, human, micros};
use crate::running;
use crate::settings::Settings;

/// The output of `health`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    name: String,
    address: Option<String>,
    rtt_us: u64,
}

/// Asks the local API first, because an embedded node listens on no address of this machine; calls the
/// address if one is given or no running nara is found. Reads no peers and writes nothing.
pub(super) fn run(args: &HealthArgs, settings: &Settings, printer: Printer) -> Outcome {
    if !settings.sources.is_on_command_line("listen")
        && let Some(client) = running::preferred(&args.running, settings)?
    {
        return ask(&client, settings, printer);
    }
    let listen = block_on(async {
        hosts::address_of(&args.listen).await.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("{} is not an address to call", args.listen),
            )
            .caused_by(error)
        })
    })?;
    let address = reachable(listen);
    let client = MeshClient::builder(guest()?)
        .transport(Arc::new(TcpTransport))
        .call_timeout(settings.timeout)
        .dial_timeout(settings.timeout)
        .tls(settings.tls)
        .build();
    let report = block_on(async { client.ping(address).await.map_err(Failure::from) })?;
    let name = &report.response.from;
    must_be(settings, name, &address.to_string())?;
    let shown = harmless(name);
    printer.line(format_args!(
        "{shown} answers at {address} in {}",
        human(report.rtt)
    ))?;
    printer.json(Printed {
        name: shown.to_string(),
        address: Some(address.to_string()),
        rtt_us: micros(report.rtt),
    })?;
    Ok(Exit::Ok)
}

fn ask(client: &LocalClient, settings: &Settings, printer: Printer) -> Outcome {
    let asked = Instant::now();
    let status = block_on(running::status_of(client, settings))?;
    let took = asked.elapsed();
    must_be(settings, &status.name, "the local API")?;
    printer.line(format_args!(
        "{} answers in {}",
        harmless(&status.name),
        human(took)
    ))?;
    printer.json(Printed {
        name: status.name,
        address: status.address,
        rtt_us: micros(took),
    })?;
    Ok(Exit::Ok)
}

/// Rejects the answer of a nara other than the requested one.
fn must_be(settings: &Settings, name: &str, place: &str) -> Outcome<()> {
    if settings.name().is_some_and(|wanted| wanted.as_str() != name) {
        let name = harmless(name);
        return Err(Failure::failed(format!("{place} is served by {name}")).hint("check --listen and --name"));
    }
    Ok(())
}

/// Returns an address to call for a listening address.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
