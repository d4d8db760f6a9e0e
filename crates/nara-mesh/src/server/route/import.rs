use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use nara_proto::endpoint::{Endpoint as _, EventsImport};
use nara_proto::import::{ImportRequest, ImportResponse};

use crate::seldom::warn_seldom;
use crate::server::answer::json::{JSON, json};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::PeerAddress;
use crate::server::limits::body_bytes::Source;
use crate::server::route::body::{parse_json, read};
use crate::server::route::ingest::ingest;
use crate::server::route::state::Shared;

/// `POST /api/events/import` (docs/protocol/v1.md, section 7.10). Its errors are JSON.
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    PeerAddress(address): PeerAddress,
    body: Body,
) -> Result<Response, Rejection> {
    let source = address.ip().to_canonical();
    let allowance = shared.body_bytes.allowance(Source::Address(source));
    let body = Body::new(allowance.clone().watch(body));
    let body = read(body, EventsImport::MAX_REQUEST, &shared.limits).await?;
    // Only after the body has arrived: a sender with a slow body must not keep out the owner.
    let place = shared.imports.take(&source);
    let _place = place.map_err(|_| Rejection::Busy("imports"))?;
    let request: ImportRequest = match parse_json(body).await {
        Ok(request) => request,
        Err(rejection) => return Ok(refusal(StatusCode::BAD_REQUEST, rejection.to_string())),
    };
    if let Err(error) = request.verify(&shared.local.public_key(), shared.clock.now_millis()) {
        warn_seldom!(%address, %error, "import refused");
        let error = format!("Authentication failed: {error}");
        return Ok(refusal(StatusCode::FORBIDDEN, error));
    }

    let events = request.events.unwrap_or_default();
    let sent = events.len();
    let ingested = ingest(&shared, events, None).await?;
    tracing::info!(%address, sent, stored = ingested.stored, warnings = ingested.warnings, "import");
    let answer = ImportResponse {
        success: true,
        imported: count(ingested.stored),
        duplicates: count(sent - ingested.stored),
        refused: count(sent - ingested.accepted.len()),
        warnings: count(ingested.warnings),
        error: String::new(),
    };
    Ok(json(StatusCode::OK, JSON, &answer))
}

fn refusal(status: StatusCode, error: String) -> Response {
    let answer = ImportResponse {
        error,
        ..ImportResponse::default()
    };
    json(status, JSON, &answer)
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
