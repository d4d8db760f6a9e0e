//! The local API on loopback TCP, where the kernel does not identify the caller: bearer tokens, the page and
//! its sessions.

mod gate;
mod page;
mod secret;
mod sessions;
mod state;
mod storage;
mod tokens;

pub(super) use state::{Ask, Web};
pub use storage::StorageError;
pub(super) use tokens::TokenError;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};

use self::gate::Gate;

/// Returns the router of one listener, with the API and the page.
pub(super) fn router(api: Router, web: Arc<Web>, address: SocketAddr) -> Router {
    let gate = Arc::new(Gate { address, web });
    let api = api
        .layer(from_fn_with_state(gate.clone(), gate::admit))
        .layer(from_fn(gate::plain));
    page::router(gate.clone())
        .merge(api)
        .layer(from_fn_with_state(gate, gate::at_this_address))
}
