//! Delivers the messages of the outbox: one at a time to each peer, oldest first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use nara_mesh::client::{ClientError, ClientErrorKind as Kind, PeerHandle, PeerRef};
use nara_mesh::registry::{Peer, PeerEvent};
use nara_proto::backoff::Backoff;
use nara_proto::go_json;
use nara_proto::identity::KeyId;
use nara_proto::runtime_message::RuntimeMessage;
use nara_proto::world::WorldMessage;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use super::{Delivered, FirstAttempt, Queue};
use crate::model::{
    DirectMessageReceipt, MessageReceipt, OutboxEntry, OutboxKind, OutboxState, PostcardReceipt,
};
use crate::server::state::Shared;
use crate::{Problem, ProblemClass};

/// The pause after the first failure, and the minimum between two attempts to a peer that is seen.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between attempts to a peer that is not seen.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The most peers to which messages are sent concurrently.
const AT_ONCE: usize = 16;

/// How often the presence of recipients is checked: not every sign of life is an event of the registry.
const LOOK: Duration = Duration::from_millis(500);

/// The state of delivery to one peer.
#[derive(Debug)]
struct Line {
    backoff: Backoff,
    due: Instant,
    /// When the last attempt ended.
    tried: Instant,
    /// The newest message at the time of the last attempt.
    newest: u64,
    is_busy: bool,
    /// Whether the last attempt did not reach the peer.
    was_unreachable: bool,
}

/// The result of an attempt.
struct Attempt {
    peer: String,
    /// The error, if the message goes on waiting.
    failed: Option<Failed>,
}

struct Failed {
    was_unreachable: bool,
    retry_after: Duration,
}

impl Line {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            due: now,
            tried: now,
            newest: 0,
            is_busy: false,
            was_unreachable: false,
        }
    }

    /// The peer was seen, or has a new address.
    fn seen(&mut self) {
        if self.was_unreachable {
            self.was_unreachable = false;
            self.backoff.reset();
            self.due = self.due.min(self.tried + FIRST_PAUSE);
        }
    }

    fn tried(&mut self, failed: Option<Failed>) {
        self.is_busy = false;
        self.tried = Instant::now();
        self.due = self.tried;
        match failed {
            None => self.backoff.reset(),
            Some(failed) => {
                // Without randomness there is no jitter.
                let random = getrandom::u32().unwrap_or(u32::MAX);
                self.due += self.backoff.after_failure(random).max(failed.retry_after);
                self.was_unreachable = failed.was_unreachable;
            }
        }
    }
}

/// Delivers messages until the API shuts down.
pub(in crate::server) async fn deliver(shared: Arc<Shared>) {
    let sending = send(&shared);
    tokio::select! {
        () = shared.stopping.cancelled() => {}
        () = sending => {}
    }
}

async fn send(shared: &Shared) {
    let outbox = &shared.outbox;
    let mut changes = shared.nara.registry().subscribe();
    let mut lines: HashMap<String, Line> = HashMap::new();
    let mut attempts = FuturesUnordered::new();
    loop {
        outbox.expire(shared.nara.client().clock().now_millis()).await;
        let queues = outbox.queues();
        lines.retain(|peer, line| line.is_busy || queues.contains_key(peer));
        for (peer, Queue { oldest, newest }) in &queues {
            let line = lines.entry(peer.clone()).or_insert_with(Line::new);
            if line.is_busy || attempts.len() >= AT_ONCE {
                continue;
            }
            if *newest > line.newest {
                // A new message: its sender waits for the first attempt.
                line.newest = *newest;
                line.due = Instant::now();
            } else if line.was_unreachable && was_alive_since(shared, *oldest, line.tried) {
                line.seen();
            }
            if line.due <= Instant::now() {
                line.is_busy = true;
                attempts.push(attempt(shared, *oldest, peer.clone()));
            }
        }
        tokio::select! {
            () = outbox.0.arrived.notified() => {}
            Some(Attempt { peer, failed }) = attempts.next(), if !attempts.is_empty() => {
                if let Some(line) = lines.get_mut(&peer) {
                    line.tried(failed);
                }
            }
            peer = shown(&mut changes), if !lines.is_empty() => {
                if let Some(line) = lines.get_mut(&peer) {
                    line.seen();
                }
            }
            () = sleep(LOOK), if !queues.is_empty() => {}
        }
    }
}

/// Returns the next peer that is seen or has a new address.
async fn shown(changes: &mut Receiver<PeerEvent>) -> String {
    loop {
        let info = match changes.recv().await {
            Ok(
                PeerEvent::AddressChanged(info)
                | PeerEvent::BreakerClosed(info)
                | PeerEvent::Registered(info)
                | PeerEvent::Seen(info),
            ) => info,
            // The peers are also polled.
            Ok(_) | Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => std::future::pending().await,
        };
        if let Some(name) = info.name {
            return name.to_string();
        }
    }
}

