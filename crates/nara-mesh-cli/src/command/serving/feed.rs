//! Prints incoming messages as lines on stdout.

use std::time::Instant;

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
use crate::log::Repetitions;
use crate::printer::{Printer, count, harmless, harmless_text};

/// Capacity of the queue of lines. Beyond it lines are dropped and logged, because a slow reader of our
/// output must not delay requests.
const BACKLOG: usize = 1024;

struct Line {
    /// `None`: no text for people.
    text: Option<String>,
    json: DaemonLine,
}

/// Sends lines to the printing task.
#[derive(Clone, Debug)]
pub(in crate::command) struct Feed(mpsc::Sender<Line>);

/// Lines that are not printed yet.
pub(super) struct Lines(mpsc::Receiver<Line>);

/// The task that prints.
pub(super) struct Printing(JoinHandle<()>);

impl Lines {
    /// Prints the queued lines, and then new ones.
    pub(super) fn print(self, printer: Printer) -> Printing {
        let Self(mut lines) = self;
        // A write may block as long as the reader likes.
        Printing(tokio::task::spawn_blocking(move || {
            while let Some(line) = lines.blocking_recv() {
                let text = line.text.map_or(Ok(()), |text| printer.line(text));
                let printed = text.and_then(|()| printer.json_line(line.json));
                if printed.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Feed {
    /// Creates a feed whose lines wait until they are [printed](Lines::print).
    pub(super) fn new() -> (Self, Lines) {
        let (sender, lines) = mpsc::channel(BACKLOG);
        (Self(sender), Lines(lines))
    }

    /// Queues a line for printing; drops it if the queue is full.
    pub(in crate::command) fn send(&self, text: String, line: impl Into<DaemonLine>) {
        self.hand_over(Some(text), line.into());
    }

    fn hand_over(&self, text: Option<String>, json: DaemonLine) {
        if self.0.try_send(Line { text, json }).is_err() {
            tracing::warn!("stdout is read too slowly: a line was dropped");
        }
    }
}

impl Printing {
    /// Waits until all lines are printed; the feeds must be dropped before.
    pub(super) async fn finish(self) {
        // The handler of an aborted server may hold a feed a moment longer.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), self.0).await;
    }
}

/// Prints incoming messages, and detects postcards that come home.
#[derive(Debug)]
pub(super) struct FeedHandler {
    feed: Feed,
    journeys: Journeys,
    inbox: Inbox,
    /// Rate limits of the text lines per peer and kind: a peer sends as many messages as it likes.
    repetitions: Repetitions<(&'static str, String)>,
}

impl FeedHandler {
    pub(super) fn new(feed: Feed, journeys: Journeys, inbox: Inbox) -> Self {
        Self {
            feed,
            journeys,
            inbox,
            repetitions: Repetitions::default(),
        }
    }

    /// Prints a line that a peer caused. Repetitive text lines are suppressed and counted; JSON contains
    /// every line.
    fn tell(&self, kind: &'static str, peer: &str, text: String, line: NaraLine) {
        let text = self.counted(kind, peer, text, Instant::now());
        self.feed.hand_over(text, line.into());
    }

    fn counted(&self, kind: &'static str, peer: &str, text: String, now: Instant) -> Option<String> {
        match self.repetitions.admit((kind, peer.to_owned()), now) {
            (false, _) => None,
            (true, 0) => Some(text),
            (true, left_out) => Some(format!("{text}  ({left_out} before it not shown)")),
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
        self.tell("dm", sender.name().as_str(), text, line);
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
        self.tell("zine", sender.name().as_str(), text, line);
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
        let relayed_by = message.relayed_by().filter(|_| !complete);
        let relayed_by = relayed_by.map(|nara| format!(", relayed by {}", harmless(nara)));
        let text = format!(
            "world  {}{}  {:?}  {}{}",
            harmless(&message.originator),
            relayed_by.unwrap_or_default(),
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
        // Attributed to the peer that handed it over: any originator can be forged.
        let peer = message.relayed_by().unwrap_or(&message.originator);
        self.tell("world", peer, text, line);
    }

    fn on_runtime_message(&self, message: &RuntimeMessage) {
        self.inbox.runtime_message(message);
        let kind = message.payload.kind();
        let text = format!("{kind}  {}", harmless(&message.from_id));
        let line = NaraLine::RuntimeMessage {
            kind: kind.to_owned(),
            from_id: message.from_id.clone(),
        };
        self.tell("message", &message.from_id, text, line);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nara_proto::time::UnixNanos;
    use nara_proto::world::WorldHop;

    use super::*;

    #[test]
    fn lines_of_one_peer_are_counted_instead_of_shown() {
        let (feed, mut lines) = Feed::new();
        let handler = FeedHandler::new(feed, Journeys::default(), Inbox::default());
        let start = Instant::now();
        let shown = |peer: &str, after: u64| {
            handler.counted("dm", peer, "text".to_owned(), start + Duration::from_secs(after))
        };
        let some = (0..300).filter_map(|_| shown("mallory", 0)).count();
        assert_eq!(some, 10);
        assert_eq!(
            shown("alice", 0).as_deref(),
            Some("text"),
            "who sends little is seen"
        );
        let later = shown("mallory", 10).unwrap();
        assert!(later.contains("290"), "{later}");
        // JSON contains every line.
        for n in 0..300 {
            let line = NaraLine::Zine {
                sender: "mallory".to_owned(),
                events: n,
            };
            handler.tell("zine", "mallory", String::new(), line);
        }
        let sent: Vec<_> = std::iter::from_fn(|| lines.0.try_recv().ok()).collect();
        assert_eq!(sent.len(), 300);
        assert_eq!(sent.iter().filter(|line| line.text.is_some()).count(), 10);
    }

    #[test]
    fn postcards_are_counted_for_who_hands_them_over_whomever_they_name() {
        let (feed, mut lines) = Feed::new();
        let handler = FeedHandler::new(feed, Journeys::default(), Inbox::default());
        let hop = |nara: &str| WorldHop {
            nara: nara.to_owned(),
            ..WorldHop::default()
        };
        for n in 0..30 {
            let mut message = WorldMessage::new(&format!("nobody-{n}"), "hello", UnixNanos::new(n));
            message.hops = Some(vec![hop("mallory"), hop("bob")]);
            handler.on_world_message(&message, false);
        }
        let sent = std::iter::from_fn(|| lines.0.try_recv().ok());
        assert_eq!(sent.filter(|line| line.text.is_some()).count(), 10);
    }
}
