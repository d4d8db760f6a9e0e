use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use nara_mesh::Nara;
use nara_mesh::client::{PeerHandle, PeerRef};
use nara_mesh::registry::PeerInfo;
use nara_proto::stream::LedgerEpoch;
use nara_proto::time::UnixMillis;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bodies::Bodies;
use super::conflicts::Conflicts;
use super::counted::Counted;
use super::host::Host;
use super::inbox::Inbox;
use super::journeys::Journeys;
use super::leases::Leases;
use super::outbox::Outbox;
use super::places::{Places, SharedPlaces};
use super::samples::Samples;
use super::transfers::Transfers;
use super::web::Web;
use crate::Problem;
use crate::model::{LedgerSummary, Reloaded, Way};

/// The state that handlers share.
pub(super) struct Shared {
    pub(super) nara: Arc<Nara>,
    pub(super) host: Arc<dyn Host>,
    pub(super) leases: Option<Leases>,
    pub(super) journeys: Journeys,
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    pub(super) connections: Places,
    pub(super) bodies: Bodies,
    /// Bodies that are streamed to peers.
    pub(super) uploads: SharedPlaces,
    pub(super) conflicts: Conflicts,
    pub(super) counted: Counted<(LedgerEpoch, i64, usize), LedgerSummary>,
    pub(super) samples: Samples,
    pub(super) transfers: Transfers,
    /// `None`: there is no folder for its files.
    pub(super) web: Option<Arc<Web>>,
    pub(super) folder: Option<PathBuf>,
    pub(super) started: Instant,
    pub(super) started_at: UnixMillis,
    pub(super) stopping: CancellationToken,
}

impl Shared {
    /// Returns a handle of a peer named in a path, with a time limit if requested.
    pub(super) fn peer(&self, text: &str, timeout: Option<Duration>) -> Result<PeerHandle, Problem> {
        let peer: PeerRef = text.parse()?;
        let handle = self.nara.peer(peer);
        Ok(match timeout {
            Some(timeout) => handle.with_timeout(timeout),
            None => handle,
        })
    }

    /// Returns the path of packets to an address.
    pub(super) async fn way(&self, address: Option<SocketAddr>) -> Option<Way> {
        self.host.way(address?.ip()).await
    }

    /// Applies the decisions in the ledger, and the files that the program reads again.
    pub(super) async fn reload(&self) -> Result<Reloaded, Problem> {
        if let Some(reloaded) = self.host.reload().await {
            return Ok(reloaded);
        }
        let recalled = self.nara.apply_decisions().await?;
        let peers = self.nara.registry().peers().into_iter().map(|peer| peer.info());
        Ok(Reloaded {
            decided: recalled.decided.iter().map(ToString::to_string).collect(),
            untrusted: peers
                .filter(PeerInfo::is_untrusted)
                .map(|info| info.label())
                .collect(),
            ..Reloaded::default()
        })
    }

    /// Ends a stream when the API shuts down.
    pub(super) fn until_stopped<S: Stream>(&self, stream: S) -> impl Stream<Item = S::Item> + use<S> {
        stream.take_until(self.stopping.clone().cancelled_owned())
    }
}

/// The answer of a handler with a JSON body.
pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if let Some(wait) = self.retry_after_ms {
            let seconds = HeaderValue::from(wait.div_ceil(1000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
