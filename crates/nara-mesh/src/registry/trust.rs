//! Which keys are believed that nobody configured.

use std::borrow::Cow;
use std::fmt::{self, Debug};

use nara_proto::identity::{KeyId, NaraId, NaraName, PublicKey};

use super::{KeySource, PeerInfo, trust_command};

/// A key that somebody offers for a nara of which none is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyOffer<'a> {
    /// The name of the nara.
    pub name: &'a NaraName,
    /// Its id, if the offer names one.
    pub id: Option<&'a NaraId>,
    /// The key.
    pub key: &'a PublicKey,
    /// Who says so.
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
    /// Do not use it, for this reason (for the log and for whoever called).
    Refuse(Cow<'static, str>),
}

/// Decides whether the first key that is offered for a nara is believed. The
/// [`PeerRegistry`](super::PeerRegistry) asks it whenever a key comes from hearsay (a `/ping`, a `hey-there`, a
/// `/peer/query`) or from an earlier run; keys that somebody configured need no decision, and a second key for a
/// name is always a [`KeyConflict`](super::KeyConflict).
///
/// It may be asked twice for one key, and is asked without any lock held.
pub trait TrustPolicy: Debug + Send + Sync + 'static {
    /// Decides on one key.
    fn decide(&self, offer: &KeyOffer<'_>) -> TrustDecision;

    /// Whether it makes sense to ask a nara of which no key is known for it. If not, strangers are not called
    /// back.
    fn asks_strangers(&self) -> bool {
        true
    }
}

/// The first key that is offered is believed: trust on first use, the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstUse;

/// No new key is believed; those that were pinned in an earlier run count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned;

/// Only keys that the operator gave are believed: configured ones, and those of `nara-mesh peers trust`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed;

/// A policy that is a function.
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
    /// The policy that decides as `decide` does.
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
}

impl<F> TrustPolicy for TrustCallback<F>
where
    F: Fn(&KeyOffer<'_>) -> TrustDecision + Send + Sync + 'static,
{
    fn decide(&self, offer: &KeyOffer<'_>) -> TrustDecision {
        (self.0)(offer)
    }
}

/// A key that was offered for a nara and is not believed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "key {} of {name} (offered by {offered_by}) is not trusted: {reason}; if you are sure of the key, run `{}`",
    KeyId::from(offered),
    trust_command(name, offered, false)
)]
pub struct KeyRefused {
    /// The name.
    pub name: NaraName,
    /// The key that was offered.
    pub offered: PublicKey,
    /// How it was offered.
    pub offered_by: KeySource,
    /// Why it is not believed.
    pub reason: Cow<'static, str>,
}
