//! `checkpoints`: what several naras agreed on, as a peer has it.

use nara_local_api::model::trust_word;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::CheckpointsArgs;
use crate::connect;
use crate::failure::Outcome;
use crate::listing::{self, ToldEvent, event_line, jsonl};
use crate::printer::Printer;
use crate::settings::Settings;

/// What `checkpoints` prints.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    peer: String,
    more: bool,
    checkpoints: Vec<ToldEvent>,
}

pub(super) fn run(args: &CheckpointsArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::client(settings.local_nara()?, settings)?;
    connect::block_on_keeping(&client, settings, async {
        let checkpoints = client.peer(&args.peer).fetch_checkpoints().await?.into_inner();
        for checked in &checkpoints.events.accepted {
            printer.line(event_line(&checked.event, trust_word(checked.trust)))?;
        }
        if checkpoints.more {
            printer.warn("the peer has more checkpoints than are fetched at once");
        }
        let events = checkpoints.events.accepted.iter().map(jsonl).collect();
        let counts = listing::take(checkpoints.events, None).await?;
        listing::warn_refused(&counts, printer);
        printer.note(listing::summary(&counts, false));
        printer.json(Printed {
            peer: args.peer.to_string(),
            more: checkpoints.more,
            checkpoints: events,
        })?;
        Ok(listing::exit_of(&counts))
    })
}
