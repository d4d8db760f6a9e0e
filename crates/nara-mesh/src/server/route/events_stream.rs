use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use nara_proto::go_json;
use nara_proto::identity::NaraName;
use nara_proto::stream::{
    ArrivalCursor, Bye, Heartbeat, Hello, Lag, MAX_STREAM_MESSAGE, StreamOpening, StreamRequest, StreamStart,
    kind,
};
use nara_proto::time::UnixNanos;
use nara_proto::v2::{SignatureError, SignedField};
use sse_stream::Sse;
use tokio::time::{Instant, Sleep, sleep};

use crate::ledger::{Followed, Follower, Ledger, LedgerError};
use crate::metrics::{self, Counted};
use crate::registry::KeyLease;
use crate::seldom::{error_seldom, warn_seldom};
use crate::server::answer::rejection::Rejection;
use crate::server::answer::sign::Unbuffered;
use crate::server::auth::sender::VerifiedSender;
use crate::server::limits::body_bytes::Source;
use crate::server::limits::quota::{Exceeded, Share};
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The capabilities of this server beyond v1.
const CAPABILITIES: [&str; 1] = ["stream/1"];

/// `GET /events/stream`, an extension: see [`nara_proto::stream`].
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared,
        sender,
        proof,
        head,
        ..
    } = asked;
    // The stream is bound to the signature of its request.
    let signature = proof
        .text()
        .ok_or(SignatureError::Missing(SignedField::Signature))?;
    let query = head.uri.query().unwrap_or_default();
    let request = StreamRequest::from_query(query)?;
    let last_event_id = last_event_id(&head.headers)?;
    let cursor = match last_event_id {
        "" => None,
        text => Some(text.parse().map_err(|_| Rejection::InvalidCursor)?),
    };
    let slot = shared.streams.take(sender.name());
    let slot = slot.map_err(|exceeded| match exceeded {
        Exceeded::OfKey(limit) => Rejection::TooManyStreams(limit),
        Exceeded::All | Exceeded::Rate { .. } => Rejection::NoStreamLeft,
    })?;

    let source = Source::Peer(*sender.key());
    let epoch = shared.ledger.feed().epoch();
    let beginning = begin(shared.ledger.clone(), cursor, request.since);
    let (position, start, reason) = shared.reads.run(source, beginning).await?;
    let mut hello = Hello {
        from: shared.local.name().as_str().to_owned(),
        id: shared.local.id().to_string(),
        ts: shared.clock.now_millis(),
        epoch: epoch.to_string(),
        position,
        start,
        reason: reason.as_str().to_owned(),
        keep_alive_ms: i64::try_from(shared.limits.stream_keep_alive.as_millis()).unwrap_or(i64::MAX),
        capabilities: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        sig: String::new(),
    };
    let opening = StreamOpening {
        request_signature: &signature,
        query,
        last_event_id,
    };
    hello.sign(opening, shared.local.keypair());

    // A reader that resumes still has the events that it sent us; one that starts anew may have lost them.
    let told_since = match reason {
        StreamStart::Cursor | StreamStart::Now => start,
        _ => position,
    };
    let follower =
        Follower::new(shared.ledger.clone(), start, request.filter).except(sender.name().clone(), told_since);
    let hello = message(kind::HELLO, Some(ArrivalCursor::new(epoch, start)), &hello);
    // Boxed: it passes a future for each message.
    let outlet = Box::new(Outlet {
        follower,
        queue: VecDeque::from([hello]),
        ended: false,
        quiet_since: Instant::now(),
        alarm: Box::pin(sleep(shared.limits.stream_keep_alive)),
        ends: ends(&shared, &sender),
        lease: shared.lease(&sender),
        sender,
        shared,
        messages: ::metrics::counter!(metrics::STREAM_MESSAGES),
        _slot: slot,
        _counted: Counted::new(metrics::STREAMS),
    });
    let messages = stream::unfold(outlet, async |mut outlet| {
        let message = outlet.next().await?;
        Some((Ok::<_, Infallible>(message), outlet))
    });
    let mut response = Response::new(Body::from_stream(messages));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Unbuffered);
    Ok(response)
}

/// Returns the `Last-Event-ID` of a request; empty without one.
fn last_event_id(headers: &HeaderMap) -> Result<&str, Rejection> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else {
        return Ok("");
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(text),
        _ => Err(Rejection::InvalidCursor),
    }
}

/// Returns the position of the ledger, the start of the stream, and the reason for this start.
async fn begin(
    ledger: Arc<dyn Ledger>,
    cursor: Option<ArrivalCursor>,
    since: Option<UnixNanos>,
) -> Result<(i64, i64, StreamStart), LedgerError> {
    let position = ledger.position().await?;
    let replaced = match cursor {
        // A position beyond this ledger's belongs to a ledger that was lost or restored from a backup.
        Some(cursor) if cursor.epoch == ledger.feed().epoch() && cursor.seq <= position => {
            return Ok((position, cursor.seq, StreamStart::Cursor));
        }
        Some(_) => true,
        None => false,
    };
    let (start, reason) = match since {
        Some(since) if replaced => (ledger.position_before(since).await?, StreamStart::ReplacedSince),
        Some(since) => (ledger.position_before(since).await?, StreamStart::Since),
        None if replaced => (0, StreamStart::ReplacedOldest),
        None => (position, StreamStart::Now),
    };
    Ok((position, start, reason))
}

