use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nara_mesh::transport::{BoxMeshStream, MeshListener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::localapi::LocalApi;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// Connections whose node is being asked for at once.
const CHECKS: usize = 64;

/// When the daemon is asked again about a connection that it does not know: it opens it first and notes whose it is
/// a moment later.
const RETRIES: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(150),
];

/// How long to wait when a connection cannot be accepted.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts what a daemon in userspace mode forwards to a port of the loopback address.
///
/// Every process of the machine can connect there. The daemon is asked whose each connection is, and one that it did
/// not open is refused.
#[derive(Debug)]
pub(super) struct ForwardedListener {
    accepted: mpsc::Receiver<(BoxMeshStreamDebug, SocketAddr)>,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// `Debug` for a boxed stream, so that channels of them have it.
struct BoxMeshStreamDebug(BoxMeshStream);

impl std::fmt::Debug for BoxMeshStreamDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshStream")
    }
}

impl ForwardedListener {
    /// Listens on a loopback address; peers know it as the same port of `mesh`.
    pub(super) async fn bind(loopback: SocketAddr, mesh: IpAddr, api: LocalApi) -> io::Result<Self> {
        let listener = TcpListener::bind(loopback).await?;
        let address = SocketAddr::new(mesh, listener.local_addr()?.port());
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(accept(listener, api, sender));
        Ok(Self {
            accepted,
            address,
            _task: AbortOnDropHandle::new(task),
        })
    }
}

impl MeshListener for ForwardedListener {
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.accepted.recv().await.ok_or(io::ErrorKind::NotConnected)?;
            Ok((stream.0, peer))
        })
    }
}

async fn accept(
    listener: TcpListener,
    api: LocalApi,
    accepted: mpsc::Sender<(BoxMeshStreamDebug, SocketAddr)>,
) {
    let checks = Arc::new(Semaphore::new(CHECKS));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = checks.clone().acquire_owned().await else { return };
        while tasks.try_join_next().is_some() {}
        let (stream, source) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of tailscaled");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        let (api, accepted) = (api.clone(), accepted.clone());
        tasks.spawn(async move {
            if let Some(peer) = check(&api, &stream, source).await {
                // An error means that nobody listens any more.
                let _ = accepted.send((BoxMeshStreamDebug(Box::new(stream)), peer)).await;
            }
            drop(permit);
        });
    }
}

/// The tailnet address from which a connection comes; `None`: it is refused.
async fn check(api: &LocalApi, stream: &TcpStream, source: SocketAddr) -> Option<SocketAddr> {
    // Requests are small and wait for answers: Nagle's algorithm would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%source, %error, "a connection ended at once");
        return None;
    }
    let mut retries = RETRIES.into_iter();
    loop {
        match api.whois(&source.to_string()).await {
            Ok(Some(found)) => {
                let ip = found.node.addresses.first();
                if ip.is_none() {
                    tracing::warn!(%source, "a node without address: connection refused");
                }
                return ip.map(|&ip| SocketAddr::new(ip, source.port()));
            }
            Ok(None) => match retries.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    tracing::warn!(%source, "a connection from this machine, not from the tailnet: refused");
                    return None;
                }
            },
            Err(error) => {
                tracing::warn!(%source, %error, "tailscaled does not say whose a connection is: refused");
                return None;
            }
        }
    }
}
