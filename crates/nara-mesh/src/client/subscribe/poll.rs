//! Polls the newest events of a peer without streams.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nara_proto::event::{CheckedEvent, CheckedEvents};
use nara_proto::identity::NaraName;
use nara_proto::sync::SyncRequest;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::{StreamError, StreamState, SubscribeOptions, VerifiedEvent};
use crate::client::handle::PeerHandle;
use crate::defaults;
use crate::ledger::Insertion;

/// Polls one peer.
pub(super) struct Poller<'a> {
    pub(super) peer: &'a PeerHandle,
    pub(super) options: &'a SubscribeOptions,
    pub(super) items: &'a mpsc::Sender<Result<VerifiedEvent, StreamError>>,
    pub(super) state: &'a watch::Sender<StreamState>,
    pub(super) refused: &'a AtomicU64,
}

/// The subscription was dropped.
struct Dropped;

impl Poller<'_> {
    /// Polls until the subscription is dropped or the peer cannot be called; returns the last item.
    pub(super) async fn run(self) -> Option<StreamError> {
        let every = self.options.poll.unwrap_or(defaults::POLL_INTERVAL);
        let mut seen = Seen::default();
        let mut is_first = true;
        loop {
            match self.peer.fetch_sync_events(self.request()).await {
                Ok(answer) => {
                    self.set_state(StreamState::Polling { every });
                    let (answer, verification) = answer.into_parts();
                    let news = self.news(answer.events, &mut seen, is_first);
                    is_first = false;
                    if self.give_out(news, verification.responder).await.is_err() {
                        return None;
                    }
                }
                Err(error) if error.is_unknown_peer() => return Some(StreamError::Call(error)),
                Err(error) => {
                    self.set_state(StreamState::Waiting {
                        retry_in: every,
                        why: error.to_string(),
                    });
                    if error.is_unauthenticated()
                        && self
                            .items
                            .send(Err(StreamError::Unauthenticated(error)))
                            .await
                            .is_err()
                    {
                        return None;
                    }
                }
            }
            tokio::select! {
                () = sleep(every.max(Duration::from_millis(1))) => {}
                () = self.items.closed() => return None,
            }
        }
    }

    fn request(&self) -> SyncRequest {
        let filter = &self.options.request.filter;
        let mut request = SyncRequest::recent(defaults::POLL_EVENTS);
        request.services = Some(filter.services.clone()).filter(|services| !services.is_empty());
        request.subjects = Some(filter.subjects.clone()).filter(|subjects| !subjects.is_empty());
        request
    }

    /// Returns the events that are new, oldest first.
    fn news(&self, mut events: CheckedEvents, seen: &mut Seen, is_first: bool) -> CheckedEvents {
        let since = self.options.request.since;
        events.accepted.retain(|checked| {
            let is_wanted = !is_first || since.is_some_and(|since| checked.event.ts >= since);
            seen.is_new(&checked.event.id) && is_wanted
        });
        events.refused.retain(|refused| seen.is_new(&refused.id));
        events.accepted.sort_by_key(|checked| checked.event.ts);
        events
    }

    async fn give_out(&self, news: CheckedEvents, told_by: Option<NaraName>) -> Result<(), Dropped> {
        let peer = told_by
            .as_ref()
            .map_or_else(|| self.peer.to_string(), NaraName::to_string);
        for event in news.refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let event = Box::new(event);
            self.send(Err(StreamError::Refused {
                peer: peer.clone(),
                event,
            }))
            .await?;
        }
        let insertions = match self.store(&news.accepted, told_by).await {
            Ok(insertions) => insertions,
            Err(source) => return self.send(Err(StreamError::Ledger { peer, source })).await,
        };
        let mut insertions = insertions.into_iter();
        for CheckedEvent { event, trust, .. } in news.accepted {
            self.send(Ok(VerifiedEvent {
                event,
                trust,
                cursor: None,
                insertion: insertions.next(),
            }))
            .await?;
        }
        Ok(())
    }

    async fn store(
        &self,
        accepted: &[CheckedEvent],
        told_by: Option<NaraName>,
    ) -> Result<Vec<Insertion>, crate::ledger::LedgerError> {
        match &self.options.ledger {
            Some(ledger) if !accepted.is_empty() => ledger.insert(accepted.to_vec(), told_by).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn send(&self, item: Result<VerifiedEvent, StreamError>) -> Result<(), Dropped> {
        self.items.send(item).await.map_err(|_| Dropped)
    }

    fn set_state(&self, state: StreamState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}

/// The ids of the most recent events.
#[derive(Debug, Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Several answers, so that the events of the next one are certainly remembered.
    const MAX: usize = 4 * defaults::POLL_EVENTS;

    fn is_new(&mut self, id: &str) -> bool {
        if !self.ids.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
