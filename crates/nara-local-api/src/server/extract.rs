//! Extractors whose rejections are problems instead of plain texts.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use nara_proto::sync::EventFilter;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use crate::{Problem, ProblemClass};

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(refused(rejection.status(), &rejection.body_text())),
        }
    }
}

/// A body of bytes.
pub(super) struct Octets(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Octets {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(rejection) => Err(refused(rejection.status(), &rejection.body_text())),
        }
    }
}

/// Path parameters.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            Err(rejection) => Err(refused(rejection.status(), &rejection.body_text())),
        }
    }
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(refused(rejection.status(), &rejection.body_text())),
        }
    }
}

fn refused(status: StatusCode, text: &str) -> Problem {
    let name = match status {
        StatusCode::PAYLOAD_TOO_LARGE => "too_large",
        _ => "invalid_request",
    };
    Problem::new(name, status, ProblemClass::Usage, text)
}

/// The longest time limit of a call to a peer: larger values are reduced to it.
pub(super) const LONGEST_CALL: Duration = Duration::from_secs(600);

/// Returns the time limit for a number of milliseconds.
pub(super) fn call_limit(millis: u32) -> Duration {
    Duration::from_millis(millis.into()).min(LONGEST_CALL)
}

/// How to call a peer.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CallParams {
    /// Time limit of the call, in milliseconds, 10 minutes at most; by default that of all calls of this
    /// nara.
    timeout_ms: Option<u32>,
}

impl CallParams {
    pub(super) fn timeout(self) -> Option<Duration> {
        self.timeout_ms.map(call_limit)
    }
}

/// Selects events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FilterParams {
    /// Only events of these services, separated by commas.
    #[serde(default)]
    services: String,
    /// Only events with these names as actor or target, separated by commas.
    #[serde(default)]
    subjects: String,
}

impl FilterParams {
    pub(super) fn filter(&self) -> EventFilter {
        EventFilter {
            services: list(&self.services),
            subjects: list(&self.subjects),
        }
    }
}

/// Splits a comma-separated list.
pub(super) fn list(text: &str) -> Vec<String> {
    let items = text.split(',').map(str::trim);
    items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
}
