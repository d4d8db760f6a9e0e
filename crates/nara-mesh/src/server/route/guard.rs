//! The guard of application routes: bounds for bodies, answers and time.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderMap;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use nara_proto::forwarding::is_identity_header;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutBody;

use crate::Coverage;
use crate::metrics::{self, Counted};
use crate::seldom::error_seldom;
use crate::server::answer::rejection::Rejection;
use crate::server::answer::streamed::{Streamed, ended, until_ended};
use crate::server::auth::request_proof::RequestProof;
use crate::server::auth::sender::{PeerAddress, VerifiedSender};
use crate::server::auth::verify::StreamedRequest;
use crate::server::limits::quota::Exceeded;
use crate::server::route::body::read;
use crate::server::route::state::Shared;

/// Reads the body of a request before its handler runs, unless it is a stream on a trusted connection; limits the time
/// of the handler, and ends it with the key of its sender; buffers the answer, unless it may be streamed.
pub(super) async fn guard(shared: &Shared, request: Request, next: Next) -> Response {
    let sender = request.extensions().get::<VerifiedSender>();
    let mut lease = sender.and_then(|sender| shared.lease(sender));
    let guarded = tokio::select! {
        // A handler that reads its body sees the end there, and may still clean up.
        biased;
        guarded = guarded(shared, request, next) => guarded,
        // The handler ends with the key: its answer would go to the holder of a revoked key.
        () = ended(lease.as_mut()) => Err(Rejection::KeyReplaced),
    };
    guarded.unwrap_or_else(|rejection| rejection.into_response())
}

async fn guarded(shared: &Shared, request: Request, next: Next) -> Result<Response, Rejection> {
    let limits = &shared.limits;
    let (mut parts, body) = request.into_parts();
    let proof = parts.extensions.get::<RequestProof>().cloned();
    let sender = parts.extensions.get::<VerifiedSender>().cloned();
    let lease = || sender.as_ref().and_then(|sender| shared.lease(sender));
    let stopping = || shared.background.stopping.clone();
    strip_identity(&mut parts.headers);
    let address = PeerAddress(PeerAddress::of(&parts.extensions));
    parts.extensions.insert(address);
    let body = if parts.extensions.get::<StreamedRequest>().is_some() {
        if sender.as_ref().map(VerifiedSender::coverage) != Some(Coverage::Channel) {
            return Err(Rejection::StreamedBody);
        }
        let body = Body::new(TimeoutBody::new(limits.body_progress, body));
        until_ended(body, stopping(), lease(), ())
    } else {
        Body::from(read(body, limits.route_body_bytes, limits).await?)
    };

    let deadline = Instant::now() + limits.route_time;
    let answered = timeout_at(deadline, next.run(Request::from_parts(parts, body))).await;
    let mut response = answered.map_err(|_| Rejection::HandlerTooSlow)?;

    let streamed = response.extensions().get::<Streamed>().is_some();
    let sent_as_made = match &proof {
        // It is not signed.
        None => true,
        Some(proof) => proof.wants_nothing() || (streamed && proof.accepts_stream()),
    };
    if !sent_as_made {
        response.extensions_mut().remove::<Streamed>();
        let (parts, body) = response.into_parts();
        let collected = timeout_at(deadline, collect(body, limits.route_answer_bytes)).await;
        let body = collected.map_err(|_| Rejection::HandlerTooSlow)??;
        return Ok(Response::from_parts(parts, Body::from(body)));
    }
    if !streamed {
        if response.body().size_hint().exact().is_some() {
            return Ok(response);
        }
        // It may be as long as a stream, but is completed when the server shuts down.
        return Ok(response.map(|body| until_ended(body, CancellationToken::new(), lease(), ())));
    }
    let share = sender
        .as_ref()
        .map(|sender| shared.streams.take(sender.name()))
        .transpose();
    let share = share.map_err(|exceeded| match exceeded {
        Exceeded::OfKey(limit) => Rejection::TooManyStreams(limit),
        Exceeded::All | Exceeded::Rate { .. } => Rejection::NoStreamLeft,
    })?;
    let held = (share, Counted::new(metrics::STREAMS));
    Ok(response.map(|body| until_ended(body, stopping(), lease(), held)))
}

/// Removes headers that only the verification reads. A handler that read them would trust unverified values, and so
/// would a proxied program.
fn strip_identity(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers
        .keys()
        .filter(|name| is_identity_header(name))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

async fn collect(body: Body, max: usize) -> Result<Bytes, Rejection> {
    match Limited::new(body, max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            error_seldom!(
                max,
                "the answer of a route is larger than `route_answer_bytes` and not a StreamedAnswer"
            );
            Err(Rejection::AnswerTooLarge(max))
        }
        Err(error) => {
            error_seldom!(%error, "the answer of a route failed");
            Err(Rejection::Panicked)
        }
    }
}
