//! Ledgers in files.

use std::path::Path;
use std::sync::Arc;

use nara_mesh::ledger::{EveryoneKnown, KnownNames, Ledger, LedgerError, SqliteLedger};
use nara_mesh::registry::{KeySource, PeerRegistry};

use crate::failure::{Failure, Outcome};

/// Opens a ledger, or makes it.
pub(crate) async fn open(path: &Path) -> Outcome<Arc<dyn Ledger>> {
    open_knowing(path, Arc::new(EveryoneKnown)).await
}

/// Opens a ledger, or makes it. When it is full, events about naras that are not `known` go first.
pub(crate) async fn open_knowing(path: &Path, known: Arc<dyn KnownNames>) -> Outcome<Arc<dyn Ledger>> {
    let file = path.to_path_buf();
    // Opening waits for the disk.
    let opened =
        tokio::task::spawn_blocking(move || Ok(SqliteLedger::open(file)?.with_known_names(known))).await;
    match opened.unwrap_or(Err(LedgerError::Closed)) {
        Ok(ledger) => Ok(Arc::new(ledger)),
        Err(error) => {
            Err(Failure::failed(format!("the ledger {} cannot be opened", path.display())).caused_by(error))
        }
    }
}

/// Tells the registry the keys that the ledger remembers. The peers file wins over the ledger: a key of the
/// ledger that contradicts it is replaced.
pub(crate) async fn load_keys(ledger: &dyn Ledger, registry: &PeerRegistry) -> Outcome<()> {
    for key in ledger.keys().await.map_err(failed)? {
        let name = key.name.clone();
        let Err(error) = registry.pin(key) else { continue };
        let configured = registry.by_name(name.as_str()).and_then(|peer| peer.info().key);
        match configured {
            Some(pinned) if pinned.source == KeySource::Configured => {
                tracing::warn!(%name, "the key in the ledger is replaced by that of the peers file");
                ledger.store_key(pinned).await.map_err(failed)?;
            }
            _ => tracing::warn!("a key in the ledger is not used: {error}"),
        }
    }
    Ok(())
}

/// The failure for an error of a ledger.
pub(crate) fn failed(error: LedgerError) -> Failure {
    Failure::failed("the ledger failed").caused_by(error)
}
