//! Verification of many events at once.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{InvalidEvent, Service, SyncEvent, content, id_of, signing_preimage};
use crate::checkpoint;
use crate::identity::{PublicKey, Signature, verify_batch};

/// Where the verifier finds public keys. Keys of events are looked up by the *name* of the emitter, those of
/// checkpoints by the nara *id* of each voter (docs/protocol/v1.md, sections 8.6 and 11.4).
pub trait KeyLookup {
    /// The key that is pinned for a name.
    fn key_of_name(&self, name: &str) -> Option<PublicKey>;

    /// The key that is pinned for a nara id.
    fn key_of_id(&self, id: &str) -> Option<PublicKey>;
}

impl<T: KeyLookup + ?Sized> KeyLookup for &T {
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        (**self).key_of_name(name)
    }

    fn key_of_id(&self, id: &str) -> Option<PublicKey> {
        (**self).key_of_id(id)
    }
}

impl<T: KeyLookup + ?Sized> KeyLookup for std::sync::Arc<T> {
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        (**self).key_of_name(name)
    }

    fn key_of_id(&self, id: &str) -> Option<PublicKey> {
        (**self).key_of_id(id)
    }
}

/// A table of keys by name; no key is known by id.
impl KeyLookup for BTreeMap<String, PublicKey> {
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        self.get(name).copied()
    }

    fn key_of_id(&self, _: &str) -> Option<PublicKey> {
        None
    }
}

/// How far an event that was not refused can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventTrust {
    /// It carries no signature. V1 peers send their observations like this.
    Unsigned,
    /// It is signed, but the key of its emitter is not known here.
    UnknownKey,
    /// Its signature, or enough signatures of a checkpoint, verify.
    Verified,
}

/// Why an event is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventProblem {
    /// The signature does not verify with the key that is pinned for the emitter.
    #[error("the signature does not verify")]
    BadSignature,
    /// The id does not follow from the content.
    #[error("the id does not match the content")]
    ForgedId,
    /// It is not well formed.
    #[error("malformed: {0}")]
    Invalid(#[from] InvalidEvent),
    /// The service is one whose events must be signed.
    #[error("unsigned, but events of this service must be signed")]
    MustBeSigned,
}

/// The outcome for one event.
pub type EventVerdict = Result<EventTrust, EventProblem>;

/// Verifies events: well-formedness, id, and signature where the key is known; one verdict for each, in
/// order.
///
/// Signatures are verified in one batch; if that fails, the batch is halved until the bad ones are named.
/// `random` makes the coefficients of the batch: 32 fresh random bytes, which a peer must not be able to
/// foresee. A batch uses the cofactored equation, which RFC 8032 (section 5.1.7) allows.
pub fn verify_events<K: KeyLookup + ?Sized>(
    events: &[SyncEvent],
    keys: &K,
    random: [u8; 32],
) -> Vec<EventVerdict> {
    let mut verdicts = Vec::with_capacity(events.len());
    let mut pending = Vec::new();
    let mut indices = Vec::new();
    let mut known: BTreeMap<&str, Option<PublicKey>> = BTreeMap::new();

    for (index, event) in events.iter().enumerate() {
        verdicts.push(prepare(event, keys, &mut known).map(|step| match step {
            Step::Done(trust) => trust,
            Step::Verify(item) => {
                pending.push(item);
                indices.push(index);
                EventTrust::Verified
            }
        }));
    }
    for bad in verify_batch(&pending, random) {
        verdicts[indices[bad]] = Err(EventProblem::BadSignature);
    }
    verdicts
}

enum Step {
    Done(EventTrust),
    Verify((PublicKey, [u8; 32], Signature)),
}

fn prepare<'a, K: KeyLookup + ?Sized>(
    event: &'a SyncEvent,
    keys: &K,
    known: &mut BTreeMap<&'a str, Option<PublicKey>>,
) -> Result<Step, EventProblem> {
    event.validate()?;
    let content = content::content(event);
    if event.id != id_of(event.ts, &event.svc, &content) {
        return Err(EventProblem::ForgedId);
    }
    let service = event.service().ok_or(InvalidEvent::UnknownService)?;
    if !event.is_signed() {
        return match (service, event.checkpoint.as_deref()) {
            (Service::Checkpoint, Some(payload)) => Ok(Step::Done(checkpoint_trust(payload, keys)?)),
            (Service::Observation, _) => Ok(Step::Done(EventTrust::Unsigned)),
            _ => Err(EventProblem::MustBeSigned),
        };
    }
    let signature = Signature::from_base64(&event.sig).map_err(|_| EventProblem::BadSignature)?;
    let key = *known
        .entry(&event.emitter)
        .or_insert_with(|| keys.key_of_name(&event.emitter));
    let Some(key) = key else {
        return Ok(Step::Done(EventTrust::UnknownKey));
    };
    let digest = Sha256::digest(signing_preimage(event, &content)).into();
    Ok(Step::Verify((key, digest, signature)))
}

fn checkpoint_trust<K: KeyLookup + ?Sized>(
    payload: &super::CheckpointPayload,
    keys: &K,
) -> Result<EventTrust, EventProblem> {
    let tally = checkpoint::tally(payload, |id| keys.key_of_id(id));
    if tally.is_valid() {
        Ok(EventTrust::Verified)
    } else if !tally.lengths_match || tally.known > tally.valid {
        Err(EventProblem::BadSignature)
    } else {
        Ok(EventTrust::UnknownKey)
    }
}
