//! `watch` through a running nara.

use futures_util::stream::{self, BoxStream, SelectAll, StreamExt as _};
use http::Method;
use nara_local_api::client::{Events, LocalClient, ServerEvent};
use nara_local_api::model::{LiveEvent, StreamFault, StreamStatus};
use nara_proto::time::UnixNanos;
use owo_colors::OwoColorize as _;

use super::{Seen, Watching};
use crate::cli::WatchArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::running::{self, exit_of};

pub(super) async fn run(
    nara: &LocalClient,
    args: &WatchArgs,
    since: Option<UnixNanos>,
    printer: Printer,
) -> Outcome {
    let chosen = if args.all { None } else { Some(&args.peers[..]) };
    let peers = running::peers(nara, chosen, "watch").await?;
    let mut watching = Watching {
        printer,
        left: args.count,
        failed: Vec::new(),
        ended: 0,
        several: peers.len() > 1,
    };
    let mut streams = SelectAll::new();
    for peer in peers {
        let label = harmless(&peer);
        let source = Source {
            nara: nara.clone(),
            peer,
            filter: [
                ("services", args.services.join(",")),
                ("subjects", args.subjects.join(",")),
            ],
            since: since.map(|since| since.to_millis().get().to_string()),
            cursor: None,
            printer,
        };
        match source.follow().await {
            Ok(events) => streams.push(events.map(move |event| (label.clone(), event)).boxed()),
            Err(failure) => watching.lost(&label, failure)?,
        }
    }
    let watch = async {
        while let Some((peer, event)) = streams.next().await {
            match event {
                Ok(event) if watching.take(&peer, &event)? => return Ok(Exit::Ok),
                Ok(_) => {}
                Err(failure) => watching.lost(&peer, failure)?,
            }
        }
        Err(watching.no_peer_left())
    };
    tokio::select! {
        outcome = watch => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

/// The events of one peer, through a nara that may restart.
struct Source {
    nara: LocalClient,
    peer: String,
    filter: [(&'static str, String); 2],
    since: Option<String>,
    /// The cursor after the last event, or the start of the stream.
    cursor: Option<String>,
    printer: Printer,
}

impl Source {
    /// Subscribes, and resumes once the nara runs again. Ends with a fault that the nara marks as final.
    async fn follow(self) -> Outcome<BoxStream<'static, Outcome<ServerEvent>>> {
        let events = self.nara.events(Method::GET, &self.path()).await?;
        let following = stream::unfold(Some((self, events)), |state| async {
            let (mut source, mut events) = state?;
            match source.next(&mut events).await {
                Ok(event) => {
                    if is_final(&event) {
                        return Some((Ok(event), None));
                    }
                    Some((Ok(event), Some((source, events))))
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(following.boxed())
    }

    async fn next(&mut self, events: &mut Events) -> Outcome<ServerEvent> {
        loop {
            match events.next().await {
                Some(Ok(event)) => {
                    self.remember(&event);
                    return Ok(event);
                }
                Some(Err(error)) if !error.is_gone() => return Err(error.into()),
                // The stream ended or broke.
                Some(Err(_)) | None => {}
            }
            let peer = harmless(&self.peer);
            let away = "the running nara stopped, waiting for it".yellow();
            self.printer.note(format_args!("{peer}: {away}"));
            if self.cursor.is_none() && self.since.is_none() {
                self.printer.warn(format_args!(
                    "{peer} gave no cursor to resume from: events that arrive there until the nara runs again are not shown"
                ));
            }
            let path = self.path();
            *events = running::until_back(&self.nara, || self.nara.events(Method::GET, &path)).await?;
        }
    }

    fn remember(&mut self, event: &ServerEvent) {
        match &event.id {
            Some(id) => self.cursor = Some(id.clone()),
            // With the same start time, all events would be sent again.
            None if event.name == "event" => self.since = None,
            None => {}
        }
    }

    fn path(&self) -> String {
        let filter = self.filter.iter().map(|(name, value)| (*name, value.as_str()));
        let since = self.since.as_deref().map(|since| ("since_ms", since));
        let after = self.cursor.as_deref().map(|cursor| ("after", cursor));
        let query: Vec<_> = filter.chain(since).chain(after).collect();
        self.nara.peer_path(&self.peer, "events/live", &query)
    }
}

/// Returns whether a stream ends with this event.
fn is_final(event: &ServerEvent) -> bool {
    event.name == "fault" && event.decode::<StreamFault>().is_ok_and(|fault| fault.is_final)
}

impl Watching {
    /// Ends the watch of one peer; the others continue.
    fn lost(&mut self, peer: &str, failure: Failure) -> Outcome<()> {
        if !self.several {
            return Err(failure);
        }
        let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        self.printer.warn(format_args!(
            "{peer} is no longer watched: {}{}",
            harmless(&failure.message),
            harmless(&hint)
        ));
        self.ended += 1;
        self.failed.push(failure.exit);
        Ok(())
    }

    /// Prints an event; returns whether it was the last one requested.
    fn take(&mut self, peer: &str, event: &ServerEvent) -> Outcome<bool> {
        match &*event.name {
            "event" => {
                let live: LiveEvent = running::decoded(event)?;
                let decoded = running::event_of(&live.event)?;
                return self.event(
                    peer,
                    &Seen {
                        cursor: live.cursor,
                        trust: &live.trust,
                        stored: None,
                        event: &decoded,
                    },
                );
            }
            "fault" => {
                let fault: StreamFault = running::decoded(event)?;
                let exit = fault.problem.as_ref().map_or(Exit::Failed, exit_of);
                self.fault(peer, &fault, exit)?;
            }
            "state" => {
                let status: StreamStatus = running::decoded(event)?;
                self.printer
                    .note(format_args!("{peer}: {}", status.state.green()));
            }
            _ => {}
        }
        Ok(false)
    }
}
