//! `world send`: a postcard on its way.

use nara_mesh::client::{ClientError, MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::world::WorldMessage;
use serde_json::json;

use crate::cli::WorldSendArgs;
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::settings::Settings;

pub(super) fn send(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::client(settings.local_nara()?, settings)?;
    let message = WorldMessage::new(
        client.local().name().as_str(),
        &args.message,
        SystemClock.now_nanos(),
    );
    connect::block_on_keeping(&client, settings, async {
        let (outcome, to) = match &args.to {
            Some(peer) => (client.relay_world_message(peer, &message).await, peer.to_string()),
            None => send_to_first(&client, &message, printer).await?,
        };
        let (travelled, told) = match outcome {
            Ok(receipt) => (receipt.success, None),
            Err(error) if error.is_stuck_journey() => (false, error.text().map(harmless)),
            Err(error) => return Err(error.into()),
        };
        printer.json(json!({
            "message_id": message.id,
            "first": to,
            "came_home": travelled,
            "told": told,
        }))?;
        if travelled {
            printer.line(format_args!(
                "{1} accepted postcard {0} and forwarded it",
                message.id,
                harmless(&to)
            ))?;
            return Ok(Exit::Ok);
        }
        printer.line(format_args!(
            "{} accepted postcard {}, but could not forward it",
            harmless(&to),
            message.id
        ))?;
        if let Some(told) = told {
            printer.note(told);
        }
        printer.note(
            "It comes home only if a `nara-mesh serve` of this nara runs where the last peer can reach it.",
        );
        Ok(Exit::Partial)
    })
}

/// Tries the peers of the peers file in order until one takes it.
async fn send_to_first(
    client: &MeshClient,
    message: &WorldMessage,
    printer: Printer,
) -> Outcome<(
    Result<nara_mesh::client::Verified<nara_proto::peer::Receipt>, ClientError>,
    String,
)> {
    let mut last = None;
    for peer in client.registry().peers() {
        let info = peer.info();
        if info.address.is_none() || info.name.as_ref() == Some(client.local().name()) {
            continue;
        }
        match client.relay_world_message(PeerRef::from(peer), message).await {
            Err(error) if error.is_unreachable() || error.is_rate_limited() => {
                printer.note(format_args!("{error}"));
                last = Some(error);
            }
            outcome => return Ok((outcome, info.label())),
        }
    }
    Err(last.map_or_else(
        || {
            Failure::usage("there is no peer to send the postcard to").hint(
                "pass --to, or add peers to \
             the peers file",
            )
        },
        Failure::from,
    ))
}
