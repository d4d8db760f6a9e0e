//! Stashes: sealed data that naras store at each other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A stash that a peer stores at this nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stash {
    /// The nara id of the owner.
    pub owner_id: String,
    /// The name of the owner, if it is known.
    pub name: Option<String>,
    /// Its size in bytes, sealed: 16 more than the plain data.
    pub bytes: usize,
    /// When it was stored, in Unix seconds.
    pub stored_at_s: i64,
}

/// The stashes that peers store at this nara.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StashList {
    /// The stashes, by owner.
    pub stashes: Vec<Stash>,
}

/// The result of storing a stash at a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stashed {
    /// The size of the stored data, in bytes.
    pub bytes: usize,
}

/// The result of deleting a stash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// Whether there was a stash.
    pub dropped: bool,
}
