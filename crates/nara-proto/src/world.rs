//! World messages: postcards that travel from nara to nara and back to their originator (docs/protocol/v1.md, section
//! 9).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::encoding::{InvalidBase64, base64_decode_lenient, base64_encode};
use crate::event::Service;
use crate::go_json;
use crate::identity::{KeyPair, PublicKey, Signature};
use crate::time::{UnixNanos, UnixSeconds};
use crate::wire_struct;

/// The stamps of hops; the index is the number of previous hops modulo 10.
const STAMPS: [&str; 10] = ["🌟", "🎉", "🚀", "💫", "✨", "🌈", "🎊", "💖", "🌸", "🔥"];

/// The minimum length of an id that may be relayed, in bytes: v1 peers abort on shorter ones.
pub const MIN_ID_LEN: usize = 8;

/// The maximum number of hops in a chain, twice what a mesh in one /24 network needs.
pub const MAX_HOPS: usize = 512;

wire_struct! {
    /// One hop of a world message.
    pub struct WorldHop {
        /// The name of the nara.
        pub nara: String = "nara",
        /// The time at which it added its hop, in **seconds**. Covered only by later hops.
        pub timestamp: UnixSeconds = "timestamp",
        /// Its signature, base64.
        pub signature: String = "signature",
        /// Its stamp. Covered only by later hops.
        pub stamp: String = "stamp",
    }
}

wire_struct! {
    /// A world message, the body of `POST /world/relay`.
    pub struct WorldMessage {
        /// The id; see [`WorldMessage::new`].
        pub id: String = "id",
        /// The text.
        pub message: String = "message",
        /// The name of the nara that sent it first.
        pub originator: String = "originator",
        /// The hops in order. Written as `[]` when empty: `null` breaks the first signature on v1 peers.
        pub hops: Option<Vec<WorldHop>> = "hops",
    }
}

/// The error for an invalid chain of hops. `Display` is the text that the peer receives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The signature of a hop is not by the nara that the hop names.
    #[error("invalid signature from {nara} at hop {hop}")]
    BadSignature {
        /// The name in the hop.
        nara: String,
        /// The index of the hop, from 0.
        hop: usize,
    },
    /// A signature is not base64.
    #[error("invalid signature encoding for {nara}: {fault}")]
    Encoding {
        /// The name in the hop.
        nara: String,
        /// The reason.
        fault: InvalidBase64,
    },
    /// There are more than [`MAX_HOPS`] hops.
    #[error("the message has {0} hops, and the limit is {MAX_HOPS}")]
    TooLong(usize),
    /// The key of a nara in the chain is unknown.
    #[error("unknown public key for {nara}")]
    UnknownKey {
        /// The name in the hop.
        nara: String,
    },
}

/// The error for a world message that contains the text of an event in the name of the signing nara: v1 peers, which do
/// not check ids, would accept the signature of the hop as one of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message contains the text of an event in the name of this nara")]
pub struct ReadsAsEvent;

impl WorldMessage {
    /// Returns a new message without hops: the originator does not add one at the start.
    pub fn new(originator: &str, message: &str, start: UnixNanos) -> Self {
        Self {
            id: Self::derive_id(originator, message, start),
            message: message.to_owned(),
            originator: originator.to_owned(),
            hops: Some(Vec::new()),
        }
    }

    /// Derives the id of a message: base64 of 16 bytes of a hash over originator, text and start time.
    fn derive_id(originator: &str, message: &str, start: UnixNanos) -> String {
        let digest = Sha256::digest(format!("{originator}:{message}:{start}"));
        base64_encode(&digest[..16])
    }

    /// Returns the hops; empty if the list is absent.
    pub fn hops(&self) -> &[WorldHop] {
        self.hops.as_deref().unwrap_or_default()
    }

    /// Returns the nara that handed the message to the nara of the last hop; `None` if it came from its originator.
    /// Only this nara is proven by the signature of the request; the originator is its claim.
    pub fn relayed_by(&self) -> Option<&str> {
        let (_, before) = self.hops().split_last()?;
        before.last().map(|hop| hop.nara.as_str())
    }

    /// Returns whether the message is complete: its last hop is the originator's.
    pub fn is_complete(&self) -> bool {
        self.hops().last().is_some_and(|hop| hop.nara == self.originator)
    }

    /// Returns the JSON that a nara signs (hashed) to add a hop behind the first `previous` hops (docs/protocol/v1.md,
    /// section 9.1).
    ///
    /// # Panics
    /// If `previous` is greater than the number of hops.
    pub fn signed_json(&self, previous: usize, current_nara: &str) -> Vec<u8> {
        let mut text = SignedText::<Vec<u8>>::of(self);
        for hop in &self.hops()[..previous] {
            text.push(hop);
        }
        text.to_end(current_nara)
    }

