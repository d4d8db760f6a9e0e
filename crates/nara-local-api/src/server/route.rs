//! The endpoints, one file per subject.
#![expect(unused_qualifications, reason = "the macros of utoipa write them")]

mod admin;
mod events;
mod inbox;
mod messages;
mod outbox;
mod peers;
mod postcards;
mod proxy;
mod services;
mod sse;
mod stash;
mod status;
mod transfer;
mod transfers;
mod web;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::rights::{Rights, require};
use super::state::Shared;
use crate::{Problem, ProblemClass};

/// The largest JSON body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How long a caller may take for the next bytes of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "nara-mesh: the local API of a running nara",
        version = "1",
        description = "HTTP/1.1 on a unix socket, and with bearer tokens on loopback. Errors are problems of RFC 9457 (`application/problem+json`)."
    ),
    paths(proxy::proxy),
    components(schemas(Problem))
)]
struct Document;

/// Returns all routes and their OpenAPI description.
pub(super) fn routes(shared: Arc<Shared>) -> (Router, OpenApi) {
    let (router, document) = described().split_for_parts();
    let json = document.to_pretty_json().unwrap_or_default();
    let router = router
        .route(
            "/v1/openapi.json",
            get(async move || {
                let json_type = HeaderValue::from_static("application/json");
                ([(header::CONTENT_TYPE, json_type)], json.clone())
            }),
        )
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
        .with_state(shared);
    (router, document)
}

/// Returns the OpenAPI description only.
pub(super) fn document() -> OpenApi {
    described().into_openapi()
}

fn described() -> OpenApiRouter<Arc<Shared>> {
    let read = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status::status))
        .routes(routes!(status::metrics))
        .routes(routes!(peers::list))
        .routes(routes!(peers::watch))
        .routes(routes!(peers::ping))
        .routes(routes!(peers::query))
        .routes(routes!(peers::one))
        .routes(routes!(events::page))
        .routes(routes!(events::live))
        .routes(routes!(events::summary))
        .routes(routes!(postcards::list))
        .routes(routes!(postcards::one))
        .routes(routes!(stash::list))
        .routes(routes!(inbox::page))
        .routes(routes!(inbox::live))
        .routes(routes!(admin::clock))
        .routes(routes!(admin::coordinates))
        .routes(routes!(admin::doctor))
        .routes(routes!(services::list))
        .routes(routes!(web::history))
        .routes(routes!(web::conflicts))
        .route_layer(from_fn_with_state(Rights::Read, require));
    let messages = OpenApiRouter::new()
        .routes(routes!(events::publish))
        .routes(routes!(messages::dm))
        .routes(routes!(messages::zine))
        .routes(routes!(postcards::send))
        .routes(routes!(messages::runtime))
        .routes(routes!(stash::put, stash::get))
        .routes(routes!(inbox::acknowledge))
        .routes(routes!(outbox::list))
        .routes(routes!(outbox::live))
        .routes(routes!(outbox::one, outbox::remove))
        .routes(routes!(transfers::list))
        .routes(routes!(transfers::cancel))
        .routes(routes!(transfer::sync))
        .routes(routes!(transfer::reconcile))
        .routes(routes!(transfer::check))
        .routes(routes!(transfer::checkpoints))
        .routes(routes!(transfer::live))
        .route("/v1/peers/{peer}/http", axum::routing::any(proxy::proxy))
        .route("/v1/peers/{peer}/http/", axum::routing::any(proxy::proxy))
        .route("/v1/peers/{peer}/http/{*path}", axum::routing::any(proxy::proxy))
        .route_layer(from_fn_with_state(Rights::Messages, require));
    let all = OpenApiRouter::new()
        .routes(routes!(peers::trust))
        .routes(routes!(peers::ban))
        .routes(routes!(peers::forget))
        .routes(routes!(peers::prune))
        .routes(routes!(services::put, services::remove))
        .routes(routes!(stash::forget))
        .routes(routes!(web::dashboard))
        .routes(routes!(web::tokens, web::make_token))
        .routes(routes!(web::revoke_token))
        .routes(routes!(admin::reload))
        .routes(routes!(admin::shutdown))
        .route_layer(from_fn_with_state(Rights::All, require));
    read.merge(messages)
        .merge(all)
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn no_such_path() -> Problem {
    let problem = Problem::new(
        "no_such_path",
        StatusCode::NOT_FOUND,
        ProblemClass::Usage,
        "the path does not exist in this API",
    );
    problem.hint("GET /v1/openapi.json lists the paths")
}

async fn no_such_method() -> Problem {
    let problem = Problem::new(
        "no_such_method",
        StatusCode::METHOD_NOT_ALLOWED,
        ProblemClass::Usage,
        "the path does not support this method",
    );
    problem.hint("GET /v1/openapi.json lists the methods")
}

#[expect(clippy::needless_pass_by_value, reason = "the layer requires this signature")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("not a text");
    tracing::error!(panic = message, "a handler of the local API panicked");
    let (status, class) = (StatusCode::INTERNAL_SERVER_ERROR, ProblemClass::Failed);
    Problem::new("internal", status, class, "a bug in nara-mesh").into_response()
}
