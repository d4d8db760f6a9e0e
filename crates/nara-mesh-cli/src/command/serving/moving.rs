//! TCP listeners that can be moved to another address of this machine while the nara runs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt as _};
use nara_mesh::transport::{BoxMeshStream, MeshListener, TcpTransport, Transport};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;

/// A transport with movable listeners. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct MovingTcp {
    listeners: Arc<Mutex<Vec<Place>>>,
    /// The address to which the listeners were moved last.
    address: watch::Sender<Option<IpAddr>>,
}

/// The channel that hands a listener its successor.
#[derive(Clone, Debug)]
struct Place {
    port: u16,
    next: mpsc::UnboundedSender<Box<dyn MeshListener>>,
}

impl MovingTcp {
    /// Moves the listeners to this address, with the same ports.
    ///
    /// # Errors
    /// Fails if the first listener cannot move; then none moves. Failures of the others are logged.
    pub(super) async fn move_to(&self, ip: IpAddr) -> io::Result<()> {
        let places = self.listeners().clone();
        let mut opened = Vec::new();
        for place in places {
            let to = SocketAddr::new(ip, place.port);
            match TcpTransport.listen(to).await {
                Ok(listener) => opened.push((place, listener)),
                Err(error) if opened.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%to, %error, "cannot listen there: v1 peers cannot reach this nara")
                }
            }
        }
        for (place, listener) in opened {
            // The receiver is dropped once the server has shut down.
            let _ = place.next.send(listener);
        }
        self.address.send_replace(Some(ip));
        Ok(())
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Place>> {
        // Every update is a single insertion, so a poisoned map is still consistent.
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for MovingTcp {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        TcpTransport.dial(peer)
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let listener = TcpTransport.listen(local).await?;
            let (next, moves) = mpsc::unbounded_channel();
            let port = listener.local_addr().port();
            self.listeners().push(Place { port, next });
            Ok(Box::new(MovingListener { listener, moves }) as Box<dyn MeshListener>)
        })
    }

    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        let moved = WatchStream::from_changes(self.address.subscribe());
        Box::pin(moved.filter_map(async |ip| Some(vec![ip?])))
    }
}

#[derive(Debug)]
struct MovingListener {
    listener: Box<dyn MeshListener>,
    moves: mpsc::UnboundedReceiver<Box<dyn MeshListener>>,
}

impl MeshListener for MovingListener {
    fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async move {
            loop {
                tokio::select! {
                    accepted = self.listener.accept() => return accepted,
                    Some(listener) = self.moves.recv() => self.listener = listener,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use nara_mesh::{LocalNara, Nara};

    use super::*;

    #[tokio::test]
    async fn a_nara_moves_to_another_address_tells_it_and_leaves_the_one_before() {
        let moving = MovingTcp::default();
        let [before, after]: [IpAddr; 2] = ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().unwrap());
        let alice = Nara::builder(LocalNara::generate("alice").unwrap())
            .listen(SocketAddr::new(before, 0))
            .also_listen(SocketAddr::new(before, 0))
            .transport(Arc::new(moving.clone()))
            .start()
            .await
            .unwrap();
        let bob = LocalNara::generate("bob").unwrap();
        let bob = Nara::builder(bob).start().await.unwrap();
        let here = alice.address().unwrap();
        let there = SocketAddr::new(after, here.port());
        assert_eq!(
            bob.client().ping(here).await.unwrap().response.mesh_ip,
            "127.0.0.1"
        );

        let mut address = alice.watch_address();
        moving.move_to(after).await.unwrap();
        address.wait_for(|now| *now == Some(there)).await.unwrap();
        let other = alice.other_address().unwrap();
        assert_eq!(other.ip(), after);
        bob.client().ping(other).await.unwrap();
        assert_eq!(
            bob.client().ping(there).await.unwrap().response.mesh_ip,
            "127.0.0.2"
        );
        // The old listener stays open until its task has run.
        let refused = loop {
            match TcpTransport.dial(here).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        // An address of the documentation range, which this machine does not have.
        moving.move_to("192.0.2.7".parse().unwrap()).await.unwrap_err();
        assert_eq!(alice.address(), Some(there));
        bob.client().ping(there).await.unwrap();
    }
}
