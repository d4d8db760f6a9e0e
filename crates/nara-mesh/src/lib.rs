//! Signed and verified peer-to-peer HTTP between naras.
//!
//! A nara has a name and a secret soul; together they are a [`LocalNara`]. A [`Nara`] is a complete running one: it
//! answers its peers, calls them, and stores events. Your own services share its channel: every request and every
//! answer is signed and verified.
//!
//! ```
//! use nara_mesh::http::Request;
//! use nara_mesh::server::VerifiedSender;
//! use nara_mesh::{LocalNara, Nara};
//!
//! async fn greet(sender: VerifiedSender) -> String {
//!     format!("Hello, {}!", sender.name())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (alice, bob) = (LocalNara::generate("alice")?, LocalNara::generate("bob")?);
//! let alice = Nara::builder(alice)
//!     .listen("127.0.0.1:0".parse()?)
//!     .know(bob.as_peer(None))
//!     .routes(axum::Router::new().route("/greeting", axum::routing::get(greet)))
//!     .start()
//!     .await?;
//! let bob = Nara::builder(bob).know(alice.as_peer()).start().await?;
//!
//! let answer = bob.peer("alice").request(Request::get("/greeting").body(String::new())?).await?;
//! assert_eq!(answer.body(), "Hello, bob!");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go from here
//!
//! | you want to | see |
//! |---|---|
//! | run a nara | [`Nara`], and [`nara::NaraBuilder`] for its settings |
//! | call peers | [`client::PeerHandle`]: every call, and what a [`Verified`](client::Verified) answer proves |
//! | serve peers | [`server`]: routes of your own, limits, and [`server::MeshHandler`] for incoming messages |
//! | read a soul file or a peers file | [`soul_file`], [`peers_file`] |
//! | keep events | [`ledger`]: in memory, or [`SqliteLedger`](ledger::SqliteLedger) |
//! | find peers | [`discovery`] and [`transport::PeerSource`] |
//! | spread events | [`gossip`] |
//! | test without sockets and without waiting | [`transport::MemoryNetwork`], [`client::AddressOverrides`], [`clock::ManualClock`] |
//! | share a default with this library | [`defaults`] |
//!
//! # Features
//!
//! Both are on by default. `server`: the server and [`Nara`]; without it a client compiles without axum. `sqlite`:
//! [`SqliteLedger`](ledger::SqliteLedger).
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(
    not(feature = "server"),
    expect(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "some parts are used by the server alone"
    )
)]
#![cfg_attr(
    all(feature = "server", not(feature = "sqlite")),
    expect(dead_code, reason = "some parts are used by the ledger in a file alone")
)]

mod announcement;
pub mod client;
pub mod clock;
mod clock_watch;
mod coverage;
pub mod defaults;
pub mod discovery;
mod erased;
#[cfg(feature = "sqlite")]
mod folder_owner;
mod gathered;
pub mod gossip;
pub mod identity;
pub mod ledger;
mod mesh_ranges;
pub mod metrics;
#[cfg(feature = "server")]
pub mod nara;
mod new_file;
mod offload;
mod own_events;
mod peer;
pub mod peers_file;
mod random;
#[cfg(feature = "server")]
mod rate_limit;
pub mod registry;
mod seldom;
#[cfg(feature = "server")]
pub mod server;
mod signatures;
pub mod soul_file;
mod text_file;
pub mod tls;
mod toml_text;
mod trace;
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
