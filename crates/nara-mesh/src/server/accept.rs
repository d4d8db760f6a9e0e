//! The accept loop, its connections, and their end.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use super::background::Background;
use super::opening::Opening;
use super::rejection::Rejection;
use super::watch::{Watch, WatchedStream};
use super::{PeerAddress, ServerLimits};
use crate::metrics::{self, Counted};
use crate::tls::SecureChannel;
use crate::transport::{BoxMeshStream, MeshListener};

/// How long the accept loop rests after an error: most likely the process has no file descriptor left, and
/// trying again at once would only burn a core.
const BACK_OFF: Duration = Duration::from_secs(1);

/// A server that is running. Dropping it stops it at once, with whatever it is doing.
#[derive(Debug)]
pub struct RunningServer {
    local_addr: SocketAddr,
    background: Background,
    mesh_ip: watch::Sender<String>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// The deadline passed: requests were cut off.
    Forced,
    /// Every request that had begun was answered.
    Graceful,
}

impl RunningServer {
    pub(super) fn start(
        listener: Box<dyn MeshListener>,
        router: Router,
        opening: Opening,
        limits: &ServerLimits,
        background: Background,
        mesh_ip: watch::Sender<String>,
    ) -> Self {
        let local_addr = listener.local_addr();
        let acceptor = Acceptor {
            router,
            opening,
            slots: Arc::new(Semaphore::new(limits.connections)),
            by_address: Arc::default(),
            per_address: limits.connections_per_address,
            header_bytes: limits.header_bytes,
            header_read: limits.header_read,
            idle: limits.idle,
            background: background.clone(),
        };
        background.tasks.spawn(acceptor.run(listener));
        // Whatever is running can be waited for from now on.
        background.tasks.close();
        Self {
            local_addr,
            background,
            mesh_ip,
        }
    }

    /// Makes `/ping` tell another mesh address from now on: the node of this nara has got it.
    pub fn set_mesh_ip(&self, mesh_ip: impl Into<String>) {
        self.mesh_ip.send_replace(mesh_ip.into());
    }

    /// The address on which it began to listen. Listeners of tailnets follow their node when it gets another one.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether it has ended: it was shut down, or its listener is gone.
    pub fn is_finished(&self) -> bool {
        self.background.tasks.is_empty()
    }

    /// Waits until it has ended by itself, because its listener is gone.
    pub async fn finished(&self) {
        self.background.tasks.wait().await;
    }

    /// Stops accepting connections and requests, closes idle connections, lets requests that have begun go on
    /// until `deadline`, and cuts off what remains then.
    pub async fn shutdown(self, deadline: Duration) -> Shutdown {
        self.end(deadline).await
    }

    /// As [`RunningServer::shutdown`], for a server that is shared.
    pub(crate) async fn end(&self, deadline: Duration) -> Shutdown {
        self.background.stopping.cancel();
        if timeout(deadline, self.background.tasks.wait()).await.is_ok() {
            return Shutdown::Graceful;
        }
        self.background.stopped.cancel();
        self.background.tasks.wait().await;
        Shutdown::Forced
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.background.stopping.cancel();
        self.background.stopped.cancel();
    }
}

#[derive(Clone, Debug)]
struct Acceptor {
    router: Router,
    opening: Opening,
    slots: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address: usize,
    header_bytes: usize,
    header_read: Duration,
    idle: Duration,
    background: Background,
}

impl Acceptor {
    async fn run(self, mut listener: Box<dyn MeshListener>) {
        tokio::select! {
            () = self.background.stopping.cancelled() => {}
            () = self.accept(&mut *listener) => {}
        }
        tracing::debug!(address = %listener.local_addr(), "no longer accepting connections");
    }

    /// Accepts until the listener is gone.
    async fn accept(&self, listener: &mut dyn MeshListener) {
        loop {
            // Before accepting: who finds no slot waits in the backlog of the listener.
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer, slot),
                // The peer has given up already: nothing is wrong here.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    tracing::error!(%error, address = %listener.local_addr(), "the listener is gone");
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, address = %listener.local_addr(), "cannot accept a connection");
                    sleep(BACK_OFF).await;
                }
            }
        }
    }

    fn admit(&self, stream: BoxMeshStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let Some(place) = Place::take(&self.by_address, peer.ip(), self.per_address) else {
            tracing::warn!(%peer, limit = self.per_address, "too many connections from one address: closed");
            ::metrics::counter!(metrics::CONNECTIONS_REFUSED).increment(1);
            return;
        };
        let acceptor = self.clone();
        let open = Counted::new(metrics::CONNECTIONS);
        self.background.tasks.spawn(async move {
            acceptor.serve(stream, peer).await;
            drop((slot, place, open));
        });
    }

    async fn serve(&self, stream: BoxMeshStream, peer: SocketAddr) {
        let opened = tokio::select! {
            opened = self.opening.open(stream, peer.ip()) => opened,
            // No request has begun.
            () = self.background.stopping.cancelled() => return,
        };
        let security = match &opened {
            Ok((_, Some(_))) => "tls",
            Ok((_, None)) => "plain",
            Err(_) => "failed",
        };
        ::metrics::counter!(metrics::CONNECTIONS_ACCEPTED, "security" => security).increment(1);
        match opened {
            Ok((stream, channel)) => self.serve_http(stream, channel, peer).await,
            Err(error) => tracing::debug!(%peer, %error, "connection closed"),
        }
    }

    async fn serve_http(&self, stream: BoxMeshStream, channel: Option<SecureChannel>, peer: SocketAddr) {
        let watch = Watch::new(self.header_read, self.idle);
        let refused = self.opening.refuses_plain() && channel.is_none();
        let service = hyper::service::service_fn(|mut request: http::Request<hyper::body::Incoming>| {
            watch.request_began();
            request.extensions_mut().insert(PeerAddress(peer));
            if let Some(channel) = &channel {
                request.extensions_mut().insert(channel.clone());
            }
            let routed = (!refused).then(|| self.router.clone().oneshot(request.map(Body::new)));
            let watch = watch.clone();
            async move {
                let response = match routed {
                    Some(routed) => routed.await,
                    None => Ok(Rejection::TlsRequired.into_response()),
                };
                watch.request_ended();
                response
            }
        });
        let stream = TokioIo::new(WatchedStream::new(stream, watch.clone()));
        let connection = http1::Builder::new()
            // `Watch` does this.
            .header_read_timeout(None)
            .max_header_size(self.header_bytes)
            .serve_connection(stream, service);
        let mut connection = pin!(connection);

        let mut stopping = false;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(%peer, %error, "connection failed");
                    }
                    return;
                }
                expired = watch.expired() => {
                    tracing::debug!(%peer, ?expired, "connection closed");
                    return;
                }
                () = self.background.stopped.cancelled() => return,
                () = self.background.stopping.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// One of the connections that an address may have.
struct Place {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Place {
    fn take(by_address: &Arc<Mutex<HashMap<IpAddr, usize>>>, ip: IpAddr, limit: usize) -> Option<Self> {
        let mut counts = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self {
            by_address: by_address.clone(),
            ip,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}
