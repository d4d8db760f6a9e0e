//! Signed and verified peer-to-peer HTTP between naras.
//!
//! A nara has a name and a secret [`Soul`](proto::identity::Soul); together they are a
//! [`LocalNara`]. A [`MeshServer`](server::MeshServer) answers its peers out of a
//! [`Ledger`](ledger::Ledger) of events, a [`MeshClient`](client::MeshClient) calls them, and a
//! [`PeerRegistry`](registry::PeerRegistry) knows the addresses and keys of peers.
//!
//! # Two naras in one process
//!
//! ```
//! use std::sync::Arc;
//!
//! use nara_mesh::client::MeshClient;
//! use nara_mesh::identity::LocalNara;
//! use nara_mesh::ledger::MemoryLedger;
//! use nara_mesh::proto::{identity::Soul, sync::SyncRequest};
//! use nara_mesh::registry::PeerRegistry;
//! use nara_mesh::server::MeshServer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A soul is 32 secret random bytes, bonded to a name. These are neither secret nor random.
//! let alice = LocalNara::new(&Soul::bond([1; 32], "alice"), "alice".parse()?)?;
//! let bob = LocalNara::new(&Soul::bond([2; 32], "bob"), "bob".parse()?)?;
//!
//! // Bob serves, and knows Alice's key.
//! let known = PeerRegistry::default();
//! known.register(alice.as_peer(None))?;
//! let server = MeshServer::builder(bob.clone(), Arc::new(MemoryLedger::new()))
//!     .registry(known)
//!     .serve("127.0.0.1:0".parse()?)
//!     .await?;
//!
//! // Alice calls: her requests are signed, and Bob's answers are verified before she sees them.
//! let client = MeshClient::builder(alice).build();
//! client.registry().register(bob.as_peer(Some(server.local_addr())))?;
//! println!("{:?}", client.ping(bob.id()).await?.rtt);
//! let answer = client.fetch_sync_events(bob.id(), SyncRequest::recent(100)).await?;
//! assert!(answer.is_verified());
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go from here
//!
//! | you want to | see |
//! |---|---|
//! | call peers | [`client`]: every call, deadlines, what a [`Verified`](client::Verified) answer proves |
//! | be called | [`server`]: its limits, and [`server::MeshHandler`] for incoming messages |
//! | read a soul file or a peers file | [`soul_file`], [`peers_file`] |
//! | keep events | [`ledger`]: in memory, or [`SqliteLedger`](ledger::SqliteLedger) |
//! | find peers | [`discovery`] and [`transport::PeerSource`] |
//! | spread events | [`gossip`] |
//! | test without sockets and without waiting | [`transport::MemoryNetwork`], [`client::AddressOverrides`], [`clock::ManualClock`] |
//! | know why a default is what it is | [`defaults`] |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod clock;
mod coverage;
pub mod defaults;
pub mod discovery;
pub mod gossip;
pub mod identity;
pub mod ledger;
mod mesh_ranges;
pub mod metrics;
#[cfg(feature = "server")]
pub mod nara;
mod new_file;
mod offload;
mod peer;
pub mod peers_file;
mod random;
mod rate_limit;
pub mod registry;
#[cfg(feature = "server")]
mod seldom;
#[cfg(feature = "server")]
pub mod server;
mod signatures;
pub mod soul_file;
pub mod tls;
mod toml_text;
pub mod transport;

pub use coverage::Coverage;
pub use identity::LocalNara;
#[cfg(feature = "server")]
pub use nara::Nara;
pub use signatures::Signatures;

pub use http;
pub use nara_proto as proto;

/// Compiles and runs the Rust of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
