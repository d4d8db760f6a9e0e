mod proxy;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nara_mesh::transport::{BoxMeshStream, MeshListener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
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

/// How long all of that may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait when a connection cannot be accepted.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How to know whose a forwarded connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// The daemon knows the connection by its source.
    BySource,
    /// The connection begins with a PROXY header. That can be forged: it is believed only of a process of this user.
    ByHeader,
}

/// Accepts what a daemon in userspace mode forwards to a port of the loopback address.
///
/// Every process of the machine can connect there. The daemon is asked whose each connection is, and one that it did
/// not open is refused.
#[derive(Debug)]
pub(crate) struct ForwardedListener {
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
    /// Accepts from a listener on the loopback address, which peers know as `address`.
    pub(crate) fn new(
        listener: TcpListener,
        address: SocketAddr,
        api: LocalApi,
        announced: Announced,
    ) -> Self {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(accept(listener, api, announced, sender));
        Self {
            accepted,
            address,
            _task: AbortOnDropHandle::new(task),
        }
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
    announced: Announced,
    accepted: mpsc::Sender<(BoxMeshStreamDebug, SocketAddr)>,
) {
    let checks = Arc::new(Semaphore::new(CHECKS));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = checks.clone().acquire_owned().await else {
            return;
        };
        while tasks.try_join_next().is_some() {}
        let (mut stream, source) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of tailscaled");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        let (api, accepted) = (api.clone(), accepted.clone());
        tasks.spawn(async move {
            let peer = match timeout(CHECK_TIMEOUT, check(&api, &mut stream, source, announced)).await {
                Ok(peer) => peer,
                Err(_) => {
                    tracing::warn!(%source, "the owner of a connection could not be determined in time: refused");
                    None
                }
            };
            if let Some(peer) = peer {
                // An error means that nobody listens any more.
                let _ = accepted.send((BoxMeshStreamDebug(Box::new(stream)), peer)).await;
            }
            drop(permit);
        });
    }
}

/// The tailnet address from which a connection comes; `None`: it is refused.
async fn check(
    api: &LocalApi,
    stream: &mut TcpStream,
    source: SocketAddr,
    announced: Announced,
) -> Option<SocketAddr> {
    // Requests are small and wait for answers: Nagle's algorithm would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%source, %error, "a connection ended at once");
        return None;
    }
    let claimed = match announced {
        Announced::BySource => source,
        Announced::ByHeader => match proxy::announced_source(stream, source).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%source, %error, "a connection that tailscaled did not open: refused");
                return None;
            }
        },
    };
    let mut retries = RETRIES.into_iter();
    loop {
        match api.whois(&claimed.to_string()).await {
            Ok(Some(found)) => {
                let addresses = &found.node.addresses;
                // With a header it is known which of its addresses the node used.
                let ip = match announced {
                    Announced::BySource => addresses.first().copied(),
                    Announced::ByHeader => Some(claimed.ip()),
                };
                if ip.is_none() {
                    tracing::warn!(%source, "connection refused: its node has no address");
                }
                return ip.map(|ip| SocketAddr::new(ip, claimed.port()));
            }
            Ok(None) => match retries.next() {
                Some(pause) => sleep(pause).await,
                None => {
                    tracing::warn!(%source, "a connection from this machine, not from the tailnet: refused");
                    return None;
                }
            },
            Err(error) => {
                tracing::warn!(%source, %error, "tailscaled does not report the owner of a connection: refused");
                return None;
            }
        }
    }
}
