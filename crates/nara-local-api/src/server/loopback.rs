//! Listens on loopback, on request.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, ACCEPT_PAUSE, FULL};
use super::places::Places;
use super::web::{self, Ask, Web};

/// The most connections on loopback. They are counted separately from those of the sockets, because other
/// users of the machine can use them up.
const MAX_CONNECTIONS: usize = 256;

/// How often to check whether the page is still needed.
const LOOK: Duration = Duration::from_secs(30);

/// The loopback listeners.
pub(super) struct Loopback {
    pub(super) web: Arc<Web>,
    pub(super) api: Router,
    pub(super) stopping: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// One listener.
struct Listening {
    address: SocketAddr,
    /// For the page only: it ends when the page is no longer needed.
    for_page: bool,
    ending: CancellationToken,
}

impl Loopback {
    /// Answers requests until shutdown.
    pub(super) async fn run(self, mut asked: mpsc::Receiver<Ask>) {
        let places = Arc::new(Places::new(MAX_CONNECTIONS));
        let mut listening: Vec<Listening> = Vec::new();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            let ask = tokio::select! {
                () = self.stopping.cancelled() => return,
                _ = looks.tick() => {
                    if !self.web.has_visitors() {
                        for page in listening.extract_if(.., |listening| listening.for_page) {
                            page.ending.cancel();
                        }
                        self.tell(&listening);
                    }
                    continue;
                }
                ask = asked.recv() => ask,
            };
            match ask {
                // The API holds the sender.
                None => return,
                Some(Ask::Listen(address, answer)) => {
                    // The requester may have disconnected.
                    let _ = answer.send(self.listen(address, false, &places, &mut listening).await);
                }
                Some(Ask::Page(answer)) => {
                    let _ = answer.send(self.page(0, &places, &mut listening).await);
                }
                Some(Ask::Resume) => {
                    if let Some(port) = self.web.last_port()
                        && let Err(error) = self.page(port, &places, &mut listening).await
                    {
                        tracing::warn!(%error, port, "the page cannot be resumed: open it again with `nara-mesh dashboard`");
                    }
                }
            }
            self.tell(&listening);
        }
    }

    fn tell(&self, listening: &[Listening]) {
        let addresses = listening.iter().map(|listening| listening.address).collect();
        self.web.set_addresses(addresses);
    }

    /// Returns the address of the page: that of the API, else a separate one.
    async fn page(
        &self,
        port: u16,
        places: &Arc<Places>,
        listening: &mut Vec<Listening>,
    ) -> io::Result<SocketAddr> {
        let address = match listening.first() {
            Some(first) => first.address,
            None => {
                let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                self.listen(anywhere, true, places, listening).await?
            }
        };
        self.web.page_at(address.port());
        Ok(address)
    }

    async fn listen(
        &self,
        address: SocketAddr,
        for_page: bool,
        places: &Arc<Places>,
        listening: &mut Vec<Listening>,
    ) -> io::Result<SocketAddr> {
        if !address.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                "the local API listens on loopback addresses only",
            ));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let ending = self.stopping.child_token();
        let acceptor = Acceptor {
            router: web::router(self.api.clone(), self.web.clone(), address),
            places: places.clone(),
            ending: ending.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(acceptor.run(listener));
        listening.push(Listening {
            address,
            for_page,
            ending,
        });
        Ok(address)
    }
}

/// Serves a router as the local API is served on loopback, until dropped: with a limit on connections, and 30
/// s for the head of a request and for each part of an answer. Excess connections get an error and are
/// closed.
pub async fn serve_bounded(listener: TcpListener, router: Router, connections: usize) {
    let acceptor = Acceptor {
        router,
        places: Arc::new(Places::new(connections)),
        ending: CancellationToken::new(),
        tasks: TaskTracker::new(),
    };
    acceptor.run(listener).await;
}

struct Acceptor {
    router: Router,
    places: Arc<Places>,
    ending: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.ending.cancelled() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = self.places.take() else {
                tracing::debug!("too many connections: refused");
                // Best effort: it fits into the empty buffer of a new socket.
                let _ = stream.try_write(FULL);
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (router, ending) = (self.router.clone(), self.ending.clone());
            self.tasks.spawn(async move {
                connection::serve(stream, None, router, ending).await;
                drop(place);
            });
        }
    }
}
