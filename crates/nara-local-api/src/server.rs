//! The server of the local API.
//!
//! [`LocalApi::builder`] takes a running [`Nara`], [`LocalApi::listen`] opens a socket, and
//! [`LocalApi::shutdown`] stops the API before the nara itself stops.
#![expect(
    clippy::result_large_err,
    reason = "a problem is created once, at the end of a request"
)]

mod bodies;
mod conflicts;
mod connection;
mod counted;
mod database;
mod extract;
mod history;
mod host;
mod inbox;
mod journeys;
mod leases;
mod loopback;
mod outbox;
mod places;
mod rights;
mod route;
mod samples;
mod socket;
mod state;
mod transfers;
mod web;

pub use database::DatabaseError;
pub use host::Host;
pub use inbox::Inbox;
pub use journeys::Journeys;
pub use loopback::serve_bounded;
pub use outbox::{Outbox, OutboxError};
pub use rights::Rights;
pub use socket::{ListenError, check_length};
pub use web::StorageError;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use nara_mesh::Nara;
use nara_mesh::server::expose::Services;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::bodies::Bodies;
use self::conflicts::Conflicts;
use self::counted::Counted;
use self::host::NoHost;
use self::leases::Leases;
use self::loopback::Loopback;
use self::places::{Places, SharedPlaces};
use self::samples::Samples;
use self::socket::Access;
use self::state::Shared;
use self::transfers::Transfers;
use self::web::Web;
use crate::model::ConflictList;

/// The most connections at once.
pub const MAX_CONNECTIONS: usize = 1000;

/// The most bodies that are streamed to peers at once. Up to 16 MiB of each are buffered if the peer accepts
/// no streams.
const MAX_UPLOADS: usize = 16;

/// The most by callers without all rights, and by one of these: the caller determines how long they take.
const MAX_UPLOADS_OF_OTHERS: usize = 12;
const MAX_UPLOADS_OF_ONE: usize = 6;

/// Capacity of the queue of questions to the loopback task.
const WAITING: usize = 16;

/// Why the API cannot listen on loopback.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopbackError {
    /// The operating system refuses the address.
    #[error("the local API cannot listen on {address}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// There is no folder for tokens.
    #[error("the local API has no folder for tokens")]
    NoFolder,
    /// Other machines could reach the address.
    #[error("the local API listens on loopback addresses only, and {address} is not one")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The tokens cannot be stored.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How long requests in progress may take after shutdown begins.
const GRACE: Duration = Duration::from_secs(1);

/// Configures a [`LocalApi`].
#[must_use = "a builder makes nothing until `start`"]
pub struct LocalApiBuilder {
    nara: Arc<Nara>,
    host: Arc<dyn Host>,
    services: Option<Services>,
    journeys: Journeys,
    inbox: Inbox,
    outbox: Outbox,
    group: Option<(u32, Rights)>,
    max_connections: usize,
    folder: Option<PathBuf>,
}

impl fmt::Debug for LocalApiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalApiBuilder")
            .field("nara", &self.nara)
            .finish_non_exhaustive()
    }
}

impl LocalApiBuilder {
    /// Sets the program around the nara, which reports its network, reloads it and stops it. By default there
    /// is none.
    pub fn host(mut self, host: Arc<dyn Host>) -> Self {
        self.host = host;
        self
    }

    /// Sets the exposed programs of this nara's server: see
    /// [`MeshServerBuilder::services`](nara_mesh::server::MeshServerBuilder::services). By default none can
    /// be exposed.
    pub fn services(mut self, services: Services) -> Self {
        self.services = Some(services);
        self
    }

    /// Sets the list of postcards to which the handler of this nara reports those that come home. By default
    /// none are reported.
    pub fn journeys(mut self, journeys: Journeys) -> Self {
        self.journeys = journeys;
        self
    }

    /// Sets the inbox into which the handler of this nara puts incoming messages. By default it is in memory
    /// and stays empty.
    pub fn inbox(mut self, inbox: Inbox) -> Self {
        self.inbox = inbox;
        self
    }

    /// Sets the outbox, from which undelivered messages are sent again. By default it is in memory.
    pub fn outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// Admits the members of this group with these rights; by default only the user of this process and root
    /// are admitted.
    pub fn group(mut self, id: u32, rights: Rights) -> Self {
        self.group = Some((id, rights));
        self
    }

