//! What is known of the connection of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Extensions, HeaderValue};
use nara_proto::v2::ChannelBinding;

use crate::server::answer::rejection::Rejection;
use crate::server::connection::watch::Watch;
use crate::tls::SecureChannel;

/// What all requests of a connection have in common; told to each once.
#[derive(Debug)]
pub(in crate::server) struct ConnectionFacts {
    /// The address of the peer.
    pub(in crate::server) address: SocketAddr,
    /// What the connection has proven about the peer.
    pub(in crate::server) channel: Option<SecureChannel>,
    /// The header by which a request without a signature says that it was written for this connection.
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

    /// The connection of a request to a route behind our router; our own signed endpoints do not look there.
    pub(in crate::server) fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// The same, where nothing can be done without it. Our acceptor puts it there.
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
