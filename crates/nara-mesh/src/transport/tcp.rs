use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use super::{BoxMeshStream, MeshListener, Transport};

/// TCP of the operating system: loopback, or a machine whose tailnet is a network interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpTransport;

impl Transport for TcpTransport {
    fn dial(&self, peer: SocketAddr) -> BoxFuture<'_, io::Result<BoxMeshStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(peer).await?;
            // Requests are small and wait for answers: Nagle's algorithm would only delay them.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxMeshStream)
        })
    }

    fn listen(&self, local: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn MeshListener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(local).await?;
            let local = listener.local_addr()?;
            Ok(Box::new(Listener { listener, local }) as Box<dyn MeshListener>)
        })
    }
}

#[derive(Debug)]
struct Listener {
    listener: TcpListener,
    local: SocketAddr,
}

impl MeshListener for Listener {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxMeshStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxMeshStream, peer))
        })
    }
}
