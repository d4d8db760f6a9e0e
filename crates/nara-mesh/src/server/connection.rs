//! Connections: accepted, opened as plain HTTP or TLS, watched, and closed.

pub(in crate::server) mod accept;
pub(in crate::server) mod facts;
pub(in crate::server) mod opening;
mod refusal;
pub(in crate::server) mod running;
pub(in crate::server) mod watch;
