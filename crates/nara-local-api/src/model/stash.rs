//! What naras leave with each other, sealed.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a peer left with this nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stash {
    /// The nara id of the owner.
    pub owner_id: String,
    /// The name of the owner, if it is known.
    pub name: Option<String>,
    /// How many bytes are kept, sealed: 16 more than the owner left.
    pub bytes: usize,
    /// When it was stored, in Unix seconds.
    pub stored_at_s: i64,
}

/// What peers left with this nara.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StashList {
    /// By owner.
    pub stashes: Vec<Stash>,
}

/// What a peer keeps for this nara.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stashed {
    /// How many bytes this nara left there.
    pub bytes: usize,
}

/// Whether something was kept that is gone now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dropped {
    /// Whether the owner had left something.
    pub dropped: bool,
}
