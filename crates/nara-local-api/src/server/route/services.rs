use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::model::{Lease, Service, ServiceList};
use crate::server::extract::{Body, Path};
use crate::server::leases::Leases;
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

fn leases(shared: &Shared) -> Result<&Leases, Problem> {
    shared
        .leases
        .as_ref()
        .ok_or_else(|| Problem::not_offered("services"))
}

/// Local programs that peers can reach: until their leases end, or for as long as the nara runs (`serve
/// --expose`)
#[utoipa::path(
    get,
    path = "/v1/services",
    tag = "services",
    responses((status = 200, body = ServiceList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<ServiceList> {
    Ok(Json(leases(&shared)?.list()))
}

/// Forward verified requests of peers below a prefix to a local program, until its lease ends
///
/// The headers `X-Nara-Sender`, `X-Nara-Sender-Id`, `X-Nara-Sender-Key` and `X-Nara-Coverage` tell the
/// program who sent a request and what its signature proves. Repeating the request renews the lease.
#[utoipa::path(
    put,
    path = "/v1/services/{prefix}",
    tag = "services",
    params(("prefix" = String, Path, description = "The prefix without its first `/`, such as `notes` or `team/notes`")),
    request_body = Lease,
    responses((status = 200, body = Service), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(prefix): Path<String>,
    Body(lease): Body<Lease>,
) -> Answer<Service> {
    leases(&shared)?.put(&format!("/{prefix}"), &lease).map(Json)
}

/// End the lease of a local program; a program of the settings has no lease and stays (`service_is_set`)
#[utoipa::path(
    delete,
    path = "/v1/services/{prefix}",
    tag = "services",
    params(("prefix" = String, Path, description = "The prefix without its first `/`")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(prefix): Path<String>,
) -> Result<StatusCode, Problem> {
    if leases(&shared)?.remove(&format!("/{prefix}"))? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = format!("no program is exposed at /{prefix}");
    Err(Problem::new(
        "no_such_service",
        StatusCode::NOT_FOUND,
        ProblemClass::Usage,
        detail,
    ))
}
