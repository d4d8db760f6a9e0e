//! Zines: the recent events of a nara, handed from one to another (docs/protocol/v1.md, section 10).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::event::SyncEvent;
use crate::identity::{KeyPair, PublicKey, VerifyError, verify_base64};
use crate::time::UnixSeconds;
use crate::wire_struct;

/// How far back the events of a zine go (docs/protocol/v1.md, section 7.4).
pub const ZINE_WINDOW: Duration = Duration::from_secs(300);

wire_struct! {
    /// A zine, as question and as answer of `POST /gossip/zine`.
    pub struct Zine {
        /// The name of the nara that made it.
        pub from: String = "from",
        /// When it was made, in **seconds**.
        pub created_at: UnixSeconds = "created_at",
        /// The events; `null` and `[]` both occur.
        pub events: Option<Vec<SyncEvent>> = "events",
        /// The signature, base64; empty when unsigned. It covers the ids only.
        pub signature: String = "signature",
    }
}

impl Zine {
    /// A signed zine.
    pub fn signed(from: &str, created_at: UnixSeconds, events: Vec<SyncEvent>, keypair: &KeyPair) -> Self {
        let mut zine = Self {
            from: from.to_owned(),
            created_at,
            events: Some(events),
            signature: String::new(),
        };
        zine.signature = keypair.sign(&zine.digest()).to_base64();
        zine
    }

    /// The events; empty if the list is absent.
    pub fn events(&self) -> &[SyncEvent] {
        self.events.as_deref().unwrap_or_default()
    }

    /// The text whose hash is signed: `"{from}:{created_at}:"` and the ids.
    pub fn digest_preimage(&self) -> String {
        with_ids(format!("{}:{}:", self.from, self.created_at), self.events())
    }

    /// The SHA-256 that is signed.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.digest_preimage()).into()
    }

    /// Verifies the signature with the key of the nara that made it. Only the ids are covered: the events
    /// must be verified one by one.
    ///
    /// # Errors
    /// [`VerifyError`] if the zine is unsigned or not signed by that key.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        verify_base64(key, &self.digest(), &self.signature)
    }
}

/// A text followed by the ids of events with nothing between them: what zines, sync responses and import
/// requests sign.
pub(crate) fn with_ids(mut text: String, events: &[SyncEvent]) -> String {
    for event in events {
        text.push_str(&event.id);
    }
    text
}
