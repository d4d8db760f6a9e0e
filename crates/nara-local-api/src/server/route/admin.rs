use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::Problem;
use crate::model::{Check, Reloaded};
use crate::server::state::{Answer, Shared};

/// Look for what keeps the nara from talking to others
#[utoipa::path(
    get,
    path = "/v1/doctor",
    tag = "nara",
    responses((status = 200, body = Vec<Check>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn doctor(State(shared): State<Arc<Shared>>) -> Answer<Vec<Check>> {
    let checks = shared.host.doctor().await;
    checks.map(Json).ok_or_else(|| Problem::not_offered("doctor"))
}

/// Read configuration, peers and decisions again, and apply them
#[utoipa::path(
    post,
    path = "/v1/reload",
    tag = "nara",
    responses((status = 200, body = Reloaded), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn reload(State(shared): State<Arc<Shared>>) -> Answer<Reloaded> {
    shared.reload().await.map(Json)
}

/// End the nara, as a SIGTERM does
#[utoipa::path(
    post,
    path = "/v1/shutdown",
    tag = "nara",
    responses((status = 202), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn shutdown(State(shared): State<Arc<Shared>>) -> Result<StatusCode, Problem> {
    if shared.host.end() {
        Ok(StatusCode::ACCEPTED)
    } else {
        Err(Problem::not_offered("shutdown"))
    }
}
