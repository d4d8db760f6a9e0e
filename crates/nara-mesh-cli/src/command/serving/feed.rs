//! What comes in, as lines on stdout.

use nara_local_api::model::trust_word;
use nara_local_api::server::{Inbox, Journeys};
use nara_mesh::server::MeshHandler;
use nara_mesh::server::VerifiedSender;
use nara_proto::event::{EventTrust, SyncEvent};
use nara_proto::go_json;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::lines::{DaemonLine, Hop, NaraLine};
use crate::listing::event_line;
use crate::printer::{Printer, count, harmless, harmless_text};

/// Lines that wait to be printed; more are dropped, with a word in the log, because a slow reader of our
/// output must not hold up requests.
const BACKLOG: usize = 1024;

struct Line {
    text: String,
    json: DaemonLine,
}

/// Hands lines to the task that prints them.
#[derive(Clone, Debug)]
pub(in crate::command) struct Feed(mpsc::Sender<Line>);

/// Lines that are not printed yet.
pub(super) struct Lines(mpsc::Receiver<Line>);

/// The task that prints.
pub(super) struct Printing(JoinHandle<()>);

impl Lines {
    /// Prints what was sent until now, and then what comes.
    pub(super) fn print(self, printer: Printer) -> Printing {
        let Self(mut lines) = self;
        // Writing may block as long as the reader likes.
        Printing(tokio::task::spawn_blocking(move || {
            while let Some(line) = lines.blocking_recv() {
                let printed = printer
                    .line(line.text)
                    .and_then(|()| printer.json_line(line.json));
                if printed.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Feed {
    /// A feed whose lines wait until they are [printed](Lines::print).
    pub(super) fn new() -> (Self, Lines) {
        let (sender, lines) = mpsc::channel(BACKLOG);
        (Self(sender), Lines(lines))
    }

    /// Prints a line, as soon as the reader of our output lets us.
    pub(in crate::command) fn send(&self, text: String, line: impl Into<DaemonLine>) {
        let json = line.into();
        if self.0.try_send(Line { text, json }).is_err() {
            tracing::warn!("stdout is read too slowly: a line was dropped");
        }
    }
}

impl Printing {
    /// Waits until all lines are printed; the feeds must be gone.
    pub(super) async fn finish(self) {
        // The handler of a server that was cut off may hold a feed a moment longer.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.0).await;
    }
}

/// Prints what comes in, and notices postcards that come home.
#[derive(Debug)]
pub(super) struct FeedHandler {
    feed: Feed,
    journeys: Journeys,
    inbox: Inbox,
}

impl FeedHandler {
    pub(super) fn new(feed: Feed, journeys: Journeys, inbox: Inbox) -> Self {
        Self {
            feed,
            journeys,
            inbox,
        }
    }
}

impl MeshHandler for FeedHandler {
    fn on_direct_message(&self, sender: &VerifiedSender, event: &SyncEvent) {
        self.inbox.direct_message(sender, event);
        let text = format!(
            "dm     {}  {}",
            harmless(sender.name().as_str()),
            event_line(event, trust_word(EventTrust::Verified))
        );
        let line = NaraLine::DirectMessage {
            sender: sender.name().to_string(),
            message: serde_json::from_str(&go_json::to_string(event)).unwrap_or_default(),
        };
        self.feed.send(text, line);
    }

    fn on_zine(&self, sender: &VerifiedSender, events: &[SyncEvent]) {
        let text = format!(
            "zine   {}  {}",
            harmless(sender.name().as_str()),
            count(events.len(), "event")
        );
        let line = NaraLine::Zine {
            sender: sender.name().to_string(),
            events: events.len(),
        };
        self.feed.send(text, line);
    }

    fn on_world_message(&self, message: &WorldMessage, complete: bool) {
        if complete {
            self.journeys.came_home(message);
        }
        self.inbox.postcard(message, complete);
        let stamps: Vec<String> = message
            .hops()
            .iter()
            .map(|hop| format!("{} {}", harmless(&hop.nara), harmless_text(&hop.stamp)))
            .collect();
        // Only the nara that hands a message over is proven, and that is the last one before this nara.
        let relayed_by = message.hops().iter().rev().nth(1);
        let relayed_by = relayed_by.map(|hop| format!(", relayed by {}", harmless(&hop.nara)));
        let text = format!(
            "world  {}{}  {:?}  {}{}",
            harmless(&message.originator),
            relayed_by.filter(|_| !complete).unwrap_or_default(),
            harmless_text(&message.message),
            stamps.join(" → "),
            if complete { "  (home)" } else { "" }
        );
        let hops = message.hops().iter().map(|hop| Hop {
            nara: hop.nara.clone(),
            stamp: hop.stamp.clone(),
            timestamp_s: hop.timestamp.get(),
        });
        let line = NaraLine::WorldMessage {
            id: message.id.clone(),
            originator: message.originator.clone(),
            message: message.message.clone(),
            hops: hops.collect(),
            complete,
        };
        self.feed.send(text, line);
    }

    fn on_runtime_message(&self, message: &RuntimeMessage) {
        self.inbox.runtime_message(message);
        let kind = message.payload.kind();
        let text = format!("{kind}  {}", harmless(&message.from_id));
        let line = NaraLine::RuntimeMessage {
            kind: kind.to_owned(),
            from_id: message.from_id.clone(),
        };
        self.feed.send(text, line);
    }
}
