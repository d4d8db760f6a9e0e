//! `world send`: a postcard on its way.

use nara_local_api::model::{Postcard, PostcardReceipt};
use nara_mesh::client::{ClientError, MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::world::WorldMessage;
use serde_json::json;

use crate::cli::WorldSendArgs;
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::running;
use crate::settings::Settings;

pub(super) fn send(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome {
    let receipt = match running::find(&args.running, settings)? {
        Some(nara) => {
            let postcard = Postcard {
                message: args.message.clone(),
                to: args.to.as_ref().map(ToString::to_string),
            };
            let receipt = block_on(async { Ok(nara.postcard(&postcard).await?) })?;
            receipt.skipped.iter().for_each(|skipped| printer.note(skipped));
            receipt
        }
        None => directly(args, settings, printer)?,
    };
    let (id, to) = (&receipt.message_id, harmless(&receipt.first));
    let told = receipt.told.as_deref().map(harmless);
    printer.json(json!({
        "message_id": id,
        "first": receipt.first,
        "came_home": receipt.came_home,
        "told": told,
    }))?;
    if receipt.came_home {
        printer.line(format_args!("{to} accepted postcard {id} and forwarded it"))?;
        return Ok(Exit::Ok);
    }
    printer.line(format_args!(
        "{to} accepted postcard {id}, but could not forward it"
    ))?;
    if let Some(told) = told {
        printer.note(told);
    }
    printer.note(
        "It comes home only if a `nara-mesh serve` of this nara runs where the last peer can reach it.",
    );
    Ok(Exit::Partial)
}

fn directly(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome<PostcardReceipt> {
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
        let (came_home, told) = match outcome {
            Ok(receipt) => (receipt.success, None),
            Err(error) if error.is_stuck_journey() => (false, error.text().map(str::to_owned)),
            Err(error) => return Err(error.into()),
        };
        Ok(PostcardReceipt {
            message_id: message.id.clone(),
            first: to,
            came_home,
            told,
            skipped: Vec::new(),
        })
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
