//! Opens a stream: the request, and the `hello` that authenticates the server.

use http::HeaderName;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use nara_proto::endpoint::{Endpoint as _, EventsStream};
use nara_proto::identity::{NaraName, PublicKey, Signature};
use nara_proto::stream::{ArrivalCursor, Hello, HelloError, StreamMessage, StreamOpening, StreamRequest};
use tokio::time::{Instant, timeout_at};

use super::error::StreamProblem;
use super::frames::{FrameError, Frames};
use crate::client::error::{ClientError, Problem, Stage};
use crate::client::handle::PeerHandle;
use crate::client::pool::Lease;
use crate::client::reply::OpenReply;
use crate::client::request::Outgoing;
use crate::client::resolve::Route;
use crate::client::sign::SentSignatures;
use crate::client::verifier::{AnswerVerifier, check_responder};
use crate::registry::KeyLease;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// An open stream with a known server.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) frames: Frames,
    pub(super) _connection: Lease,
    pub(super) hello: Hello,
    pub(super) server: NaraName,
    /// The pinned key with which the server authenticated; `None` if verification is disabled.
    pub(super) lease: Option<KeyLease>,
    /// The `retry:` of the `hello`, in milliseconds.
    pub(super) retry: Option<u64>,
}

/// The reason why a stream could not be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    Call(ClientError),
    Frame(FrameError),
}

impl From<ClientError> for OpenError {
    fn from(error: ClientError) -> Self {
        Self::Call(error)
    }
}

impl PeerHandle {
    /// Opens a stream that starts after `cursor`.
    pub(super) async fn open_stream(
        &self,
        request: &StreamRequest,
        cursor: Option<ArrivalCursor>,
    ) -> Result<Opened, OpenError> {
        let deadline = self.deadline();
        let mut route = self.exchange.route(&self.peer)?;
        let outgoing = Outgoing::new::<EventsStream>(request);
        let mut outgoing = outgoing.map_err(|problem| ClientError::new(&route, problem))?;
        outgoing.needs_signature = true;
        let last_event_id = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
        if let Ok(value) = HeaderValue::try_from(&last_event_id)
            && cursor.is_some()
        {
            outgoing.headers.insert(LAST_EVENT_ID, value);
        }
        let answer = self.exchange.open(&mut route, &outgoing, deadline).await;
        let fail = |problem| OpenError::Call(ClientError::new(&route, problem));
        let answer = answer.map_err(fail)?;
        let OpenReply {
            head,
            body,
            lease,
            address,
            ..
        } = answer;
        let (headers, sent) = (head.headers, head.sent);
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if !is_event_stream(content_type) {
            let content_type = String::from_utf8_lossy(content_type).into_owned();
            return Err(problem(StreamProblem::ContentType(content_type)));
        }

        let mut frames = Frames::new(body);
        let first = timeout_at(deadline, frames.next())
            .await
            .map_err(|_| fail(Problem::Timeout(Stage::Answer)))?
            .map_err(OpenError::Frame)?;
        let data = first.data.as_deref().unwrap_or_default();
        let message = StreamMessage::decode(first.event.as_deref(), first.id.as_deref(), data);
        let hello = match message {
            Ok(StreamMessage::Hello(hello)) => *hello,
            Ok(_) => return Err(problem(StreamProblem::NoHello)),
            Err(error) => return Err(problem(StreamProblem::Message(error))),
        };
        let query = EventsStream::query(request).unwrap_or_default();
        let opening = StreamOpening {
            request_signature: "",
            query: &query,
            last_event_id: &last_event_id,
        };
        let (server, key) = verify_hello(&self.exchange.verifier, &route, &hello, opening, &sent, deadline)
            .await
            .map_err(fail)?;
        let registry = &self.exchange.registry;
        if key.is_some()
            && let Some(peer) = registry.by_name(server.as_str())
        {
            registry.seen_at(&peer, address.ip());
        }
        Ok(Opened {
            frames,
            _connection: lease,
            hello,
            lease: key.map(|key| registry.lease(&server, &key)),
            server,
            retry: first.retry,
        })
    }
}

/// Verifies the server of a `hello`, and that it is for this request.
async fn verify_hello(
    verifier: &AnswerVerifier,
    route: &Route,
    hello: &Hello,
    opening: StreamOpening<'_>,
    sent: &SentSignatures,
    deadline: Instant,
) -> Result<(NaraName, Option<PublicKey>), Problem> {
    let server = hello.check().map_err(Problem::Hello)?;
    if verifier.accept_unverified {
        return Ok((server, None));
    }
    check_responder(route, &server)?;
    verifier.check_trusted(&server, &route.peer)?;
    if let Some(expected) = &route.expected.id
        && expected.as_str() != hello.id
    {
        return Err(Problem::Hello(HelloError::Id));
    }
    let asking = timeout_at(deadline, verifier.responder(route, &server, deadline)).await;
    let responder = asking.map_err(|_| Problem::Timeout(Stage::Verify))??;
    let verify = |signature: Option<Signature>| {
        let request_signature = signature.ok_or(HelloError::Signature)?.to_base64();
        let opening = StreamOpening {
            request_signature: &request_signature,
            ..opening
        };
        hello.verify(opening, &responder.pinned.key)
    };
    // A server that speaks v2 answers the v2 signature.
    let by_v2 = verify(sent.v2).is_ok();
    if !by_v2 {
        if let Err(error) = verify(sent.v1) {
            if matches!(error, HelloError::Signature) && !responder.is_new {
                let looking = verifier.look_for_conflict(route, &server, deadline);
                timeout_at(deadline, looking).await.unwrap_or(Ok(()))?;
            }
            return Err(Problem::Hello(error));
        }
        // If the request had both signatures, a `hello` for v1 comes from a server that does not speak v2.
        verifier.check_downgrade(&server, sent.v2.is_some())?;
    }
    let key = responder.pinned.key;
    verifier.settle(route, responder, by_v2)?;
    verifier.registry.own_key_accepted(&route.peer, true);
    Ok((server, Some(key)))
}

fn problem(problem: StreamProblem) -> OpenError {
    OpenError::Frame(FrameError::Problem(problem))
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let essence = content_type
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}
