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

/// The pause before a failed bind is retried: the daemon reports a new address before its device has it.
const RETRY: Duration = Duration::from_millis(200);

/// The timeout for the device to get an address that the daemon has reported.
const DEVICE: Duration = Duration::from_secs(30);

/// Binds to an address that the device may not have yet.
async fn bind_soon(local: SocketAddr) -> io::Result<Box<dyn MeshListener>> {
    let until = Instant::now() + DEVICE;
    let mut logged = false;
    loop {
        match TcpTransport.listen(local).await {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && Instant::now() < until => {
                if !std::mem::replace(&mut logged, true) {
                    tracing::warn!(%local, "waiting for a network device with the address of the node");
                }
                sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// A listener that moves to the current address of the node. A socket on an address that the device has lost does
/// not fail, but never accepts a connection.
#[derive(Debug)]
pub(super) struct MovingListener {
    listener: Box<dyn MeshListener>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether the failure of the current move was logged.
    logged: bool,
}

impl MovingListener {
    pub(super) async fn bind(
        local: SocketAddr,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: bind_soon(local).await?,
            snapshots,
            logged: false,
        })
    }

    /// Moves to the current address of the node. Returns `false` if that was not possible yet.
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
                self.logged = false;
                true
            }
            Err(error) => {
                if !self.logged {
                    tracing::warn!(%to, %error, "cannot bind to the new address of the node yet");
                    self.logged = true;
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
                    // An error means that the follower has ended: the listener keeps its address.
                    Ok(()) = self.snapshots.changed() => {}
                    () = sleep(RETRY), if !is_settled => {}
                }
            }
        })
    }
}

impl Snapshot {
    /// Returns the address that replaces an earlier address of the node; `None` if the node still has the earlier one,
    /// or no address at all.
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
    async fn a_bind_waits_for_the_device_to_get_the_address_but_not_for_ever() {
        let begun = Instant::now();
        // No device has an address of the documentation range.
        let outcome = bind_soon("192.0.2.7:0".parse().unwrap()).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert!(begun.elapsed() >= DEVICE);
        bind_soon("127.0.0.1:0".parse().unwrap()).await.unwrap();
    }
}
