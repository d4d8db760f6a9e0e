mod proxy;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use nara_mesh::transport::{BoxMeshStream, MeshListener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::localapi::LocalApi;

/// The number of connections that can wait to be accepted.
const BACKLOG: usize = 128;

/// The number of concurrent owner look-ups.
const CHECKS: usize = 64;

/// The pauses before the look-up of an unknown connection is repeated: the daemon opens a connection first and
/// records its owner a moment later.
const RETRIES: [Duration; 3] = [
    Duration::from_millis(5),
    Duration::from_millis(30),
    Duration::from_millis(150),
];

/// The timeout for the whole look-up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after a failed accept.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How the owner of a forwarded connection is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// By its source address, which the daemon knows.
    BySource,
    /// By the PROXY header at its beginning. A header can be forged, so it is accepted only from processes of this
    /// user.
    ByHeader,
}

/// A listener for connections that a daemon in userspace mode forwards to a loopback port.
///
/// Every process of the machine can connect to this port, so the owner of each connection is looked up in the daemon;
/// connections that the daemon did not open are refused.
#[derive(Debug)]
pub(crate) struct ForwardedListener {
    accepted: mpsc::Receiver<(BoxMeshStreamDebug, SocketAddr)>,
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

/// Implements `Debug` for a boxed stream, as the channel needs it.
struct BoxMeshStreamDebug(BoxMeshStream);

impl std::fmt::Debug for BoxMeshStreamDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshStream")
    }
}

impl ForwardedListener {
    /// Accepts connections of a loopback listener, which peers know as `address`.
    pub(crate) fn new(
        listener: TcpListener,
        address: SocketAddr,
        api: LocalApi,
        announced: Announced,
    ) -> Self {
        let (sender, accepted) = mpsc::channel(BACKLOG);
        let task = tokio::spawn(accept(listener, api, announced, sender).boxed());
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
                    tracing::warn!(%source, "connection refused: timed out looking up its owner");
                    None
                }
            };
            if let Some(peer) = peer {
                // An error means that the listener was dropped.
                let _ = accepted.send((BoxMeshStreamDebug(Box::new(stream)), peer)).await;
            }
            drop(permit);
        });
    }
}

/// Returns the source address of a connection on the tailnet; `None` if the connection is refused.
async fn check(
    api: &LocalApi,
    stream: &mut TcpStream,
    source: SocketAddr,
    announced: Announced,
) -> Option<SocketAddr> {
    // Nagle's algorithm would delay small requests.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%source, %error, "connection closed at once");
        return None;
    }
    let claimed = match announced {
        Announced::BySource => source,
        Announced::ByHeader => match proxy::announced_source(stream, source).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(%source, %error, "connection refused: tailscaled did not open it");
                return None;
            }
        },
    };
    let mut retries = RETRIES.into_iter();
    loop {
        match api.whois(&claimed.to_string()).await {
            Ok(Some(found)) => {
                let addresses = &found.node.addresses;
                // Only the header tells which of its addresses the node used.
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
                    tracing::warn!(%source, "connection refused: it comes from this machine, not from the tailnet");
                    return None;
                }
            },
            Err(error) => {
                tracing::warn!(%source, %error, "connection refused: tailscaled does not report its owner");
                return None;
            }
        }
    }
}
