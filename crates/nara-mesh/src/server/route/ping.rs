use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use nara_proto::peer::PingResponse;

use crate::server::body::{JSON_UTF8, json};
use crate::server::shared::Shared;

/// `/ping`, any method (wire facts, section 7.1).
pub(super) async fn handle(State(shared): State<Arc<Shared>>) -> Response {
    let answer = PingResponse {
        from: shared.local.name().to_string(),
        mesh_ip: shared.mesh_ip.clone(),
        public_key: shared.local.public_key().to_base64(),
        t: shared.clock.now_nanos(),
    };
    json(StatusCode::OK, JSON_UTF8, &answer)
}
