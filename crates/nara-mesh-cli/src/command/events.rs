//! `events`: prints the events of a nara from its own ledger, whether or not the nara runs.

mod transfer;

pub(super) use transfer::{Imported, export, import};

use std::collections::VecDeque;
use std::time::Duration;

use nara_local_api::model::{Event, trust_word};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{Ledger, ReadLimit};
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::sync::{Cursor, EventFilter};
use nara_proto::time::UnixNanos;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::EventsShowArgs;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::ledger_file::{self, failed};
use crate::listing::event_line;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;

/// The output of `events` for each event.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    /// Its trust: `verified`, `unknown-key` or `unsigned`.
    trust: String,
    event: Event,
}

/// Events per read.
const PAGE: ReadLimit = ReadLimit::events(1000);

/// Polling interval for a ledger that another process writes.
const LOOK: Duration = Duration::from_millis(500);

/// The number of events shown without --since.
const NEWEST: usize = 100;

pub(super) fn run(args: &EventsShowArgs, settings: &Settings, printer: Printer) -> Outcome {
    let path = running::ledger_path(&args.running, settings)?;
    block_on(async {
        let ledger = ledger_file::open_to_look(&path).await?;
        // Taken before the read, so that no event is missed in between.
        let mut position = ledger.position().await.map_err(failed)?;
        let shown = Shown { args, printer };
        shown.stored(&*ledger).await?;
        if !args.follow {
            return Ok(Exit::Ok);
        }
        let following = async {
            let mut looks = tokio::time::interval(LOOK);
            loop {
                looks.tick().await;
                let arrivals = ledger
                    .arrived_after(shown.filter(), position, PAGE)
                    .await
                    .map_err(failed)?;
                for arrival in &arrivals.events {
                    shown.show(&arrival.event, arrival.trust)?;
                }
                position = arrivals.end;
            }
        };
        tokio::select! {
            outcome = following => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
}

struct Shown<'a> {
    args: &'a EventsShowArgs,
    printer: Printer,
}

impl Shown<'_> {
    /// Returns the part of the filter that the ledger supports.
    fn filter(&self) -> EventFilter {
        EventFilter {
            services: self.args.services.clone(),
            subjects: self.args.about.iter().map(ToString::to_string).collect(),
        }
    }

    /// Prints stored events, oldest first: since a time, or the newest.
    async fn stored(&self, ledger: &dyn Ledger) -> Outcome<()> {
        let since = self.args.since.map(|since| since.at(SystemClock.now_nanos()));
        let most = match (self.args.count, since) {
            (Some(count), _) => count as usize,
            (None, Some(_)) => usize::MAX,
            (None, None) => NEWEST,
        };
        let mut cursor = Cursor::START;
        let mut newest = VecDeque::new();
        loop {
            let page = ledger.page(self.filter(), cursor, PAGE).await.map_err(failed)?;
            let whole = page.len() == PAGE.events;
            let Some(last) = page.last() else { break };
            cursor = Cursor::behind(&last.event);
            for checked in page
                .into_iter()
                .filter(|checked| checked.event.ts >= since.unwrap_or(UnixNanos::new(i64::MIN)))
            {
                if most == usize::MAX {
                    self.show(&checked.event, checked.trust)?;
                } else if self.is_wanted(&checked.event) {
                    newest.push_back(checked);
                    if newest.len() > most {
                        newest.pop_front();
                    }
                }
            }
            if !whole {
                break;
            }
        }
        newest
            .iter()
            .try_for_each(|checked| self.show(&checked.event, checked.trust))
    }

    fn is_wanted(&self, event: &SyncEvent) -> bool {
        let by = |name: &String| event.emitter == *name || event.actor() == name;
        self.args.by.as_ref().is_none_or(by)
    }

    fn show(&self, event: &SyncEvent, trust: EventTrust) -> Outcome<()> {
        if !self.is_wanted(event) {
            return Ok(());
        }
        if self.args.jsonl {
            return self.printer.jsonl(Event::of(event));
        }
        let trust = trust_word(trust);
        self.printer.line(event_line(event, trust))?;
        self.printer.json_line(Printed {
            trust: trust.to_owned(),
            event: Event::of(event),
        })
    }
}
