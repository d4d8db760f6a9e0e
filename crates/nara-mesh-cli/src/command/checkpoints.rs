//! `checkpoints`: lists what several naras agreed on, as stored by a peer.

use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::LocalClient;
use nara_local_api::model::{Checkpoints, Counts, LiveEvent, trust_word};
use nara_proto::event::SyncEvent;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::CheckpointsArgs;
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::listing::{self, ToldEvent, event_line};
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;

/// The output of `checkpoints`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    peer: String,
    more: bool,
    checkpoints: Vec<ToldEvent>,
}

/// The checkpoints of the peer.
struct Answer {
    /// Each event with its trust in words.
    events: Vec<(SyncEvent, String)>,
    counts: Counts,
    more: bool,
}

pub(super) fn run(args: &CheckpointsArgs, settings: &Settings, printer: Printer) -> Outcome {
    let answer = match running::find(&args.running, settings)? {
        Some(nara) => block_on(through(&nara, args))?,
        None => directly(args, settings)?,
    };
    let mut checkpoints = Vec::new();
    for (event, trust) in &answer.events {
        printer.line(event_line(event, trust))?;
        checkpoints.push(ToldEvent::new(event, trust));
    }
    if answer.more {
        printer.warn("the peer has more checkpoints than one request returns");
    }
    listing::warn_refused(&answer.counts, printer);
    printer.note(listing::summary(&answer.counts, false));
    printer.json(Printed {
        peer: args.peer.to_string(),
        more: answer.more,
        checkpoints,
    })?;
    Ok(listing::exit_of(&answer.counts))
}

async fn through(nara: &LocalClient, args: &CheckpointsArgs) -> Outcome<Answer> {
    let path = nara.peer_path(&args.peer.to_string(), "checkpoints", &[]);
    let mut told = nara.events(Method::GET, &path).await?;
    let mut events = Vec::new();
    while let Some(event) = told.next().await {
        let event = event?;
        if event.name == "done" {
            let Checkpoints { counts, more } = running::decoded(&event)?;
            return Ok(Answer { events, counts, more });
        }
        let live: LiveEvent = running::decoded(&event)?;
        events.push((running::event_of(&live.event)?, live.trust));
    }
    Err(Failure::new(
        Exit::Unreachable,
        "the running nara stopped before it had sent the whole answer",
    ))
}

fn directly(args: &CheckpointsArgs, settings: &Settings) -> Outcome<Answer> {
    let client = connect::client(running::instead(&args.running, settings, None)?, settings)?;
    connect::block_on_keeping(&client, settings, async {
        let fetched = client.peer(&args.peer).fetch_checkpoints().await?.into_inner();
        let counts = Counts::of_answer(&fetched.events);
        let accepted = fetched.events.accepted.into_iter();
        let events = accepted.map(|checked| (checked.event, trust_word(checked.trust).to_owned()));
        Ok(Answer {
            events: events.collect(),
            counts,
            more: fetched.more,
        })
    })
}
