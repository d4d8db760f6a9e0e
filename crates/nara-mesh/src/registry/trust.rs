//! The trust policy for keys that nobody configured.

use std::borrow::Cow;
use std::fmt::{self, Debug};

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

/// What to do with an offered key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustDecision {
    /// Pin it: from now on it is the only one for this name.
    Pin,
    /// Do not use it, for this reason (shown in the log and to the caller).
    Refuse(Cow<'static, str>),
}

/// Decides whether the first key offered for a nara is trusted. The [`PeerRegistry`](super::PeerRegistry) asks it
/// whenever a key comes from hearsay (a `/ping`, a `hey-there`, a `/peer/query`) or from an earlier run; keys that
/// somebody configured need no decision, and a second key for a name is always a
/// [`KeyConflict`](super::KeyConflict).
///
/// It may be asked twice for one key, and no lock is held meanwhile.
pub trait TrustPolicy: Debug + Send + Sync + 'static {
    /// Decides on one key.
    fn decide(&self, offer: &KeyOffer<'_>) -> TrustDecision;

    /// Whether any unknown key could be accepted. If not, strangers are not called back.
    fn asks_strangers(&self) -> bool {
        true
    }

    /// Whether a statement of succession is followed that the pinned key signed. If not, the operator is asked: see
    /// [`PeerEvent::Succession`](super::PeerEvent::Succession).
    fn follows_succession(&self) -> bool {
        true
    }
}

/// Trusts the first offered key (trust on first use); the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstUse;

/// Trusts no new key; keys pinned in an earlier run count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned;

/// Trusts only keys that the operator gave: configured ones, and those of decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed;

/// A policy made of a function.
///
/// ```
/// use std::sync::Arc;
///
/// use nara_mesh::registry::{KeyOffer, PeerRegistry, TrustCallback, TrustDecision};
///
/// let ours = TrustCallback::new(|offer: &KeyOffer<'_>| {
///     if offer.name.as_str().starts_with("our-") {
///         TrustDecision::Pin
///     } else {
///         TrustDecision::Refuse("it is not one of ours".into())
///     }
/// });
/// let registry = PeerRegistry::default().with_trust(Arc::new(ours));
/// # let _ = registry;
/// ```
#[derive(Clone)]
pub struct TrustCallback<F>(F);

impl<F> TrustCallback<F>
where
    F: Fn(&KeyOffer<'_>) -> TrustDecision + Send + Sync + 'static,
{
    /// Makes a policy of a function.
    pub const fn new(decide: F) -> Self {
        Self(decide)
    }
}

impl<F> Debug for TrustCallback<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustCallback")
    }
}

impl TrustPolicy for FirstUse {
    fn decide(&self, _: &KeyOffer<'_>) -> TrustDecision {
        TrustDecision::Pin
    }
}

impl TrustPolicy for Pinned {
    fn decide(&self, offer: &KeyOffer<'_>) -> TrustDecision {
        if offer.stored {
            TrustDecision::Pin
        } else {
            TrustDecision::Refuse("no new keys are learned here (trust policy `pinned`)".into())
        }
    }

    fn asks_strangers(&self) -> bool {
        false
    }
}

impl TrustPolicy for Closed {
    fn decide(&self, _: &KeyOffer<'_>) -> TrustDecision {
        TrustDecision::Refuse("the trust policy `closed` accepts only keys that the operator gave".into())
    }

    fn asks_strangers(&self) -> bool {
        false
    }

    fn follows_succession(&self) -> bool {
        false
    }
}

impl<F> TrustPolicy for TrustCallback<F>
where
    F: Fn(&KeyOffer<'_>) -> TrustDecision + Send + Sync + 'static,
{
    fn decide(&self, offer: &KeyOffer<'_>) -> TrustDecision {
        (self.0)(offer)
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
