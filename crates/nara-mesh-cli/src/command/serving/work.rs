//! The status of a nara as one line for the service manager.

use nara_mesh::Nara;
use nara_mesh::client::StreamState;
use nara_mesh::gossip::{GossipLink, GossipStatus};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::printer::count;
use crate::service_manager;

/// Tracks the activity of a nara and reports it.
pub(super) struct Work<'a> {
    nara: &'a Nara,
    gossip: Option<watch::Receiver<GossipStatus>>,
    /// `None`: reports are not wanted.
    due: Option<Interval>,
    reporting: Option<JoinHandle<()>>,
    synced: Option<Instant>,
    /// Answers of peers so far: zines, and events over streams.
    answers: u64,
}

impl<'a> Work<'a> {
    pub(super) fn new(nara: &'a Nara) -> Self {
        let due = service_manager::is_there().then(|| {
            let every = service_manager::interval();
            let mut due = interval_at(Instant::now() + every, every);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        });
        Self {
            nara,
            gossip: nara.gossip_status(),
            due,
            reporting: None,
            synced: None,
            answers: 0,
        }
    }

    /// Returns a status such as `3 peers, 2 streams, last sync 4 s ago`.
    pub(super) fn status(&self) -> String {
        let streams = self.gossip.as_ref().map_or(0, |status| {
            let live = |link: &GossipLink| matches!(link, GossipLink::Stream(StreamState::Live));
            status
                .borrow()
                .peers
                .iter()
                .filter(|peer| live(&peer.link))
                .count()
        });
        let synced = match self.synced {
            Some(at) => format!("last sync {} s ago", at.elapsed().as_secs()),
            None => "no sync yet".to_owned(),
        };
        let peers = self.nara.registry().peers().len();
        let own_key = match self.nara.registry().against_own_key().is_empty() {
            true => "",
            false => ", own key refused: see `nara-mesh doctor`",
        };
        let (peers, streams) = (count(peers, "peer"), count(streams, "stream"));
        format!("{peers}, {streams}, {synced}{own_key}")
    }

    /// Waits until a report is due, and sends it. Cancel safe.
    pub(super) async fn report(&mut self) {
        let Some(due) = &mut self.due else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = due.tick() => {
                if self.reporting.as_ref().is_some_and(|reporting| !reporting.is_finished()) {
                    return;
                }
                let status = self.status();
                // On a runtime thread: a nara whose threads are stuck must not look alive.
                self.reporting = Some(tokio::spawn(async move {
                    tokio::task::block_in_place(|| service_manager::alive(status));
                }));
            }
            () = changed(&mut self.gossip) => self.note_answers(),
        }
    }

    fn note_answers(&mut self) {
        let Some(gossip) = &mut self.gossip else { return };
        let status = gossip.borrow_and_update();
        let answers = status.total.received + status.zines;
        drop(status);
        if answers > self.answers {
            self.answers = answers;
            self.synced = Some(Instant::now());
        }
    }
}

/// Waits for a change; pends forever if there is no source.
async fn changed(status: &mut Option<watch::Receiver<GossipStatus>>) {
    if let Some(receiver) = status
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *status = None;
    std::future::pending().await
}
