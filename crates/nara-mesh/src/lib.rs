//! Signed and verified peer-to-peer HTTP between naras.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod client;
pub mod clock;
pub mod defaults;
pub mod discovery;
pub mod gossip;
pub mod handler;
pub mod identity;
pub mod ledger;
mod random;
pub mod registry;
pub mod server;
pub mod transport;

pub use nara_proto as proto;
