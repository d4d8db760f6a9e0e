use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::future::ready;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use nara_mesh::client::{MeshClient, PeerHandle};
use nara_mesh::registry::{KeySource, PeerChange, PeerChangeError, PeerEvent, PeerInfo, PeerRegistry};
use nara_proto::coordinates::estimate;
use nara_proto::endpoint::{PeerQuery, PeerQueryRequest};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::presence::PresenceState;
use serde::Deserialize;
use tokio_stream::wrappers::BroadcastStream;
use utoipa::IntoParams;

use super::sse;
use crate::decide::about;
use crate::model::{
    Conflict, Decision, Hearsay, OwnKeyRefusals, Peer, PeerChanged, PeerList, Pong, Pruned, Record, Trust,
};
use crate::server::extract::{Body, CallParams, Path, Query};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The known peers
#[utoipa::path(
    get,
    path = "/v1/peers",
    tag = "peers",
    responses((status = 200, body = PeerList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Answer<PeerList> {
    let peers = shared.nara.registry().peers();
    let refusals = OwnKeyRefusals::of(shared.nara.registry());
    let described = peers.iter().map(|peer| describe(&shared, peer, &refusals));
    let described: Vec<_> = described.collect();
    let mut peers: Vec<Peer> = stream::iter(described)
        .buffered(MeshClient::FAN_OUT)
        .collect()
        .await;
    peers.sort_by(|one, other| one.label.cmp(&other.label));
    Ok(Json(PeerList { peers }))
}

async fn describe(shared: &Shared, peer: &nara_mesh::registry::Peer, refusals: &OwnKeyRefusals) -> Peer {
    let way = shared.way(peer.info().address).await;
    let peer = Peer::measured(shared.nara.registry(), peer).on(way);
    peer.about(refusals)
}

/// One peer
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}",
    tag = "peers",
    params(("peer" = String, Path, description = "Its name, id or address")),
    responses((status = 200, body = Peer), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(peer): Path<String>) -> Answer<Peer> {
    let known = shared.peer(&peer, None)?.known();
    let known = known.ok_or_else(|| Problem::unknown_peer(&peer))?;
    let refusals = OwnKeyRefusals::of(shared.nara.registry());
    Ok(Json(describe(&shared, &known, &refusals).await))
}

/// How to ping.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PingParams {
    /// Request one signed answer if the ping does not prove the clock of the peer.
    #[serde(default)]
    prove_clock: bool,
    /// Request the coordinates of the peer, and estimate the round trip from them.
    #[serde(default)]
    estimate: bool,
    /// Call the peer even if it did not answer the last calls and would be skipped.
    #[serde(default)]
    insist: bool,
}

/// Measure the round trip to a peer
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/ping",
    tag = "peers",
    params(("peer" = String, Path, description = "Its name, id or address"), PingParams, CallParams),
    responses((status = 200, body = Pong), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn ping(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(params): Query<PingParams>,
    Query(call): Query<CallParams>,
) -> Answer<Pong> {
    let handle = shared.peer(&peer, call.timeout())?;
    if params.insist
        && let Some(known) = handle.known()
    {
        shared.nara.registry().give_a_chance(&known);
    }
    let report = handle.ping().await?;
    let info = handle.known().map(|peer| peer.info());
    let label = info.as_ref().map_or_else(|| peer.clone(), |info| info.label());
    let mut pong = Pong::of(&label, &report, info.as_ref()).stated(shared.nara.registry());
    if let Some(conflict) = &pong.conflict {
        let now = shared.nara.client().clock().now_millis();
        shared.conflicts.note(conflict.clone(), now);
    }
    if params.prove_clock {
        prove_clock(&mut pong, &handle).await;
    }
    if params.estimate
        && let Ok(told) = handle.coordinates().await
        && let Some(told) = told.into_inner().coordinates
    {
        pong.set_estimate(estimate(&shared.nara.registry().coordinates(), &told));
    }
    let address = info.and_then(|info| info.address).or_else(|| peer.parse().ok());
    if let Some(way) = shared.way(address).await {
        (pong.path, pong.host_name) = (Some(way.path), way.host_name);
    }
    Ok(Json(pong))
}

/// What to ask a peer.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QueryParams {
    /// The name of the sought nara.
    target: String,
}

