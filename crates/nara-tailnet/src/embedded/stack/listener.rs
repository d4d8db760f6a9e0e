//! A listener that follows the address changes of the node.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nara_mesh::transport::{BoxMeshStream, MeshListener};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::stream::Stream;
use super::{Stack, random_port};

/// Accepted connections that wait for the server.
const BACKLOG: usize = 64;
const PAUSE: Duration = Duration::from_millis(200);
/// The number of attempts to find a free port.
const TRIES: usize = 16;

/// A listener on the addresses of the node; see the module.
pub(in crate::embedded) struct Listener {
    local: SocketAddr,
    accepted: mpsc::Receiver<(Stream, SocketAddr)>,
    _task: JoinSet<()>,
}

impl Listener {
    /// Listens on a port of all our addresses, or of one family, and follows their changes. Waits until the node has an
    /// address.
    pub(in crate::embedded) async fn open(stack: Arc<Stack>, local: SocketAddr) -> io::Result<Self> {
        let mut addresses = stack.addresses();
        let ours = addresses
            .wait_for(|addresses| !addresses.is_empty())
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?
            .clone();
        if !local.ip().is_unspecified() && !ours.contains(&local.ip()) {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!(
                    "{} is not an address of this node, which has {ours:?}",
                    local.ip()
                ),
            ));
        }
        let wanted = wanted(&ours, local.ip());
        let first = *wanted
            .first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        let mut bound = Vec::new();
        let port = if local.port() == 0 {
            free_port(&stack, first, &mut bound).await?
        } else {
            bound.extend(stack.bind((first, local.port()).into()).await?);
            local.port()
        };
        for address in wanted.iter().skip(1) {
            bound.extend(stack.bind((*address, port).into()).await?);
        }
        let (accept, accepted) = mpsc::channel(BACKLOG);
        let mut task = JoinSet::new();
        task.spawn(follow(stack, local.ip(), port, bound, accept));
        Ok(Self {
            local: (first, port).into(),
            accepted,
            _task: task,
        })
    }
}

type Bound = ts_netstack_smoltcp::netsock::TcpListener;

async fn free_port(stack: &Stack, address: IpAddr, bound: &mut Vec<Bound>) -> io::Result<u16> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = random_port();
        match stack.bind((address, port).into()).await {
            Ok(listeners) => {
                bound.extend(listeners);
                return Ok(port);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Returns which of our addresses a listener on `local` uses: all, or those of its family.
///
/// A specific address stands for all of ours in its family, since the control server may assign another one at any
/// time.
fn wanted(ours: &[IpAddr], local: IpAddr) -> Vec<IpAddr> {
    ours.iter()
        .copied()
        .filter(|address| local.is_unspecified() || address.is_ipv4() == local.is_ipv4())
        .collect()
}

/// Accepts connections on all of our addresses, and rebinds when they change.
///
/// Runs as a task of its own, because cancelling an `accept` of the stack would lose a connection.
async fn follow(
    stack: Arc<Stack>,
    local: IpAddr,
    port: u16,
    mut bound: Vec<Bound>,
    accept: mpsc::Sender<(Stream, SocketAddr)>,
) {
    let mut addresses = stack.addresses();
    loop {
        let mut accepting = JoinSet::new();
        for listener in bound.drain(..) {
            accepting.spawn(accept_on(Arc::clone(&stack), listener, accept.clone()));
        }
        let ours = addresses.borrow_and_update().clone();
        tokio::select! {
            changed = addresses.changed() => if changed.is_err() { return },
            () = accept.closed() => return,
            // An acceptor ends only if the stack rejects it: bind again.
            _ = accepting.join_next() => tokio::time::sleep(PAUSE).await,
        }
        accepting.shutdown().await;
        let now = addresses.borrow_and_update().clone();
        if now != ours {
            tracing::info!(?ours, ?now, "the addresses of the node have changed");
        }
        for address in wanted(&now, local) {
            match stack.bind((address, port).into()).await {
                Ok(listeners) => bound.extend(listeners),
                // The node has ended, so the listener ends too.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => tracing::warn!(%address, port, %error, "cannot listen"),
            }
        }
        if bound.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn accept_on(stack: Arc<Stack>, listener: Bound, accept: mpsc::Sender<(Stream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let peer = stream.remote_addr();
                stack.tap.accepted(&(stream.local_addr(), peer));
                if accept
                    .send((Stream::new(stream, Arc::clone(&stack.tap)), peer))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                return;
            }
        }
    }
}

impl MeshListener for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async {
            match self.accepted.recv().await {
                Some((stream, peer)) => Ok((Box::new(stream) as BoxMeshStream, peer)),
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_has_the_addresses_of_its_family() {
        let four: IpAddr = "100.64.0.1".parse().unwrap();
        let six: IpAddr = "fd7a::1".parse().unwrap();
        let moved: IpAddr = "100.64.0.9".parse().unwrap();
        assert_eq!(wanted(&[four, six], "0.0.0.0".parse().unwrap()), [four, six]);
        assert_eq!(wanted(&[four, six], four), [four]);
        assert_eq!(wanted(&[moved, six], four), [moved]);
        assert_eq!(wanted(&[four, six], six), [six]);
    }
}