/// Returns whether the recipient of a message was seen after a time.
fn was_alive_since(shared: &Shared, id: u64, then: Instant) -> bool {
    let recipient = shared.outbox.one(id).and_then(|entry| recipient(shared, &entry));
    let last = recipient.and_then(|peer| peer.last_alive());
    last.is_some_and(|last| last < then.elapsed())
}

/// Returns the recipient of a message from the registry.
fn recipient(shared: &Shared, entry: &OutboxEntry) -> Option<Arc<Peer>> {
    let registry = shared.nara.registry();
    let id = entry.peer_id.as_ref().and_then(|id| id.parse().ok());
    let by_id = id.and_then(|id| registry.by_id(&id));
    by_id.or_else(|| registry.by_name(&entry.peer))
}

async fn attempt(shared: &Shared, id: u64, peer: String) -> Attempt {
    let Some(mut entry) = shared.outbox.begin(id) else {
        return Attempt { peer, failed: None };
    };
    let outcome = match recipient(shared, &entry) {
        Some(known) => to(shared, shared.nara.peer(PeerRef::from(known)), &entry).await,
        None => Err(Unsent::waits(Problem::unknown_peer(&entry.peer))),
    };
    let now = shared.nara.client().clock().now_millis().get();
    if outcome.as_ref().map_or_else(|unsent| unsent.was_called, |_| true) {
        entry.attempts += 1;
        entry.last_attempt_at_ms = Some(now);
    }
    let (failed, told) = match outcome {
        Ok(delivered) => {
            tracing::debug!(id, %peer, "delivered a message of the outbox");
            entry.state = OutboxState::Delivered;
            entry.finished_at_ms = Some(now);
            if let Delivered::DirectMessage(receipt) = &delivered {
                entry.stored = Some(receipt.stored);
            }
            entry.problem = None;
            (None, FirstAttempt::Delivered(Box::new(delivered)))
        }
        Err(unsent) => {
            entry.may_have_arrived |= unsent.may_have_arrived;
            entry.problem = Some(unsent.problem.clone());
            if unsent.is_final {
                tracing::warn!(id, %peer, error = %unsent.problem, "a message of the outbox was refused");
                entry.state = OutboxState::Refused;
                entry.finished_at_ms = Some(now);
                (None, FirstAttempt::Refused(unsent.problem))
            } else {
                (Some(unsent.failed), FirstAttempt::Failed)
            }
        }
    };
    shared.outbox.end(entry, told).await;
    Attempt { peer, failed }
}

/// A failed delivery.
struct Unsent {
    problem: Box<Problem>,
    /// Whether every further attempt would fail too.
    is_final: bool,
    /// Whether the peer was called at all.
    was_called: bool,
    may_have_arrived: bool,
    failed: Failed,
}

impl Unsent {
    fn waits(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            is_final: false,
            was_called: false,
            may_have_arrived: false,
            failed: Failed {
                was_unreachable: true,
                retry_after: Duration::ZERO,
            },
        }
    }

    /// Creates a failure that further attempts would repeat.
    fn finally(problem: Problem) -> Self {
        Self {
            is_final: true,
            ..Self::waits(problem)
        }
    }

    fn malformed(error: &dyn std::error::Error) -> Self {
        Self::finally(Problem::invalid(format!(
            "the kept message is malformed: {error}"
        )))
    }

    fn of(error: &ClientError) -> Self {
        let problem = Problem::from(error);
        let is_final = is_final(error, &problem);
        Self {
            is_final,
            was_called: was_called(error.kind()),
            may_have_arrived: !is_final && may_have_arrived(error),
            failed: Failed {
                was_unreachable: error.is_timeout()
                    || error.is_unreachable()
                    || error.is_unknown_peer()
                    || error.kind() == Kind::Broken,
                retry_after: error.retry_after().unwrap_or_default(),
            },
            problem: Box::new(problem),
        }
    }
}

/// Sends a message to the holder of the key that it was written for.
async fn to(shared: &Shared, handle: PeerHandle, entry: &OutboxEntry) -> Result<Delivered, Unsent> {
    let pinned = handle.known().and_then(|peer| peer.key());
    let pinned = pinned.map(|key| KeyId::from(&key).to_string());
    if let (Some(then), Some(now)) = (&entry.key_id, &pinned)
        && then != now
    {
        let detail = format!(
            "the message was written for key {then} of {}, which now has key {now}",
            entry.peer
        );
        let (status, class) = (StatusCode::CONFLICT, ProblemClass::Untrusted);
        let problem = Problem::new("key_replaced", status, class, detail);
        return Err(Unsent::finally(
            problem.hint("write the message again, for the new key"),
        ));
    }
    match entry.kind {
        OutboxKind::DirectMessage => direct_message(&handle, entry).await,
        OutboxKind::Postcard => postcard(shared, &handle, entry).await,
        OutboxKind::RuntimeMessage => runtime_message(&handle, entry).await,
    }
}

async fn direct_message(handle: &PeerHandle, entry: &OutboxEntry) -> Result<Delivered, Unsent> {
    let event = entry.event.decode().map_err(|error| Unsent::malformed(&error))?;
    let sent = handle.send_dm(event).await;
    let receipt = sent.map_err(|error| Unsent::of(&error))?;
    Ok(Delivered::DirectMessage(DirectMessageReceipt {
        event_id: entry.event_id.clone(),
        recipient: receipt.from.clone(),
        stored: receipt.success,
        verified: receipt.is_verified(),
    }))
}

