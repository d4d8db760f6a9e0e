//! Peer records, as held by registries and stored in ledgers.

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

/// A trusted key of a nara, with its source.
///
/// A nara id cannot be derived from a key (docs/protocol/v1.md, section 1.1), so the pair is taken on trust; this
/// records the source of that trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedKey {
    /// The name.
    pub name: NaraName,
    /// The nara id, if known.
    pub id: Option<NaraId>,
    /// The public key.
    pub key: PublicKey,
    /// The source of the key.
    pub source: KeySource,
    /// The time at which it was learned, in milliseconds.
    pub learned_at: UnixMillis,
}
