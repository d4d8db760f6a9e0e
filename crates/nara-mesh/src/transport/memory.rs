mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{BoxMeshStream, MeshListener, Transport};

/// The number of connections that wait to be accepted.
const BACKLOG: usize = 128;

/// A network inside the process, for tests with paused time and for simulations: hosts have addresses, and a host can
/// become silent or slow, or lose its connections.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork(Arc<Mutex<Hosts>>);

#[derive(Debug, Default)]
struct Hosts {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<(BoxMeshStreamDebug, SocketAddr)>>,
    silent: BTreeSet<IpAddr>,
    latency: Duration,
    /// In bytes per second.
    rate: Option<NonZeroU32>,
    wires: Vec<Wire>,
    next_port: u16,
}

/// A connection that may still be open.
#[derive(Debug)]
struct Wire {
    hosts: [IpAddr; 2],
    cut: CancellationToken,
    open: Weak<()>,
}

impl Wire {
    fn is_open(&self) -> bool {
        self.open.strong_count() > 0
    }
}

/// Implements `Debug` for a boxed stream, as channels require it.
struct BoxMeshStreamDebug(BoxMeshStream);

impl std::fmt::Debug for BoxMeshStreamDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MeshStream")
    }
}

impl MemoryNetwork {
    /// Returns an empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the transport of the host with this address.
    pub fn host(&self, address: IpAddr) -> MemoryTransport {
        MemoryTransport {
            network: self.clone(),
            address,
        }
    }

    /// Makes a host silent: dialling it never gets an answer, like a machine without power. Open connections stay open.
    pub fn silence(&self, host: IpAddr) {
        self.hosts().silent.insert(host);
    }

    /// Makes a silent host answer again.
    pub fn restore(&self, host: IpAddr) {
        self.hosts().silent.remove(&host);
    }

    /// Delays every byte of connections opened from now on. Needs a tokio runtime.
    pub fn set_latency(&self, latency: Duration) {
        self.hosts().latency = latency;
    }

    /// Limits connections opened from now on to so many bytes per second in each direction. Needs a tokio runtime.
    pub fn set_rate(&self, bytes_per_second: NonZeroU32) {
        self.hosts().rate = Some(bytes_per_second);
    }

    /// Breaks every connection from and to a host: both ends get an error, and bytes in flight are lost. New
    /// connections can be opened at once.
    pub fn cut(&self, host: IpAddr) {
        let mut hosts = self.hosts();
        hosts.wires.retain(|wire| {
            let touched = wire.hosts.contains(&host);
            if touched {
                wire.cut.cancel();
            }
            !touched
        });
    }

    fn hosts(&self) -> std::sync::MutexGuard<'_, Hosts> {
        // The table is valid even if a holder of the lock panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host of a [`MemoryNetwork`].
#[derive(Clone, Debug)]
pub struct MemoryTransport {
    network: MemoryNetwork,
    address: IpAddr,
}

impl Transport for MemoryTransport {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            let (listener, source) = {
                let mut hosts = self.network.hosts();
                hosts.next_port = hosts.next_port.wrapping_add(1) | 0xc000;
                let source = SocketAddr::new(self.address, hosts.next_port);
                let silent = hosts.silent.contains(&peer.ip());
                (
                    if silent {
                        Err(())
                    } else {
                        Ok(hosts.listeners.get(&peer).cloned())
                    },
                    source,
                )
            };
            let Ok(listener) = listener else {
                return std::future::pending().await;
            };
            let listener = listener.ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = {
                let mut hosts = self.network.hosts();
                let cut = CancellationToken::new();
                let ends = wire::connect(hosts.latency, hosts.rate, &cut);
                if hosts.wires.len().is_power_of_two() {
                    hosts.wires.retain(Wire::is_open);
                }
                hosts.wires.push(Wire {
                    hosts: [self.address, peer.ip()],
                    cut,
                    open: ends.0.open(),
                });
                ends
            };
            listener
                .send((BoxMeshStreamDebug(Box::new(theirs)), source))
                .await
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(ours) as BoxMeshStream)
        })
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let mut hosts = self.network.hosts();
            let local = SocketAddr::new(self.address, local.port());
            if hosts
                .listeners
                .get(&local)
                .is_some_and(|listener| !listener.is_closed())
            {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let (sender, receiver) = mpsc::channel(BACKLOG);
            hosts.listeners.insert(local, sender);
            Ok(Box::new(Listener { receiver, local }) as Box<dyn MeshListener>)
        })
    }
}

#[derive(Debug)]
struct Listener {
    receiver: mpsc::Receiver<(BoxMeshStreamDebug, SocketAddr)>,
    local: SocketAddr,
}

impl MeshListener for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.receiver.recv().await.ok_or(io::ErrorKind::NotConnected)?;
            Ok((stream.0, peer))
        })
    }
}
