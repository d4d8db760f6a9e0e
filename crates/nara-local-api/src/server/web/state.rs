use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nara_proto::time::UnixMillis;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::sessions::{Sessions, TOKEN_LIFE};
use super::storage::StorageError;
use super::tokens::Tokens;
use crate::model::DashboardLink;

/// How often refused callers are reported.
const REPORT: Duration = Duration::from_secs(60);

/// A request to the loopback task.
#[derive(Debug)]
pub(in crate::server) enum Ask {
    /// Listen on an address until shutdown.
    Listen(SocketAddr, oneshot::Sender<io::Result<SocketAddr>>),
    /// Listen on any port, as long as there are sessions.
    Page(oneshot::Sender<io::Result<SocketAddr>>),
    /// Listen on the port of the page from before a restart, if it has sessions.
    Resume,
}

/// The state shared by loopback listeners.
pub(in crate::server) struct Web {
    pub(in crate::server) tokens: Tokens,
    pub(super) sessions: Sessions,
    now: Box<dyn Fn() -> UnixMillis + Send + Sync>,
    asked: mpsc::Sender<Ask>,
    addresses: Mutex<Vec<SocketAddr>>,
    refused: AtomicU64,
    reported: Mutex<Option<Instant>>,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

impl Web {
    /// Reads the files in a folder.
    pub(in crate::server) fn read(
        folder: &Path,
        now: impl Fn() -> UnixMillis + Send + Sync + 'static,
        asked: mpsc::Sender<Ask>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            tokens: Tokens::read(folder)?,
            sessions: Sessions::read(folder.join("page.json")),
            now: Box::new(now),
            asked,
            addresses: Mutex::default(),
            refused: AtomicU64::new(0),
            reported: Mutex::default(),
        })
    }

    pub(in crate::server) fn now(&self) -> UnixMillis {
        (self.now)()
    }

    /// Listens on an address. Returns it, and the file with the token.
    pub(in crate::server) async fn listen(
        &self,
        address: SocketAddr,
    ) -> io::Result<Result<(SocketAddr, PathBuf), StorageError>> {
        let file = match self.tokens.ensure_own() {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let address = self.ask(|answer| Ask::Listen(address, answer)).await?;
        Ok(Ok((address, file)))
    }

    /// Returns the address of the page, and a one-time token.
    pub(in crate::server) async fn invite(&self) -> io::Result<DashboardLink> {
        // Created first, so that the listener is needed.
        let token = self.sessions.invite();
        let address = self.ask(Ask::Page).await?;
        Ok(DashboardLink {
            url: format!("http://{address}/#{token}"),
            expires_in_ms: u64::try_from(TOKEN_LIFE.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Serves the page on the port from before a restart, if there may be returning visitors.
    pub(in crate::server) async fn resume(&self) {
        // It fails only at shutdown.
        let _ = self.asked.send(Ask::Resume).await;
    }

    async fn ask(
        &self,
        ask: impl FnOnce(oneshot::Sender<io::Result<SocketAddr>>) -> Ask,
    ) -> io::Result<SocketAddr> {
        let ends = || io::Error::other("the nara is shutting down");
        let (answer, answered) = oneshot::channel();
        self.asked.send(ask(answer)).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())?
    }

    /// Returns whether the listener of the page is needed.
    pub(in crate::server) fn has_visitors(&self) -> bool {
        self.sessions.are_any(self.now())
    }

    /// Returns the port of the page from before a restart.
    pub(in crate::server) fn last_port(&self) -> Option<u16> {
        self.sessions.port(self.now())
    }

    /// Records the address of the page.
    pub(in crate::server) fn page_at(&self, port: u16) {
        self.sessions.at(port);
    }

    /// Returns the addresses of the API.
    pub(in crate::server) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(in crate::server) fn set_addresses(&self, now: Vec<SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Counts a refused caller, and reports the count at intervals, never with the data that was sent.
    pub(super) fn refused(&self, why: &'static str) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|last| last.elapsed() >= REPORT) {
            *reported = Some(Instant::now());
            tracing::warn!(refused, why, "the local API refused a caller on loopback");
        }
    }
}
