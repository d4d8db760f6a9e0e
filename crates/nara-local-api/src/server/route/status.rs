use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header;
use nara_mesh::gossip::GossipLink as Link;
use nara_proto::identity::KeyId;

use crate::Problem;
use crate::model::{Gossip, GossipLink, LimitInUse, Status};
use crate::server::leases::Leases;
use crate::server::state::{Answer, Shared};

/// The running nara
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "nara",
    responses((status = 200, body = Status), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Answer<Status> {
    let nara = &shared.nara;
    let key = nara.local().public_key();
    let gossip = nara.gossip_status().map(|status| {
        let status = status.borrow();
        Gossip {
            links: status
                .peers
                .iter()
                .map(|peer| GossipLink {
                    peer: peer.peer.clone(),
                    link: match &peer.link {
                        Link::Stream(state) => format!("stream, {state}"),
                        Link::Zines => "zines".to_owned(),
                        Link::Failing { reason } => format!("failing: {reason}"),
                        _ => "unknown".to_owned(),
                    },
                })
                .collect(),
            zines: status.zines,
            failed_zines: status.failed_zines,
        }
    });
    Ok(Json(Status {
        name: nara.name().to_string(),
        id: nara.id().to_string(),
        public_key: key.to_base64(),
        key_id: KeyId::from(&key).to_string(),
        address: nara.address().map(|address| address.to_string()),
        network: shared.host.network(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        data_dir: shared.folder.as_ref().map(|folder| folder.display().to_string()),
        started_at_ms: shared.started_at.get(),
        uptime_ms: millis(shared.started.elapsed()),
        peers: nara.registry().len(),
        events: nara.ledger().count().await?,
        connections: shared.connections.taken(),
        max_connections: shared.connections.most(),
        gossip,
        stream_readers: nara.stream_readers().iter().map(ToString::to_string).collect(),
        limits: limits(&shared),
    }))
}

fn limits(shared: &Shared) -> Vec<LimitInUse> {
    let services = shared.leases.as_ref().map_or((0, 0), Leases::in_use);
    let limits = [
        (
            "connections",
            (shared.connections.taken(), shared.connections.most()),
        ),
        ("transfers", shared.transfers.in_use()),
        ("services", services),
        ("body_bytes", shared.bodies.in_use()),
        ("uploads", shared.uploads.in_use()),
    ];
    let limit = |(name, (used, most)): (&str, _)| LimitInUse {
        name: name.to_owned(),
        used,
        most,
    };
    limits.into_iter().map(limit).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Metrics in the Prometheus text format
#[utoipa::path(
    get,
    path = "/v1/metrics",
    tag = "nara",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let text = shared
        .host
        .metrics()
        .await
        .ok_or_else(|| Problem::not_offered("metrics"))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
