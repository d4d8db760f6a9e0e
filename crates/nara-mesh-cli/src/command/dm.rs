//! `dm`: sends one signed event directly.

use nara_local_api::client::Sent;
use nara_local_api::compose::{complete, social};
use nara_local_api::model::{self, DirectMessage, DirectMessageReceipt, Event, Later, OutboxEntry};
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::event::SyncEvent;
use serde::Serialize;
use utoipa::ToSchema;

use super::{outbox, read_event};
use crate::cli::{DmArgs, DmKind};
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::remedy;
use crate::running;
use crate::settings::Settings;

/// The output of `dm`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    event_id: String,
    /// The name of the recipient, as it reports it.
    recipient: String,
    /// Whether the recipient stored the event.
    stored: bool,
    /// Whether the answer of the recipient is verified.
    verified: bool,
    /// With --later: the outbox entry, if the message was not delivered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox: Option<OutboxEntry>,
}

pub(super) fn run(args: &DmArgs, settings: &Settings, printer: Printer) -> Outcome {
    let given = args.event.as_deref().map(read_event).transpose()?;
    if args.later {
        return later(args, given.as_ref(), settings, printer);
    }
    let receipt = match running::find(&args.running, settings)? {
        Some(nara) => {
            let message = message(args, given.as_ref());
            let sent = block_on(async { Ok(nara.dm(&args.peer.to_string(), &message).await?) });
            sent.map_err(|failure| match failure.exit {
                Exit::Unreachable => Failure {
                    hint: Some(remedy::send_later(args)),
                    ..failure
                },
                _ => failure,
            })?
        }
        None => directly(args, given, settings)?,
    };
    report(&receipt, printer)
}

fn report(receipt: &DirectMessageReceipt, printer: Printer) -> Outcome {
    printer.json(Printed {
        event_id: receipt.event_id.clone(),
        recipient: receipt.recipient.clone(),
        stored: receipt.stored,
        verified: receipt.verified,
        outbox: None,
    })?;
    let recipient = harmless(&receipt.recipient);
    let id = &receipt.event_id;
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

/// Leaves the message in the outbox of the running nara if it cannot be delivered now.
fn later(args: &DmArgs, given: Option<&SyncEvent>, settings: &Settings, printer: Printer) -> Outcome {
    let Some(nara) = running::only(&args.running, settings)? else {
        return Err(outbox::no_outbox("message"));
    };
    let expires_s = args.expires.map(|expires| expires.as_secs());
    let message = message(args, given);
    let peer = args.peer.to_string();
    let sent = block_on(async { Ok(nara.dm_later(&peer, message, Later { expires_s }).await?) })?;
    let entry = match sent {
        Sent::Delivered(receipt) => {
            return report(&receipt, printer);
        }
        Sent::Waits(entry) => entry,
    };
    printer.json(Printed {
        event_id: entry.event_id.clone(),
        recipient: entry.peer.clone(),
        stored: false,
        verified: false,
        outbox: Some((*entry).clone()),
    })?;
    outbox::say_that_it_waits(&entry, printer)
}

fn message(args: &DmArgs, given: Option<&SyncEvent>) -> DirectMessage {
    DirectMessage {
        text: given.is_none().then(|| text(args)),
        kind: kind(args),
        about: args.about.clone(),
        event: given.map(Event::of),
        later: None,
    }
}

fn directly(args: &DmArgs, given: Option<SyncEvent>, settings: &Settings) -> Outcome<DirectMessageReceipt> {
    let nara = running::instead(&args.running, settings, None)?;
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
    // The target may be a name chosen by a peer.
    social(nara, kind(args), &target, &text(args), SystemClock.now_nanos())
        .map_err(|problem| Failure::usage(format!("the message cannot be signed: {problem}")))
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
