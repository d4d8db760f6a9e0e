//! The loop of a subscription: open, read, pause, repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nara_proto::event::{EventVerdict, RefusedEvent, SyncEvent};
use nara_proto::identity::NaraName;
use nara_proto::stream::{ArrivalCursor, MAX_STREAM_MESSAGE, StreamMessage, StreamStart};
use nara_proto::sync::EventFilter;
use sse_stream::Sse;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::connect::{OpenError, Opened};
use super::error::{Cut, StreamProblem};
use super::frames::FrameError;
use super::pause::Pauses;
use super::poll::Poller;
use super::reader::Reader;
use super::unsaved::Unsaved;
use super::{StreamError, StreamState, SubscribeOptions, VerifiedEvent};
use crate::client::error::{ClientError, Problem};
use crate::client::handle::PeerHandle;
use crate::defaults;
use crate::ledger::{CheckedEvent, Insertion};
use crate::offload::{are_many, offload};
use crate::registry::{PeerEvent, PeerInfo};

/// Maximum number of events verified and stored in one batch.
const BATCH_EVENTS: usize = 256;

/// Maximum size of a batch in bytes.
const BATCH_BYTES: usize = 4 * MAX_STREAM_MESSAGE;

/// Accepted range of the keep-alive interval. With a longer one, a dead peer would go unnoticed for minutes.
const KEEP_ALIVE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// Opens the stream of one peer repeatedly.
#[derive(Debug)]
pub(super) struct Runner {
    peer: PeerHandle,
    options: SubscribeOptions,
    items: mpsc::Sender<Result<VerifiedEvent, StreamError>>,
    state: watch::Sender<StreamState>,
    start: watch::Sender<Option<ArrivalCursor>>,
    refused: Arc<AtomicU64>,
    cursor: Option<ArrivalCursor>,
    pauses: Pauses,
    unsaved: Unsaved,
}

/// The reason why reading a stream stopped.
enum Stop {
    /// The subscription was dropped.
    Dropped,
    Cut(Cut),
    Error(StreamError),
}

impl Runner {
    pub(super) fn new(
        peer: PeerHandle,
        options: SubscribeOptions,
        items: mpsc::Sender<Result<VerifiedEvent, StreamError>>,
        (state, start): (watch::Sender<StreamState>, watch::Sender<Option<ArrivalCursor>>),
        refused: Arc<AtomicU64>,
    ) -> Self {
        Self {
            peer,
            cursor: options.cursor,
            pauses: Pauses::new(options.reconnect),
            options,
            items,
            state,
            start,
            refused,
            unsaved: Unsaved::default(),
        }
    }

    pub(super) async fn run(mut self) {
        let last = self.follow().await;
        self.state.send_replace(StreamState::Ended);
        if let Some(error) = last {
            // An error means that the subscription was dropped.
            let _ = self.items.send(Err(error)).await;
        }
    }

