//! `health`: checks that the nara of this machine answers, for supervisors and containers.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use nara_local_api::client::LocalClient;
use nara_mesh::client::MeshClient;
use nara_mesh::transport::TcpTransport;
use nara_proto::identity::NaraName;
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
/// address if one is given or no running nara is found. There, only the selected nara counts. Reads no peers and
/// writes nothing.
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
    let meant = Meant::by(settings)?;
    let client = MeshClient::builder(guest()?)
        .transport(Arc::new(TcpTransport))
        .call_timeout(settings.timeout)
        .dial_timeout(settings.timeout)
        .tls(settings.tls)
        .build();
    let report = block_on(async { client.ping(address).await.map_err(Failure::from) })?;
    let name = &report.response.from;
    meant.must_be(name, &report.response.public_key, &address.to_string())?;
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
    // Its socket belongs to the soul or the folder.
    let meant = Meant {
        name: settings.name().cloned(),
        key: None,
    };
    meant.must_be(&status.name, &status.public_key, "the local API")?;
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

/// The nara that has to answer, as far as it is known.
struct Meant {
    name: Option<NaraName>,
    /// Its public key, base64.
    key: Option<String>,
}

impl Meant {
    /// Returns the nara that the settings select, which has no local API. An address on the command line overrides
    /// the nara of the environment and of the files.
    fn by(settings: &Settings) -> Outcome<Self> {
        let is_given = |id| settings.sources.is_on_command_line(id);
        let name = settings.name().cloned();
        if is_given("listen") && !is_given("soul_file") {
            return Ok(Self { name, key: None });
        }
        let soul = settings.has_soul().then(|| settings.local_nara());
        match (soul, name.is_some(), settings.given_data_dir()) {
            (Some(Ok(nara)), ..) => Ok(Self {
                name: Some(nara.name().clone()),
                key: Some(nara.public_key().to_base64()),
            }),
            // Perhaps only its service manager can read the soul.
            (_, true, _) | (None, false, None) => Ok(Self { name, key: None }),
            (_, false, Some(folder)) => Err(running::not_running(folder)),
            (Some(Err(failure)), false, None) => Err(failure),
        }
    }

    /// Rejects the answer of another nara.
    fn must_be(&self, name: &str, key: &str, place: &str) -> Outcome<()> {
        let shown = harmless(name);
        let message = match self {
            Self {
                name: Some(meant), ..
            } if meant.as_str() != name => format!("{place} is served by {shown}"),
            Self { key: Some(meant), .. } if meant != key => {
                format!("{place} is served by another nara with the name {shown}")
            }
            _ => return Ok(()),
        };
        Err(Failure::failed(message)
            .hint("start the nara that you mean with `nara-mesh serve` or `up`, or check --listen, --name and --soul-file"))
    }
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
