//! Connections: accepted, opened as plain HTTP or TLS, watched, and ended.

pub(in crate::server) mod accept;
pub(in crate::server) mod opening;
pub(in crate::server) mod running;
pub(in crate::server) mod watch;
