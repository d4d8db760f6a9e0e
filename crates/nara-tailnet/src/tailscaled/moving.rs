//! A listener on the network device of the daemon that follows the address of the node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::snapshot::Snapshot;

/// How long to wait until binding to a new address is tried again: the daemon tells it before its device has it.
const RETRY: Duration = Duration::from_millis(200);

/// How long the device may take to get an address that the daemon has told.
const DEVICE: Duration = Duration::from_secs(30);

/// Binds to an address that the device may get only now.
async fn bind_soon(local: SocketAddr) -> io::Result<Box<dyn MeshListener>> {
    let until = Instant::now() + DEVICE;
    let mut told = false;
    loop {
        match TcpTransport.listen(local).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%local, "waiting: no network device has the address of the node yet");
                }
                sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// See the module. A socket on an address that the device no longer has would not fail, and never hear of anybody.
#[derive(Debug)]
pub(super) struct MovingListener {
    listener: Box<dyn MeshListener>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether the last attempt to move was said to have failed.
    told: bool,
}

impl MovingListener {
    pub(super) async fn bind(
        local: SocketAddr,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: bind_soon(local).await?,
            snapshots,
            told: false,
        })
    }

    /// Moves to the address that the node has now. `false`: that was not possible yet.
    async fn keep_up(&mut self) -> bool {
        let local = self.listener.local_addr();
        let Some(ip) = self.snapshots.borrow_and_update().moved_from(local.ip()) else {
            return true;
        };
        let to = SocketAddr::new(ip, local.port());
        match TcpTransport.listen(to).await {
            Ok(listener) => {
                tracing::info!(from = %local, %to, "the node has a new address: the listener moved");
                self.listener = listener;
                self.told = false;
                true
            }
            Err(error) => {
                if !self.told {
                    tracing::warn!(%to, %error, "the node has a new address, which cannot be bound yet");
                    self.told = true;
                }
                false
            }
        }
    }
}

impl MeshListener for MovingListener {
    fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async move {
            loop {
                let is_settled = self.keep_up().await;
                tokio::select! {
                    accepted = self.listener.accept() => return accepted,
                    // Nobody follows the daemon any more once that is an error: the listener stays where it is.
                    Ok(()) = self.snapshots.changed() => {}
                    () = sleep(RETRY), if !is_settled => {}
                }
            }
        })
    }
}

impl Snapshot {
    /// The address of the node that takes the place of one that it had; `None`: it still has that one, or none.
    fn moved_from(&self, address: IpAddr) -> Option<IpAddr> {
        let own = self.own();
        if own.contains(&address) {
            return None;
        }
        let of_its_family = own.iter().find(|ip| ip.is_ipv4() == address.is_ipv4());
        of_its_family.or_else(|| own.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_device_gets_time_to_have_the_address_of_the_node_but_not_for_ever() {
        let begun = Instant::now();
        // Of the documentation range: no device has it.
        let outcome = bind_soon("192.0.2.7:0".parse().unwrap()).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert!(begun.elapsed() >= DEVICE);
        bind_soon("127.0.0.1:0".parse().unwrap()).await.unwrap();
    }
}
