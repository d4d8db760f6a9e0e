//! Transports: the [`Transport`] trait and two implementations.
//!
//! A transport dials and listens; streams are any `AsyncRead + AsyncWrite`, addresses are mesh addresses. The layers
//! above do not assume an operating system socket, so a node inside the process works as well.

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

/// A boxed byte stream to a peer.
pub type BoxMeshStream = Box<dyn MeshStream>;

/// A transport: it dials peers and listens for them.
pub trait Transport: Debug + Send + Sync + 'static {
    /// Opens a stream to a peer. The caller limits its time.
    ///
    /// # Errors
    /// Network errors: refused, unreachable, reset.
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>>;

    /// Listens on a mesh address of this nara; port 0 selects a free one.
    ///
    /// # Errors
    /// Network errors: address in use, not ours, not permitted.
    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>>;

    /// Returns the mesh addresses of this node, each time they change. By default they never do.
    fn watch_addresses(&self) -> BoxStream<'static, Vec<IpAddr>> {
        Box::pin(stream::pending())
    }
}

/// A listener for streams of peers.
pub trait MeshListener: Debug + Send + 'static {
    /// Returns the address on which it listens.
    fn local_addr(&self) -> SocketAddr;

    /// Waits for a peer. Cancel safe.
    ///
    /// # Errors
    /// A connection may fail without the listener failing: the caller pauses and continues.
    /// [`io::ErrorKind::NotConnected`] means that the listener failed permanently.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>>;
}

/// A node of the network that may be a nara.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The host name on the network.
    pub host_name: String,
    /// The mesh addresses, preferred address first.
    pub addresses: Vec<IpAddr>,
    /// Whether the network reports it as online; `None` if it does not report.
    pub online: Option<bool>,
}

impl Candidate {
    /// Returns a node with only a host name and addresses.
    pub fn new(host_name: impl Into<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            host_name: host_name.into(),
            addresses,
            online: None,
        }
    }
}

/// A source of the nodes on the network: the status of a tailnet, or a fixed list.
pub trait PeerSource: Debug + Send + Sync + 'static {
    /// Returns the currently known nodes.
    ///
    /// # Errors
    /// If the source fails.
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>>;

    /// Returns the whole list of nodes after each change from now on.
    fn watch(&self) -> BoxStream<'static, Vec<Candidate>>;

    /// Returns the nara that owns a source address, if the network knows it for certain. A server refuses requests from
    /// there under another name, so do not guess from a host name.
    ///
    /// A server calls it for each signed request, so answer from memory: the request is refused if the lookup takes
    /// longer than 250 ms. IPv4 addresses are passed as IPv4, not mapped into IPv6.
    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>>;
}
