//! The signatures of the voters of a checkpoint (docs/protocol/v1.md, section 11).

use std::collections::BTreeSet;

use super::{CheckpointPayload, Observation};
use crate::identity::{PublicKey, Signature};
use crate::time::UnixSeconds;

/// The number of valid signatures that make a checkpoint valid.
pub const MIN_VALID_SIGNATURES: usize = 2;

/// The maximum number of voters of a checkpoint: v1 peers keep 10 signatures (docs/protocol/v1.md, section 11.4).
pub const MAX_VOTERS: usize = 10;

/// A voter whose signature is valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Vote {
    voter: String,
    signature: Signature,
    key: PublicKey,
}

/// Returns the text that voter `voter_id` of a checkpoint signed.
pub fn voter_text(checkpoint: &CheckpointPayload, voter_id: &str) -> String {
    signed_text(
        checkpoint.version,
        voter_id,
        &checkpoint.subject_id,
        checkpoint.as_of_time,
        &checkpoint.observation,
        &checkpoint.previous_checkpoint_id,
    )
}

/// Returns the text of an attestation, before hashing.
pub(crate) fn signed_text(
    version: i64,
    attester_id: &str,
    subject_id: &str,
    as_of: UnixSeconds,
    observation: &Observation,
    previous: &str,
) -> String {
    let version = if version == 0 { 1 } else { version };
    let Observation {
        restarts,
        total_uptime,
        start_time,
        ..
    } = observation;
    let text = format!(
        "attestation:v{version}:{attester_id}:{subject_id}:{as_of}:{restarts}:{total_uptime}:{start_time}"
    );
    if version >= 2 {
        format!("{text}:{previous}")
    } else {
        text
    }
}

/// The count of a checkpoint's signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Entries with a valid signature; a voter that is listed twice counts twice.
    pub valid: usize,
    /// Distinct keys with a valid signature.
    pub distinct_valid: usize,
    /// Entries whose key is known.
    pub known: usize,
    /// Entries in the list of voters.
    pub total: usize,
    /// Whether the numbers of signatures and voters are equal. If not, nothing else is counted.
    pub lengths_match: bool,
}

impl Tally {
    /// Returns whether the checkpoint is valid: it has signatures of at least [`MIN_VALID_SIGNATURES`] *distinct* keys.
    pub const fn is_valid(&self) -> bool {
        self.lengths_match && self.distinct_valid >= MIN_VALID_SIGNATURES
    }

    /// Returns whether v1 peers consider it valid. They count a voter that is listed twice as two, so a single key can
    /// make a checkpoint: do not rely on it.
    pub const fn is_valid_elsewhere(&self) -> bool {
        self.lengths_match && self.valid >= MIN_VALID_SIGNATURES
    }
}

/// Counts the signatures of a checkpoint, with the keys that `key_of` returns for nara ids.
pub fn tally(checkpoint: &CheckpointPayload, key_of: impl Fn(&str) -> Option<PublicKey>) -> Tally {
    count(checkpoint, key_of).0
}

/// Counts a checkpoint's signatures, and returns its voters with a valid signature, each key once, in canonical order
/// and spelling.
pub(super) fn verified(
    checkpoint: &CheckpointPayload,
    key_of: impl Fn(&str) -> Option<PublicKey>,
) -> (Tally, Vec<(String, String)>) {
    let (tally, votes) = count(checkpoint, key_of);
    let spelled = votes
        .into_iter()
        .map(|vote| (vote.voter, vote.signature.to_base64()));
    (tally, spelled.collect())
}

/// Returns the count, and one vote per key, in order.
fn count(checkpoint: &CheckpointPayload, key_of: impl Fn(&str) -> Option<PublicKey>) -> (Tally, Vec<Vote>) {
    let voters = checkpoint.voter_ids.as_deref().unwrap_or_default();
    let signatures = checkpoint.signatures.as_deref().unwrap_or_default();
    let mut tally = Tally {
        total: voters.len(),
        lengths_match: voters.len() == signatures.len(),
        ..Tally::default()
    };
    let mut votes = Vec::new();
    if !tally.lengths_match {
        return (tally, votes);
    }
    for (voter, signature) in voters.iter().zip(signatures) {
        let Some(key) = key_of(voter) else { continue };
        tally.known += 1;
        let Ok(signature) = Signature::from_base64(signature) else {
            continue;
        };
        let text = voter_text(checkpoint, voter);
        if key.verify(text.as_bytes(), &signature).is_ok() {
            let voter = voter.clone();
            votes.push(Vote {
                voter,
                signature,
                key,
            });
        }
    }
    tally.valid = votes.len();
    votes.sort_unstable();
    let mut keys = BTreeSet::new();
    votes.retain(|vote| keys.insert(vote.key));
    tally.distinct_valid = votes.len();
    (tally, votes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{KeyPair, Soul};

    fn voter(seed: u8) -> KeyPair {
        KeyPair::from_soul(&Soul::bond([seed; 32], "voter"))
    }

    /// Returns a checkpoint that each of `voters` (an id and a keypair) signed.
    fn signed_by(voters: &[(&str, &KeyPair)]) -> CheckpointPayload {
        let mut checkpoint = CheckpointPayload {
            version: 2,
            subject: "alice".to_owned(),
            subject_id: "alice-id".to_owned(),
            as_of_time: UnixSeconds::new(1_769_000_000),
            voter_ids: Some(voters.iter().map(|(id, _)| (*id).to_owned()).collect()),
            ..CheckpointPayload::default()
        };
        let sign = |(id, keypair): &(&str, &KeyPair)| {
            keypair.sign(voter_text(&checkpoint, id).as_bytes()).to_base64()
        };
        checkpoint.signatures = Some(voters.iter().map(sign).collect());
        checkpoint
    }

    #[test]
    fn two_voters_make_a_checkpoint() {
        let (bob, carol) = (voter(1), voter(2));
        let checkpoint = signed_by(&[("bob", &bob), ("carol", &carol)]);
        let key_of = |id: &str| match id {
            "bob" => Some(bob.public_key()),
            "carol" => Some(carol.public_key()),
            _ => None,
        };
        let tally = tally(&checkpoint, key_of);
        assert!(tally.is_valid() && tally.is_valid_elsewhere());
    }

    #[test]
    fn a_voter_that_is_listed_twice_counts_once() {
        let bob = voter(1);
        let checkpoint = signed_by(&[("bob", &bob), ("bob", &bob)]);
        let tally = tally(&checkpoint, |_| Some(bob.public_key()));
        assert_eq!((tally.valid, tally.distinct_valid), (2, 1));
        assert!(!tally.is_valid());
        assert!(tally.is_valid_elsewhere());
    }

    #[test]
    fn one_key_under_two_ids_counts_once() {
        let bob = voter(1);
        let checkpoint = signed_by(&[("bob", &bob), ("robert", &bob)]);
        let tally = tally(&checkpoint, |_| Some(bob.public_key()));
        assert_eq!((tally.valid, tally.distinct_valid), (2, 1));
        assert!(!tally.is_valid());
    }

    #[test]
    fn lists_of_different_lengths_count_nothing() {
        let (bob, carol) = (voter(1), voter(2));
        let mut checkpoint = signed_by(&[("bob", &bob), ("carol", &carol)]);
        checkpoint.signatures.iter_mut().for_each(|list| list.truncate(1));
        let tally = tally(&checkpoint, |_| Some(bob.public_key()));
        assert_eq!((tally.valid, tally.known, tally.total), (0, 0, 2));
        assert!(!tally.is_valid() && !tally.is_valid_elsewhere());
    }
}
