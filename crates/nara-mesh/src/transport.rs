//! How bytes reach a peer: the [`Transport`] trait and two implementations.
//!
//! A transport dials and listens; streams are anything that is `AsyncRead + AsyncWrite`, addresses are mesh
//! addresses. Nothing above assumes a socket of the operating system, so a node that lives inside the process
//! fits as well.

mod memory;
mod tcp;

pub use memory::{MemoryNetwork, MemoryTransport};
pub use tcp::TcpTransport;

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use nara_proto::identity::NaraName;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a peer.
pub trait MeshStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> MeshStream for T {}

/// A byte stream to a peer, of any kind.
pub type BoxMeshStream = Box<dyn MeshStream>;

/// A way to reach peers and to be reached.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Opens a stream to a peer. The caller limits how long it may take.
    ///
    /// # Errors
    /// Network errors: refused, unreachable, reset.
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>>;

    /// Listens on a mesh address of this nara; port 0 picks a free one.
    ///
    /// # Errors
    /// Network errors: address in use, not ours, not permitted.
    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>>;

    /// The mesh addresses of this node whenever they change. By default they never do.
    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        Box::pin(stream::pending())
    }
}

/// Accepts streams of peers.
pub trait MeshListener: Debug + Send + 'static {
    /// The address on which it listens.
    fn local_addr(&self) -> SocketAddr;

    /// Waits for a peer. Cancel safe.
    ///
    /// # Errors
    /// One connection may fail without the listener failing: the caller waits a moment and continues.
    /// [`io::ErrorKind::NotConnected`] means that the listener failed for good.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>>;
}

/// A node of the network that may be a nara.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its host name on the network.
    pub host_name: String,
    /// Its mesh addresses, preferred address first.
    pub addresses: Vec<IpAddr>,
    /// Whether the network reports it online; `None` if it does not report.
    pub online: Option<bool>,
}

impl Candidate {
    /// A node with a host name and addresses, and nothing else known.
    pub fn new(host_name: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            host_name: host_name.into(),
            addresses,
            online: None,
        }
    }
}

/// Knows which nodes are on the network: a tailnet's status, or a fixed list.
pub trait PeerSource: Debug + Send + Sync + 'static {
    /// The currently known nodes.
    ///
    /// # Errors
    /// If the source fails.
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>>;

    /// Every change from now on: the whole list again, each time.
    fn watch(&self) -> BoxStream<'static, Vec<Candidate>>;

    /// The nara that owns a source address, where the network knows for certain; `None` if it does not. A server
    /// refuses requests from there under another name, so do not guess from a host name.
    ///
    /// A server asks for each signed request, so answer from memory: a lookup that takes longer than
    /// 250 ms refuses the request. IPv4 addresses come as
    /// IPv4, not mapped into IPv6.
    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>>;
}