/// Returns the next message of a peer's follower. Reads of the ledger take turns with other costly reads.
async fn followed(
    follower: &mut Follower,
    shared: &Shared,
    sender: &VerifiedSender,
) -> Result<Followed, LedgerError> {
    if !follower.is_behind() {
        return follower.next().await;
    }
    let turn = shared.reads.turn(Source::Peer(*sender.key())).await;
    follower.next_holding(turn).await
}

/// Returns the position of the ledger, for a reader that fell behind.
async fn lagged(shared: &Shared) -> Result<i64, LedgerError> {
    ::metrics::counter!(metrics::STREAM_LAGS).increment(1);
    shared.ledger.position().await
}

fn message(kind: &str, id: Option<ArrivalCursor>, data: &impl serde::Serialize) -> Bytes {
    let mut message = Sse::default().event(kind).data(go_json::to_string(data));
    message.id = id.map(|id| id.to_string());
    message.encode().expect("neither type nor id has a line break")
}

/// An event that ends a stream from outside.
enum End {
    Stopping,
    KeyReplaced,
}

fn ends(shared: &Shared, sender: &VerifiedSender) -> FuturesUnordered<BoxFuture<'static, End>> {
    let ends = FuturesUnordered::<BoxFuture<'static, End>>::new();
    let stopping = shared.background.stopping.clone().cancelled_owned();
    ends.push(Box::pin(stopping.map(|()| End::Stopping)));
    if let Some(mut lease) = shared.lease(sender) {
        ends.push(Box::pin(async move {
            lease.ended().await;
            End::KeyReplaced
        }));
    }
    ends
}

/// The messages of one stream. It is polled only when the connection can take more, so a slow peer delays only itself.
struct Outlet {
    follower: Follower,
    queue: VecDeque<Bytes>,
    ended: bool,
    quiet_since: Instant,
    /// Fires at the time of a ping or later, and is reset only then: most events come earlier.
    alarm: Pin<Box<Sleep>>,
    /// Each is polled only when it was woken itself, not for every event, where all streams would contend for it.
    ends: FuturesUnordered<BoxFuture<'static, End>>,
    sender: VerifiedSender,
    shared: Arc<Shared>,
    /// The stream ends with the key on which it was opened.
    lease: Option<KeyLease>,
    messages: ::metrics::Counter,
    _slot: Share<NaraName>,
    _counted: Counted,
}

impl Outlet {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.lease.as_ref().is_some_and(|lease| !lease.is_valid()) {
                return None;
            }
            if let Some(message) = self.queue.pop_front() {
                self.quiet_since = Instant::now();
                self.messages.increment(1);
                return Some(message);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                Some(end) = self.ends.next() => match end {
                    End::Stopping => self.bye("the server is shutting down"),
                    End::KeyReplaced => return None,
                },
                followed = followed(&mut self.follower, &self.shared, &self.sender) => self.take(followed).await,
                () = self.alarm.as_mut() => {
                    let keep_alive = self.shared.limits.stream_keep_alive;
                    if self.quiet_since.elapsed() >= keep_alive {
                        // Events that another process stored are not in the feed. The ping follows after the lookup.
                        self.follower.look();
                        self.quiet_since = Instant::now();
                    }
                    self.alarm.as_mut().reset(self.quiet_since + keep_alive);
                }
            }
        }
    }

    async fn take(&mut self, followed: Result<Followed, LedgerError>) {
        match followed {
            Ok(Followed::Events(arrivals)) => {
                let epoch = self.follower.cursor().epoch;
                for arrival in arrivals {
                    let message = arrival.message(epoch);
                    if message.len() > MAX_STREAM_MESSAGE {
                        warn_seldom!(
                            event = arrival.event.id,
                            "event too large for a stream: peers must fetch it by page"
                        );
                        continue;
                    }
                    self.queue.push_back(message);
                }
            }
            Ok(Followed::CaughtUp) => {
                let cursor = self.follower.cursor();
                let position = cursor.seq;
                // It still reads, so it is alive.
                self.shared.registry.showed_life(self.sender.name());
                let ping = message(kind::PING, Some(cursor), &Heartbeat { position });
                self.queue.push_back(ping);
            }
            Ok(Followed::Lagged) => match lagged(&self.shared).await {
                Ok(position) => {
                    tracing::debug!(peer = %self.sender.name(), "a stream lags");
                    let cursor = self.follower.cursor();
                    let lagged = message(kind::LAGGED, Some(cursor), &Lag { position });
                    self.queue.push_back(lagged);
                }
                Err(error) => self.fail(&error),
            },
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &LedgerError) {
        error_seldom!(%error, "the ledger failed while serving a stream");
        self.bye("the ledger is unavailable");
    }

    fn bye(&mut self, reason: &str) {
        let reason = reason.to_owned();
        let cursor = self.follower.cursor();
        let bye = message(kind::BYE, Some(cursor), &Bye { reason });
        self.queue.push_back(bye);
        self.ended = true;
    }
}
