//! The facts about the connection of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Extensions, HeaderValue};
use nara_proto::v2::ChannelBinding;

use crate::server::answer::rejection::Rejection;
use crate::server::connection::watch::Watch;
use crate::tls::SecureChannel;

/// The common facts of all requests on a connection; each request gets a reference.
#[derive(Debug)]
pub(in crate::server) struct ConnectionFacts {
    /// The address of the peer.
    pub(in crate::server) address: SocketAddr,
    /// The proof of the peer's key by the connection.
    pub(in crate::server) channel: Option<SecureChannel>,
    /// The header that binds an unsigned request to this connection.
    pub(in crate::server) binding: Option<HeaderValue>,
    pub(in crate::server) watch: Arc<Watch>,
}

impl ConnectionFacts {
    pub(super) fn new(address: SocketAddr, channel: Option<SecureChannel>, watch: Arc<Watch>) -> Arc<Self> {
        let binding = channel
            .as_ref()
            .map(|channel| ChannelBinding::new(channel.binding).to_value());
        Arc::new(Self {
            address,
            channel,
            binding,
            watch,
        })
    }

    /// Returns the connection of a request to a route behind our router; our own signed endpoints do not use it.
    pub(in crate::server) fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// Returns the connection where it is required. Our acceptor always sets it.
    pub(in crate::server) fn required<'a>(
        extensions: &'a Extensions,
        path: &str,
    ) -> Result<&'a Arc<Self>, Rejection> {
        Self::of(extensions).ok_or_else(|| {
            tracing::error!(path, "a request without a connection");
            Rejection::Panicked
        })
    }
}
