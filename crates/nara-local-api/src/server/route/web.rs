use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;

use crate::model::{ConflictList, DashboardLink, History, MadeToken, NewToken, TokenList};
use crate::server::extract::{Body, Path};
use crate::server::state::{Answer, Shared};
use crate::server::web::{TokenError, Web};
use crate::{Problem, ProblemClass};

/// Samples of the last hour
#[utoipa::path(
    get,
    path = "/v1/history",
    tag = "nara",
    responses((status = 200, body = History), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn history(State(shared): State<Arc<Shared>>) -> Json<History> {
    Json(shared.samples.history())
}

/// Key conflicts and other warnings about peers, since the start of the nara
#[utoipa::path(
    get,
    path = "/v1/conflicts",
    tag = "trust",
    responses((status = 200, body = ConflictList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn conflicts(State(shared): State<Arc<Shared>>) -> Json<ConflictList> {
    Json(shared.conflicts.with_keys(shared.nara.registry()))
}

/// An address of the page, with a token that is valid once
#[utoipa::path(
    post,
    path = "/v1/dashboard",
    tag = "access",
    responses((status = 200, body = DashboardLink), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn dashboard(State(shared): State<Arc<Shared>>) -> Answer<DashboardLink> {
    let link = web(&shared)?.invite().await.map_err(|error| {
        let (status, class) = (StatusCode::INTERNAL_SERVER_ERROR, ProblemClass::Failed);
        let detail = "the page cannot listen on a loopback address";
        Problem::new("listen", status, class, detail).caused_by(&error)
    })?;
    Ok(Json(link))
}

/// The tokens for loopback, without their secrets
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "access",
    responses((status = 200, body = TokenList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn tokens(State(shared): State<Arc<Shared>>) -> Answer<TokenList> {
    let web = web(&shared)?;
    Ok(Json(TokenList {
        tokens: web.tokens.list(),
        addresses: web.addresses().iter().map(ToString::to_string).collect(),
    }))
}

/// Create a token for loopback
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "access",
    request_body = NewToken,
    responses((status = 200, body = MadeToken), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn make_token(
    State(shared): State<Arc<Shared>>,
    Body(wanted): Body<NewToken>,
) -> Answer<MadeToken> {
    let web = web(&shared)?;
    let made = web.tokens.make(wanted, web.now()).map_err(|error| match error {
        TokenError::Storage(error) => error.into(),
        TokenError::Name => Problem::invalid(&error),
        TokenError::Taken(_) => {
            conflict("token_exists", &error).hint("choose another name, or revoke it first")
        }
        TokenError::TooMany => conflict("too_many_tokens", &error).hint("revoke unused tokens"),
    })?;
    Ok(Json(made))
}

/// Revoke a token; the one in `api.token` is replaced
#[utoipa::path(
    delete,
    path = "/v1/tokens/{name}",
    tag = "access",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn revoke_token(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Problem> {
    if web(&shared)?.tokens.revoke(&name)? {
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = format!("there is no token {name:?}");
    let problem = Problem::new(
        "unknown_token",
        StatusCode::NOT_FOUND,
        ProblemClass::Usage,
        detail,
    );
    Err(problem.hint("`nara-mesh token list` lists them (GET /v1/tokens)"))
}

fn web(shared: &Shared) -> Result<&Web, Problem> {
    let web = shared.web.as_deref();
    web.ok_or_else(|| Problem::not_offered("tokens: their folder is missing or cannot be used"))
}

fn conflict(name: &str, error: &TokenError) -> Problem {
    Problem::new(name, StatusCode::CONFLICT, ProblemClass::Usage, error)
}
