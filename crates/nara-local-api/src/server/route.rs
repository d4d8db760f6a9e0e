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
use axum::routing::{MethodFilter, any, get, on};
use http::{StatusCode, header};
use pastey::paste;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::openapi::{HttpMethod, OpenApi};
use utoipa::{OpenApi as _, Path as _};

use super::rights::{Rights, require};
use super::state::Shared;
use crate::{Problem, ProblemClass};

/// The largest JSON body, in bytes.
const MAX_BODY: usize = 1 << 20;

/// How long a caller may take for the next bytes of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The OpenAPI document of the API, which a test generates.
const DOCUMENT: &str = include_str!("../../../../docs/local-api.json");

/// Declares the endpoints, and the function with the routes of each right. Only a test uses the description, so the
/// linker drops the generator, about 0.7 MB.
macro_rules! endpoints {
    ($($routes:ident: $($topic:ident::$handler:ident),+;)+) => {
        #[derive(utoipa::OpenApi)]
        #[openapi(
            info(
                title = "nara-mesh: the local API of a running nara",
                version = "1",
                description = "HTTP/1.1 on a unix socket, and with bearer tokens on loopback. Errors are problems of RFC 9457 (`application/problem+json`)."
            ),
            paths(proxy::proxy, $($($topic::$handler),+),+),
            components(schemas(Problem))
        )]
        struct Described;

        $(
            fn $routes() -> Router<Arc<Shared>> {
                Router::new()
                    $(.route(
                        &paste!($topic::[<__path_ $handler>]::path()),
                        on(method_of(&paste!($topic::[<__path_ $handler>]::methods())), $topic::$handler),
                    ))+
            }
        )+
    };
}

endpoints! {
    read:
        status::status, status::metrics,
        peers::list, peers::watch, peers::ping, peers::query, peers::one,
        events::page, events::live, events::summary,
        postcards::list, postcards::one,
        stash::list,
        inbox::page, inbox::live,
        admin::clock, admin::coordinates, admin::doctor,
        services::list,
        web::history, web::conflicts;
    messages:
        events::publish,
        messages::dm, messages::zine, messages::runtime,
        postcards::send,
        stash::put, stash::get,
        inbox::acknowledge,
        outbox::list, outbox::live, outbox::one, outbox::remove,
        transfers::list, transfers::cancel,
        transfer::sync, transfer::reconcile, transfer::check, transfer::checkpoints, transfer::live;
    all:
        peers::trust, peers::ban, peers::forget, peers::prune,
        services::put, services::remove,
        stash::forget,
        web::dashboard, web::tokens, web::make_token, web::revoke_token,
        admin::reload, admin::shutdown;
}

/// Returns the filter for the methods of an endpoint.
fn method_of(methods: &[HttpMethod]) -> MethodFilter {
    let filter = |method: &HttpMethod| match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    };
    let filters = methods.iter().map(filter).reduce(MethodFilter::or);
    filters.expect("an endpoint has a method")
}

/// Returns all routes.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    let proxy = || any(proxy::proxy);
    let messages = messages()
        .route("/v1/peers/{peer}/http", proxy())
        .route("/v1/peers/{peer}/http/", proxy())
        .route("/v1/peers/{peer}/http/{*path}", proxy());
    read()
        .route_layer(from_fn_with_state(Rights::Read, require))
        .merge(messages.route_layer(from_fn_with_state(Rights::Messages, require)))
        .merge(all().route_layer(from_fn_with_state(Rights::All, require)))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/v1/openapi.json", get(document))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
        .with_state(shared)
}

/// Generates the OpenAPI document.
pub(super) fn described() -> OpenApi {
    Described::openapi()
}

async fn document() -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    (json, DOCUMENT).into_response()
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
