//! The server: verifies requests of peers, and signs the answers.
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
//! # The path of a request
//!
//! Connection limits, TLS if the peer uses it, header limits, the limits of its source address, a clean path, the
//! route; then for signed endpoints the authentication (headers, freshness, recipient, key, signature, replay), the
//! signing of the answer, the limits of its sender, the method, the body within its limits, and the handler. A table in
//! the source of the routes lists where the server is stricter than v1 peers.

mod answer;
mod auth;
mod background;
mod builder;
mod clock;
mod connection;
pub mod expose;
mod handler;
mod limits;
mod route;
mod stash_store;

pub use crate::rate_limit::RateLimit;
pub use answer::streamed::StreamedAnswer;
pub use auth::sender::{VerifiedSender, require_whole};
pub use builder::{MeshServer, MeshServerBuilder, ServeError};
pub use connection::running::{RunningServer, Shutdown};
pub use handler::MeshHandler;
pub use limits::settings::ServerLimits;
pub use route::user::RouteError;
#[cfg(feature = "sqlite")]
pub use stash_store::SqliteStash;
pub use stash_store::{SealedStash, StashStore};
