use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use nara_proto::peer::PeerQueryResponse;

use crate::server::answer::json::{JSON, json};
use crate::server::answer::rejection::Rejection;
use crate::server::route::state::Shared;

/// The header that names the next nara to ask.
const REDIRECT_TO: HeaderName = HeaderName::from_static("x-nara-redirect-to");

/// `GET /peer/query` (docs/protocol/v1.md, section 7.8).
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    if method != Method::GET {
        return Err(Rejection::MethodNotAllowed);
    }
    let query = query.as_deref();
    let target = query_value(query, "target").filter(|target| !target.is_empty());
    let target = target.ok_or(Rejection::TargetRequired)?;

    // A nara never answers about itself: the requester has its key already, or must not accept it from here.
    let known = shared
        .registry
        .by_name(&target)
        .filter(|_| target != *shared.local.name().as_str());
    if let Some(peer) = known
        && let Some(key) = peer.key()
    {
        let address = peer.info().address;
        let answer = PeerQueryResponse {
            target,
            public_key: key.to_base64(),
            mesh_ip: address
                .map(|address| address.ip().to_string())
                .unwrap_or_default(),
        };
        return Ok(json(StatusCode::OK, JSON, &answer));
    }

    let asked = query_value(query, "asked").unwrap_or_default();
    let asked: Vec<&str> = asked.split(',').collect();
    let online = shared.online_names();
    let next = online
        .iter()
        .find(|name| !asked.contains(&name.as_str()) && name.as_str() != target);
    let next = next.ok_or(Rejection::NotFound)?;
    // A name has no control characters, so it is a header value.
    let next = HeaderValue::from_bytes(next.as_str().as_bytes()).map_err(|_| Rejection::NotFound)?;
    Ok((StatusCode::TEMPORARY_REDIRECT, [(REDIRECT_TO, next)]).into_response())
}

/// Returns the first value of a name in a query.
pub(super) fn query_value(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}