/// The recipient detects a duplicate by its id, and its answer carries no proof: sending again is harmless.
async fn runtime_message(handle: &PeerHandle, entry: &OutboxEntry) -> Result<Delivered, Unsent> {
    let message = RuntimeMessage::from_json(entry.event.as_json().as_bytes());
    let message = message.map_err(|error| Unsent::malformed(&error))?;
    let sent = handle.send_runtime_message(&message).await;
    sent.map_err(|error| Unsent::of(&error))?;
    Ok(Delivered::RuntimeMessage(MessageReceipt {
        message_id: message.id,
        reply: None,
    }))
}

/// Recipients cannot detect a duplicate postcard. So the peer must be reachable first, and a postcard whose
/// answer is lost is not sent again.
async fn postcard(shared: &Shared, handle: &PeerHandle, entry: &OutboxEntry) -> Result<Delivered, Unsent> {
    let message: WorldMessage =
        go_json::from_slice(entry.event.as_json().as_bytes()).map_err(|error| Unsent::malformed(&error))?;
    handle.ping().await.map_err(|error| Unsent {
        may_have_arrived: false,
        ..Unsent::of(&error)
    })?;
    // Recorded before it is sent: it may be home before the first peer answers.
    shared.journeys.begin(&message);
    let told = match handle.relay_world_message(&message).await {
        Ok(_) => None,
        Err(error) if error.is_stuck_journey() => {
            Some(error.text().unwrap_or_default().trim_end().to_owned())
        }
        Err(error) => {
            let unsent = Unsent::of(&error);
            if !unsent.may_have_arrived {
                shared.journeys.forget(&message.id);
                return Err(unsent);
            }
            let hint = "it is not sent again, because it may be under way: the list of postcards shows whether it comes home";
            return Err(Unsent {
                problem: Box::new(unsent.problem.hint(hint)),
                is_final: true,
                ..unsent
            });
        }
    };
    shared.journeys.taken(&message.id, &entry.peer, told.as_deref());
    Ok(Delivered::Postcard(PostcardReceipt {
        message_id: message.id,
        first: entry.peer.clone(),
        passed_on: told.is_none(),
        told,
        skipped: Vec::new(),
    }))
}

/// Returns whether a message cannot be delivered without a decision.
fn is_final(error: &ClientError, problem: &Problem) -> bool {
    match error.kind() {
        Kind::InvalidRequest | Kind::OtherKey | Kind::Untrusted => true,
        Kind::Identity => problem.conflict.is_some(),
        Kind::Status => match error.status() {
            Some(StatusCode::FORBIDDEN) => true,
            // The peer may not know our key yet, or may still be starting.
            Some(
                StatusCode::UNAUTHORIZED
                | StatusCode::NOT_FOUND
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::CONFLICT
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS,
            ) => false,
            Some(status) => status.is_client_error() && error.is_status_verified(),
            None => false,
        },
        _ => false,
    }
}

/// Returns whether an error came from a call, not from local state.
const fn was_called(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::AskedToWait
            | Kind::CircuitOpen
            | Kind::InvalidPeer
            | Kind::InvalidRequest
            | Kind::UnknownPeer
            | Kind::Untrusted
    )
}

/// Returns whether the peer may have accepted the message despite the error.
fn may_have_arrived(error: &ClientError) -> bool {
    let was_not_sent = matches!(
        error.kind(),
        Kind::Dial | Kind::DialTimeout | Kind::KeyRefused | Kind::Tls | Kind::TlsGone
    );
    let said_no = error.status().is_some_and(|status| status.is_client_error());
    was_called(error.kind()) && !was_not_sent && !said_no && !error.is_unreachable()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn unreachable() -> Option<Failed> {
        Some(Failed {
            was_unreachable: true,
            retry_after: Duration::ZERO,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_a_peer_that_is_seen_is_tried_at_once() {
        let mut line = Line::new();
        for least in [1, 2, 4, 8, 16] {
            line.tried(unreachable());
            let pause = line.due - Instant::now();
            assert!(
                pause >= least * SECOND / 2 && pause <= least * SECOND,
                "{pause:?}"
            );
        }
        tokio::time::advance(3 * SECOND).await;
        line.seen();
        assert!(line.due <= Instant::now());
        // A peer that is seen all the time but cannot be reached is not called all the time.
        line.tried(unreachable());
        line.seen();
        assert!(line.due > Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answered_has_its_pause_even_if_it_is_seen() {
        let mut line = Line::new();
        line.tried(Some(Failed {
            was_unreachable: false,
            retry_after: 60 * SECOND,
        }));
        tokio::time::advance(10 * SECOND).await;
        line.seen();
        assert_eq!(line.due - Instant::now(), 50 * SECOND);
        line.tried(None);
        assert_eq!(line.due, Instant::now());
    }
}
