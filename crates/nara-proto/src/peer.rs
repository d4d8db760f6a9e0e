//! The ports of naras, and their small open endpoints: `/ping`, `/coordinates`, `/peer/query`, `/api/checkpoints/all`
//! (docs/protocol/v1.md, sections 7.1, 7.2, 7.8 and 7.9).

use std::net::SocketAddr;

use crate::event::SyncEvent;
use crate::time::UnixNanos;
use crate::wire_struct;

/// The port on which a nara listens on its mesh address (mesh client specification, section 2, invariant 3).
pub const MESH_PORT: u16 = 9632;

/// The port on which v1 peers listen (docs/protocol/v1.md, section 3.1).
pub const LEGACY_MESH_PORT: u16 = 7433;

/// Reads a mesh address, `ip` or `ip:port`; without a port it is [`MESH_PORT`].
pub fn mesh_address(text: &str) -> Option<SocketAddr> {
    let ip = || Some(SocketAddr::new(text.parse().ok()?, MESH_PORT));
    text.parse().ok().or_else(ip)
}

wire_struct! {
    /// Answer of `GET /ping`. It is not signed: a key that is learned from it is trusted on first use.
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
    /// Where a nara places itself in the network, in units of milliseconds.
    pub struct Coordinates {
        /// First axis, ms.
        pub x: f64 = "x",
        /// Second axis, ms.
        pub y: f64 = "y",
        /// Height above the plane, ms.
        pub height: f64 = "height",
        /// Confidence; 1 for a new nara, smaller is better.
        pub error: f64 = "error",
    }
}

wire_struct! {
    /// Answer of `GET /coordinates`.
    pub struct CoordinatesResponse {
        /// The coordinates; `null` if unknown.
        pub coordinates: Option<Box<Coordinates>> = "coordinates",
        /// The name of the responder.
        pub name: String = "name",
    }
}

wire_struct! {
    /// Answer of `GET /peer/query` when the responder knows the nara asked for.
    pub struct PeerQueryResponse {
        /// The name that was asked for.
        pub target: String = "target",
        /// Its public key, base64.
        pub public_key: String = "public_key",
        /// Its mesh address, if known.
        pub mesh_ip: String = "mesh_ip", omit,
    }
}

wire_struct! {
    /// Answer of `GET /api/checkpoints/all`.
    pub struct CheckpointsResponse {
        /// The checkpoints in ledger order; `null` for none.
        pub checkpoints: Option<Vec<SyncEvent>> = "checkpoints",
        /// How many are in this answer.
        pub count: i64 = "count",
        /// Whether there are more behind them.
        pub has_more: bool = "has_more",
        /// The limit that was applied.
        pub limit: i64 = "limit",
        /// The offset that was applied.
        pub offset: i64 = "offset",
        /// The name of the responder.
        pub server: String = "server",
        /// How many there are in all.
        pub total: i64 = "total",
    }
}

wire_struct! {
    /// Answer of `POST /dm` and `POST /world/relay`.
    pub struct Receipt {
        /// The name of the responder.
        pub from: String = "from",
        /// Whether the responder took it in.
        pub success: bool = "success",
    }
}
