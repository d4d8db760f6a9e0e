//! Peer records, as registries hold them and ledgers keep them.

mod conflict;
mod protocol;
mod record;
mod source;

pub use conflict::KeyConflict;
pub use protocol::PeerProtocol;
pub use record::{OperatorDecision, PeerChange, PeerChangeError, PeerRecord, Verdict};
pub use source::KeySource;

use nara_proto::identity::{NaraId, NaraName, PublicKey};
use nara_proto::time::UnixMillis;

/// A key trusted for a nara, and why.
///
/// A nara id cannot be derived from a key (docs/protocol/v1.md, section 1.1), so the pair is taken on trust; this
/// records on whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The name of the nara.
    pub name: NaraName,
    /// Its id, if known.
    pub id: Option<NaraId>,
    /// Its public key.
    pub key: PublicKey,
    /// How the key was learned.
    pub source: KeySource,
    /// When, in milliseconds.
    pub learned_at: UnixMillis,
}
