//! `world`: sends postcards and tracks their journeys.

use std::time::Duration;

use nara_local_api::client::{LocalClient, Sent};
use nara_local_api::model::{
    Journey, JourneyList, JourneyState, Later, OutboxEntry, Postcard, PostcardReceipt,
};
use nara_mesh::client::{ClientError, MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::time::UnixMillis;
use nara_proto::world::WorldMessage;
use serde::Serialize;
use utoipa::ToSchema;

use super::outbox;
use crate::cli::{RunningArgs, WorldSendArgs};
use crate::connect;
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless, harmless_text, human, render, table};
use crate::remedy;
use crate::running;
use crate::settings::Settings;

/// How often the running nara is asked whether a postcard is home.
const POLL: Duration = Duration::from_millis(250);

/// The output of `world send`; with --wait, the journey of the postcard; with --later, the outbox entry if it
/// waits.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum SentPostcard {
    Followed(Journey),
    HandedOver(Handed),
    Waits(Waiting),
}

/// A postcard that a peer accepted, as printed.
#[derive(Serialize, ToSchema)]
pub(super) struct Handed {
    message_id: String,
    first: String,
    passed_on: bool,
    told: Option<String>,
}

/// A postcard that waits for its first peer.
#[derive(Serialize, ToSchema)]
pub(super) struct Waiting {
    message_id: String,
    outbox: OutboxEntry,
}

/// A postcard that a peer accepted.
#[derive(Debug)]
struct HandedOver {
    first: String,
    /// Why it was not forwarded, if so.
    told: Option<String>,
}