/// Ask a peer for the key of another nara
///
/// The answer is not signed, and nothing is pinned.
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}/query",
    tag = "peers",
    params(("peer" = String, Path, description = "Its name, id or address"), QueryParams, CallParams),
    responses((status = 200, body = Hearsay), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn query(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(params): Query<QueryParams>,
    Query(call): Query<CallParams>,
) -> Answer<Hearsay> {
    let request = PeerQueryRequest {
        target: params.target,
        asked: Vec::new(),
    };
    let handle = shared.peer(&peer, call.timeout())?;
    let answer = handle.call::<PeerQuery>(&request).await?.into_inner();
    Ok(Json(Hearsay {
        name: answer.target,
        public_key: answer.public_key,
        mesh_ip: Some(answer.mesh_ip).filter(|ip| !ip.is_empty()),
    }))
}

/// The peer may refuse a signed request if it does not know us; then the unsigned clock is used.
async fn prove_clock(pong: &mut Pong, handle: &PeerHandle) {
    if pong.clock_proven || pong.key_matches != Some(true) {
        return;
    }
    if let Ok(Some(offset)) = handle.measure_clock().await {
        pong.set_clock(offset, true);
    }
}

/// Changes of peers, as server-sent events `change` (`PeerChanged`)
#[utoipa::path(
    get,
    path = "/v1/peer-changes",
    tag = "peers",
    responses(
        (status = 200, body = PeerChanged, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn watch(State(shared): State<Arc<Shared>>) -> Response {
    let changes = BroadcastStream::new(shared.nara.registry().subscribe());
    let registry = shared.nara.registry().clone();
    let changes = changes.filter_map(move |change| {
        let change = match change {
            Ok(change) => changed(&change, &registry),
            Err(_) => Some(PeerChanged {
                change: "missed".to_owned(),
                peer: None,
                conflict: None,
            }),
        };
        ready(change.map(|change| sse::event("change", &change)))
    });
    sse::answer(shared.until_stopped(changes))
}

fn changed(event: &PeerEvent, registry: &PeerRegistry) -> Option<PeerChanged> {
    let presence = |info: &PeerInfo| {
        let known = info
            .name
            .as_ref()
            .and_then(|name| registry.by_name(name.as_str()));
        known.map_or(PresenceState::Unknown, |peer| peer.presence())
    };
    let about = |change: &str, info: &PeerInfo| PeerChanged {
        change: change.to_owned(),
        peer: Some(Peer::of(info, presence(info))),
        conflict: None,
    };
    let named = |change: &str, name: &NaraName| PeerChanged {
        change: change.to_owned(),
        peer: Some(Peer {
            label: name.to_string(),
            name: Some(name.to_string()),
            ..Peer::default()
        }),
        conflict: None,
    };
    Some(match event {
        PeerEvent::AddressChanged(info) => about("address_changed", info),
        PeerEvent::BreakerClosed(info) => about("up", info),
        PeerEvent::BreakerOpened(info) => about("down", info),
        PeerEvent::ClockSkew { peer, .. } => about("clock_skew", peer),
        PeerEvent::Decided(info) => about("decided", info),
        PeerEvent::Downgrade { peer, .. } => about("downgrade", peer),
        PeerEvent::AddressMismatch { claimed, .. } => named("address_mismatch", claimed),
        PeerEvent::KeyChanged { name, .. } => named("key_changed", name),
        PeerEvent::KeyRefused(refused) => named("key_refused", &refused.name),
        PeerEvent::Registered(info) => about("added", info),
        PeerEvent::Unregistered(info) => about("removed", info),
        PeerEvent::KeyConflict(conflict) => PeerChanged {
            change: "key_conflict".to_owned(),
            peer: None,
            conflict: Some(Conflict::of(conflict)),
        },
        PeerEvent::KeyPinned(key) => PeerChanged {
            change: "key_pinned".to_owned(),
            peer: Some(Peer {
                label: key.name.to_string(),
                name: Some(key.name.to_string()),
                key_id: Some(KeyId::from(&key.key).to_string()),
                key_source: Some(key.source.to_string()),
                ..Peer::default()
            }),
            conflict: None,
        },
        _ => return None,
    })
}

/// Trust a key of a peer
///
/// Without `key`, the known key is trusted. A key other than the pinned one is refused (`key_conflict`)
/// unless `replace` is set. A configured key can be changed only in the configuration.
#[utoipa::path(
    put,
    path = "/v1/peers/{peer}/trust",
    tag = "trust",
    params(("peer" = String, Path, description = "Its name; if it is known, also its id, key id or address")),
    request_body = Trust,
    responses((status = 200, body = Decision), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn trust(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Body(trust): Body<Trust>,
) -> Answer<Decision> {
    let name = about(shared.nara.registry(), &peer)?;
    let given = trust.key.as_deref().map(public_key).transpose()?;
    let known = shared.nara.registry().by_name(name.as_str());
    let configured = known
        .and_then(|peer| peer.info().key)
        .filter(|pinned| pinned.source == KeySource::Configured)
        .map(|pinned| pinned.key);
    if let (Some(configured), Some(given)) = (configured, given)
        && configured != given
    {
        let (status, class) = (StatusCode::CONFLICT, ProblemClass::Untrusted);
        let detail = format!(
            "the configuration has key {} for {name} and takes precedence",
            KeyId::from(&configured)
        );
        let problem = Problem::new("key_configured", status, class, detail);
        return Err(
            problem.hint("change its key in the peers file, and run `nara-mesh reload` (POST /v1/reload)")
        );
    }
    let change = PeerChange::Trust {
        key: given.or(configured),
        // The configuration takes precedence over learned keys.
        replace: trust.replace || (configured.is_some() && given.is_none()),
        at: shared.nara.client().clock().now_millis(),
    };
    decide(&shared, name, change).await
}

/// Parses a public key or a key id; a key id encodes the whole key.
fn public_key(text: &str) -> Result<PublicKey, Problem> {
    let from_id = || text.parse::<KeyId>().ok()?.public_key().ok();
    let key = PublicKey::from_base64(text).ok().or_else(from_id);
    key.ok_or_else(|| Problem::invalid(format!("key: {text:?} is neither a public key nor a key id")))
}

/// Ban a peer: its requests are refused, and it is not called
#[utoipa::path(
    put,
    path = "/v1/peers/{peer}/ban",
    tag = "trust",
    params(("peer" = String, Path, description = "Its name, known or not; if it is known, also its id, key id or address")),
    responses((status = 200, body = Decision), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn ban(State(shared): State<Arc<Shared>>, Path(peer): Path<String>) -> Answer<Decision> {
    let name = about(shared.nara.registry(), &peer)?;
    if &name == shared.nara.name() {
        let problem = Problem::invalid(format!("{name} is this nara itself and cannot be banned"));
        return Err(problem.hint("name the peer to ban"));
    }
    let at = shared.nara.client().clock().now_millis();
    decide(&shared, name, PeerChange::Untrust { at }).await
}

/// Forget what was learned and decided about a peer
#[utoipa::path(
    delete,
    path = "/v1/peers/{peer}",
    tag = "trust",
    params(("peer" = String, Path, description = "Its name; if it is known, also its id, key id or address")),
    responses((status = 200, body = Decision), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn forget(State(shared): State<Arc<Shared>>, Path(peer): Path<String>) -> Answer<Decision> {
    // A name that looks like an id can also be forgotten.
    let namesake = shared.nara.registry().by_name(&peer);
    let name = match namesake.and_then(|peer| peer.info().name) {
        Some(name) => name,
        None => about(shared.nara.registry(), &peer)?,
    };
    let is_stored = shared
        .nara
        .ledger()
        .peers()
        .await?
        .iter()
        .any(|record| record.name == name);
    if !is_stored && shared.nara.registry().by_name(name.as_str()).is_none() {
        return Err(Problem::unknown_peer(&peer));
    }
    let at = shared.nara.client().clock().now_millis();
    decide(&shared, name, PeerChange::Forget { at }).await
}

async fn decide(shared: &Shared, name: NaraName, change: PeerChange) -> Answer<Decision> {
    let changed = shared.nara.ledger().change_peer(name, change).await?;
    let record = changed.map_err(|error| match error {
        PeerChangeError::KeyConflict(conflict) => {
            let (status, class) = (StatusCode::CONFLICT, ProblemClass::Untrusted);
            let pinned = KeyId::from(&conflict.pinned.key);
            let detail = format!(
                "{} is pinned to key {pinned} ({})",
                conflict.name, conflict.pinned.source
            );
            let told = Conflict::of(&conflict);
            let hint = format!(
                "if its owner confirms the new key, trust it with `replace` (`nara-mesh peers trust {} --key {} --replace`)",
                told.name, told.offered_key_id
            );
            Problem {
                conflict: Some(told),
                ..Problem::new("key_conflict", status, class, detail).hint(hint)
            }
        }
        error => Problem::invalid(&error).hint("pass its public key or key id"),
    })?;
    let running = shared.reload().await?;
    shared.conflicts.decided(record.name.as_str());
    Ok(Json(Decision {
        peers: vec![Record::of(&record)],
        running,
    }))
}

/// Forget the naras that are known only by introduction
#[utoipa::path(
    post,
    path = "/v1/peers/prune",
    tag = "trust",
    responses((status = 200, body = Pruned), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn prune(State(shared): State<Arc<Shared>>) -> Answer<Pruned> {
    let mut names = shared.nara.registry().prune();
    let stored = shared.nara.ledger().peers().await?;
    names.extend(
        stored
            .into_iter()
            .filter(|record| record.is_ghost())
            .map(|record| record.name),
    );
    names.sort();
    names.dedup();
    shared.nara.ledger().forget_ghosts(None).await?;
    Ok(Json(Pruned {
        peers: names.iter().map(ToString::to_string).collect(),
    }))
}