    /// Follows the peer until the subscription is dropped or cannot continue; returns the last item.
    async fn follow(&mut self) -> Option<StreamError> {
        let mut changes = self.peer.exchange.registry.subscribe();
        if let Err(error) = self.recall().await {
            self.items.send(Err(error)).await.ok()?;
        }
        loop {
            self.set_state(StreamState::Connecting);
            let opening = self.peer.open_stream(&self.options.request, self.cursor).await;
            let mut least = Duration::ZERO;
            let stop = match opening {
                Ok(opened) => {
                    let began = Instant::now();
                    let stop = self.read(opened).await;
                    self.pauses.lasted(began.elapsed());
                    if let Err(error) = self.save().await {
                        tracing::warn!(%error, "the stream cursor cannot be stored");
                    }
                    stop
                }
                Err(OpenError::Call(error)) => {
                    match error.problem() {
                        Problem::CircuitOpen(open) => least = open.retry_in,
                        Problem::AskedToWait(asked) => least = asked.retry_after,
                        _ => {}
                    }
                    match self.classify(error) {
                        Ok(StreamError::Unsupported { .. }) if self.options.poll.is_some() => {
                            return self.poll().await;
                        }
                        Ok(error) if error.is_final() => return Some(error),
                        Ok(error) => Stop::Error(error),
                        Err(why) => {
                            self.pause(why, least, &mut changes).await;
                            continue;
                        }
                    }
                }
                Err(OpenError::Frame(FrameError::Cut(cut))) => Stop::Cut(cut),
                Err(OpenError::Frame(FrameError::Problem(problem))) => Stop::Error(self.protocol(problem)),
            };
            let why = match stop {
                Stop::Dropped => return None,
                Stop::Cut(cut) => cut.to_string(),
                Stop::Error(error) => {
                    let why = error.to_string();
                    if !matches!(error, StreamError::Ledger { .. }) {
                        self.pauses.rule_broken();
                    }
                    self.items.send(Err(error)).await.ok()?;
                    why
                }
            };
            self.pause(why, least, &mut changes).await;
        }
    }

    /// Polls a peer without streams, until the subscription is dropped or cannot continue.
    async fn poll(&self) -> Option<StreamError> {
        let poller = Poller {
            peer: &self.peer,
            options: &self.options,
            items: &self.items,
            state: &self.state,
            refused: &self.refused,
        };
        poller.run().await
    }

    /// Classifies an error of opening: an item, or else the reason for a pause.
    fn classify(&self, error: ClientError) -> Result<StreamError, String> {
        if error.is_unknown_peer() || matches!(error.problem(), Problem::InvalidRequest(_)) {
            return Ok(StreamError::Call(error));
        }
        match error.status() {
            // The answer of older versions to an unknown path or method.
            Some(status @ (http::StatusCode::NOT_FOUND | http::StatusCode::METHOD_NOT_ALLOWED)) => {
                Ok(StreamError::Unsupported {
                    peer: error.peer().to_owned(),
                    status,
                })
            }
            _ if error.is_unauthenticated() => Ok(StreamError::Unauthenticated(error)),
            _ => Err(error.to_string()),
        }
    }