    /// Signs and adds a hop of `nara`, with the stamp of its position.
    ///
    /// # Errors
    /// [`ReadsAsEvent`], before anything is signed.
    pub fn add_hop(
        &mut self,
        nara: &str,
        timestamp: UnixSeconds,
        keypair: &KeyPair,
    ) -> Result<(), ReadsAsEvent> {
        let position = self.hops().len();
        let json = self.signed_json(position, nara);
        // Events are signed as `{id}:{ts}:{svc}:{emitter}:{content}`, and hashed like a hop.
        let text = String::from_utf8_lossy(&json);
        let services = Service::ALL.into_iter();
        if services
            .map(|service| format!(":{service}:{nara}:"))
            .any(|part| text.contains(&part))
        {
            return Err(ReadsAsEvent);
        }
        let digest = Sha256::digest(&json);
        let hop = WorldHop {
            nara: nara.to_owned(),
            timestamp,
            signature: keypair.sign(&digest).to_base64(),
            stamp: STAMPS[position % STAMPS.len()].to_owned(),
        };
        self.hops.get_or_insert_default().push(hop);
        Ok(())
    }

    /// Verifies every hop in order with the keys that `key_of` returns for names. An empty chain is valid.
    ///
    /// # Errors
    /// [`ChainError`] for the first invalid hop, or a chain that is too long.
    pub fn verify_chain(&self, key_of: impl Fn(&str) -> Option<PublicKey>) -> Result<(), ChainError> {
        if self.hops().len() > MAX_HOPS {
            return Err(ChainError::TooLong(self.hops().len()));
        }
        let mut signed = SignedText::of(self);
        for (index, hop) in self.hops().iter().enumerate() {
            let nara = || hop.nara.clone();
            let key = key_of(&hop.nara).ok_or_else(|| ChainError::UnknownKey { nara: nara() })?;
            let bytes = base64_decode_lenient(hop.signature.as_bytes())
                .map_err(|fault| ChainError::Encoding { nara: nara(), fault })?;
            let bad = || ChainError::BadSignature {
                nara: nara(),
                hop: index,
            };
            let signature = Signature::from_bytes(bytes.try_into().map_err(|_| bad())?);
            let digest = signed.digest(&hop.nara);
            key.verify(&digest, &signature).map_err(|_| bad())?;
            signed.push(hop);
        }
        Ok(())
    }
}

/// A consumer of the pieces of a text: it collects the whole text, or its hash.
trait Pieces {
    fn piece(&mut self, piece: &[u8]);
}

impl Pieces for Vec<u8> {
    fn piece(&mut self, piece: &[u8]) {
        self.extend_from_slice(piece);
    }
}

impl Pieces for Sha256 {
    fn piece(&mut self, piece: &[u8]) {
        self.update(piece);
    }
}

/// The text that a hop signs: its beginning, to which each hop is added once, since all later hops sign it, too.
/// Building it anew for each hop would take quadratic time.
#[derive(Clone, Debug)]
struct SignedText<T> {
    begun: T,
    is_first: bool,
}

impl<T: Pieces + Default + Clone> SignedText<T> {
    fn of(message: &WorldMessage) -> Self {
        let mut begun = T::default();
        let fields = [
            ("{\"id\":", &message.id),
            (",\"message\":", &message.message),
            (",\"originator\":", &message.originator),
        ];
        for (key, value) in fields {
            begun.piece(key.as_bytes());
            begun.piece(&go_json::to_vec(value));
        }
        begun.piece(b",\"previous_hops\":[");
        Self {
            begun,
            is_first: true,
        }
    }

    /// Adds a hop that all later hops sign.
    fn push(&mut self, hop: &WorldHop) {
        if !std::mem::take(&mut self.is_first) {
            self.begun.piece(b",");
        }
        self.begun.piece(&go_json::to_vec(hop));
    }

    /// Returns the text that the next hop signs.
    fn to_end(&self, current_nara: &str) -> T {
        let mut text = self.begun.clone();
        text.piece(b"],\"current_nara\":");
        text.piece(&go_json::to_vec(current_nara));
        text.piece(b"}");
        text
    }
}

impl SignedText<Sha256> {
    fn digest(&self, current_nara: &str) -> [u8; 32] {
        self.to_end(current_nara).finalize().into()
    }
}

