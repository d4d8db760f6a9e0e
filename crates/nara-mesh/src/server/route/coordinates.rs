use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use nara_proto::peer::CoordinatesResponse;

use crate::server::answer::json::{JSON_UTF8, json};
use crate::server::route::state::Shared;

/// `/coordinates`, any method (docs/protocol/v1.md, section 7.2).
pub(super) async fn handle(State(shared): State<Arc<Shared>>) -> Response {
    let own = || shared.registry.coordinates();
    let answer = CoordinatesResponse {
        coordinates: Some(Box::new(shared.coordinates.clone().unwrap_or_else(own))),
        name: shared.local.name().as_str().to_owned(),
    };
    json(StatusCode::OK, JSON_UTF8, &answer)
}
