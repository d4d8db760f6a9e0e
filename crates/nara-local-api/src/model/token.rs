//! Tokens for the local API on loopback.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The rights of a caller. Each includes the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// Read status, peers and events.
    Read,
    /// Act as the nara: messages, requests, transfers.
    Messages,
    /// Administer: trust, services, tokens, reload, shutdown.
    All,
}

impl Rights {
    /// Returns the JSON value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Messages => "messages",
            Self::All => "all",
        }
    }
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Its name: 1 to 64 letters, digits, `-`, `_` and `.`; by default its rights and a number.
    #[serde(default)]
    pub name: Option<String>,
    /// Its rights.
    pub rights: Rights,
}

/// A new token. It is shown once: the nara stores only its hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// Its name.
    pub name: String,
    /// Its rights.
    pub rights: Rights,
    /// The token, for the header `Authorization: Bearer TOKEN`.
    pub token: String,
}

impl std::fmt::Debug for MadeToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeToken")
            .field("name", &self.name)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its name. `api` is the one in the file `api.token` of the data folder.
    pub name: String,
    /// Its rights.
    pub rights: Rights,
    /// When it was created, in Unix milliseconds; missing for `api`.
    pub created_at_ms: Option<i64>,
}

/// Tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    /// The tokens, by name.
    pub tokens: Vec<Token>,
    /// The loopback addresses on which the API listens, if any.
    pub addresses: Vec<String>,
}