/// Returns the nara to which `current` forwards a message: among `online`, except itself, the originator and `visited`,
/// the nara with the highest clout (default 0; the first in `online` among equals). If none is left, the originator, if
/// it is online and not `current` itself. `None` if the message cannot continue.
pub fn next_hop<'a>(
    current: &str,
    originator: &str,
    visited: &[&str],
    online: &[&'a str],
    clout: &BTreeMap<&str, f64>,
) -> Option<&'a str> {
    let visited: BTreeSet<&str> = visited.iter().copied().collect();
    let clout_of = |name: &str| clout.get(name).copied().unwrap_or(0.0);
    let mut best: Option<&'a str> = None;
    for &name in online {
        let candidate = name != current && name != originator && !visited.contains(name);
        if candidate && best.is_none_or(|best| clout_of(name) > clout_of(best)) {
            best = Some(name);
        }
    }
    best.or_else(|| {
        online
            .iter()
            .copied()
            .find(|&name| name == originator && name != current)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Soul;

    #[test]
    fn a_chain_beyond_the_limit_is_refused_before_any_work() {
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "bob"));
        let mut message = WorldMessage::new("alice", "hello", UnixNanos::new(1));
        message.add_hop("bob", UnixSeconds::new(2), &keypair).unwrap();
        let key_of = |_: &str| Some(keypair.public_key());
        assert_eq!(message.verify_chain(key_of), Ok(()));

        let hop = message.hops()[0].clone();
        message.hops = Some(vec![hop; MAX_HOPS + 1]);
        assert_eq!(
            message.verify_chain(|_| panic!("a key was looked up")),
            Err(ChainError::TooLong(MAX_HOPS + 1))
        );
    }

    #[test]
    fn the_text_that_a_hop_signs_is_the_json_of_all_before_it() {
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "bob"));
        let mut message = WorldMessage::new("al<ice", "say \"hello\" & \u{2028}\n", UnixNanos::new(1));
        for hops in 0..4 {
            let text: serde_json::Value =
                serde_json::from_slice(&message.signed_json(hops, "b\"ob")).unwrap();
            let previous: Vec<_> = message
                .hops()
                .iter()
                .map(serde_json::to_value)
                .map(Result::unwrap)
                .collect();
            let expected = serde_json::json!({
                "id": message.id, "message": message.message, "originator": message.originator,
                "previous_hops": previous, "current_nara": "b\"ob",
            });
            assert_eq!(text, expected);
            message.add_hop("bob", UnixSeconds::new(2), &keypair).unwrap();
            assert_eq!(message.verify_chain(|_| Some(keypair.public_key())), Ok(()));
        }
        // A hop covers all hops before it.
        let mut changed = message.clone();
        changed.hops.as_mut().unwrap()[2].stamp = "x".to_owned();
        let refused = changed.verify_chain(|_| Some(keypair.public_key())).unwrap_err();
        assert!(
            matches!(refused, ChainError::BadSignature { hop: 3, .. }),
            "{refused}"
        );
    }

    #[test]
    fn a_hop_is_not_signed_if_v1_peers_would_take_it_for_an_event() {
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "bob"));
        // With the id `{"id":"…","message":"hello`, which v1 peers do not check, the rest is an event of bob.
        let forged = "hello:1769000000000000000:social:bob:tease:bob:alice:I resign:";
        for svc in ["social", "observation", "chau", "hey-there"] {
            let text = forged.replace("social", svc);
            let mut message = WorldMessage::new("mallory", &text, UnixNanos::new(1));
            let refused = message.add_hop("bob", UnixSeconds::new(2), &keypair);
            assert_eq!((refused, message.hops().len()), (Err(ReadsAsEvent), 0));
        }
        // Other text about `social`, or an event of another nara, is harmless.
        for text in ["social:bob: hello", "a:1:social:carol:tease:carol:bob:x:"] {
            let mut message = WorldMessage::new("mallory", text, UnixNanos::new(1));
            assert_eq!(message.add_hop("bob", UnixSeconds::new(2), &keypair), Ok(()));
        }
        // The text may be in any field.
        let mut message = WorldMessage::new("mallory", "hello", UnixNanos::new(1));
        message.id = forged.to_owned();
        assert_eq!(
            message.add_hop("bob", UnixSeconds::new(2), &keypair),
            Err(ReadsAsEvent)
        );
    }

    #[test]
    fn the_next_hop_is_the_one_with_the_highest_clout_and_home_at_last() {
        let clout = BTreeMap::from([("carol", 1.0), ("dave", 2.0)]);
        let online = ["alice", "bob", "carol", "dave"];
        let next =
            |visited: &[&str], online: &[&'static str]| next_hop("bob", "alice", visited, online, &clout);
        assert_eq!(next(&[], &online), Some("dave"));
        assert_eq!(next(&["dave"], &online), Some("carol"));
        assert_eq!(next(&["dave", "carol"], &online), Some("alice"));
        assert_eq!(next(&["dave", "carol"], &["bob", "carol"]), None);
    }
}
