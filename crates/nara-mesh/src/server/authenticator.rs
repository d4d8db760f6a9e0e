//! Who sent a signed request: from its headers to a [`VerifiedSender`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use nara_proto::auth::{ReplayCache, ReplayError, RequestAuth, RequestAuthError};
use nara_proto::endpoint::Repetition;
use nara_proto::event::KeyLookup as _;
use nara_proto::identity::{NaraName, PreparedKeys, PublicKey};
use tokio::sync::Semaphore;

use super::background::Background;
use super::discovery::KeyDiscovery;
use super::rejection::Rejection;
use super::source_check::SourceCheck;
use super::{PeerAddress, VerifiedSender};
use crate::channel::SecureChannel;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::registry::{KeySource, KnownKeys, PeerRegistry, PinnedKey};
use crate::tls::TlsPolicy;

/// Authenticates signed requests: headers, freshness, key, signature, replay, in this order.
///
/// The cheap checks come first, and the replay cache last, so that nobody can fill it without a key that is
/// known here.
#[derive(Debug)]
pub(super) struct Authenticator {
    pub(super) local: LocalNara,
    pub(super) registry: PeerRegistry,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) discovery: Option<Arc<KeyDiscovery>>,
    pub(super) replay: Mutex<ReplayCache>,
    /// Peers that call often have their keys prepared.
    pub(super) prepared_keys: Arc<PreparedKeys>,
    pub(super) known_keys: KnownKeys,
    pub(super) background: Background,
    pub(super) source_check: SourceCheck,
    /// Conflicts that are looked for at once: whoever sends wrong signatures must not pile up tasks.
    pub(super) conflicts: Arc<Semaphore>,
}

impl Authenticator {
    pub(super) async fn authenticate(
        &self,
        parts: &Parts,
        repetition: Repetition,
    ) -> Result<VerifiedSender, Rejection> {
        let address = PeerAddress::of(&parts.extensions);
        let outcome = self.check(parts, address, repetition).await;
        if let Err(rejection) = &outcome {
            tracing::info!(%address, path = parts.uri.path(), reason = %rejection, "request refused");
        }
        outcome
    }

    async fn check(
        &self,
        parts: &Parts,
        address: SocketAddr,
        repetition: Repetition,
    ) -> Result<VerifiedSender, Rejection> {
        let auth = RequestAuth::from_headers(&parts.headers)?;
        let now = self.clock.now_millis();
        auth.check_fresh(now)?;
        self.source_check.check(auth.name(), address).await?;
        self.check_trusted(auth.name())?;
        let channel = parts.extensions.get::<SecureChannel>();
        self.check_security(auth.name(), channel)?;

        let key = match self.known_keys.key_of_name(auth.name().as_str()) {
            Some(key) => key,
            None => self.discover(auth.name(), address).await?,
        };
        if let Some(channel) = channel.filter(|channel| channel.peer_key != key) {
            // Nothing is changed by it, but whoever watches the registry is told.
            let _ = self.registry.report_key(&PinnedKey {
                name: auth.name().clone(),
                id: None,
                key: channel.peer_key,
                source: KeySource::Tls(address),
                learned_at: now,
            });
            return Err(Rejection::OtherKey(auth.name().clone()));
        }
        let verifier = self.prepared_keys.of(&key);
        if let Err(error) = auth.verify_signature(&verifier, parts.method.as_str(), parts.uri.path()) {
            self.look_for_conflict(auth.name(), address);
            return Err(error.into());
        }

        self.remember(&auth, address, repetition)?;

        let peer = self.registry.by_name(auth.name().as_str());
        if let Some(peer) = &peer {
            self.registry.sign_of_life(peer);
        }
        let id = if auth.name() == self.local.name() {
            Some(self.local.id().clone())
        } else {
            peer.and_then(|peer| peer.info().id)
        };
        Ok(VerifiedSender::new(
            auth.name().clone(),
            id,
            key,
            address,
            auth.timestamp(),
        ))
    }

    /// Refuses a peer on a plain connection that is to use TLS only.
    fn check_security(&self, name: &NaraName, channel: Option<&SecureChannel>) -> Result<(), Rejection> {
        let must_be_tls = || {
            let peer = self.registry.by_name(name.as_str());
            peer.is_some_and(|peer| peer.tls() == Some(TlsPolicy::Require))
        };
        if channel.is_none() && must_be_tls() {
            return Err(Rejection::TlsRequiredOf(name.clone()));
        }
        Ok(())
    }

    /// Refuses a nara that the operator does not trust, whoever signed. It is not told whether its key is known.
    fn check_trusted(&self, name: &NaraName) -> Result<(), Rejection> {
        let peer = self.registry.by_name(name.as_str());
        if peer.is_some_and(|peer| peer.is_untrusted()) {
            return Err(Rejection::Untrusted);
        }
        Ok(())
    }

    async fn discover(&self, name: &NaraName, address: SocketAddr) -> Result<PublicKey, RequestAuthError> {
        if let Some(discovery) = &self.discovery {
            discovery.discover(name, address.ip()).await;
        }
        self.known_keys
            .key_of_name(name.as_str())
            .ok_or_else(|| RequestAuthError::UnknownSender(name.clone()))
    }

    /// A signature that does not verify may mean that the nara has a new key. Asking it does not change what
    /// is pinned, but the conflict becomes known to whoever watches the registry.
    fn look_for_conflict(&self, name: &NaraName, address: SocketAddr) {
        if let Some(discovery) = self.discovery.clone()
            && name != self.local.name()
            && let Ok(permit) = self.conflicts.clone().try_acquire_owned()
        {
            let name = name.clone();
            self.background.spawn(async move {
                let _permit = permit;
                discovery.discover(&name, address.ip()).await;
            });
        }
    }

    fn remember(
        &self,
        auth: &RequestAuth,
        address: SocketAddr,
        repetition: Repetition,
    ) -> Result<(), Rejection> {
        let now = self.clock.now_millis();
        // Every method of the cache leaves it valid.
        let mut cache = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match repetition {
            Repetition::SameSource => cache.insert_or_repeat(auth, address.ip(), now),
            _ => cache.insert(auth, address.ip(), now),
        };
        drop(cache);
        outcome.map_err(|error| match error {
            ReplayError::Full => {
                tracing::error!("the replay cache is full: signed requests are refused");
                Rejection::ReplayCacheFull
            }
            _ => {
                tracing::warn!(sender = %auth.name(), %address, "replayed request");
                RequestAuthError::Replayed.into()
            }
        })
    }
}
