//! `dm`: one signed event, directly.

use nara_local_api::compose::{complete, social};
use nara_local_api::model::{self, DirectMessage, DirectMessageReceipt, Event};
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::event::SyncEvent;
use serde_json::json;

use super::read_event;
use crate::cli::{DmArgs, DmKind};
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::running;
use crate::settings::Settings;

pub(super) fn run(args: &DmArgs, settings: &Settings, printer: Printer) -> Outcome {
    let given = args.event.as_deref().map(read_event).transpose()?;
    let receipt = match running::find(&args.running, settings)? {
        Some(nara) => {
            let message = DirectMessage {
                text: given.is_none().then(|| text(args)),
                kind: kind(args),
                about: args.about.clone(),
                event: given.as_ref().map(Event::of),
            };
            block_on(async { Ok(nara.dm(&args.peer.to_string(), &message).await?) })?
        }
        None => directly(args, given, settings)?,
    };
    let recipient = harmless(&receipt.recipient);
    let id = &receipt.event_id;
    printer.json(json!(receipt))?;
    if receipt.stored {
        printer.line(format_args!("{recipient} stored event {id}"))?;
        Ok(Exit::Ok)
    } else {
        printer.line(format_args!(
            "{recipient} accepted event {id}, but did not store it"
        ))?;
        Ok(Exit::Failed)
    }
}

fn directly(args: &DmArgs, given: Option<SyncEvent>, settings: &Settings) -> Outcome<DirectMessageReceipt> {
    let nara = settings.local_nara()?;
    let client = connect::client(nara.clone(), settings)?;
    let peer = &args.peer;
    connect::block_on_keeping(&client, settings, async {
        let event = match given {
            Some(event) => complete(event, &nara),
            None => compose(args, &nara, &client, peer).await?,
        };
        if let Err(problem) = event.validate() {
            return Err(Failure::usage(format!("the event is malformed: {problem}")));
        }
        let event_id = event.id.clone();
        let receipt = client.send_dm(peer, event).await?;
        Ok(DirectMessageReceipt {
            event_id,
            recipient: receipt.from.clone(),
            stored: receipt.success,
            verified: receipt.is_verified(),
        })
    })
}

async fn compose(args: &DmArgs, nara: &LocalNara, client: &MeshClient, peer: &PeerRef) -> Outcome<SyncEvent> {
    let target = match &args.about {
        Some(name) => name.clone(),
        None => connect::name_of(client, peer).await?,
    };
    // The target may be a name that a peer chose.
    social(nara, kind(args), &target, &text(args), SystemClock.now_nanos())
        .map_err(|problem| Failure::usage(format!("the message is not signed: {problem}")))
}

fn text(args: &DmArgs) -> String {
    let given = args.message.as_ref().or(args.text.as_ref());
    given.cloned().unwrap_or_default()
}

fn kind(args: &DmArgs) -> model::DmKind {
    match args.kind {
        DmKind::Gossip => model::DmKind::Gossip,
        DmKind::Tease => model::DmKind::Tease,
    }
}
