//! The server: requests of peers in, verified; answers out, signed.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use nara_mesh::identity::LocalNara;
//! use nara_mesh::ledger::MemoryLedger;
//! use nara_mesh::server::MeshServer;
//!
//! # async fn example(me: LocalNara, ledger: MemoryLedger) -> Result<(), Box<dyn std::error::Error>> {
//! let server = MeshServer::builder(me, Arc::new(ledger))
//!     .mesh_ip("100.64.0.7")
//!     .serve("100.64.0.7:9632".parse()?)
//!     .await?;
//! println!("listening on {}", server.local_addr());
//! tokio::time::sleep(Duration::from_secs(3600)).await;
//! server.shutdown(Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # What a request goes through
//!
//! Connection limits, TLS if the peer speaks it, header limits, the limits of its source address, a clean path, the
//! route; then for signed endpoints the authentication (headers, freshness, recipient, key, signature, replay), the
//! signing of the answer, the limits of its sender, the method, the body within its limits, and the handler. What is
//! stricter than on v1 peers stands in the source of the
//! routes, in one table.

mod accept;
mod announcement;
mod authenticator;
mod background;
mod body;
mod body_budget;
mod builder;
mod clean_path;
mod clocks;
mod discovery;
mod gate;
mod handler;
mod ingest;
mod limits;
mod opening;
mod places;
mod rates;
mod rejection;
mod request_proof;
mod route;
mod sender;
mod shared;
mod sign_response;
mod signed_body;
mod source_check;
mod stash;
mod streams;
mod verify_request;
mod watch;

pub use crate::rate_limit::RateLimit;
pub use accept::{RunningServer, Shutdown};
pub use builder::{MeshServerBuilder, ServeError};
pub use handler::{MeshHandler, NoHandler};
pub use limits::ServerLimits;
pub use sender::{PeerAddress, VerifiedSender};

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use tokio::sync::watch::Sender;

use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::transport::Transport;
use background::Background;
use opening::Opening;

/// The server of one nara, ready to serve.
#[derive(Debug)]
pub struct MeshServer {
    router: Router,
    transport: Arc<dyn Transport>,
    opening: Opening,
    limits: ServerLimits,
    background: Background,
    mesh_ip: Sender<String>,
}

impl MeshServer {
    /// Begins a server that acts as `local` and keeps its events in `ledger`.
    pub fn builder(local: LocalNara, ledger: Arc<dyn Ledger>) -> MeshServerBuilder {
        MeshServerBuilder::new(local, ledger)
    }

    /// All routes, to be served by something else: a test, or a server with more routes. Without
    /// [`PeerAddress`] in the extensions of a request its source counts as unknown. Limits on connections and
    /// headers are not part of it, nor, without `PeerAddress`, those on source addresses.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Listens on a mesh address of this nara and serves in the background; port 0 picks a free one.
    ///
    /// # Errors
    /// [`ServeError`] if it cannot listen there.
    pub async fn serve(self, local: SocketAddr) -> Result<RunningServer, ServeError> {
        let listener = self
            .transport
            .listen(local)
            .await
            .map_err(|source| ServeError::Listen {
                address: local,
                source,
            })?;
        Ok(RunningServer::start(
            listener,
            self.router,
            self.opening,
            &self.limits,
            self.background,
            self.mesh_ip,
        ))
    }
}
