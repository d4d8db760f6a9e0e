//! A running server, and its shutdown.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::identity::{NaraId, NaraName};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::server::background::Background;
use crate::server::clock::ServerClock;
use crate::server::connection::accept::Acceptor;
use crate::server::route::state::Shared;
use crate::server::stash_store::SealedStash;
use crate::transport::MeshListener;

/// A running server. Dropping it stops it at once, including requests in flight.
#[derive(Debug)]
pub struct RunningServer {
    local_addr: SocketAddr,
    other_addr: Option<SocketAddr>,
    background: Background,
    mesh_ip: watch::Sender<String>,
    _watching: AbortOnDropHandle<()>,
    shared: Arc<Shared>,
}

/// The outcome of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// The deadline passed: requests were aborted.
    Forced,
    /// Every request in flight was answered.
    Graceful,
}

impl RunningServer {
    pub(in crate::server) fn start(
        listener: Box<dyn MeshListener>,
        other: Option<Box<dyn MeshListener>>,
        acceptor: Acceptor,
        background: Background,
        mesh_ip: watch::Sender<String>,
        clock: Arc<ServerClock>,
        shared: Arc<Shared>,
    ) -> Self {
        let local_addr = listener.local_addr();
        let other_addr = other.as_ref().map(|other| other.local_addr());
        background.tasks.spawn(async move {
            // The server ends with its main listener, and continues without the other one.
            let beside = async {
                if let Some(other) = other {
                    acceptor.clone().run(other).await;
                }
                std::future::pending().await
            };
            tokio::select! {
                () = acceptor.clone().run(listener) => {}
                () = beside => {}
            }
        });
        // No further tasks are added, so waiting for them can end.
        background.tasks.close();
        Self {
            local_addr,
            other_addr,
            background,
            mesh_ip,
            _watching: AbortOnDropHandle::new(tokio::spawn(clock.run())),
            shared,
        }
    }

    /// Deletes the stash of an owner. Returns whether there was one.
    ///
    /// # Errors
    /// If the stash may still be in the store.
    pub async fn forget_stash(&self, owner: &NaraId) -> io::Result<bool> {
        self.shared.stash.forget(owner.as_str()).await
    }

    /// Returns the sealed stashes that peers left with this nara, by owner.
    pub fn stashes(&self) -> Vec<SealedStash> {
        self.shared.stash.list()
    }

    /// Returns the peers with an open stream, of live events or an answer of a route, by name.
    pub fn stream_readers(&self) -> Vec<NaraName> {
        self.shared.streams.holders()
    }

    /// Changes the mesh address in `/ping` answers, after the node got a new one.
    pub fn set_mesh_ip(&self, mesh_ip: impl Into<String>) {
        self.mesh_ip.send_replace(mesh_ip.into());
    }

    /// Returns the address on which it first listened. Listeners of tailnets follow their node to a new address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the other address on which it listens:
    /// [`MeshServerBuilder::also_listen`](crate::server::MeshServerBuilder::also_listen), if that was free.
    pub fn other_addr(&self) -> Option<SocketAddr> {
        self.other_addr
    }

    /// Returns whether it has ended: it was shut down, or its listener failed.
    pub fn is_finished(&self) -> bool {
        self.background.tasks.is_empty()
    }

    /// Waits until its listener fails.
    pub async fn finished(&self) {
        self.background.tasks.wait().await;
    }

    /// Stops accepting connections and requests, closes idle connections, waits for requests in flight until
    /// `deadline`, and aborts the rest.
    pub async fn shutdown(self, deadline: Duration) -> Shutdown {
        self.end(deadline).await
    }

    /// Like [`RunningServer::shutdown`], for a shared server.
    pub(crate) async fn end(&self, deadline: Duration) -> Shutdown {
        self.background.stopping.cancel();
        if timeout(deadline, self.background.tasks.wait()).await.is_ok() {
            return Shutdown::Graceful;
        }
        self.background.stopped.cancel();
        self.background.tasks.wait().await;
        Shutdown::Forced
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.background.stopping.cancel();
        self.background.stopped.cancel();
    }
}
