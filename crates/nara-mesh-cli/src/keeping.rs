//! Stores what a command learns about peers in the data folder, as `serve` does.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nara_mesh::ledger::Ledger;
use nara_mesh::registry::{KeySource, PeerEvent, PeerKeeper, PeerRegistry, Recalled};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::failure::{Failure, Outcome};
use crate::ledger_file;

/// What to do if the ledger cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Without {
    /// Fail: without the stored keys, a peer's key could be forged.
    Fail,
    /// Continue: the command only reads.
    GoOn,
}

/// Stores what a registry learns while a command runs.
#[derive(Debug)]
pub(crate) enum Keeping {
    /// In an existing ledger.
    Open(PeerKeeper),
    /// In a ledger that is created once there is something to store.
    Waiting(oneshot::Sender<()>, JoinHandle<()>),
    /// Nowhere: there is no data folder.
    Nowhere,
}

impl Keeping {
    /// Loads the stored peer data from the ledger at `path` into the registry, and stores what it learns from
    /// now on.
    pub(crate) async fn start(
        registry: &PeerRegistry,
        path: Option<PathBuf>,
        without: Without,
    ) -> Outcome<Self> {
        let Some(path) = path else {
            tracing::debug!("no data folder: learned peer data is not stored");
            return Ok(Self::Nowhere);
        };
        if path.exists() {
            return match (open(registry, &path).await, without) {
                (Ok(keeper), _) => Ok(Self::Open(keeper)),
                (Err(failure), Without::Fail) => Err(failure),
                (Err(failure), Without::GoOn) => {
                    let cause = failure.causes().pop().unwrap_or_default();
                    let what = match recall(registry, &path).await {
                        Ok(()) => "new keys are not stored",
                        Err(_) => "stored keys and bans are not used, and new keys are not stored",
                    };
                    tracing::warn!("{}: {cause}; {what}", failure.message);
                    Ok(Self::Nowhere)
                }
            };
        }
        let (stop, stopped) = oneshot::channel();
        let waiting = wait(registry.clone(), path, stopped);
        Ok(Self::Waiting(stop, tokio::spawn(waiting)))
    }

    /// Waits until everything learned is stored.
    pub(crate) async fn finish(self) {
        match self {
            Self::Open(keeper) => keeper.finish().await,
            Self::Waiting(stop, task) => {
                // If the task has ended, it has already stored everything.
                let _ = stop.send(());
                let _ = task.await;
            }
            Self::Nowhere => {}
        }
    }
}

async fn open(registry: &PeerRegistry, path: &Path) -> Outcome<PeerKeeper> {
    let ledger = ledger_file::open(path).await?;
    let started = PeerKeeper::start(registry.clone(), ledger).await;
    let (keeper, recalled) = started.map_err(ledger_file::failed)?;
    log(&recalled);
    Ok(keeper)
}

/// Loads the stored peer data of a ledger that can only be read.
async fn recall(registry: &PeerRegistry, path: &Path) -> Outcome<()> {
    let ledger: Arc<dyn Ledger> = Arc::new(ledger_file::open_to_read(path).await?);
    ledger_file::load_peers(&ledger, registry).await
}

/// Logs stored peer data that is ignored.
pub(crate) fn log(recalled: &Recalled) {
    for problem in &recalled.problems {
        tracing::warn!("the stored peer data is ignored: {problem}");
    }
}

async fn wait(registry: PeerRegistry, path: PathBuf, mut stopped: oneshot::Receiver<()>) {
    let mut events = registry.subscribe();
    loop {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            _ = &mut stopped => return,
        };
        match event {
            Ok(PeerEvent::KeyPinned(key)) if key.source == KeySource::Configured => {}
            Ok(PeerEvent::KeyPinned(_) | PeerEvent::ProtocolLearned(_)) | Err(RecvError::Lagged(_)) => break,
            Ok(_) => {}
            Err(RecvError::Closed) => return,
        }
    }
    let keeping = async {
        make_folder_of(&path)?;
        let keeper = open(&registry, &path).await?;
        keeper.save().await.map_err(ledger_file::failed)?;
        // Returns at once if the command has already ended.
        let _ = stopped.await;
        keeper.finish().await;
        Ok::<_, Failure>(())
    };
    if let Err(failure) = keeping.await {
        let cause = failure.causes().pop().unwrap_or_default();
        tracing::warn!("learned peer data is not stored: {}: {cause}", failure.message);
    }
}

/// Creates the parent folder of a file if it is missing.
pub(crate) fn make_folder_of(path: &Path) -> Outcome<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    let mut making = std::fs::DirBuilder::new();
    // Explicit mode, also with a umask of 0: a user who can write to the folder can replace the ledger.
    making
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .map_err(|error| {
            Failure::failed(format!("the data folder {} cannot be created", folder.display()))
                .caused_by(error)
        })
}
