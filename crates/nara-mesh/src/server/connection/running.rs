//! A server that is running, and its end.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::server::background::Background;
use crate::server::connection::accept::Acceptor;
use crate::transport::MeshListener;

/// A server that is running. Dropping it stops it at once, with whatever it is doing.
#[derive(Debug)]
pub struct RunningServer {
    local_addr: SocketAddr,
    background: Background,
    mesh_ip: watch::Sender<String>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// The deadline passed: requests were cut off.
    Forced,
    /// Every request that had begun was answered.
    Graceful,
}

impl RunningServer {
    pub(in crate::server) fn start(
        listener: Box<dyn MeshListener>,
        acceptor: Acceptor,
        background: Background,
        mesh_ip: watch::Sender<String>,
    ) -> Self {
        let local_addr = listener.local_addr();
        background.tasks.spawn(acceptor.run(listener));
        // Whatever is running can be waited for from now on.
        background.tasks.close();
        Self {
            local_addr,
            background,
            mesh_ip,
        }
    }

    /// Makes `/ping` tell another mesh address from now on: the node of this nara has got it.
    pub fn set_mesh_ip(&self, mesh_ip: impl Into<String>) {
        self.mesh_ip.send_replace(mesh_ip.into());
    }

    /// The address on which it began to listen. Listeners of tailnets follow their node when it gets another one.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether it has ended: it was shut down, or its listener is gone.
    pub fn is_finished(&self) -> bool {
        self.background.tasks.is_empty()
    }

    /// Waits until it has ended by itself, because its listener is gone.
    pub async fn finished(&self) {
        self.background.tasks.wait().await;
    }

    /// Stops accepting connections and requests, closes idle connections, lets requests that have begun go on
    /// until `deadline`, and cuts off what remains then.
    pub async fn shutdown(self, deadline: Duration) -> Shutdown {
        self.end(deadline).await
    }

    /// As [`RunningServer::shutdown`], for a server that is shared.
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
