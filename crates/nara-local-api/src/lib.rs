//! The local API of a running nara: local programs use its identity, its connections and its events through a
//! unix socket, as they use keys through an `ssh-agent`. The soul is not accessible through it.
//!
//! It is HTTP/1.1 with JSON below `/v1`; errors are [`Problem`]s (RFC 9457), live answers are server-sent
//! events. `docs/local-api.md` describes it, and [`openapi`](server::openapi) returns its OpenAPI document.
//!
//! ```
//! use std::sync::Arc;
//!
//! use nara_local_api::client::LocalClient;
//! use nara_local_api::server::LocalApi;
//! use nara_mesh::{LocalNara, Nara};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let socket = folder.path().join("nara.sock");
//! let nara = Nara::builder(LocalNara::generate("alice")?).listen("127.0.0.1:0".parse()?).start().await?;
//! let api = LocalApi::builder(Arc::new(nara)).start();
//! api.listen(&socket)?;
//!
//! // In another process:
//! let status = LocalClient::new(&socket).status().await?;
//! assert_eq!(status.name, "alice");
//! # api.shutdown().await;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod compose;
pub mod decide;
pub mod model;
mod problem;
pub mod server;

pub use problem::{Problem, ProblemClass};
