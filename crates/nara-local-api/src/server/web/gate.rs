//! Access control on loopback: excludes other users of the machine, and web pages of other origins.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::state::Web;
use crate::server::rights::{Caller, Rights};
use crate::{Problem, ProblemClass};

/// The secret of a page session. Other origins cannot send it without CORS.
pub(super) const PAGE_HEADER: HeaderName = HeaderName::from_static("x-nara-page");

/// The browser's statement about the origin of a request.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Only our own files, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
require-trusted-types-for 'script'; trusted-types 'none'";

/// One listener.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) address: SocketAddr,
    pub(super) web: Arc<Web>,
}

impl Gate {
    /// Returns whether this is our own host: any other name that resolves here (DNS rebinding) is of another
    /// site.
    fn is_own_host(&self, host: &str) -> bool {
        let port = self.address.port();
        let named = |host: &str| host == self.address.to_string() || host == format!("localhost:{port}");
        // The default port of http is omitted.
        named(host) || (port == 80 && named(&format!("{host}:80")))
    }

    fn is_own_origin(&self, origin: &str) -> bool {
        origin
            .strip_prefix("http://")
            .is_some_and(|host| self.is_own_host(host))
    }

    /// Returns the name of our cookie, with the port: all ports of a host share cookies.
    pub(super) fn cookie(&self) -> String {
        format!("nara-{}", self.address.port())
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        let headers = request.headers();
        let host = only(headers, &header::HOST);
        let target = request.uri().authority().map(http::uri::Authority::as_str);
        if !host.is_some_and(|host| self.is_own_host(host))
            || !target.is_none_or(|target| self.is_own_host(target))
        {
            self.web.refused("another host");
            let detail = format!(
                "this is the local API at http://{}, and no other host",
                self.address
            );
            let problem = refusal("wrong_host", StatusCode::MISDIRECTED_REQUEST, detail);
            return Err(problem.hint("use this address"));
        }
        if headers.contains_key(header::ORIGIN)
            && !only(headers, &header::ORIGIN).is_some_and(|origin| self.is_own_origin(origin))
        {
            self.web.refused("another origin");
            let detail = "web pages of other origins cannot use the local API";
            return Err(refusal("foreign_origin", StatusCode::FORBIDDEN, detail));
        }
        Ok(())
    }

    /// Returns the caller and its rights.
    fn caller(&self, request: &Request) -> Result<Caller, Problem> {
        let headers = request.headers();
        self.check_site(headers)?;
        if headers.contains_key(header::AUTHORIZATION) {
            let token = only(headers, &header::AUTHORIZATION).and_then(bearer);
            return token
                .and_then(|token| self.web.tokens.caller(token))
                .ok_or_else(|| self.unknown("a wrong token"));
        }
        let Some(secret) = only(headers, &PAGE_HEADER) else {
            return Err(self.unknown("no token"));
        };
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
        if !is_safe && !headers.contains_key(header::ORIGIN) {
            self.web.refused("no origin");
            let detail = "requests of a page that change something need an Origin header";
            return Err(refusal("foreign_origin", StatusCode::FORBIDDEN, detail));
        }
        let cookie = self.cookie_of(headers);
        match cookie {
            Some(cookie) if self.web.sessions.admits(cookie, secret, self.web.now()) => Ok(Caller {
                rights: Rights::All,
                who: "page".into(),
            }),
            _ => Err(self.unknown("no session")),
        }
    }

    /// Refuses requests that the browser attributes to another page, including one of another port, which is
    /// "same-site".
    pub(super) fn check_site(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let site = only(headers, &FETCH_SITE);
        if !headers.contains_key(&FETCH_SITE) || matches!(site, Some("same-origin" | "none")) {
            return Ok(());
        }
        self.web.refused("another site");
        let detail = "web pages of other origins cannot use the local API";
        Err(refusal("foreign_origin", StatusCode::FORBIDDEN, detail))
    }

    fn cookie_of<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let name = self.cookie();
        let all = headers.get_all(header::COOKIE).iter();
        let mut pairs = all
            .filter_map(|cookies| cookies.to_str().ok())
            .flat_map(|cookies| cookies.split(';'));
        pairs.find_map(|pair| pair.trim().strip_prefix(&*name)?.strip_prefix('='))
    }

    fn unknown(&self, why: &'static str) -> Problem {
        self.web.refused(why);
        let detail = "the local API on loopback needs a valid token";
        let problem = refusal("not_authenticated", StatusCode::UNAUTHORIZED, detail);
        problem.hint("send `Authorization: Bearer TOKEN`; `nara-mesh token new --rights read` creates one, and `nara-mesh dashboard` opens the page")
    }
}

/// Checks host and origin of every request, and sets the security headers of every answer.
pub(super) async fn at_this_address(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match gate.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    );
    set(
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    );
    response
}

/// Admits authenticated callers.
pub(super) async fn admit(State(gate): State<Arc<Gate>>, mut request: Request, next: Next) -> Response {
    match gate.caller(&request) {
        Ok(caller) => {
            let headers = request.headers_mut();
            // The credentials of the caller must not reach a peer.
            for name in [header::AUTHORIZATION, header::COOKIE, PAGE_HEADER] {
                headers.remove(name);
            }
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let bearer = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
            }
            // Close the connection, so that each guess needs a new one.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

/// Removes headers of a peer's answer that would act on our origin in a browser: CORS, cookies and others.
pub(super) async fn plain(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let is_for_browsers = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("access-control-")
            || matches!(
                name,
                "set-cookie"
                    | "clear-site-data"
                    | "refresh"
                    | "service-worker-allowed"
                    | "sourcemap"
                    | "link"
            )
    };
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_for_browsers(name))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
    response
}

/// Returns the value of a header that occurs exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refusal(name: &str, status: StatusCode, detail: impl std::fmt::Display) -> Problem {
    Problem::new(name, status, ProblemClass::Untrusted, detail)
}
