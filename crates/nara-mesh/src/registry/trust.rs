//! The trust policy for keys that nobody configured.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::sync::Arc;

use nara_proto::identity::{KeyId, NaraId, NaraName, PublicKey};

use super::{KeySource, PeerInfo};

/// A first key offered for a nara.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyOffer<'a> {
    /// The name of the nara.
    pub name: &'a NaraName,
    /// Its id, if the offer names one.
    pub id: Option<&'a NaraId>,
    /// The key.
    pub key: &'a PublicKey,
    /// The source of the key.
    pub source: &'a KeySource,
    /// What is known about the nara already, such as its configured address.
    pub known: Option<&'a PeerInfo>,
    /// Whether the key was pinned in an earlier run and comes from the ledger.
    pub stored: bool,
}

/// Decides whether the first key offered for a nara is trusted. The [`PeerRegistry`](super::PeerRegistry) asks it
/// whenever a key comes from hearsay (a `/ping`, a `hey-there`, a `/peer/query`) or from an earlier run; keys that
/// somebody configured need no decision, and a second key for a name is always a
/// [`KeyConflict`](super::KeyConflict).
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum TrustPolicy {
    /// Trusts the first offered key (trust on first use); the default.
    #[default]
    FirstUse,
    /// Trusts no new key; keys pinned in an earlier run count.
    Pinned,
    /// Trusts only keys that the operator gave: configured ones, and those of decisions.
    Closed,
    /// Asks a function: see [`TrustPolicy::by`].
    By(Arc<DecideOnKey>),
}

type DecideOnKey = dyn Fn(&KeyOffer<'_>) -> Result<(), Cow<'static, str>> + Send + Sync;

impl TrustPolicy {
    /// A policy made of a function. It may be asked twice for one key, and no lock is held meanwhile.
    ///
    /// ```
    /// use nara_mesh::registry::{PeerRegistry, TrustPolicy};
    ///
    /// let ours = TrustPolicy::by(|offer| {
    ///     if offer.name.as_str().starts_with("our-") {
    ///         Ok(())
    ///     } else {
    ///         Err("it is not one of ours".into())
    ///     }
    /// });
    /// let registry = PeerRegistry::default().with_trust(ours);
    /// # let _ = registry;
    /// ```
    pub fn by(
        decide: impl Fn(&KeyOffer<'_>) -> Result<(), Cow<'static, str>> + Send + Sync + 'static,
    ) -> Self {
        Self::By(Arc::new(decide))
    }

    /// Decides on one key: whether to pin it, so that from now on it is the only one for this name.
    ///
    /// # Errors
    /// Why not to use it; shown in the log and to the caller.
    pub fn decide(&self, offer: &KeyOffer<'_>) -> Result<(), Cow<'static, str>> {
        match self {
            Self::FirstUse => Ok(()),
            Self::Pinned if offer.stored => Ok(()),
            Self::Pinned => Err("no new keys are learned here (trust policy `pinned`)".into()),
            Self::Closed => Err("the trust policy `closed` accepts only keys that the operator gave".into()),
            Self::By(decide) => decide(offer),
        }
    }

    /// Whether any unknown key could be accepted. If not, strangers are not called back.
    pub const fn asks_strangers(&self) -> bool {
        matches!(self, Self::FirstUse | Self::By(_))
    }

    /// Whether a statement of succession is followed that the pinned key signed. If not, the operator is asked: see
    /// [`PeerEvent::Succession`](super::PeerEvent::Succession).
    pub const fn follows_succession(&self) -> bool {
        !matches!(self, Self::Closed)
    }
}

impl Debug for TrustPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstUse => "FirstUse",
            Self::Pinned => "Pinned",
            Self::Closed => "Closed",
            Self::By(_) => "By",
        })
    }
}

/// The trust policy refused an offered key. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {} of {name} (offered by {offered_by}) is not trusted: {reason}",
    KeyId::from(offered)
)]
pub struct KeyRefused {
    /// The name.
    pub name: NaraName,
    /// The offered key.
    pub offered: PublicKey,
    /// The source of the offer.
    pub offered_by: KeySource,
    /// The reason of the policy.
    pub reason: Cow<'static, str>,
}
