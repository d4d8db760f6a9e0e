use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use nara_mesh::server::SealedStash;
use nara_proto::identity::NaraId;

use crate::model::{Dropped, Stash, StashList, Stashed};
use crate::server::extract::{CallParams, Octets, Path, Query};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The largest stash, in bytes: it must fit into a message.
const MAX_STASH: usize = 512 << 10;

/// Store sealed data at a peer, replacing what this nara stored there before
#[utoipa::path(
    put,
    path = "/v1/peers/{peer}/stash",
    tag = "stash",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The data, 512 KiB at most"),
    responses((status = 200, body = Stashed), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
    Octets(data): Octets,
) -> Answer<Stashed> {
    if data.len() > MAX_STASH {
        let detail = format!(
            "the stash has {} bytes, but the maximum is {MAX_STASH}",
            data.len()
        );
        let (status, class) = (StatusCode::PAYLOAD_TOO_LARGE, ProblemClass::Usage);
        return Err(Problem::new("too_large", status, class, detail));
    }
    shared.peer(&peer, call.timeout())?.put_stash(&data).await?;
    Ok(Json(Stashed { bytes: data.len() }))
}

/// Fetch the data that this nara stored at a peer
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}/stash",
    tag = "stash",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream", description = "The data"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "The peer has nothing of this nara: `no_stash`"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
) -> Result<Response, Problem> {
    let data = shared.peer(&peer, call.timeout())?.get_stash().await?;
    let Some(data) = data else {
        let detail = format!("{peer} has no stash of this nara");
        let (status, class) = (StatusCode::NOT_FOUND, ProblemClass::Failed);
        let problem = Problem::new("no_stash", status, class, detail);
        return Err(problem.hint("it never had one, it has expired, or it was lost"));
    };
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Bytes::from(data)).into_response())
}

/// The stashes that peers store at this nara
#[utoipa::path(
    get,
    path = "/v1/stashes",
    tag = "stash",
    responses((status = 200, body = StashList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<StashList> {
    let describe = |stash: SealedStash| {
        let id = stash.owner_id.parse::<NaraId>().ok();
        let owner = id.and_then(|id| shared.nara.registry().by_id(&id));
        Stash {
            name: owner
                .and_then(|peer| peer.info().name)
                .map(|name| name.to_string()),
            owner_id: stash.owner_id,
            bytes: stash.ciphertext.len(),
            stored_at_s: stash.stored_at.get(),
        }
    };
    let stashes = shared.nara.stashes().into_iter().map(describe).collect();
    Ok(Json(StashList { stashes }))
}

/// Delete the stash of a peer from this nara
#[utoipa::path(
    delete,
    path = "/v1/stashes/{owner}",
    tag = "stash",
    params(("owner" = String, Path, description = "The nara id of the owner")),
    responses((status = 200, body = Dropped), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn forget(State(shared): State<Arc<Shared>>, Path(owner): Path<String>) -> Answer<Dropped> {
    let owner = owner
        .parse::<NaraId>()
        .map_err(|error| Problem::invalid(format!("{owner:?} is not a nara id: {error}")))?;
    let dropped = shared.nara.forget_stash(&owner).await.map_err(|error| {
        let (status, class) = (StatusCode::INTERNAL_SERVER_ERROR, ProblemClass::Failed);
        Problem::new("stash", status, class, "the stash store failed").caused_by(&error)
    })?;
    Ok(Json(Dropped { dropped }))
}