    /// Sets the folder for loopback tokens and page sessions, in files of mode 0600. By default there is
    /// none, and [`LocalApi::listen_on_loopback`] and the page are unavailable.
    pub fn folder(mut self, folder: PathBuf) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Sets the most connections at once to the sockets; by default [`MAX_CONNECTIONS`].
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// Creates the API, which does not listen yet, and starts to send the messages in the outbox. Needs a
    /// tokio runtime.
    pub fn start(self) -> LocalApi {
        let stopping = CancellationToken::new();
        let clock = self.nara.client().clock().now_millis();
        let tasks = TaskTracker::new();
        let (asked, questions) = mpsc::channel(WAITING);
        let nara = self.nara.clone();
        let now = move || nara.client().clock().now_millis();
        let folder = self
            .folder
            .map(|folder| std::path::absolute(&folder).unwrap_or(folder));
        let web = folder.as_ref().map(|folder| Web::read(folder, now, asked));
        let (web, fault) = match web.transpose() {
            Ok(web) => (web.map(Arc::new), None),
            Err(error) => {
                tracing::warn!("the local API on loopback and the page are unavailable: {error}");
                (None, Some(error))
            }
        };
        let conflicts = Conflicts::default();
        let shared = Arc::new(Shared {
            leases: self.services.map(Leases::new),
            journeys: self.journeys,
            inbox: self.inbox,
            outbox: self.outbox,
            connections: Places::new(self.max_connections),
            bodies: Bodies::default(),
            uploads: SharedPlaces::new(MAX_UPLOADS, MAX_UPLOADS_OF_OTHERS, MAX_UPLOADS_OF_ONE),
            conflicts: conflicts.clone(),
            counted: Counted::default(),
            samples: Samples::default(),
            transfers: Transfers::default(),
            web: web.clone(),
            folder,
            host: self.host,
            nara: self.nara,
            started: tokio::time::Instant::now(),
            started_at: clock,
            stopping: stopping.clone(),
        });
        let router = route::routes(shared.clone());
        let registry = shared.nara.registry();
        let nara = shared.nara.clone();
        let now = move || nara.client().clock().now_millis();
        tasks.spawn(
            conflicts
                .follow(registry.subscribe(), now, stopping.clone())
                .boxed(),
        );
        tasks.spawn(history::sample(shared.clone(), stopping.clone()).boxed());
        if let Some(web) = web {
            let loopback = Loopback {
                web,
                api: router.clone(),
                stopping: stopping.clone(),
                tasks: tasks.clone(),
            };
            tasks.spawn(loopback.run(questions).boxed());
        }
        tasks.spawn(outbox::delivery::deliver(shared.clone()).boxed());
        LocalApi {
            shared,
            router,
            access: Access { group: self.group },
            stopping,
            tasks,
            sockets: Mutex::default(),
            fault: Mutex::new(fault),
        }
    }
}

/// The local API of a nara, until it is [shut down](Self::shutdown).
pub struct LocalApi {
    shared: Arc<Shared>,
    router: axum::Router,
    access: Access,
    stopping: CancellationToken,
    tasks: TaskTracker,
    sockets: Mutex<Vec<PathBuf>>,
    /// Why the folder cannot be used.
    fault: Mutex<Option<StorageError>>,
}

impl fmt::Debug for LocalApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalApi")
            .field("sockets", &self.sockets)
            .finish_non_exhaustive()
    }
}

impl LocalApi {
    /// Configures the API of a nara.
    pub fn builder(nara: Arc<Nara>) -> LocalApiBuilder {
        LocalApiBuilder {
            nara,
            host: Arc::new(NoHost),
            services: None,
            journeys: Journeys::default(),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            group: None,
            max_connections: MAX_CONNECTIONS,
            folder: None,
        }
    }

    /// Listens on a unix socket of mode 0600 (0660 with a [group](LocalApiBuilder::group)). A stale socket is
    /// replaced. Its folder must exist.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&self, path: &Path) -> Result<(), ListenError> {
        let listener = socket::listen(path, &self.access)?;
        self.sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.to_owned());
        let acceptor = connection::Acceptor {
            shared: self.shared.clone(),
            router: self.router.clone(),
            access: self.access.clone(),
            stopping: self.stopping.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(acceptor.run(listener).boxed());
        Ok(())
    }

    /// Listens on a loopback address, for callers with a bearer token. Returns the address, and the file with
    /// a token of all rights.
    ///
    /// # Errors
    /// [`LoopbackError`].
    pub async fn listen_on_loopback(
        &self,
        address: SocketAddr,
    ) -> Result<(SocketAddr, PathBuf), LoopbackError> {
        let Some(web) = &self.shared.web else {
            let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
            return Err(fault.map_or(LoopbackError::NoFolder, LoopbackError::Storage));
        };
        if !address.ip().is_loopback() {
            return Err(LoopbackError::NotLoopback { address });
        }
        let listening = web.listen(address).await;
        let listening = listening.map_err(|source| LoopbackError::Io { address, source })?;
        Ok(listening?)
    }

    /// Returns what the operator has to decide: key conflicts and other warnings about peers, since the start
    /// of the nara.
    pub fn conflicts(&self) -> ConflictList {
        self.shared.conflicts.with_keys(self.shared.nara.registry())
    }

    /// Serves the page on the port from before a restart, if it has unexpired sessions.
    pub async fn resume_page(&self) {
        if let Some(web) = &self.shared.web {
            web.resume().await;
        }
    }

    /// Shuts down: removes the sockets, ends live answers, and gives requests in progress one second.
    /// Afterwards nothing of this API holds a reference to the nara.
    pub async fn shutdown(self) {
        self.close();
        self.tasks.close();
        // Connections close on their own at the end of the grace period.
        self.tasks.wait().await;
        self.shared.inbox.settled().await;
    }

    fn close(&self) {
        self.stopping.cancel();
        if let Some(leases) = &self.shared.leases {
            leases.end();
        }
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for path in sockets.drain(..) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::debug!(path = %path.display(), %error, "cannot remove the socket");
            }
        }
    }
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        self.close();
    }
}

/// Generates the OpenAPI document of the API, as JSON: `docs/local-api.json`.
pub fn openapi() -> String {
    let document = route::described();
    document.to_pretty_json().unwrap_or_default()
}
