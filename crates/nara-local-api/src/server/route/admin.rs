use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::Problem;
use crate::model::{Check, ClockStatus, Coordinates, Reloaded};
use crate::server::state::{Answer, Shared};

/// Run the checks of the doctor
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

/// The clock of the nara, and the last time that it was set
#[utoipa::path(
    get,
    path = "/v1/clock",
    tag = "nara",
    responses((status = 200, body = ClockStatus), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn clock(State(shared): State<Arc<Shared>>) -> Answer<ClockStatus> {
    let step = shared.nara.registry().clock_step();
    Ok(Json(ClockStatus {
        now_ms: shared.nara.client().clock().now_millis().get(),
        step: step.map(Into::into),
    }))
}

/// The network coordinates of the nara
#[utoipa::path(
    get,
    path = "/v1/coordinates",
    tag = "nara",
    responses((status = 200, body = Coordinates), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn coordinates(State(shared): State<Arc<Shared>>) -> Answer<Coordinates> {
    Ok(Json(shared.nara.registry().coordinates().into()))
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

/// Shut the nara down, as SIGTERM does
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
