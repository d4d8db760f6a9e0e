//! Verification of many events at once.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::claims::{self, may_be_unsigned};
use super::voters::{self, Tally};
use super::{
    CheckpointPayload, InvalidEvent, KeyLookup, KeyStanding, Service, SyncEvent, content, covered,
    signing_preimage,
};
use crate::identity::{PublicKey, Signature, verify_batch};
use crate::succession::Succession;
use crate::time::UnixNanos;

/// How far the time of an event may lie ahead of the receiver's clock. Events are ordered and kept by their time: one
/// of next year would be the newest of all until then.
pub const MAX_EVENT_LEAD: Duration = Duration::from_secs(5 * 60);

/// The largest event that is accepted, in bytes of JSON. Real ones have a few hundred; without a limit one event could
/// fill an answer that no peer reads any more.
pub const MAX_EVENT_BYTES: usize = 64 << 10;

/// How far an event that was not refused can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventTrust {
    /// It carries no signature, and no key of the nara in whose name it speaks is known here. V1 peers send their
    /// observations like this, and old ledgers hold `social` events like this.
    Unsigned,
    /// It is signed, but the key of its emitter is not known here; or too few of the voters of a checkpoint are.
    UnknownKey,
    /// Enough voters signed the checkpoint, but not the name of its subject, and the id that they signed is not known
    /// here.
    UnknownSubject,
    /// Its signature, or enough signatures of a checkpoint, verify.
    Verified,
}

impl EventTrust {
    /// Whether the nara in whose name the event speaks has proven to have made it. Everything else is hearsay: it must
    /// never displace a verified event, and not be kept for long.
    pub const fn is_verified(self) -> bool {
        matches!(self, Self::Verified)
    }
}

