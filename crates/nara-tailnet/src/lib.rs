//! Naras on a tailnet.
//!
//! A nara can join a tailnet in three ways. Each is a [`MeshNode`]: a
//! [`Transport`](nara_mesh::transport::Transport) that dials and listens, a
//! [`PeerSource`](nara_mesh::transport::PeerSource) that lists the other nodes, and a source of facts about the
//! tailnet: the [`status`] of the node, the owner of a source address, and the path to a peer.
//!
//! | module | the node runs in | for |
//! |---|---|---|
//! | [`tailscaled`] | the machine's `tailscaled`, through its LocalAPI | a machine that is already on the tailnet |
//! | `embedded` (feature of the same name) | this process | nothing to install |
//! | [`managed`] | a child `tailscaled`, in userspace mode | no root, several naras on a machine |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod auth_key;
#[cfg(feature = "embedded")]
pub mod embedded;
mod localapi;
pub mod managed;
mod node;
mod random;
pub mod status;
pub mod tailscaled;

pub use auth_key::{AuthKey, AuthKeyError};
pub use node::{MeshNode, NodeIdentity};
