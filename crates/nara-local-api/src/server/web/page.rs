//! The page: its embedded files and its sessions.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::gate::{Gate, PAGE_HEADER};
use super::sessions::SESSION_LIFE;
use super::storage::StorageError;
use crate::{Problem, ProblemClass};

/// The largest body here, in bytes: a token, or an id and a nonce.
const MAX_BODY: usize = 1024;

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, text and content type of each file except the scripts.
const FILES: &[(&str, &str, &str)] = &[
    (
        "/",
        include_str!("../../../page/index.html"),
        "text/html; charset=utf-8",
    ),
    (
        "/page/style.css",
        include_str!("../../../page/style.css"),
        "text/css; charset=utf-8",
    ),
    (
        "/page/icon.svg",
        include_str!("../../../page/icon.svg"),
        "image/svg+xml",
    ),
];

/// The script modules.
const SCRIPTS: &[(&str, &str)] = &[
    ("/page/main.js", include_str!("../../../page/main.js")),
    ("/page/api.js", include_str!("../../../page/api.js")),
    ("/page/dom.js", include_str!("../../../page/dom.js")),
    ("/page/events.js", include_str!("../../../page/events.js")),
    ("/page/health.js", include_str!("../../../page/health.js")),
    ("/page/map.js", include_str!("../../../page/map.js")),
    ("/page/mesh.js", include_str!("../../../page/mesh.js")),
    ("/page/plot.js", include_str!("../../../page/plot.js")),
    ("/page/trust.js", include_str!("../../../page/trust.js")),
    ("/page/words.js", include_str!("../../../page/words.js")),
];

/// Serves the files to every local caller, and sessions to callers with a token.
pub(super) fn router(gate: Arc<Gate>) -> Router {
    let scripts = SCRIPTS.iter().map(|(path, text)| (*path, *text, SCRIPT));
    let files = FILES.iter().copied().chain(scripts);
    let router = files.fold(Router::new(), |router, (path, text, kind)| {
        let kind = HeaderValue::from_static(kind);
        router.route(path, get(async move || ([(header::CONTENT_TYPE, kind)], text)))
    });
    router
        .route("/page/session", post(begin).delete(end))
        .route("/page/hello", post(hello))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(gate)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    token: String,
}

#[derive(Serialize)]
struct Opened {
    /// The id of the session, which is not secret.
    session: String,
    /// The secret that the page sends with each request.
    secret: String,
}

/// Redeems the token that opens the page once.
async fn begin(
    State(gate): State<Arc<Gate>>,
    headers: HeaderMap,
    body: Result<Json<Opening>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let opening = from_page(&gate, &headers, body)?;
    let begun = gate.web.sessions.begin(&opening.token, gate.web.now())?;
    let Some(begun) = begun else {
        gate.web.refused("a wrong token of the page");
        let detail = "this address was already used or has expired";
        let problem = Problem::new(
            "token_used",
            StatusCode::UNAUTHORIZED,
            ProblemClass::Untrusted,
            detail,
        );
        return Err(problem.hint("run `nara-mesh dashboard` again"));
    };
    let cookie = format!(
        "{}={}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}",
        gate.cookie(),
        begun.cookie,
        SESSION_LIFE.as_secs()
    );
    let opened = Opened {
        session: begun.id,
        secret: begun.secret,
    };
    Ok(([(header::SET_COOKIE, cookie)], Json(opened)).into_response())
}

/// Ends a session, authorized by its secret.
async fn end(State(gate): State<Arc<Gate>>, headers: HeaderMap) -> Result<Response, Problem> {
    gate.check_site(&headers)?;
    if let Some(secret) = headers.get(&PAGE_HEADER).and_then(|secret| secret.to_str().ok()) {
        gate.web.sessions.end(secret)?;
    }
    let gone = format!("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", gate.cookie());
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hello {
    session: String,
    nonce: String,
}

#[derive(Serialize)]
struct Proof {
    proof: String,
}

/// Proves that this is the nara with which a session began, before the page sends its secret again: while the
/// nara was stopped, another user may have taken the port.
async fn hello(
    State(gate): State<Arc<Gate>>,
    headers: HeaderMap,
    body: Result<Json<Hello>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, Problem> {
    let hello = from_page(&gate, &headers, body)?;
    let sessions = &gate.web.sessions;
    let proof = sessions.prove(&hello.session, &hello.nonce, gate.address.port(), gate.web.now());
    let Some(proof) = proof else {
        let detail = "this session has ended";
        let problem = Problem::new(
            "session_gone",
            StatusCode::NOT_FOUND,
            ProblemClass::Untrusted,
            detail,
        );
        return Err(problem.hint("run `nara-mesh dashboard` again"));
    };
    Ok(Json(Proof { proof }).into_response())
}

fn from_page<T>(
    gate: &Gate,
    headers: &HeaderMap,
    body: Result<Json<T>, axum::extract::rejection::JsonRejection>,
) -> Result<T, Problem> {
    gate.check_site(headers)?;
    match body {
        Ok(Json(body)) => Ok(body),
        Err(rejection) => Err(Problem::invalid(rejection.body_text())),
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        let (status, class) = (StatusCode::INTERNAL_SERVER_ERROR, ProblemClass::Failed);
        let problem = Self::new("storage", status, class, &error).caused_by(&error);
        problem.hint("check the data folder and the free space on its disk")
    }
}
