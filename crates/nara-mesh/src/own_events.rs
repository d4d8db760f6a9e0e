//! How events of this nara enter the ledger.

use nara_proto::event::{EventProblem, SyncEvent};
use nara_proto::time::UnixNanos;

use crate::ledger::{Insertion, Ledger, LedgerError};
use crate::registry::KnownKeys;

/// Stores an event that this nara signed, in the form in which its peers store it. It is checked like a peer's event:
/// an event that peers refuse must not be in the ledger of its emitter either, where it would count as verified.
///
/// # Errors
/// [`LedgerError::Refused`] if peers would refuse it, [`LedgerError::NotRetained`] if there is no room for it, or the
/// error of the ledger.
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
    match ledger.insert_verified(vec![event.clone()]).await?[..] {
        [Insertion::Stored | Insertion::Duplicate] => Ok(event),
        _ => Err(LedgerError::NotRetained),
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::event::{Payload, SocialPayload};
    use nara_proto::identity::Soul;

    use super::*;
    use crate::identity::LocalNara;
    use crate::ledger::{MemoryLedger, RetentionPolicy};
    use crate::registry::PeerRegistry;

    #[tokio::test]
    async fn an_own_event_that_is_not_stored_is_an_error() {
        let alice = LocalNara::new(&Soul::bond([1; 32], "alice"), "alice".parse().unwrap()).unwrap();
        let keys = KnownKeys::new(alice.clone(), PeerRegistry::default());
        let payload = Payload::Social(SocialPayload {
            kind: "gossip".to_owned(),
            actor: "alice".to_owned(),
            target: "bob".to_owned(),
            ..SocialPayload::default()
        });
        let now = UnixNanos::new(1);
        let event = SyncEvent::signed(now, payload, "alice", alice.keypair());
        let ledger = MemoryLedger::new().with_retention(RetentionPolicy::default().max_event_bytes(10));
        let stored = append(&ledger, &keys, event.clone(), now).await;
        assert!(matches!(stored, Err(LedgerError::NotRetained)));
        let ledger = MemoryLedger::new();
        for _ in 0..2 {
            assert_eq!(append(&ledger, &keys, event.clone(), now).await.unwrap(), event);
        }
    }
}