pub(super) fn send(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome {
    if args.later {
        let nara = running::only(&args.running, settings)?;
        let nara = nara.ok_or_else(|| outbox::no_outbox("postcard"))?;
        return connect::block_on(later(&nara, args, printer));
    }
    // A postcard comes home to the running nara, so that one must send it.
    let nara = if args.wait {
        Some(running::required(&args.running, settings)?)
    } else {
        running::preferred(&args.running, settings)?
    };
    match nara {
        Some(nara) => connect::block_on(through(&nara, args, printer)),
        None => directly(args, settings, printer),
    }
}

/// Sends the postcard through a running nara.
async fn through(nara: &LocalClient, args: &WorldSendArgs, printer: Printer) -> Outcome {
    let sent = nara.postcard(&postcard(args)).await.map_err(Failure::from);
    let receipt = sent.map_err(|failure| match &args.to {
        Some(to) if failure.exit == Exit::Unreachable => Failure {
            hint: Some(remedy::send_postcard_later(args, to)),
            ..failure
        },
        _ => failure,
    })?;
    receipt
        .skipped
        .iter()
        .for_each(|skipped| printer.note(harmless(skipped)));
    if args.wait {
        return report(&wait(nara, &receipt.message_id).await?, printer);
    }
    handed_over(receipt, printer)
}

/// Leaves the postcard in the outbox of the running nara if its first peer is unreachable now.
async fn later(nara: &LocalClient, args: &WorldSendArgs, printer: Printer) -> Outcome {
    let expires_s = args.expires.map(|expires| expires.as_secs());
    let entry = match nara.postcard_later(postcard(args), Later { expires_s }).await? {
        Sent::Delivered(receipt) => return handed_over(receipt, printer),
        Sent::Waits(entry) => entry,
    };
    printer.json(SentPostcard::Waits(Waiting {
        message_id: entry.event_id.clone(),
        outbox: (*entry).clone(),
    }))?;
    outbox::say_that_it_waits(&entry, printer)
}

fn postcard(args: &WorldSendArgs) -> Postcard {
    Postcard {
        message: args.message.clone(),
        to: args.to.as_ref().map(ToString::to_string),
        later: None,
    }
}

fn handed_over(receipt: PostcardReceipt, printer: Printer) -> Outcome {
    let handed = HandedOver {
        first: receipt.first,
        told: (!receipt.passed_on).then(|| receipt.told.unwrap_or_default()),
    };
    say(&receipt.message_id, &handed, printer)
}

/// Sends the postcard from this command, which exits before the postcard is home.
fn directly(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::client(running::instead(&args.running, settings, None)?, settings)?;
    let name = client.local().name().as_str();
    let message = WorldMessage::new(name, &args.message, SystemClock.now_nanos());
    let to = args.to.as_ref().map(ToString::to_string);
    connect::block_on_keeping(&client, settings, async {
        let handed = hand_over(&client, &message, to.as_deref()).await?;
        let exit = say(&message.id, &handed, printer)?;
        printer.note(
            "It comes home only if a `nara-mesh serve` of this nara runs where the last peer can reach it.",
        );
        Ok(exit)
    })
}

pub(super) fn list(args: &RunningArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(args, settings)?;
    let postcards = connect::block_on(async { Ok(nara.postcards().await?) })?;
    let mut rows = table(["POSTCARD", "SENT", "STATE", "WHERE", "TEXT"]);
    for postcard in &postcards {
        rows.add_row([
            harmless(&postcard.message_id),
            explain::date(UnixMillis::new(postcard.sent_at_ms)),
            postcard.state.as_str().to_owned(),
            route(postcard),
            harmless_text(&postcard.message),
        ]);
    }
    printer.line(render(&rows))?;
    printer.json(JourneyList { postcards })?;
    Ok(Exit::Ok)
}

/// Waits until a postcard is home or has timed out.
async fn wait(nara: &LocalClient, id: &str) -> Outcome<Journey> {
    loop {
        let journey = match nara.journey(id).await {
            Err(error) if error.is_not_running() => {
                return Err(
                    Failure::failed("the nara that waits for the postcard stopped").hint("send it again")
                );
            }
            outcome => outcome?,
        };
        if journey.state != JourneyState::UnderWay {
            return Ok(journey);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Prints the outcome of a postcard.
fn report(journey: &Journey, printer: Printer) -> Outcome {
    let id = harmless(&journey.message_id);
    printer.json(SentPostcard::Followed(journey.clone()))?;
    if journey.state == JourneyState::Home {
        printer.line(format_args!(
            "postcard {id} came home after {}: {}",
            human(Duration::from_millis(journey.took_ms.unwrap_or_default())),
            route(journey)
        ))?;
        return Ok(Exit::Ok);
    }
    let seen = journey
        .last_seen
        .as_deref()
        .map_or_else(|| "nowhere".to_owned(), |name| format!("at {}", harmless(name)));
    let told = journey
        .told
        .as_deref()
        .map(|told| format!(": {}", harmless(told)))
        .unwrap_or_default();
    printer.line(format_args!(
        "postcard {id} did not come home; it was last seen {seen}{told}"
    ))?;
    if journey.state == JourneyState::Stuck && !is_surely_stuck(journey) {
        printer.note("It may still come home if the peer only answered late: see `nara-mesh world list`");
    }
    Ok(Exit::Partial)
}

/// Returns whether no nara is left that would forward the postcard.
fn is_surely_stuck(journey: &Journey) -> bool {
    let told = journey.told.as_deref();
    told.is_some_and(|told| told.starts_with("journey stuck"))
}

/// Formats the route of a postcard.
fn route(journey: &Journey) -> String {
    match &journey.hops {
        Some(hops) => {
            let hops: Vec<String> = hops.iter().map(|hop| harmless(hop)).collect();
            hops.join(" → ")
        }
        None => harmless(journey.last_seen.as_deref().unwrap_or("-")),
    }
}

fn say(id: &str, handed: &HandedOver, printer: Printer) -> Outcome {
    let first = harmless(&handed.first);
    let told = handed.told.as_deref().map(harmless);
    printer.json(SentPostcard::HandedOver(Handed {
        message_id: id.to_owned(),
        first: handed.first.clone(),
        passed_on: told.is_none(),
        told: told.clone(),
    }))?;
    let Some(told) = told else {
        printer.line(format_args!("{first} accepted postcard {id} and forwarded it"))?;
        return Ok(Exit::Ok);
    };
    printer.line(format_args!(
        "{first} accepted postcard {id}, but could not forward it"
    ))?;
    printer.note(told);
    Ok(Exit::Partial)
}

/// Sends a postcard to a peer, or to the first one that accepts it.
async fn hand_over(client: &MeshClient, message: &WorldMessage, to: Option<&str>) -> Outcome<HandedOver> {
    let (outcome, first) = match to {
        Some(peer) => (
            client.peer(peer).relay_world_message(message).await,
            peer.to_owned(),
        ),
        None => to_first(client, message).await?,
    };
    match outcome {
        Ok(_) => Ok(HandedOver { first, told: None }),
        Err(error) if error.is_stuck_journey() => Ok(HandedOver {
            first,
            told: Some(error.text().unwrap_or_default().trim_end().to_owned()),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Tries peers with an address in order until one accepts it.
async fn to_first(
    client: &MeshClient,
    message: &WorldMessage,
) -> Outcome<(
    Result<nara_mesh::client::Verified<nara_proto::peer::Receipt>, ClientError>,
    String,
)> {
    let mut last = None;
    for peer in connect::others(client) {
        let info = peer.info();
        if info.address.is_none() {
            continue;
        }
        match client
            .peer(PeerRef::from(peer))
            .relay_world_message(message)
            .await
        {
            Err(error) if error.is_unreachable() || error.is_rate_limited() => {
                tracing::info!(%error, "trying the next peer for the postcard");
                last = Some(error);
            }
            outcome => return Ok((outcome, info.label())),
        }
    }
    Err(last.map_or_else(
        || {
            Failure::usage("there is no peer to send the postcard to")
                .hint("pass --to, or add peers to the peers file")
        },
        Failure::from,
    ))
}
