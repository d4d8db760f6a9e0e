use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::model::{Transfer, TransferList};
use crate::server::extract::Path;
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The transfers in progress
#[utoipa::path(
    get,
    path = "/v1/transfers",
    tag = "events",
    responses((status = 200, body = TransferList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<TransferList> {
    let transfers = shared.transfers.list();
    Json(TransferList { transfers })
}

/// Cancel a transfer: received events are stored, and its caller is notified
#[utoipa::path(
    delete,
    path = "/v1/transfers/{id}",
    tag = "events",
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = Transfer), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn cancel(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Answer<Transfer> {
    let cancelled = shared.transfers.cancel(id);
    cancelled.map(Json).ok_or_else(|| {
        let detail = format!("there is no transfer {id} in progress");
        let (status, class) = (StatusCode::NOT_FOUND, ProblemClass::Usage);
        let problem = Problem::new("unknown_transfer", status, class, detail);
        problem.hint("GET /v1/transfers lists the transfers in progress")
    })
}
