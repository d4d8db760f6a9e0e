use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use nara_proto::peer::PingResponse;
use nara_proto::v2::CAPABILITY_HEADER;

use crate::server::answer::json::{JSON_UTF8, json};
use crate::server::route::state::Shared;

/// `/ping`, any method (docs/protocol/v1.md, section 7.1). The capabilities of this nara are in a header, since the
/// body is identical on all naras.
pub(super) async fn handle(State(shared): State<Arc<Shared>>) -> Response {
    let answer = PingResponse {
        from: shared.local.name().as_str().to_owned(),
        mesh_ip: shared.mesh_ip.borrow().clone(),
        public_key: shared.local.public_key().to_base64(),
        t: shared.clock.now_nanos(),
    };
    let mut response = json(StatusCode::OK, JSON_UTF8, &answer);
    if let Some(capability) = shared.announcement.at(answer.t.to_millis()) {
        response.headers_mut().insert(CAPABILITY_HEADER, capability);
    }
    response
}
