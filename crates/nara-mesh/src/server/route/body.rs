//! Reading request bodies within bounds.

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use nara_proto::go_json::{self, Merge};
use nara_proto::v1::RequestAuthError;
use nara_proto::v2::SignatureError;
use tower_http::timeout::TimeoutBody;

use crate::offload::offload;
use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::RepeatedBody;
use crate::server::limits::body_bytes::OverBudget;
use crate::server::limits::settings::ServerLimits;

/// Reads a whole request body of at most `max` bytes.
pub(in crate::server) async fn read(
    body: Body,
    max: usize,
    limits: &ServerLimits,
) -> Result<Bytes, Rejection> {
    // Who announces too much is told at once, instead of being listened to up to the limit.
    if body.size_hint().lower() > max as u64 {
        return Err(Rejection::BodyTooLarge(max));
    }
    let body = Limited::new(TimeoutBody::new(limits.body_progress, body), max);
    let Ok(outcome) = tokio::time::timeout(limits.body_total, body.collect()).await else {
        return Err(Rejection::BodyTooSlow);
    };
    match outcome {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Rejection::BodyTooLarge(max)),
        Err(error) => {
            tracing::debug!(%error, "cannot read a request body");
            let over_budget =
                std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
                    .find_map(|error| error.downcast_ref::<OverBudget>());
            if let Some(over_budget) = over_budget {
                return Err(Rejection::BodyBudget(*over_budget));
            }
            let caused_by = |is_cause: fn(&(dyn std::error::Error + 'static)) -> bool| {
                std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
                    .any(is_cause)
            };
            Err(
                if caused_by(|error| error.is::<tower_http::timeout::TimeoutError>()) {
                    Rejection::BodyTooSlow
                } else if caused_by(|error| error.is::<SignatureError>()) {
                    Rejection::OtherBody
                } else if caused_by(|error| matches!(error.downcast_ref(), Some(RepeatedBody::Full))) {
                    Rejection::ReplayCacheFull
                } else if caused_by(|error| error.is::<RepeatedBody>()) {
                    RequestAuthError::Replayed.into()
                } else {
                    Rejection::BodyBroken
                },
            )
        }
    }
}

/// JSON of up to so many bytes is parsed where it arrives: a fraction of a millisecond of work.
const PARSED_HERE: usize = 64 << 10;

/// Reads a request body as JSON. What it says is logged, not told: v1 peers do not tell.
pub(in crate::server) async fn read_json<T: Merge + Send + 'static>(
    body: Body,
    max: usize,
    limits: &ServerLimits,
) -> Result<T, Rejection> {
    let body = read(body, max, limits).await?;
    let large = body.len() > PARSED_HERE;
    let parsed = offload(large, move || go_json::from_slice(&body)).await;
    parsed.map_err(|error| {
        tracing::info!(%error, "request body refused");
        Rejection::InvalidJson
    })
}
