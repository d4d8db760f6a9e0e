//! `world`: postcards on their way, and what became of them.

use std::path::Path;
use std::time::Duration;

use nara_mesh::client::{ClientError, MeshClient, PeerRef};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_proto::world::WorldMessage;
use serde_json::{Value, json};

use crate::cli::WorldSendArgs;
use crate::connect;
use crate::control::{self, Question};
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless, human, render, table};
use crate::settings::Settings;

/// How often the running nara is asked whether a postcard is home.
const POLL: Duration = Duration::from_millis(250);

/// A postcard that a peer took.
#[derive(Debug)]
pub(super) struct HandedOver {
    pub(super) first: String,
    /// Why it did not go on, if it did not.
    pub(super) told: Option<String>,
}

pub(super) fn send(args: &WorldSendArgs, settings: &Settings, printer: Printer) -> Outcome {
    let folder = settings.running_folder()?;
    let question = Question::WorldSend {
        message: args.message.clone(),
        to: args.to.as_ref().map(ToString::to_string),
    };
    // A postcard comes home to the nara that runs, so it is the one to send it.
    match connect::block_on(control::ask(&folder, question))? {
        Some(answer) => {
            let sent = control::checked(answer)?;
            if args.wait {
                let id = sent["message_id"].as_str().unwrap_or_default();
                let postcard = connect::block_on(wait(&folder, id))?;
                return report(&postcard, printer);
            }
            let handed = HandedOver {
                first: sent["first"].as_str().unwrap_or_default().to_owned(),
                told: sent["told"].as_str().map(ToOwned::to_owned),
            };
            say(sent["message_id"].as_str().unwrap_or_default(), &handed, printer)
        }
        None if args.wait => Err(control::not_running(&folder)),
        None => {
            let client = connect::client(settings.local_nara()?, settings)?;
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
    }
}

pub(super) fn list(settings: &Settings, printer: Printer) -> Outcome {
    let folder = settings.running_folder()?;
    let answer = connect::block_on(control::ask_running(&folder, Question::WorldList))?;
    let mut rows = table(["POSTCARD", "SENT", "STATE", "WHERE", "TEXT"]);
    for postcard in answer["postcards"].as_array().into_iter().flatten() {
        let text = |key: &str| harmless(postcard[key].as_str().unwrap_or("-"));
        let sent = postcard["sent_at_ms"].as_i64().unwrap_or_default();
        rows.add_row([
            text("message_id"),
            explain::date(nara_proto::time::UnixMillis::new(sent)),
            text("state"),
            route(postcard),
            text("message"),
        ]);
    }
    printer.line(render(&rows))?;
    printer.json(answer)?;
    Ok(Exit::Ok)
}

/// Waits until a postcard is home, or its time has passed.
async fn wait(folder: &Path, id: &str) -> Outcome<Value> {
    loop {
        let Some(answer) = control::ask(folder, Question::WorldList).await? else {
            return Err(Failure::failed("the nara that waits for the postcard ended").hint("send it again"));
        };
        let answer = control::checked(answer)?;
        let mut postcards = answer["postcards"].as_array().into_iter().flatten();
        let postcard = postcards.find(|postcard| postcard["message_id"] == id);
        match postcard {
            None => {
                return Err(Failure::failed(
                    "the nara that runs forgot the postcard: it sent too many since",
                ));
            }
            // A postcard that is stuck may have been passed on all the same: the answer may only have been late.
            Some(postcard) if postcard["state"] == "home" || postcard["state"] == "timed-out" => {
                return Ok(postcard.clone());
            }
            Some(postcard) if is_surely_stuck(postcard) => return Ok(postcard.clone()),
            Some(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Whether nobody has the postcard any more who would pass it on.
fn is_surely_stuck(postcard: &Value) -> bool {
    postcard["told"]
        .as_str()
        .is_some_and(|told| told.starts_with("journey stuck"))
}

/// Says what became of a postcard.
fn report(postcard: &Value, printer: Printer) -> Outcome {
    let id = harmless(postcard["message_id"].as_str().unwrap_or_default());
    printer.json(postcard.clone())?;
    if postcard["state"] == "home" {
        let took = postcard["took_ms"].as_u64().unwrap_or_default();
        printer.line(format_args!(
            "postcard {id} came home after {}: {}",
            human(Duration::from_millis(took)),
            route(postcard)
        ))?;
        return Ok(Exit::Ok);
    }
    let seen = postcard["last_seen"]
        .as_str()
        .map_or_else(|| "nowhere".to_owned(), |name| format!("at {}", harmless(name)));
    let told = postcard["told"]
        .as_str()
        .map(|told| format!(": {}", harmless(told)))
        .unwrap_or_default();
    printer.line(format_args!(
        "postcard {id} did not come home; it was last seen {seen}{told}"
    ))?;
    Ok(Exit::Partial)
}

/// Where a postcard was.
fn route(postcard: &Value) -> String {
    match postcard["hops"].as_array() {
        Some(hops) => {
            let hops: Vec<String> = hops.iter().filter_map(|hop| hop.as_str().map(harmless)).collect();
            hops.join(" → ")
        }
        None => harmless(postcard["last_seen"].as_str().unwrap_or("-")),
    }
}

fn say(id: &str, handed: &HandedOver, printer: Printer) -> Outcome {
    let first = harmless(&handed.first);
    let told = handed.told.as_deref().map(harmless);
    printer.json(json!({
        "message_id": id,
        "first": handed.first,
        "passed_on": told.is_none(),
        "told": told,
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

/// Hands a postcard to a peer, or to the first one that takes it.
pub(super) async fn hand_over(
    client: &MeshClient,
    message: &WorldMessage,
    to: Option<&str>,
) -> Outcome<HandedOver> {
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

/// Tries peers with an address in order until one takes it.
async fn to_first(
    client: &MeshClient,
    message: &WorldMessage,
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
        match client
            .peer(PeerRef::from(peer))
            .relay_world_message(message)
            .await
        {
            Err(error) if error.is_unreachable() || error.is_rate_limited() => {
                tracing::info!(%error, "the postcard goes to another peer");
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
