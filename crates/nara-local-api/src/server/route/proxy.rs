//! Sends signed requests of any kind to peers, and returns their verified answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use nara_mesh::Coverage;
use nara_mesh::client::{BodyProof, PeerHandle, Verification};
use nara_proto::forwarding;
use nara_proto::identity::NaraName;
use percent_encoding::percent_decode_str;
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::server::bodies::{LARGEST, PATIENCE, SMALL};
use crate::server::extract::{LONGEST_CALL, call_limit};
use crate::server::rights::Caller;
use crate::server::state::Shared;
use crate::{Problem, ProblemClass};

/// Requests a body that is streamed, instead of one that is first verified as a whole.
const STREAM: &str = "x-nara-stream";

/// Time limit of the call, in milliseconds, 10 minutes at most.
const TIMEOUT: &str = "x-nara-timeout-ms";

/// Send a signed request of any kind to a peer, and get its verified answer
///
/// Forwards the method, the path behind `/http`, the query, the headers and the body, and returns status,
/// headers and body of the answer. Connection headers and the headers of signatures are removed in both
/// directions. The answer says what is proven: `X-Nara-Responder` (percent-encoded), `X-Nara-Responder-Key`,
/// `X-Nara-Key-Source`, `X-Nara-Signed-At` (Unix milliseconds), `X-Nara-Bound` and `X-Nara-Channel` (`?1` or
/// `?0`), `X-Nara-Body-Proof` (`none`, `head-only`, `at-end`, `channel`, `whole`) and `X-Nara-Coverage` (what
/// of the request the peer could verify: `none`, `method-and-path`, `head`, `whole`, `channel`). A problem of
/// this API has none of these headers.
///
/// The answer is verified before any of it is returned, unless the header `X-Nara-Stream: ?1` requests a
/// stream: then its body is streamed, and breaks off if its end shows that it was altered.
/// `X-Nara-Timeout-Ms` limits the call; if the request body is streamed, each piece restarts the limit, and
/// the answer has to begin within 10 minutes.
#[utoipa::path(
    method(get, post, put, patch, delete, head, options),
    path = "/v1/peers/{peer}/http/{path}",
    operation_id = "request",
    tag = "channel",
    params(
        ("peer" = String, Path, description = "Its name, id or address"),
        ("path" = String, Path, description = "The path at the peer, without its first `/`")
    ),
    responses(
        (status = "default", description = "The answer of the peer; or a problem, without headers X-Nara-*", body = Problem,
            content_type = "application/problem+json")
    )
)]
pub(super) async fn proxy(
    Extension(caller): Extension<Caller>,
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Response {
    try_proxy(&shared, &caller, request)
        .await
        .unwrap_or_else(|problem| problem.into_response())
}

async fn try_proxy(shared: &Shared, caller: &Caller, request: Request) -> Result<Response, Problem> {
    let (mut parts, body) = request.into_parts();
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Problem::invalid(format!(
            "the method {} is not forwarded",
            parts.method
        )));
    }
    let (peer, target) = target(&parts.uri)?;
    let is_stream = parts.headers.get(STREAM).is_some_and(|value| value == "?1");
    let limit = call_timeout(&parts.headers)?;
    let handle = shared.peer(&peer, limit)?.with_body_limits(LARGEST, LARGEST);
    clean(&mut parts.headers);
    let mut outgoing = http::Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = target;
    *outgoing.headers_mut() = parts.headers;
    let length = outgoing.body().size_hint().exact();
    // A streamed body takes a permit instead: its sender determines how long it takes.
    let is_held = !is_stream || length.is_some_and(|length| length <= SMALL);
    let (_reserved, _place) = if is_held {
        (shared.bodies.reserve(length).await?, None)
    } else {
        let place = shared.uploads.wait(caller, PATIENCE).await;
        (None, Some(place.ok_or_else(|| too_many(shared, caller))?))
    };
    if is_stream {
        return in_time(streamed(handle, outgoing)).await;
    }
    let (answer, verification) = handle.request(outgoing).await?.into_parts();
    Ok(proven(answer.map(Body::from), &verification))
}

fn too_many(shared: &Shared, caller: &Caller) -> Problem {
    let (status, class) = (StatusCode::SERVICE_UNAVAILABLE, ProblemClass::Failed);
    let detail = shared.uploads.full(caller, "bodies that are streamed to peers");
    let problem = Problem::new("too_many_uploads", status, class, detail);
    problem.hint("try again once other programs are done, or without X-Nara-Stream")
}

/// Limits the time until the head of an answer. Each piece of a request body restarts the time limit of the
/// call.
async fn in_time(answer: impl Future<Output = Result<Response, Problem>>) -> Result<Response, Problem> {
    timeout(LONGEST_CALL, answer).await.unwrap_or_else(|_| {
        let (status, class) = (StatusCode::GATEWAY_TIMEOUT, ProblemClass::Failed);
        let minutes = LONGEST_CALL.as_secs() / 60;
        let detail =
            format!("the request was not complete, or the peer did not answer, within {minutes} minutes");
        let problem = Problem::new("upload_timeout", status, class, detail);
        Err(problem.hint("send the body in several requests"))
    })
}

