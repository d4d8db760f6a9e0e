//! `watch`: prints the events of peers as they arrive.

mod through;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SelectAll, StreamExt as _};
use nara_local_api::model::{RefusedEvent, StreamFault, trust_word};
use nara_mesh::client::{MeshClient, PeerRef, StreamError, StreamState, SubscribeOptions, VerifiedEvent};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::{Insertion, Ledger};
use nara_mesh::registry::{Peer, PeerEvent};
use nara_proto::event::{Service, SyncEvent};
use nara_proto::go_json;
use nara_proto::identity::KeyId;
use nara_proto::sync::EventFilter;
use nara_proto::time::UnixNanos;
use owo_colors::{AnsiColors, OwoColorize as _};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use utoipa::ToSchema;

use crate::cli::WatchArgs;
use crate::connect::{self, exit_of};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::ledger_file;
use crate::listing::event_line;
use crate::peer_events::{PeerLine, Told, conflict_line};
use crate::printer::{Printer, harmless};
use crate::remedy;
use crate::running;
use crate::settings::Settings;

/// A line of `watch`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum WatchLine {
    /// A key other than the pinned one was used for the name of a peer.
    Conflict { peer: String, key_conflict: PeerLine },
    /// An event of a peer.
    Event {
        peer: String,
        /// The cursor after it; absent if the peer has no streams.
        cursor: Option<String>,
        /// Its trust: `verified`, `unknown-key` or `unsigned`.
        trust: String,
        /// Whether it is new in the ledger, if there is one.
        stored: Option<bool>,
        /// The event, in the form of docs/protocol/v1.md, section 8.
        #[schema(value_type = Object)]
        event: Value,
    },
    /// An event that must not be stored.
    Refused { peer: String, refused: RefusedEvent },
}

