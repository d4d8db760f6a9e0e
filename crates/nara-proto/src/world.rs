//! World messages: postcards that travel from nara to nara and back home (docs/protocol/v1.md, section 9).

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::encoding::{InvalidBase64, base64_decode_lenient, base64_encode};
use crate::event::Service;
use crate::go_json;
use crate::identity::{KeyPair, PublicKey, Signature};
use crate::time::{UnixNanos, UnixSeconds};
use crate::wire_struct;

/// The stamps from which a nara takes its own: entry (number of hops so far modulo 10).
const STAMPS: [&str; 10] = ["🌟", "🎉", "🚀", "💫", "✨", "🌈", "🎊", "💖", "🌸", "🔥"];

/// The shortest id that may be relayed, in bytes: v1 peers abort on shorter ones.
pub const MIN_ID_LEN: usize = 8;

/// The most hops that a chain may have, twice what a mesh of one /24 network needs.
pub const MAX_HOPS: usize = 512;

wire_struct! {
    /// One station of a world message.
    pub struct WorldHop {
        /// The name of the nara.
        pub nara: String = "nara",
        /// When it added its hop, in **seconds**. Covered only by the hops behind it.
        pub timestamp: UnixSeconds = "timestamp",
        /// Its signature, base64.
        pub signature: String = "signature",
        /// Its stamp. Covered only by the hops behind it.
        pub stamp: String = "stamp",
    }
}

wire_struct! {
    /// A world message, as body of `POST /world/relay`.
    pub struct WorldMessage {
        /// The id; see [`WorldMessage::new`].
        pub id: String = "id",
        /// The text.
        pub message: String = "message",
        /// The name of the nara that sent it off.
        pub originator: String = "originator",
        /// The stations in order. Written as `[]` when empty: `null` breaks the first signature elsewhere.
        pub hops: Option<Vec<WorldHop>> = "hops",
    }
}

/// A chain of hops that does not verify. `Display` is the reason that the peer is told.
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
        /// What is wrong with it.
        fault: InvalidBase64,
    },
    /// More than [`MAX_HOPS`].
    #[error("the message has {0} hops, and the limit is {MAX_HOPS}")]
    TooLong(usize),
    /// The key of a nara in the chain is not known.
    #[error("unknown public key for {nara}")]
    UnknownKey {
        /// The name in the hop.
        nara: String,
    },
}

/// A world message with the text of an event in the name of the nara that was to sign it: v1 peers, which do not check
/// ids, would take the signature of the hop for one of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message contains the text of an event in the name of this nara")]
pub struct ReadsAsEvent;

impl WorldMessage {
    /// A new message without hops: the originator does not add one at the start.
    pub fn new(originator: &str, message: &str, start: UnixNanos) -> Self {
        Self {
            id: Self::derive_id(originator, message, start),
            message: message.to_owned(),
            originator: originator.to_owned(),
            hops: Some(Vec::new()),
        }
    }

    /// The id of a message: base64 of 16 bytes of a hash over originator, text and start time.
    fn derive_id(originator: &str, message: &str, start: UnixNanos) -> String {
        let digest = Sha256::digest(format!("{originator}:{message}:{start}"));
        base64_encode(&digest[..16])
    }

    /// The hops; empty if the list is absent.
    pub fn hops(&self) -> &[WorldHop] {
        self.hops.as_deref().unwrap_or_default()
    }

    /// The nara that handed the message to the one whose hop is the last; `None`: it came from its originator. It is the
    /// only one that whoever verified the request of that nara has proven: the originator is what it says.
    pub fn relayed_by(&self) -> Option<&str> {
        let (_, before) = self.hops().split_last()?;
        before.last().map(|hop| hop.nara.as_str())
    }

    /// Whether the message is home: its last hop is the originator's.
    pub fn is_complete(&self) -> bool {
        self.hops().last().is_some_and(|hop| hop.nara == self.originator)
    }

    /// The JSON that a nara signs (hashed) to add a hop behind the first `previous` hops (docs/protocol/v1.md,
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

    /// Signs and adds a hop of `nara`, with the stamp that its position gives.
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
        // Events are signed as `{id}:{ts}:{svc}:{emitter}:{content}`, and hashed as a hop is.
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

    /// Verifies every hop in order with the keys that `key_of` finds for names. An empty chain verifies.
    ///
    /// # Errors
    /// [`ChainError`] for the first hop that does not verify, or a chain that is too long.
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

/// Takes the pieces of a text: all of it, or its hash.
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

/// The text that a hop signs: its beginning, to which each hop is added once, since all later ones sign it, too. Made
/// anew for each of them, it would cost the square of their number.
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

    /// Adds a hop that all behind it sign.
    fn push(&mut self, hop: &WorldHop) {
        if !std::mem::take(&mut self.is_first) {
            self.begun.piece(b",");
        }
        self.begun.piece(&go_json::to_vec(hop));
    }

    /// What the next hop signs.
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

/// The nara to which `current` passes a message on: of those `online`, not itself, not the originator and not
/// in `visited`, the one with the highest clout (default 0; the first in `online` among equals). If none is
/// left, the originator, if it is online and not `current` itself. `None`: the journey is stuck.
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
        // Whatever comes before a hop is covered by it.
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
        // What others say about social matters, or what is signed by others, is of no use to anybody.
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
