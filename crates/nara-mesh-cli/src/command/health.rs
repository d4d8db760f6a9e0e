//! `health`: whether the nara of this machine answers, for supervisors and containers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nara_mesh::client::MeshClient;
use nara_mesh::transport::TcpTransport;
use serde_json::json;

use crate::cli::HealthArgs;
use crate::connect::{block_on, guest};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::hosts;
use crate::printer::{Printer, harmless, human, micros};
use crate::settings::Settings;

/// Reads neither a soul nor peers, and writes nothing.
pub(super) fn run(args: &HealthArgs, settings: &Settings, printer: Printer) -> Outcome {
    let listen = block_on(async {
        hosts::address_of(&args.listen).await.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("the host name {} is not found", args.listen),
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
    let name = harmless(&report.response.from);
    if settings
        .name()
        .is_some_and(|wanted| wanted.as_str() != report.response.from)
    {
        return Err(
            Failure::failed(format!("{address} is served by {name}")).hint("check --listen and --name")
        );
    }
    printer.line(format_args!(
        "{name} answers at {address} in {}",
        human(report.rtt)
    ))?;
    printer.json(json!({ "name": name, "address": address, "rtt_us": micros(report.rtt) }))?;
    Ok(Exit::Ok)
}

/// An address to call for one to listen on.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