pub(super) fn run(args: &WatchArgs, settings: &Settings, printer: Printer) -> Outcome {
    let now = SystemClock.now_nanos();
    let since = args.since.map(|since| since.at(now));
    // For a separate ledger, this process watches itself.
    if args.to.is_none()
        && let Some(nara) = running::find(&args.running, settings)?
    {
        return connect::block_on(through::run(&nara, args, since, printer));
    }
    let apart = args.to.as_ref().map(|_| "--to");
    let client = connect::client(running::instead(&args.running, settings, apart)?, settings)?;
    let peers = peers(args, &client)?;
    connect::block_on_keeping(&client, settings, async {
        let ledger = match &args.to {
            Some(path) => Some(ledger_file::open(path).await?),
            None => None,
        };
        if let Some(ledger) = &ledger {
            ledger_file::load_peers(ledger, client.registry()).await?;
        }
        tokio::spawn(show_conflicts(client.registry().subscribe(), printer));
        let mut streams = SelectAll::new();
        for (label, peer) in peers {
            let events = client
                .peer(&peer)
                .subscribe(options(args, since, ledger.as_ref()));
            let known = client.peer(&peer).known();
            tokio::spawn(show_states(label.clone(), known, events.state(), printer));
            streams.push(events.map(move |item| (label.clone(), item)).boxed());
        }
        let mut watching = Watching {
            printer,
            left: args.count,
            failed: Vec::new(),
            ended: 0,
            several: streams.len() > 1,
        };
        tokio::select! {
            outcome = watching.print(&mut streams) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
}

/// Returns the peers to watch, and their references.
fn peers(args: &WatchArgs, client: &MeshClient) -> Outcome<Vec<(String, PeerRef)>> {
    let peers: Vec<PeerRef> = if args.all {
        let mut peers = connect::others(client);
        peers.retain(|peer| peer.info().address.is_some());
        peers.into_iter().map(PeerRef::from).collect()
    } else {
        args.peers.clone()
    };
    if peers.is_empty() {
        return Err(Failure::usage("there is no peer to watch").hint("add peers to the peers file (--peers)"));
    }
    let label = |peer: &PeerRef| {
        client
            .peer(peer)
            .known()
            .map_or_else(|| peer.to_string(), |peer| peer.info().label())
    };
    Ok(peers
        .into_iter()
        .map(|peer| (harmless(&label(&peer)), peer))
        .collect())
}

fn options(args: &WatchArgs, since: Option<UnixNanos>, ledger: Option<&Arc<dyn Ledger>>) -> SubscribeOptions {
    let options = SubscribeOptions::default().poll(args.poll);
    let mut options = options.filter(EventFilter {
        services: args.services.clone(),
        subjects: args.subjects.clone(),
    });
    if let Some(since) = since {
        options = options.since(since);
    }
    if let Some(ledger) = ledger {
        options = options.into_ledger(ledger.clone());
        if !args.resume {
            options = options.from_the_start();
        }
    }
    options
}

/// An event to print.
struct Seen<'a> {
    cursor: Option<String>,
    trust: &'a str,
    /// Whether it is new in the ledger, if there is one.
    stored: Option<bool>,
    event: &'a SyncEvent,
}

struct Watching {
    printer: Printer,
    /// Events still to be printed; `None`: unlimited.
    left: Option<u64>,
    failed: Vec<Exit>,
    ended: usize,
    several: bool,
}

impl Watching {
    async fn print<S>(&mut self, streams: &mut SelectAll<S>) -> Outcome
    where
        S: futures_util::Stream<Item = (String, Result<VerifiedEvent, StreamError>)> + Unpin,
    {
        while let Some((peer, item)) = streams.next().await {
            match item {
                Ok(verified) => {
                    let seen = Seen {
                        cursor: verified.cursor.map(|cursor| cursor.to_string()),
                        trust: trust_word(verified.trust),
                        stored: verified.insertion.map(|insertion| insertion == Insertion::Stored),
                        event: &verified.event,
                    };
                    if self.event(&peer, &seen)? {
                        return Ok(Exit::Ok);
                    }
                }
                Err(error) => self.error(&peer, &error)?,
            }
        }
        Err(self.no_peer_left())
    }

    fn no_peer_left(&self) -> Failure {
        Failure::new(Exit::of_many(0, &self.failed), "no peer is left to watch")
    }

    /// Prints an event; returns whether it was the last one requested.
    fn event(&mut self, peer: &str, seen: &Seen<'_>) -> Outcome<bool> {
        self.printer.json_line(WatchLine::Event {
            peer: peer.to_owned(),
            cursor: seen.cursor.clone(),
            trust: seen.trust.to_owned(),
            stored: seen.stored,
            event: serde_json::from_str(&go_json::to_string(seen.event)).unwrap_or_default(),
        })?;
        let from = if self.several {
            format!("{}  ", peer.bold())
        } else {
            String::new()
        };
        let line = event_line(seen.event, seen.trust);
        let line = line.color(color(seen.event));
        self.printer.line(format_args!("{from}{line}"))?;
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(self.left == Some(0))
    }

    fn error(&mut self, peer: &str, error: &StreamError) -> Outcome<()> {
        let exit = match error {
            StreamError::Call(error) => exit_of(error),
            _ => Exit::Failed,
        };
        self.fault(peer, &StreamFault::of(error), exit)
    }

    /// Prints a fault; `exit` is the code if the stream ends with it.
    fn fault(&mut self, peer: &str, fault: &StreamFault, exit: Exit) -> Outcome<()> {
        if let Some(refused) = &fault.refused {
            self.printer.json_line(WatchLine::Refused {
                peer: peer.to_owned(),
                refused: refused.clone(),
            })?;
        }
        let cause = fault.cause.as_ref().map(|cause| format!(": {cause}"));
        // Omit a cause that the message already contains.
        let message = &fault.text;
        let cause = cause
            .filter(|cause| !message.contains(&cause[2..]))
            .unwrap_or_default();
        self.printer
            .warn(format_args!("{}{}", harmless(message), harmless(&cause)));
        if fault.is_final {
            self.ended += 1;
            self.failed.push(exit);
        }
        Ok(())
    }
}

/// Prints when a key other than the pinned one is used for a name.
async fn show_conflicts(mut events: broadcast::Receiver<PeerEvent>, printer: Printer) {
    let mut told = Told::default();
    loop {
        match events.recv().await {
            Ok(event) => {
                if let PeerEvent::KeyConflict(conflict) = &event
                    && told.is_news(&event)
                {
                    printer.warn(format_args!("{conflict}: {}", remedy::of_conflict(conflict)));
                    let line = WatchLine::Conflict {
                        peer: conflict.name.to_string(),
                        key_conflict: conflict_line(conflict),
                    };
                    if printer.json_line(line).is_err() {
                        return;
                    }
                }
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Prints on stderr when a stream is live, lags or waits.
async fn show_states(
    peer: String,
    known: Option<Arc<Peer>>,
    mut state: watch::Receiver<StreamState>,
    printer: Printer,
) {
    loop {
        let current = state.borrow_and_update().clone();
        match current {
            StreamState::Connecting => {}
            StreamState::Ended => return,
            StreamState::Lagged | StreamState::Waiting { .. } => {
                printer.note(format_args!(
                    "{peer}: {}",
                    harmless(&current.to_string()).yellow()
                ));
            }
            _ => {
                // By now the peer has proven its key.
                let key = known.as_ref().and_then(|known| known.key());
                let key = key.map(|key| format!(" (key {})", KeyId::from(&key)));
                printer.note(format_args!(
                    "{peer}{}: {}",
                    key.unwrap_or_default(),
                    current.green()
                ));
            }
        }
        if state.changed().await.is_err() {
            return;
        }
        // Very short states are not worth a line.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn color(event: &SyncEvent) -> AnsiColors {
    match event.service() {
        Some(Service::Chau) => AnsiColors::Red,
        Some(Service::Checkpoint) => AnsiColors::Blue,
        Some(Service::HeyThere) => AnsiColors::Green,
        Some(Service::Observation) => AnsiColors::Cyan,
        Some(Service::Social) => AnsiColors::Magenta,
        _ => AnsiColors::Default,
    }
}
