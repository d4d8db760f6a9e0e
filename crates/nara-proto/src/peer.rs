//! The ports of naras, and their unsigned endpoints: `/ping`, `/coordinates`, `/peer/query`, `/api/checkpoints/all`
//! (docs/protocol/v1.md, sections 7.1, 7.2, 7.8 and 7.9).

use std::net::SocketAddr;

use crate::event::SyncEvent;
use crate::time::UnixNanos;
use crate::wire_struct;

/// The port on which a nara listens on its mesh address (mesh client specification, section 2, invariant 3).
pub const MESH_PORT: u16 = 9632;

/// The port on which v1 peers listen (docs/protocol/v1.md, section 3.1).
pub const LEGACY_MESH_PORT: u16 = 7433;

/// Parses a mesh address, `ip` or `ip:port`; the default port is [`MESH_PORT`].
pub fn mesh_address(text: &str) -> Option<SocketAddr> {
    let ip = || Some(SocketAddr::new(text.parse().ok()?, MESH_PORT));
    text.parse().ok().or_else(ip)
}

wire_struct! {
    /// The answer of `GET /ping`. It is not signed: a key that is learned from it is trusted on first use.
    pub struct PingResponse {
        /// The name of the responder.
        pub from: String = "from",
        /// Its mesh address; may be empty.
        pub mesh_ip: String = "mesh_ip",
        /// Its public key, base64.
        pub public_key: String = "public_key",
        /// Its clock, in **nanoseconds**.
        pub t: UnixNanos = "t",
    }
}

wire_struct! {
    /// The network coordinates of a nara, in milliseconds.
    pub struct Coordinates {
        /// First axis, ms.
        pub x: f64 = "x",
        /// Second axis, ms.
        pub y: f64 = "y",
        /// Height above the plane, ms.
        pub height: f64 = "height",
        /// The error of the position; 1 for a new nara, smaller is better.
        pub error: f64 = "error",
    }
}

wire_struct! {
    /// The answer of `GET /coordinates`.
    pub struct CoordinatesResponse {
        /// The coordinates; `null` if unknown.
        pub coordinates: Option<Box<Coordinates>> = "coordinates",
        /// The name of the responder.
        pub name: String = "name",
    }
}

wire_struct! {
    /// The answer of `GET /peer/query` if the responder knows the requested nara.
    pub struct PeerQueryResponse {
        /// The requested name.
        pub target: String = "target",
        /// Its public key, base64.
        pub public_key: String = "public_key",
        /// Its mesh address, if known.
        pub mesh_ip: String = "mesh_ip", omit,
    }
}

wire_struct! {
    /// The answer of `GET /api/checkpoints/all`.
    pub struct CheckpointsResponse {
        /// The checkpoints in ledger order; `null` for none.
        pub checkpoints: Option<Vec<SyncEvent>> = "checkpoints",
        /// The number of checkpoints in this answer.
        pub count: i64 = "count",
        /// Whether more checkpoints follow.
        pub has_more: bool = "has_more",
        /// The limit that was applied.
        pub limit: i64 = "limit",
        /// The offset that was applied.
        pub offset: i64 = "offset",
        /// The name of the responder.
        pub server: String = "server",
        /// The total number of checkpoints.
        pub total: i64 = "total",
    }
}

wire_struct! {
    /// The answer of `POST /dm` and `POST /world/relay`.
    pub struct Receipt {
        /// The name of the responder.
        pub from: String = "from",
        /// Whether the responder accepted the message.
        pub success: bool = "success",
    }
}
