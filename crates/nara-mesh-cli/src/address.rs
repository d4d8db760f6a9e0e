//! Addresses as people write them.

use std::net::SocketAddr;

/// Reads `ip` or `ip:port`.
pub(crate) fn parse_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    let ip = || Some(SocketAddr::new(text.parse().ok()?, default_port));
    text.parse().ok().or_else(ip)
}
