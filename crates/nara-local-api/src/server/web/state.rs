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

/// What is asked of the task that listens.
#[derive(Debug)]
pub(in crate::server) enum Ask {
    /// Listen at an address, until the end.
    Listen(SocketAddr, oneshot::Sender<io::Result<SocketAddr>>),
    /// Listen anywhere, as long as there are sessions.
    Page(oneshot::Sender<io::Result<SocketAddr>>),
    /// Listen where the page was before a restart, if it has sessions.
    Resume,
}

/// What listeners on loopback share.
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

    /// Listens at an address. Returns it, and the file with the token.
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

    /// Where the page is, with a token that opens it once.
    pub(in crate::server) async fn invite(&self) -> io::Result<DashboardLink> {
        // First, so that the listener has a reason to stay.
        let token = self.sessions.invite();
        let address = self.ask(Ask::Page).await?;
        Ok(DashboardLink {
            url: format!("http://{address}/#{token}"),
            expires_in_ms: u64::try_from(TOKEN_LIFE.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Serves the page where it was before a restart, if somebody may come back.
    pub(in crate::server) async fn resume(&self) {
        // It fails at the end only.
        let _ = self.asked.send(Ask::Resume).await;
    }

    async fn ask(
        &self,
        ask: impl FnOnce(oneshot::Sender<io::Result<SocketAddr>>) -> Ask,
    ) -> io::Result<SocketAddr> {
        let ends = || io::Error::other("the nara ends");
        let (answer, answered) = oneshot::channel();
        self.asked.send(ask(answer)).await.map_err(|_| ends())?;
        answered.await.map_err(|_| ends())?
    }

    /// Whether the listener of the page is needed.
    pub(in crate::server) fn has_visitors(&self) -> bool {
        self.sessions.are_any(self.now())
    }

    /// The port on which the page was before a restart.
    pub(in crate::server) fn last_port(&self) -> Option<u16> {
        self.sessions.port(self.now())
    }

    /// Notes where the page is.
    pub(in crate::server) fn page_at(&self, port: u16) {
        self.sessions.at(port);
    }

    /// Where the API listens.
    pub(in crate::server) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(in crate::server) fn set_addresses(&self, now: Vec<SocketAddr>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Counts a caller that was refused, and reports them now and then. Never with what it sent.
    pub(super) fn refused(&self, why: &'static str) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|last| last.elapsed() >= REPORT) {
            *reported = Some(Instant::now());
            tracing::warn!(refused, why, "the local API refused a caller on loopback");
        }
    }
}
