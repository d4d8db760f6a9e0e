//! Zines: the recent events of a nara, exchanged between peers (docs/protocol/v1.md, section 10).

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::event::SyncEvent;
use crate::identity::{KeyPair, PublicKey, VerifyError, verify_base64};
use crate::time::UnixSeconds;
use crate::wire_struct;

/// The maximum age of the events of a zine (docs/protocol/v1.md, section 7.4).
pub const ZINE_WINDOW: Duration = Duration::from_secs(300);

wire_struct! {
    /// A zine, the request and the answer of `POST /gossip/zine`.
    pub struct Zine {
        /// The name of the nara that made it.
        pub from: String = "from",
        /// The time of creation, in **seconds**.
        pub created_at: UnixSeconds = "created_at",
        /// The events; `null` and `[]` both occur.
        pub events: Option<Vec<SyncEvent>> = "events",
        /// The signature, base64; empty when unsigned. It covers the ids only.
        pub signature: String = "signature",
    }
}

impl Zine {
    /// Returns a signed zine.
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

    /// Returns the events; empty if the list is absent.
    pub fn events(&self) -> &[SyncEvent] {
        self.events.as_deref().unwrap_or_default()
    }

    /// Returns the text whose hash is signed: `"{from}:{created_at}:"` and the ids.
    pub fn digest_preimage(&self) -> String {
        with_ids(format!("{}:{}:", self.from, self.created_at), self.events())
    }

    /// Returns the SHA-256 digest that is signed.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.digest_preimage()).into()
    }

    /// Verifies the signature with the key of the nara that made it. It covers the ids only: the events must be
    /// verified separately.
    ///
    /// # Errors
    /// [`VerifyError`] if the zine is unsigned or not signed by that key.
    pub fn verify(&self, key: &PublicKey) -> Result<(), VerifyError> {
        verify_base64(key, &self.digest(), &self.signature)
    }
}

/// Returns a text followed by the ids of events without separators: the signed text of zines, sync responses and import
/// requests.
pub(crate) fn with_ids(mut text: String, events: &[SyncEvent]) -> String {
    for event in events {
        text.push_str(&event.id);
    }
    text
}
