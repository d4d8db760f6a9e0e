//! The accept loop and its connections.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::response::IntoResponse as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::clock::SystemClock;
use crate::metrics::{self, Counted};
use crate::seldom::warn_seldom;
use crate::server::answer::rejection::Rejection;
use crate::server::background::Background;
use crate::server::connection::facts::ConnectionFacts;
use crate::server::connection::opening::Opening;
use crate::server::connection::refusal::turn_away;
use crate::server::connection::watch::{Expired, Watch, WatchedStream};
use crate::server::limits::quota::Quota;
use crate::server::limits::settings::ServerLimits;
use crate::server::route::way::Entrance;
use crate::tls::SecureChannel;
use crate::transport::{BoxMeshStream, MeshListener};

/// The pause of the accept loop after an error: most likely the process has no free file descriptor, and retrying at
/// once would only burn CPU.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The maximum number of concurrent refusals. Further connections are closed without an answer.
const REFUSALS: usize = 32;

/// A signal to a connection besides its bytes.
enum Signal {
    Stopping,
    Stopped,
    Expired(Expired),
}

/// Accepts connections and serves them.
#[derive(Clone, Debug)]
pub(in crate::server) struct Acceptor {
    entrance: Entrance,
    opening: Opening,
    slots: Arc<Semaphore>,
    by_address: Arc<Quota<IpAddr>>,
    connections_per_address: usize,
    refusals: Arc<Semaphore>,
    header_bytes: usize,
    header_read: Duration,
    idle: Duration,
    background: Background,
}

impl Acceptor {
    pub(in crate::server) fn new(
        entrance: Entrance,
        opening: Opening,
        limits: &ServerLimits,
        background: Background,
    ) -> Self {
        Self {
            entrance,
            opening,
            slots: Arc::new(Semaphore::new(limits.connections)),
            by_address: Arc::new(Quota::new(limits.connections, limits.connections_per_address)),
            connections_per_address: limits.connections_per_address,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            header_bytes: limits.header_bytes,
            header_read: limits.header_read,
            idle: limits.idle,
            background,
        }
    }

    pub(super) async fn run(self, mut listener: Box<dyn MeshListener>) {
        tokio::select! {
            () = self.background.stopping.cancelled() => {}
            () = self.accept(&mut *listener) => {}
        }
        tracing::debug!(address = %listener.local_addr(), "no longer accepting connections");
    }

    /// Accepts connections until the listener fails.
    async fn accept(&self, listener: &mut dyn MeshListener) {
        loop {
            // Before accepting: connections without a slot wait in the backlog of the listener.
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer, slot),
                // The peer has already given up, which is not an error.
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
        let Ok(place) = self.by_address.take(&peer.ip()) else {
            let limit = self.connections_per_address;
            warn_seldom!(%peer, limit, "too many connections from one address: further ones are refused");
            ::metrics::counter!(metrics::CONNECTIONS_REFUSED).increment(1);
            // It must not use up a slot.
            drop(slot);
            if let Ok(refusal) = self.refusals.clone().try_acquire_owned() {
                self.background.spawn(async move {
                    turn_away(stream, limit).await;
                    drop(refusal);
                });
            }
            return;
        };
        let acceptor = self.clone();
        let open = Counted::new(metrics::CONNECTIONS);
        self.background.tasks.spawn(async move {
            acceptor.serve(stream, peer).await;
            // The place first, so that the next holder of the slot finds one.
            drop((place, slot, open));
        });
    }

    async fn serve(&self, stream: BoxMeshStream, peer: SocketAddr) {
        let opened = tokio::select! {
            // Boxed: the handshake needs more memory than everything after it.
            opened = Box::pin(self.opening.open(stream, peer.ip())) => opened,
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
        let facts = ConnectionFacts::new(peer, channel, watch.clone());
        let refused = self.opening.refuses_plain() && facts.channel.is_none();
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
            watch.request_began();
            let (entrance, facts) = (&self.entrance, &facts);
            // Boxed: otherwise each open connection would reserve memory for it.
            Box::pin(async move {
                let response = if refused {
                    Rejection::TlsRequired.into_response()
                } else {
                    entrance.answer(request, facts).await
                };
                facts.watch.request_ended();
                Ok::<_, Infallible>(response)
            })
        });
        let stream = TokioIo::new(WatchedStream::new(stream, watch.clone()));
        let connection = http1::Builder::new()
            // `Watch` has this timeout.
            .header_read_timeout(None)
            .max_header_size(self.header_bytes)
            .serve_connection(stream, service);
        let mut connection = pin!(connection);

        // Each is polled only when it was woken itself, not for every byte: all connections share two of them.
        let Background {
            stopping, stopped, ..
        } = &self.background;
        let mut signals = FuturesUnordered::<BoxFuture<'_, Signal>>::new();
        signals.push(Box::pin(watch.expired().map(Signal::Expired)));
        signals.push(Box::pin(stopping.cancelled().map(|()| Signal::Stopping)));
        signals.push(Box::pin(stopped.cancelled().map(|()| Signal::Stopped)));
        loop {
            tokio::select! {
                biased;
                outcome = poll_fn(|cx| {
                    if !SystemClock::can_be_dated() {
                        return Poll::Ready(None);
                    }
                    let polled = connection.as_mut().poll(cx);
                    watch.settle();
                    polled.map(Some)
                }) => {
                    match outcome {
                        Some(Ok(())) => {}
                        Some(Err(error)) => tracing::debug!(%peer, %error, "connection failed"),
                        None => warn_seldom!(
                            %peer,
                            "connection closed: the clock of this machine is outside of the years 1970 to 9999; set it"
                        ),
                    }
                    return;
                }
                Some(signal) = signals.next() => match signal {
                    Signal::Stopping => connection.as_mut().graceful_shutdown(),
                    Signal::Stopped => return,
                    Signal::Expired(why) => {
                        tracing::debug!(%peer, ?why, "connection closed");
                        return;
                    }
                }
            }
        }
    }
}
