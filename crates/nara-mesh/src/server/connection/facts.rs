//! What is known of the connection of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Extensions;

use crate::server::connection::watch::Watch;
use crate::tls::SecureChannel;

/// What all requests of a connection have in common; in the extensions of each as one value.
#[derive(Debug)]
pub(in crate::server) struct ConnectionFacts {
    /// The address of the peer.
    pub(in crate::server) address: SocketAddr,
    /// What the connection has proven about the peer.
    pub(in crate::server) channel: Option<SecureChannel>,
    pub(in crate::server) watch: Arc<Watch>,
}

impl ConnectionFacts {
    /// The connection of a request.
    pub(in crate::server) fn of(extensions: &Extensions) -> Option<&Arc<Self>> {
        extensions.get()
    }

    /// What the connection of a request has proven about its peer.
    pub(in crate::server) fn channel(extensions: &Extensions) -> Option<&SecureChannel> {
        Self::of(extensions)?.channel.as_ref()
    }
}
