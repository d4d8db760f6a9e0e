//! `dm`: one signed event, directly.

use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_proto::event::{Payload, SocialPayload, SyncEvent};
use serde_json::json;

use super::read_event;
use crate::cli::{DmArgs, DmKind};
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::settings::Settings;

pub(super) fn run(args: &DmArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    let given = args.event.as_deref().map(read_event).transpose()?;
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
        let id = event.id.clone();
        let receipt = client.send_dm(peer, event).await?;
        let recipient = harmless(&receipt.from);
        printer.json(json!({
            "event_id": id,
            "recipient": receipt.from,
            "stored": receipt.success,
            "verified": receipt.is_verified(),
        }))?;
        if receipt.success {
            printer.line(format_args!("{recipient} stored event {id}"))?;
            Ok(Exit::Ok)
        } else {
            printer.line(format_args!(
                "{recipient} accepted event {id}, but did not store it"
            ))?;
            Ok(Exit::Failed)
        }
    })
}

/// A given event, with id and signature if it has none.
fn complete(mut event: SyncEvent, nara: &LocalNara) -> SyncEvent {
    if event.id.is_empty() {
        event.id = event.compute_id();
    }
    if !event.is_signed() {
        nara.id().as_str().clone_into(&mut event.emitter_id);
        event.sign(nara.name().as_str(), nara.keypair());
    }
    event
}

async fn compose(args: &DmArgs, nara: &LocalNara, client: &MeshClient, peer: &PeerRef) -> Outcome<SyncEvent> {
    let target = match &args.about {
        Some(name) => name.clone(),
        None => connect::name_of(client, peer).await?,
    };
    let kind = match args.kind {
        DmKind::Gossip => "gossip",
        DmKind::Tease => "tease",
    };
    let payload = SocialPayload {
        kind: kind.to_owned(),
        actor: nara.name().to_string(),
        actor_id: nara.id().to_string(),
        target,
        reason: args
            .message
            .clone()
            .or_else(|| args.text.clone())
            .unwrap_or_default(),
        ..SocialPayload::default()
    };
    // The target may be a name that a peer chose.
    let mut event = SyncEvent::try_signed(
        SystemClock.now_nanos(),
        Payload::Social(payload),
        nara.name().as_str(),
        nara.keypair(),
    )
    .map_err(|problem| Failure::usage(format!("the message is not signed: {problem}")))?;
    nara.id().as_str().clone_into(&mut event.emitter_id);
    Ok(event)
}
