//! The entrance of the ledger for events of this nara.

use nara_proto::event::{EventProblem, SyncEvent};
use nara_proto::time::UnixNanos;

use crate::ledger::{Ledger, LedgerError};
use crate::registry::KnownKeys;

/// Stores an event that this nara signed, in the form in which its peers keep it. It is judged as they judge it: what they
/// refuse must not be in the ledger of its emitter either, where it would stand as verified.
///
/// # Errors
/// [`LedgerError::Refused`] if peers would refuse it, or the error of the ledger.
pub(crate) async fn append(
    ledger: &dyn Ledger,
    keys: &KnownKeys,
    mut event: SyncEvent,
    now: UnixNanos,
) -> Result<SyncEvent, LedgerError> {
    let local = keys.local();
    if event.emitter != local.name().as_str() {
        return Err(LedgerError::Refused(EventProblem::NotTheActor));
    }
    if event.embedded_key().is_some_and(|key| key != local.public_key()) {
        let problem = match event.actor() == event.emitter {
            true => EventProblem::BadSignature,
            false => EventProblem::NotTheActor,
        };
        return Err(LedgerError::Refused(problem));
    }
    let trust = keys.judge(std::slice::from_mut(&mut event), now)[0].map_err(LedgerError::Refused)?;
    if !trust.is_verified() {
        return Err(LedgerError::Refused(EventProblem::BadSignature));
    }
    ledger.insert_verified(vec![event.clone()]).await?;
    Ok(event)
}
