//! `zine`: exchanges recent events with a peer.

use nara_local_api::model::{Counts, trust_word};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::defaults;
use nara_mesh::ledger::ReadLimit;
use nara_proto::event::SyncEvent;
use nara_proto::sync::MAX_EVENTS;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::ZineArgs;
use crate::connect::{self, block_on};
use crate::failure::Outcome;
use crate::ledger_file;
use crate::listing::{self, ToldEvent, event_line};
use crate::printer::{Printer, count, harmless};
use crate::running;
use crate::settings::Settings;

/// The output of `zine`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    #[serde(flatten)]
    counts: Counts,
    from: String,
    created_at_s: i64,
    sent: usize,
    events: Vec<ToldEvent>,
}

/// The answer of the peer.
struct Answer {
    from: String,
    created_at_s: i64,
    sent: usize,
    /// Each event with its trust in words.
    events: Vec<(SyncEvent, String)>,
    counts: Counts,
    /// Whether the events were stored in a ledger.
    stored: bool,
}

pub(super) fn run(args: &ZineArgs, settings: &Settings, printer: Printer) -> Outcome {
    // A separate ledger is opened by this process.
    let nara = match args.ledger {
        Some(_) => None,
        None => running::find(&args.running, settings)?,
    };
    let answer = match nara {
        Some(nara) => {
            let zine = block_on(async { Ok(nara.zine(&args.peer.to_string()).await?) })?;
            let told = zine.events.into_iter();
            let decoded = told.map(|told| Ok((running::event_of(&told.event)?, told.trust)));
            Answer {
                from: zine.from,
                created_at_s: zine.created_at_s,
                sent: zine.sent,
                events: decoded.collect::<Outcome<_>>()?,
                counts: zine.counts,
                stored: true,
            }
        }
        None => directly(args, settings)?,
    };
    let mut listed = Vec::new();
    for (event, trust) in &answer.events {
        printer.line(event_line(event, trust))?;
        listed.push(ToldEvent::new(event, trust));
    }
    printer.note(format_args!(
        "sent {}, {} answered with {}",
        count(answer.sent, "event"),
        harmless(&answer.from),
        listing::summary(&answer.counts, answer.stored)
    ));
    listing::warn_refused(&answer.counts, printer);
    let exit = listing::exit_of(&answer.counts);
    printer.json(Printed {
        counts: answer.counts,
        from: answer.from,
        created_at_s: answer.created_at_s,
        sent: answer.sent,
        events: listed,
    })?;
    Ok(exit)
}

fn directly(args: &ZineArgs, settings: &Settings) -> Outcome<Answer> {
    let apart = args.ledger.as_ref().map(|_| "--ledger");
    let client = connect::client(running::instead(&args.running, settings, apart)?, settings)?;
    let peer = &args.peer;
    connect::block_on_keeping(&client, settings, async {
        let own = || settings.ledger_path().ok().flatten().filter(|path| path.exists());
        let ledger = match args.ledger.clone().or_else(own) {
            Some(path) => Some(ledger_file::open(&path).await?),
            None => None,
        };
        let mut ours = Vec::new();
        if let Some(ledger) = &ledger {
            ledger_file::load_peers(ledger, client.registry()).await?;
            let since = SystemClock.now_nanos().saturating_sub(defaults::ZINE_WINDOW);
            ours = ledger
                .since(since, ReadLimit::events(MAX_EVENTS))
                .await
                .map_err(ledger_file::failed)?;
        }
        let sent = ours.len();
        let zine = client.peer(peer).exchange_zine(ours).await?.into_inner();
        let accepted = zine.events.accepted.iter();
        let events = accepted.map(|checked| (checked.event.clone(), trust_word(checked.trust).to_owned()));
        let events = events.collect();
        let counts = listing::take(zine.events, ledger.as_ref()).await?;
        Ok(Answer {
            from: zine.from,
            created_at_s: zine.ts.get(),
            sent,
            events,
            counts,
            stored: ledger.is_some(),
        })
    })
}
