//! Batch verification of events.

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

/// The furthest that the time of an event may be ahead of the receiver's clock. Events are ordered and kept by time: an
/// event of next year would be the newest one until then.
pub const MAX_EVENT_LEAD: Duration = Duration::from_secs(5 * 60);

/// The maximum size of an event, in bytes of JSON. Real events have a few hundred bytes; without a limit a single event
/// could fill an answer so that no peer accepts the answer.
pub const MAX_EVENT_BYTES: usize = 64 << 10;

/// The trust in an accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EventTrust {
    /// It is unsigned, and the key of its actor is unknown here. V1 peers send their observations like this, and old
    /// ledgers contain such `social` events.
    Unsigned,
    /// It is signed, but the key of its emitter is unknown here, or the keys of too few voters of a checkpoint are
    /// known.
    UnknownKey,
    /// Enough voters signed the checkpoint, but they do not sign the subject's name, and the subject's id is unknown
    /// here.
    UnknownSubject,
    /// Its signature, or enough signatures of a checkpoint, are valid.
    Verified,
}

impl EventTrust {
    /// Returns whether the actor has proven to be the author of the event. All other events are hearsay: they must
    /// never displace a verified event, and are not kept for long.
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
    /// The signature is not valid under the key that is pinned for the emitter, or under the key in the event.
    #[error("the signature does not verify")]
    BadSignature,
    /// The id does not match the content.
    #[error("the id does not match the content")]
    ForgedId,
    /// Its time is more than [`MAX_EVENT_LEAD`] ahead of our clock.
    #[error("its time is more than {} s ahead of our clock", MAX_EVENT_LEAD.as_secs())]
    Future,
    /// It is not well formed.
    #[error("malformed: {0}")]
    Invalid(#[from] InvalidEvent),
    /// It is unsigned, although its service requires a signature or the actor's key is known.
    #[error("unsigned, but the events of this nara or service must be signed")]
    MustBeSigned,
    /// This field is not a valid nara name.
    #[error("{0} is not a name")]
    NotAName(&'static str),
    /// The emitter is not the actor of the event.
    #[error("the emitter is not the nara that acted")]
    NotTheActor,
    /// The voters of the checkpoint signed an id that does not belong to the named subject.
    #[error("the name and the id of the subject belong to different naras")]
    Relabelled,
    /// It is larger than [`MAX_EVENT_BYTES`].
    #[error("larger than {MAX_EVENT_BYTES} bytes")]
    TooLarge,
    /// The operator distrusts the actor of the event.
    #[error("its emitter is not trusted")]
    Untrusted,
}

/// The outcome for one event.
pub type EventVerdict = Result<EventTrust, EventProblem>;

/// How a batch of events arrived.
#[derive(Clone, Copy, Debug)]
pub struct EventReception {
    /// The receiver's time.
    pub now: UnixNanos,
    /// 32 fresh random bytes that a peer must not be able to predict: the coefficients of the batch.
    pub random: [u8; 32],
}

/// Verifies events; returns one verdict for each, in order. An event is accepted if it is well formed and not too
/// large, its id matches its content, its text is unambiguous, its time is not in the future, the emitter is the actor,
/// and its signature is valid where the key is known. Removes the uncovered fields of each accepted event: a
/// [verified](EventTrust::Verified) event then contains only what its emitter signed.
///
/// Signatures are verified in one batch. If it fails, it is halved until the bad signatures are found. A batch uses the
/// cofactored equation, which RFC 8032 (section 5.1.7) allows.
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
    /// The trust in a checkpoint, and its voters whose signature is valid, with their signatures.
    Counted(EventTrust, Vec<(String, String)>),
    /// The trust in the event if the signature is valid.
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
        // A nara with a known key signs all its events, whoever forwards them.
        return if standing == KeyStanding::Unknown && may_be_unsigned(service) {
            Ok(Step::Done(EventTrust::Unsigned))
        } else {
            Err(EventProblem::MustBeSigned)
        };
    }
    let signature = Signature::from_base64(&event.sig).map_err(|_| EventProblem::BadSignature)?;
    let (trust, key) = match (standing.key(), event.embedded_key()) {
        (Some(key), _) => (EventTrust::Verified, key),
        // This proves that its emitter holds this key, not that the key belongs to the name.
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
    // Also if it contradicts the statement that was followed: peers that followed that one must receive this one.
    if standing.key().is_some_and(is_about) || keys.was_key_of_name(event.actor(), statement.old_key()) {
        Ok(EventTrust::Verified)
    } else if standing == KeyStanding::Untrusted {
        Err(EventProblem::Untrusted)
    } else {
        // Neither key is related to the pinned one, or the preceding statement has not arrived yet.
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
    // The voters signed the subject's id, but not its name.
    if payload.subject_id.is_empty() {
        return Ok(EventTrust::UnknownSubject);
    }
    match keys.is_id_of_name(&payload.subject_id, &payload.subject) {
        Some(true) => Ok(EventTrust::Verified),
        Some(false) => Err(EventProblem::Relabelled),
        None => Ok(EventTrust::UnknownSubject),
    }
}