    async fn pause(
        &mut self,
        why: String,
        least: Duration,
        changes: &mut tokio::sync::broadcast::Receiver<PeerEvent>,
    ) {
        // Without randomness, use the longest pause.
        let retry_in = self.pauses.next(least, getrandom::u32().unwrap_or(u32::MAX));
        self.set_state(StreamState::Waiting { retry_in, why });
        // Skip changes from before the pause.
        *changes = changes.resubscribe();
        let sleep = sleep(retry_in);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                () = &mut sleep => return,
                () = self.items.closed() => return,
                change = changes.recv() => match change {
                    Ok(PeerEvent::BreakerClosed(info) | PeerEvent::AddressChanged(info))
                        if self.is_about_peer(&info) => return,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // Unreachable while we hold the registry.
                    Err(RecvError::Closed) => {
                        sleep.await;
                        return;
                    }
                },
            }
        }
    }

    fn is_about_peer(&self, info: &PeerInfo) -> bool {
        let known = self.peer.known().map(|peer| peer.info());
        known.is_some_and(|known| {
            known.name == info.name && known.id == info.id && known.address == info.address
        })
    }

    /// Loads the cursor from the ledger.
    async fn recall(&mut self) -> Result<(), StreamError> {
        if self.cursor.is_some() || self.options.forget {
            return Ok(());
        }
        let Some(ledger) = &self.options.ledger else {
            return Ok(());
        };
        let Some(name) = self.peer.known().and_then(|peer| peer.info().name) else {
            return Ok(());
        };
        let place = cursor_place(&name, &self.options.request.filter);
        match ledger.arrival_cursor(place).await {
            Ok(cursor) => {
                self.cursor = cursor;
                Ok(())
            }
            Err(source) => Err(StreamError::Ledger {
                peer: name.to_string(),
                source,
            }),
        }
    }

    /// Reads an open stream to its end.
    async fn read(&mut self, opened: Opened) -> Stop {
        let Opened {
            mut frames,
            hello,
            _connection,
            server,
            lease,
            retry,
        } = opened;
        if let Some(retry) = retry {
            self.pauses.wish(retry);
        }
        let start = match self.begin(&hello, &server).await {
            Ok(start) => start,
            Err(stop) => return stop,
        };
        let Some(keep_alive) = u64::try_from(hello.keep_alive_ms).ok().filter(|ms| *ms > 0) else {
            return Stop::Error(self.protocol(StreamProblem::KeepAlive(hello.keep_alive_ms)));
        };
        let keep_alive = Duration::from_millis(keep_alive).clamp(*KEEP_ALIVE.start(), *KEEP_ALIVE.end());
        let silence = keep_alive * defaults::STREAM_MISSED_KEEP_ALIVES;

        let mut reader = Reader {
            server,
            epoch: start.epoch,
            last: start.seq,
            caught_up_at: hello.position,
            batch: Vec::new(),
            bytes: 0,
        };
        self.set_state(if start.seq >= hello.position {
            StreamState::Live
        } else {
            StreamState::CatchingUp
        });
        let mut decisions = self.peer.exchange.registry.decisions();
        let mut heard = Instant::now();
        loop {
            let server = self.peer.exchange.registry.by_name(reader.server.as_str());
            if server.is_some_and(|server| server.is_untrusted()) {
                // Reopening it fails with the proper error.
                return Stop::Cut(Cut::Untrusted);
            }
            if lease.as_ref().is_some_and(|lease| !lease.is_valid()) {
                return Stop::Cut(Cut::KeyReplaced);
            }
            let dead = heard + silence;
            let wake = self.unsaved.deadline().map_or(dead, |save| save.min(dead));
            let next = tokio::select! {
                biased;
                Ok(()) = decisions.changed() => continue,
                next = timeout_at(wake, frames.next()) => next,
            };
            let block = match next {
                Ok(block) => block,
                Err(_) if Instant::now() >= dead => return Stop::Cut(Cut::Silent(silence)),
                Err(_) => {
                    if let Err(stop) = self.save_or_stop(&reader.server).await {
                        return stop;
                    }
                    continue;
                }
            };
            heard = Instant::now();
            self.peer.exchange.registry.showed_life(&reader.server);
            // Verify and store everything that has already arrived in one batch.
            let mut block = Some(block);
            while let Some(next) = block.take() {
                let next = match next {
                    Ok(next) => next,
                    Err(end) => {
                        if let Err(stop) = self.flush(&mut reader).await {
                            return stop;
                        }
                        return match end {
                            FrameError::Cut(cut) => Stop::Cut(cut),
                            FrameError::Problem(problem) => Stop::Error(self.protocol(problem)),
                        };
                    }
                };
                if let Some(stop) = self.take(&mut reader, next).await {
                    return stop;
                }
                if reader.batch.len() < BATCH_EVENTS && reader.bytes < BATCH_BYTES {
                    block = frames.next_if_ready();
                }
            }
            if let Err(stop) = self.flush(&mut reader).await {
                return stop;
            }
            if self.unsaved.is_due()
                && let Err(stop) = self.save_or_stop(&reader.server).await
            {
                return stop;
            }
        }
    }

    /// Checks the start of a stream.
    async fn begin(
        &mut self,
        hello: &nara_proto::stream::Hello,
        server: &NaraName,
    ) -> Result<ArrivalCursor, Stop> {
        // Both were checked when the hello was verified.
        let (Ok(start), Ok(reason)) = (hello.start(), hello.reason()) else {
            return Err(Stop::Error(self.protocol(StreamProblem::NoHello)));
        };
        match self.cursor {
            Some(cursor) if reason.is_replaced() => {
                tracing::info!(peer = %server, %cursor, %start, "the peer has a new ledger");
                let peer = server.to_string();
                self.items
                    .send(Err(StreamError::LedgerReplaced { peer, start }))
                    .await
                    .map_err(|_| Stop::Dropped)?;
            }
            Some(cursor) if reason != StreamStart::Cursor || cursor != start => {
                return Err(Stop::Error(self.protocol(StreamProblem::WrongStart {
                    expected: cursor,
                    got: start,
                })));
            }
            _ => {}
        }
        self.cursor = Some(start);
        self.start.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(start);
            is_first
        });
        Ok(start)
    }

    /// Handles one block; returns `Some` to stop.
    async fn take(&mut self, reader: &mut Reader, block: Sse) -> Option<Stop> {
        if let Some(retry) = block.retry {
            self.pauses.wish(retry);
        }
        let data = block.data.unwrap_or_default();
        let message = match StreamMessage::decode(block.event.as_deref(), block.id.as_deref(), &data) {
            Ok(message) => message,
            Err(error) => return Some(self.broken_rule(reader, StreamProblem::Message(error)).await),
        };
        match message {
            StreamMessage::Event(cursor, event) => {
                if let Err(problem) = reader.advance(cursor, true) {
                    return Some(self.broken_rule(reader, problem).await);
                }
                reader.bytes += data.len();
                reader.batch.push((cursor, *event));
            }
            StreamMessage::Ping(cursor, heartbeat) => {
                if let Err(stop) = self.place(reader, cursor).await {
                    return Some(stop);
                }
                reader.caught_up_at = heartbeat.position;
                self.note_progress(reader);
            }
            StreamMessage::Lagged(cursor, lag) => {
                if let Err(stop) = self.place(reader, cursor).await {
                    return Some(stop);
                }
                reader.caught_up_at = lag.position;
                self.set_state(StreamState::Lagged);
            }
            StreamMessage::Bye(bye) => {
                if let Err(stop) = self.flush(reader).await {
                    return Some(stop);
                }
                let reason = bye.reason.chars().take(200).collect();
                return Some(Stop::Cut(Cut::Bye(reason)));
            }
            StreamMessage::Hello(_) => {
                return Some(self.broken_rule(reader, StreamProblem::SecondHello).await);
            }
            // A message of a later version.
            _ => {}
        }
        None
    }

    /// Advances to a position without an event for us.
    async fn place(&mut self, reader: &mut Reader, cursor: ArrivalCursor) -> Result<(), Stop> {
        self.flush(reader).await?;
        if let Err(problem) = reader.advance(cursor, false) {
            return Err(Stop::Error(self.protocol(problem)));
        }
        if self.cursor != Some(cursor) {
            self.cursor = Some(cursor);
            self.unsaved.add(0);
        }
        Ok(())
    }

    /// Stops after a protocol violation, once earlier events are flushed.
    async fn broken_rule(&mut self, reader: &mut Reader, problem: StreamProblem) -> Stop {
        match self.flush(reader).await {
            Ok(()) => Stop::Error(self.protocol(problem)),
            Err(stop) => stop,
        }
    }

    /// Verifies, stores and returns the received events.
    async fn flush(&mut self, reader: &mut Reader) -> Result<(), Stop> {
        reader.bytes = 0;
        let (cursors, events): (Vec<_>, Vec<_>) = std::mem::take(&mut reader.batch).into_iter().unzip();
        let Some(last) = cursors.last().copied() else {
            return Ok(());
        };
        let count = events.len();
        let (events, verdicts) = self.verify(events).await;
        let mut insertions = self.store(&reader.server, &events, &verdicts).await?.into_iter();
        let now = self.peer.exchange.clocks.clock().now_nanos();
        for ((cursor, event), verdict) in cursors.into_iter().zip(events).zip(verdicts) {
            if verdict.is_ok_and(|trust| trust.is_verified()) {
                self.peer.exchange.registry.hear(&event, now);
            }
            let item = match verdict {
                Ok(trust) => Ok(VerifiedEvent {
                    event,
                    trust,
                    cursor: Some(cursor),
                    insertion: insertions.next(),
                }),
                Err(problem) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    Err(StreamError::Refused {
                        peer: reader.server.to_string(),
                        event: Box::new(RefusedEvent::new(event, problem)),
                    })
                }
            };
            self.items.send(item).await.map_err(|_| Stop::Dropped)?;
        }
        self.cursor = Some(last);
        self.unsaved.add(count);
        self.note_progress(reader);
        Ok(())
    }

    async fn verify(&self, mut events: Vec<SyncEvent>) -> (Vec<SyncEvent>, Vec<EventVerdict>) {
        let keys = self.peer.exchange.known_keys();
        let now = self.peer.exchange.clocks.clock().now_nanos();
        let large = are_many(&events);
        offload(large, move || {
            let verdicts = keys.judge(&mut events, now);
            (events, verdicts)
        })
        .await
    }

    /// Stores the accepted events; returns their outcomes, if there is a ledger.
    async fn store(
        &self,
        server: &NaraName,
        events: &[SyncEvent],
        verdicts: &[EventVerdict],
    ) -> Result<Vec<Insertion>, Stop> {
        let Some(ledger) = &self.options.ledger else {
            return Ok(Vec::new());
        };
        let accepted: Vec<_> = events
            .iter()
            .zip(verdicts)
            .filter_map(|(event, verdict)| Some(CheckedEvent::new(event.clone(), (*verdict).ok()?)))
            .collect();
        if accepted.is_empty() {
            return Ok(Vec::new());
        }
        let stored = ledger.insert(accepted, Some(server.clone())).await;
        stored.map_err(|source| {
            Stop::Error(StreamError::Ledger {
                peer: server.to_string(),
                source,
            })
        })
    }

    async fn save_or_stop(&mut self, server: &NaraName) -> Result<(), Stop> {
        self.save_as(server).await.map_err(|source| {
            Stop::Error(StreamError::Ledger {
                peer: server.to_string(),
                source,
            })
        })
    }

    async fn save(&mut self) -> Result<(), crate::ledger::LedgerError> {
        let Some(name) = self.peer.known().and_then(|peer| peer.info().name) else {
            return Ok(());
        };
        self.save_as(&name).await
    }

    /// Stores the cursor of the stream.
    async fn save_as(&mut self, server: &NaraName) -> Result<(), crate::ledger::LedgerError> {
        if !self.unsaved.is_any() {
            return Ok(());
        }
        if let (Some(ledger), Some(cursor)) = (&self.options.ledger, self.cursor) {
            let place = cursor_place(server, &self.options.request.filter);
            ledger.store_arrival_cursor(place, cursor).await?;
        }
        self.unsaved = Unsaved::default();
        Ok(())
    }

    fn note_progress(&self, reader: &Reader) {
        if reader.last >= reader.caught_up_at {
            self.set_state(StreamState::Live);
        }
    }

    fn set_state(&self, state: StreamState) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            if changed {
                tracing::debug!(peer = %self.peer.peer, %state, "stream");
                *current = state;
            }
            changed
        });
    }

    fn protocol(&self, problem: StreamProblem) -> StreamError {
        let known = self.peer.known();
        StreamError::Protocol {
            peer: known.map_or_else(|| self.peer.peer.to_string(), |peer| peer.info().to_string()),
            problem,
        }
    }
}

/// Returns the key under which a ledger stores the cursor of a stream: each filter has its own.
fn cursor_place(peer: &NaraName, filter: &EventFilter) -> String {
    if filter.is_empty() {
        peer.to_string()
    } else {
        format!("{peer} {:?} {:?}", filter.services, filter.subjects)
    }
}
