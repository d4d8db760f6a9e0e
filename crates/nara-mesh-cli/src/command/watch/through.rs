//! `watch` through a nara that runs.

use futures_util::stream::{SelectAll, StreamExt as _};
use http::Method;
use nara_local_api::client::{LocalClient, ServerEvent};
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
    let (services, subjects) = (args.services.join(","), args.subjects.join(","));
    let since = since.map(|since| since.to_millis().get().to_string());
    let mut query = vec![("services", services.as_str()), ("subjects", subjects.as_str())];
    query.extend(since.as_deref().map(|since| ("since_ms", since)));
    let mut streams = SelectAll::new();
    for peer in peers {
        let events = nara
            .events(Method::GET, &nara.peer_path(&peer, "events/live", &query))
            .await?;
        let label = harmless(&peer);
        streams.push(events.map(move |event| (label.clone(), event)).boxed());
    }
    let mut watching = Watching {
        printer,
        left: args.count,
        failed: Vec::new(),
        ended: 0,
        several: streams.len() > 1,
    };
    let watch = async {
        while let Some((peer, event)) = streams.next().await {
            if watching.take(&peer, &event?)? {
                return Ok(Exit::Ok);
            }
        }
        if watching.failed.is_empty() {
            return Err(Failure::failed("the running nara ended"));
        }
        Err(watching.nobody_left())
    };
    tokio::select! {
        outcome = watch => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

impl Watching {
    /// Shows what came; returns whether it was the last event that was asked for.
    fn take(&mut self, peer: &str, event: &ServerEvent) -> Outcome<bool> {
        let malformed = |error: serde_json::Error| {
            Failure::failed("the running nara is of another version").caused_by(error)
        };
        match &*event.name {
            "event" => {
                let live: LiveEvent = event.decode().map_err(malformed)?;
                let decoded = live.event.decode();
                let decoded =
                    decoded.map_err(|error| Failure::failed("an event is malformed").caused_by(error))?;
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
                let fault: StreamFault = event.decode().map_err(malformed)?;
                let exit = fault.problem.as_ref().map_or(Exit::Failed, exit_of);
                self.fault(peer, &fault, exit)?;
            }
            "state" => {
                let status: StreamStatus = event.decode().map_err(malformed)?;
                self.printer
                    .note(format_args!("{peer}: {}", status.state.green()));
            }
            _ => {}
        }
        Ok(false)
    }
}