/// Why an event is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventProblem {
    /// A colon in this field lets the signed text be split into other fields.
    #[error("a colon in {0} makes the signed text ambiguous")]
    Ambiguous(&'static str),
    /// The signature does not verify with the key that is pinned for the emitter, or the one that the event carries.
    #[error("the signature does not verify")]
    BadSignature,
    /// The id does not follow from the content.
    #[error("the id does not match the content")]
    ForgedId,
    /// Its time is further ahead of our clock than [`MAX_EVENT_LEAD`].
    #[error("its time is more than {} s ahead of our clock", MAX_EVENT_LEAD.as_secs())]
    Future,
    /// It is not well formed.
    #[error("malformed: {0}")]
    Invalid(#[from] InvalidEvent),
    /// Unsigned, although the service demands a signature or the key of the nara in whose name it speaks is known.
    #[error("unsigned, but the events of this nara or service must be signed")]
    MustBeSigned,
    /// This field is not the name of a nara.
    #[error("{0} is not a name")]
    NotAName(&'static str),
    /// The emitter is not the nara that the event says acted.
    #[error("the emitter is not the nara that acted")]
    NotTheActor,
    /// A checkpoint whose voters signed the id of another nara than the one that it names.
    #[error("the name and the id of the subject belong to different naras")]
    Relabelled,
    /// More than [`MAX_EVENT_BYTES`].
    #[error("larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    /// The operator decided not to trust the nara in whose name the event speaks.
    #[error("its emitter is not trusted")]
    Untrusted,
}

/// The outcome for one event.
pub type EventVerdict = Result<EventTrust, EventProblem>;

/// How a batch of events arrived.
#[derive(Clone, Copy, Debug)]
pub struct EventReception {
    /// The time of the receiver.
    pub now: UnixNanos,
    /// 32 fresh random bytes, which a peer must not be able to foresee: the coefficients of the batch.
    pub random: [u8; 32],
}

/// Verifies events; one verdict for each, in order. An event is accepted if it is well formed and not too large, its
/// id follows from its content, its text can be read in one way only, its time is not in the future, the emitter is the
/// nara that acted, and its signature verifies where the key is known. Removes from each accepted event what nothing
/// covers: what remains of a [verified](EventTrust::Verified) one is what its emitter signed.
///
/// Signatures are verified in one batch; if that fails, the batch is halved until the bad ones are named. A batch uses
/// the cofactored equation, which RFC 8032 (section 5.1.7) allows.
pub fn verify_events<K: KeyLookup + ?Sized>(
    events: &mut [SyncEvent],
    keys: &K,
    reception: EventReception,
) -> Vec<EventVerdict> {
    let mut verdicts = Vec::with_capacity(events.len());
    let mut pending = Vec::new();
    let mut indices = Vec::new();
    let mut standings: BTreeMap<String, KeyStanding> = BTreeMap::new();
    let mut voters = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        let step = prepare(event, keys, &mut standings, &reception);
        verdicts.push(step.map(|step| match step {
            Step::Done(trust) => trust,
            Step::Counted(trust, verified) => {
                voters.insert(index, verified);
                trust
            }
            Step::Verify(trust, item) => {
                pending.push(item);
                indices.push(index);
                trust
            }
        }));
    }
    for bad in verify_batch(&pending, reception.random) {
        verdicts[indices[bad]] = Err(EventProblem::BadSignature);
    }
    for (index, (event, verdict)) in events.iter_mut().zip(&verdicts).enumerate() {
        match verdict {
            Ok(EventTrust::Verified) => {
                covered::remove_uncovered(event);
                if let (Some(payload), Some(verified)) = (&mut event.checkpoint, voters.remove(&index)) {
                    let (ids, signatures) = verified.into_iter().unzip();
                    payload.voter_ids = Some(ids);
                    payload.signatures = Some(signatures);
                }
            }
            Ok(_) => covered::remove_foreign(event),
            Err(_) => {}
        }
    }
    verdicts
}

enum Step {
    Done(EventTrust),
    /// What a checkpoint is worth, and its voters that signed it, with their signatures.
    Counted(EventTrust, Vec<(String, String)>),
    /// What the event is worth if the signature verifies.
    Verify(EventTrust, (PublicKey, [u8; 32], Signature)),
}

fn prepare<K: KeyLookup + ?Sized>(
    event: &SyncEvent,
    keys: &K,
    standings: &mut BTreeMap<String, KeyStanding>,
    reception: &EventReception,
) -> Result<Step, EventProblem> {
    let content = content::content(event);
    let service = claims::check(event, &content)?;
    if event.ts > reception.now.saturating_add(MAX_EVENT_LEAD) {
        return Err(EventProblem::Future);
    }
    if service == Service::Succession {
        return succession_trust(event, keys).map(Step::Done);
    }
    if let (Service::Checkpoint, Some(payload)) = (service, event.checkpoint.as_deref()) {
        let (tally, verified) = voters::verified(payload, |id| keys.key_of_id(id));
        return checkpoint_trust(payload, &tally, keys).map(|trust| Step::Counted(trust, verified));
    }
    let actor = event.actor();
    let standing = match standings.get(actor) {
        Some(standing) => *standing,
        None => {
            let standing = keys.standing_of_name(actor);
            standings.insert(actor.to_owned(), standing);
            standing
        }
    };
    let is_banned = || event.embedded_key().is_some_and(|key| keys.is_banned_key(&key));
    if standing == KeyStanding::Untrusted || (standing == KeyStanding::Unknown && is_banned()) {
        return Err(EventProblem::Untrusted);
    }
    if !event.is_signed() {
        // Whose key is known signs everything, whoever tells it.
        return if standing == KeyStanding::Unknown && may_be_unsigned(service) {
            Ok(Step::Done(EventTrust::Unsigned))
        } else {
            Err(EventProblem::MustBeSigned)
        };
    }
    let signature = Signature::from_base64(&event.sig).map_err(|_| EventProblem::BadSignature)?;
    let (trust, key) = match (standing.key(), event.embedded_key()) {
        (Some(key), _) => (EventTrust::Verified, key),
        // It proves that its emitter has this key, not that the key is the one of the name.
        (None, Some(key)) => (EventTrust::UnknownKey, key),
        (None, None) => return Ok(Step::Done(EventTrust::UnknownKey)),
    };
    let digest = Sha256::digest(signing_preimage(event, &content)).into();
    Ok(Step::Verify(trust, (key, digest, signature)))
}

fn succession_trust<K: KeyLookup + ?Sized>(event: &SyncEvent, keys: &K) -> Result<EventTrust, EventProblem> {
    let statement = Succession::from_event(event).map_err(|_| EventProblem::BadSignature)?;
    let standing = keys.standing_of_name(event.actor());
    let is_about = |key: PublicKey| key == *statement.old_key() || Some(&key) == statement.new_key();
    // Also if it contradicts the statement that was followed: whoever followed must hear of it.
    if standing.key().is_some_and(is_about) || keys.was_key_of_name(event.actor(), statement.old_key()) {
        Ok(EventTrust::Verified)
    } else if standing == KeyStanding::Untrusted {
        Err(EventProblem::Untrusted)
    } else {
        // Keys that are nothing to the pinned one, or a step whose step before has not come yet.
        Ok(EventTrust::UnknownKey)
    }
}

fn checkpoint_trust<K: KeyLookup + ?Sized>(
    payload: &CheckpointPayload,
    tally: &Tally,
    keys: &K,
) -> Result<EventTrust, EventProblem> {
    if !tally.is_valid() {
        return if tally.known > tally.valid {
            Err(EventProblem::BadSignature)
        } else {
            Ok(EventTrust::UnknownKey)
        };
    }
    // The voters signed the id of the subject and not its name.
    if payload.subject_id.is_empty() {
        return Ok(EventTrust::UnknownSubject);
    }
    match keys.is_id_of_name(&payload.subject_id, &payload.subject) {
        Some(true) => Ok(EventTrust::Verified),
        Some(false) => Err(EventProblem::Relabelled),
        None => Ok(EventTrust::UnknownSubject),
    }
}
