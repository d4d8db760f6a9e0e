//! Reading request bodies within bounds.

use std::error::Error;
use std::pin::pin;

use axum::body::HttpBody;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use nara_proto::go_json::{self, Merge};
use nara_proto::v1::RequestAuthError;
use nara_proto::v2::SignatureError;
use tokio::time::Instant;

use crate::gathered::Gathered;
use crate::offload::{offload, promptly};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::RepeatedBody;
use crate::server::limits::body_bytes::OverBudget;
use crate::server::limits::settings::ServerLimits;

/// Reads a whole request body of at most `max` bytes.
pub(in crate::server) async fn read(
    mut body: impl HttpBody<Data = Bytes, Error = axum::Error> + Unpin,
    max: usize,
    limits: &ServerLimits,
) -> Result<Bytes, Rejection> {
    // A body that announces too much is refused at once, instead of being read up to the limit.
    if body.size_hint().lower() > max as u64 {
        return Err(Rejection::BodyTooLarge(max));
    }
    let mut read = Gathered::default();
    // Most bodies arrive with their head: they need no clock.
    let mut end = None;
    loop {
        let by = || {
            let now = Instant::now();
            let end = *end.get_or_insert(now + limits.body_total);
            end.min(now + limits.body_progress)
        };
        let Ok(frame) = promptly(pin!(body.frame()), by).await else {
            return Err(Rejection::BodyTooSlow);
        };
        let Some(frame) = frame.transpose().map_err(|error| broken(&error))? else {
            return Ok(read.finish());
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > max - read.len() {
            return Err(Rejection::BodyTooLarge(max));
        }
        read.push(data);
        if body.is_end_stream() {
            return Ok(read.finish());
        }
    }
}

/// Returns the rejection for a body that cannot be read to its end.
fn broken(error: &(dyn Error + 'static)) -> Rejection {
    tracing::debug!(%error, "cannot read a request body");
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(over_budget) = cause.downcast_ref::<OverBudget>() {
            return Rejection::BodyBudget(*over_budget);
        }
        if cause.is::<SignatureError>() {
            return Rejection::OtherBody;
        }
        match cause.downcast_ref() {
            Some(RepeatedBody::Full) => return Rejection::ReplayCacheFull,
            Some(RepeatedBody::Replayed) => return RequestAuthError::Replayed.into(),
            None => next = cause.source(),
        }
    }
    Rejection::BodyBroken
}

/// The maximum size of JSON that is parsed inline: a fraction of a millisecond of work.
const PARSED_HERE: usize = 64 << 10;

/// Reads a request body as JSON. Parse errors are logged, not sent: v1 peers do not send them.
pub(in crate::server) async fn read_json<T: Merge + Send + 'static>(
    body: impl HttpBody<Data = Bytes, Error = axum::Error> + Unpin,
    max: usize,
    limits: &ServerLimits,
) -> Result<T, Rejection> {
    parse_json(read(body, max, limits).await?).await
}

/// Reads a whole request body as JSON.
pub(in crate::server) async fn parse_json<T: Merge + Send + 'static>(body: Bytes) -> Result<T, Rejection> {
    let large = body.len() > PARSED_HERE;
    let parsed = offload(large, move || go_json::from_slice(&body)).await;
    parsed.map_err(|error| {
        tracing::info!(%error, "request body refused");
        Rejection::InvalidJson
    })
}