async fn streamed(handle: PeerHandle, request: http::Request<Body>) -> Result<Response, Problem> {
    let mut answer = handle.service().oneshot(request).await?;
    let verification = answer
        .extensions_mut()
        .remove::<Verification>()
        .unwrap_or_default();
    Ok(proven(answer.map(Body::new), &verification))
}

/// Returns the peer that a path names, and the target at the peer.
fn target(uri: &Uri) -> Result<(String, Uri), Problem> {
    // The raw path: percent-encoding is preserved.
    let path = uri.path().strip_prefix("/v1/peers/").unwrap_or_default();
    let (peer, rest) = path.split_once('/').unwrap_or((path, ""));
    let rest = rest.strip_prefix("http").unwrap_or_default();
    if forwarding::is_ambiguous_path(rest) {
        let problem = Problem::invalid("the path has a segment `.` or `..`, or an encoded slash");
        return Err(problem.hint("write the path without them"));
    }
    let slash = if rest.is_empty() { "/" } else { "" };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = PathAndQuery::try_from(format!("{slash}{rest}{query}"));
    let target = target.map_err(|error| Problem::invalid(format!("the path is malformed: {error}")))?;
    let peer = percent_decode_str(peer).decode_utf8();
    let peer = peer.map_err(|_| Problem::invalid("the name of the peer is not UTF-8"))?;
    Ok((peer.into_owned(), Uri::from(target)))
}

fn call_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Problem> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let millis = value.to_str().ok().and_then(|text| text.parse::<u32>().ok());
    let millis =
        millis.ok_or_else(|| Problem::invalid(format!("{TIMEOUT}: not a number of milliseconds")))?;
    Ok(Some(call_limit(millis)))
}

/// Removes headers about the caller's connection, and those that only the channel sets.
fn clean(headers: &mut HeaderMap) {
    forwarding::remove_headers(headers, |name| {
        forwarding::is_channel_header(name) || matches!(*name, header::CONTENT_LENGTH | header::HOST)
    });
}

/// Adds to the answer of a peer what is proven about it.
fn proven(mut answer: http::Response<Body>, verification: &Verification) -> Response {
    let headers = answer.headers_mut();
    clean_answer(headers);
    let flag = |is: bool| if is { "?1" } else { "?0" }.to_owned();
    let name = |name: &NaraName| forwarding::header_text(name.as_str());
    let coverage = verification.request.map_or("none", Coverage::as_str);
    let told = [
        ("x-nara-responder", verification.responder.as_ref().map(name)),
        (
            "x-nara-responder-key",
            verification.key.as_ref().map(ToString::to_string),
        ),
        (
            "x-nara-key-source",
            verification.key_source.as_ref().map(ToString::to_string),
        ),
        (
            "x-nara-signed-at",
            verification.signed_at.map(|at| at.get().to_string()),
        ),
        ("x-nara-bound", Some(flag(verification.bound))),
        ("x-nara-channel", Some(flag(verification.channel))),
        (
            "x-nara-body-proof",
            Some(body_proof(verification.body).to_owned()),
        ),
        ("x-nara-coverage", Some(coverage.to_owned())),
    ];
    for (name, value) in told {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    answer
}

/// Removes connection headers of an answer, but keeps the body length, which a HEAD request asks for.
fn clean_answer(headers: &mut HeaderMap) {
    let length = headers.remove(header::CONTENT_LENGTH);
    clean(headers);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

const fn body_proof(proof: BodyProof) -> &'static str {
    match proof {
        BodyProof::HeadOnly => "head-only",
        BodyProof::AtEnd => "at-end",
        BodyProof::Channel => "channel",
        BodyProof::Whole => "whole",
        _ => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_streamed_request_has_so_much_time_however_slowly_it_goes_on() {
        let begun = tokio::time::Instant::now();
        let refused = in_time(std::future::pending()).await.unwrap_err();
        assert_eq!((refused.name(), refused.status), ("upload_timeout", 504));
        assert_eq!(begun.elapsed(), LONGEST_CALL);
    }

    #[test]
    fn the_target_is_what_stands_behind_http() {
        for (path, peer, expected) in [
            ("/v1/peers/bob/http/notes/1?x=%2F", "bob", "/notes/1?x=%2F"),
            ("/v1/peers/b%20b/http/a%20b", "b b", "/a%20b"),
            ("/v1/peers/bob/http", "bob", "/"),
            ("/v1/peers/bob/http?x", "bob", "/?x"),
            ("/v1/peers/bob/http/", "bob", "/"),
            ("/v1/peers/bob/http//a", "bob", "//a"),
        ] {
            let (named, target) = target(&path.parse().unwrap()).unwrap();
            assert_eq!((&*named, target.to_string().as_str()), (peer, expected), "{path}");
        }
        for path in [
            "/..",
            "/a/../b",
            "/%2e%2e/b",
            "/.%2E",
            "/a%2f..",
            "/a%5c..",
            "/./a",
            "/a%00",
        ] {
            let uri = format!("/v1/peers/bob/http{path}").parse().unwrap();
            assert_eq!(target(&uri).unwrap_err().name(), "invalid_request", "{path}");
        }
    }
}
