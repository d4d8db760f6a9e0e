//! The authentication of a signed request: from its headers to a [`VerifiedSender`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use nara_proto::endpoint::Repetition;
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::replay::{ReplayCache, ReplayEntry, ReplayError};
use nara_proto::succession::{KeyState, Succession};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{RequestAuth, RequestAuthError};
use nara_proto::v2::{
    self, CAPABILITY_HEADER, ChannelBinding, ContentDigest, RequestLine, RequestSignature, SignatureError,
    SignedBody, SignedCapability, SignedField,
};
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::clock_watch::Look;
use crate::identity::LocalNara;
use crate::metrics;
use crate::registry::{KeySource, KnownKeys, Peer, PeerInfo, PeerProtocol, PeerRegistry, PinnedKey};
use crate::seldom::{error_seldom, warn_seldom};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::key_discovery::KeyDiscovery;
use crate::server::auth::request_proof::RequestProof;
use crate::server::auth::sender::VerifiedSender;
use crate::server::auth::source_check::SourceCheck;
use crate::server::background::Background;
use crate::server::clock::ServerClock;
use crate::server::connection::facts::ConnectionFacts;
use crate::tls::{ChannelTrust, TlsPolicy};
use crate::{Coverage, Signatures};

/// Authenticates signed requests: headers, freshness, recipient, downgrade, key, signature, replay, in this order.
///
/// The cheap checks come first, and the replay cache last, so that only holders of a known key can fill it.
#[derive(Debug)]
pub(in crate::server) struct Authenticator {
    pub(in crate::server) local: LocalNara,
    pub(in crate::server) registry: PeerRegistry,
    pub(in crate::server) clock: Arc<dyn Clock>,
    pub(in crate::server) discovery: Option<Arc<KeyDiscovery>>,
    pub(in crate::server) replay: Mutex<ReplayCache>,
    pub(in crate::server) signatures: Signatures,
    pub(in crate::server) channel_trust: ChannelTrust,
    pub(in crate::server) uptime: Arc<ServerClock>,
    /// Whether requests that were signed before this server started are refused.
    pub(in crate::server) refuse_before_start: bool,
    pub(in crate::server) known_keys: KnownKeys,
    pub(in crate::server) background: Background,
    pub(in crate::server) source_check: SourceCheck,
    /// Limits concurrent checks for conflicts: wrong signatures must not pile up tasks.
    pub(in crate::server) conflicts: Arc<Semaphore>,
}

/// The reason why the body of a request with a known signature is refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(in crate::server) enum RepeatedBody {
    /// The replay cache is full.
    #[error("the replay cache is full")]
    Full,
    /// It arrived with this signature before.
    #[error("replayed request")]
    Replayed,
}

/// A request with an authenticated sender.
#[derive(Debug)]
pub(in crate::server) struct Authenticated {
    pub(in crate::server) sender: VerifiedSender,
    pub(in crate::server) proof: RequestProof,
    /// What the sender signed about the body.
    pub(in crate::server) body: BodyProof,
}

/// What is known about a body before it is read.
#[derive(Debug)]
pub(in crate::server) enum BodyProof {
    /// Nothing is signed, or the connection proves it.
    None,
    /// It must have this digest.
    Digest(ContentDigest),
    /// It is streamed, so only its connection can prove it.
    Streamed,
    /// Together with the v1 signature it forms a message that must not be repeated: see
    /// [`Authenticator::remember_body`].
    Repeatable(RequestAuth),
}

impl Authenticator {
    pub(in crate::server) async fn authenticate(
        &self,
        parts: &Parts,
        connection: &ConnectionFacts,
        repetition: Repetition,
    ) -> Result<Authenticated, Rejection> {
        let look = self.uptime.look();
        // A request that claims v2 is verified by v2 or refused: otherwise an attacker could choose the weaker check.
        let claims_v2 = self.signatures == Signatures::V2AndV1 && v2::is_claimed(&parts.headers);
        let outcome = if claims_v2 {
            self.check_v2(parts, connection, look).await
        } else {
            match self.claims_handshake(parts, connection) {
                Ok(Some(claimed)) => self.check_handshake(parts, claimed, connection, look).await,
                Ok(None) => self.check_v1(parts, connection, repetition, look).await,
                Err(malformed) => Err(malformed),
            }
        };
        match &outcome {
            Ok(authenticated) => self.note_listening(&parts.headers, &authenticated.sender),
            Err(rejection) => {
                tracing::info!(address = %connection.address, path = parts.uri.path(), reason = %rejection, "request refused");
            }
        }
        outcome
    }

    async fn check_v2(
        &self,
        parts: &Parts,
        connection: &ConnectionFacts,
        look: Look,
    ) -> Result<Authenticated, Rejection> {
        let address = connection.address;
        let signed = RequestSignature::from_headers(&parts.headers)?;
        signed.check_time(look.now)?;
        self.check_started(signed.signed_at(), look)?;
        signed.check_recipient(self.local.id(), self.local.name())?;
        let channel = connection.channel.as_ref();
        let binding = channel.map(|channel| ChannelBinding::new(channel.binding));
        signed.check_channel(binding.as_ref())?;

        let name = signed.name();
        let peer = self.registry.by_name(name.as_str());
        self.heed_succession(name, peer.as_deref(), signed.key_id(), &parts.headers);
        let (key, peer) = self.key_of_sender(name, peer, connection, &parts.headers).await?;
        if channel.is_some() && self.channel_trust != ChannelTrust::VerifyAlways {
            // The connection is the sender's and the request was made for it, so no other peer can have sent or
            // replayed it.
            let proof = RequestProof::v2(&signed, &parts.headers).on_trusted_channel(&parts.headers);
            return Ok(Authenticated {
                sender: self.sender_of_v2(&signed, peer, &proof, key, address, Coverage::Channel),
                proof,
                body: match signed.body() {
                    SignedBody::Digest(_) => BodyProof::None,
                    SignedBody::Streamed => BodyProof::Streamed,
                },
            });
        }
        let line = RequestLine {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query(),
        };
        let verified = signed
            .check_key(&key)
            .and_then(|()| signed.verify_signature(&key, line));
        if let Err(error) = verified {
            self.look_for_conflict(name, address);
            return Err(error.into());
        }
        // A nonce is never used twice, whatever repetitions the endpoint allows.
        self.remember(&signed, name, address, Repetition::Refused)?;

        let proof = RequestProof::v2(&signed, &parts.headers);
        let (coverage, body) = match signed.body() {
            SignedBody::Digest(digest) => (Coverage::Whole, BodyProof::Digest(digest)),
            SignedBody::Streamed => (Coverage::Head, BodyProof::Streamed),
        };
        Ok(Authenticated {
            sender: self.sender_of_v2(&signed, peer, &proof, key, address, coverage),
            proof,
            body,
        })
    }

    /// Returns the binding of a request that claims to be proven by its connection alone, if this server accepts such
    /// requests.
    fn claims_handshake<'a>(
        &self,
        parts: &'a Parts,
        connection: &ConnectionFacts,
    ) -> Result<Option<&'a HeaderValue>, Rejection> {
        let is_accepted = self.channel_trust == ChannelTrust::Handshake
            && self.signatures == Signatures::V2AndV1
            && connection.channel.is_some();
        if is_accepted {
            Ok(ChannelBinding::alone_in(&parts.headers)?)
        } else {
            Ok(None)
        }
    }

    /// Authenticates an unsigned request by the key of the connection alone. The binding shows that the other end of
    /// this connection wrote the request, and did not forward one that was written elsewhere.
    async fn check_handshake(
        &self,
        parts: &Parts,
        claimed: &HeaderValue,
        connection: &ConnectionFacts,
        look: Look,
    ) -> Result<Authenticated, Rejection> {
        let channel = connection.channel.as_ref().zip(connection.binding.as_ref());
        let (channel, binding) = channel.ok_or(SignatureError::Channel)?;
        ChannelBinding::check_value(claimed, binding)?;
        // If the key is unknown, or several names have it, a signed request must identify the sender.
        let peer = self.registry.holder(&channel.peer_key);
        let name = peer
            .as_ref()
            .and_then(|peer| peer.with_info(|info| info.name.clone()));
        let name = name.ok_or(SignatureError::Missing(SignedField::Signature))?;
        let (key, peer) = self
            .key_of_sender(&name, peer, connection, &parts.headers)
            .await?;
        let sender = self.sender(
            &name,
            peer.as_deref(),
            key,
            connection.address,
            look.now,
            Coverage::Channel,
        );
        Ok(Authenticated {
            sender: sender.without_inner_signature(),
            proof: RequestProof::handshake(),
            body: BodyProof::None,
        })
    }

    /// Returns the sender of a v2 request, which proves that it supports v2.
    fn sender_of_v2(
        &self,
        signed: &RequestSignature,
        peer: Option<Arc<Peer>>,
        proof: &RequestProof,
        key: PublicKey,
        address: SocketAddr,
        coverage: Coverage,
    ) -> VerifiedSender {
        let peer = peer.as_deref();
        if let Some(peer) = peer {
            self.registry.learn_protocol(peer, PeerProtocol::V2);
        }
        let sender = self.sender(signed.name(), peer, key, address, signed.signed_at(), coverage);
        if proof.wants_v1() {
            sender
        } else {
            sender.without_inner_signature()
        }
    }

    async fn check_v1(
        &self,
        parts: &Parts,
        connection: &ConnectionFacts,
        repetition: Repetition,
        look: Look,
    ) -> Result<Authenticated, Rejection> {
        let address = connection.address;
        let auth = RequestAuth::from_headers(&parts.headers)?;
        auth.check_fresh(look.now)?;
        self.check_started(auth.timestamp(), look)?;

        let name = auth.name();
        let peer = self.registry.by_name(name.as_str());
        self.check_downgrade(peer.as_deref())?;
        let (key, peer) = self.key_of_sender(name, peer, connection, &parts.headers).await?;
        // Key discovery may have learned more about the sender than its key.
        self.check_downgrade(peer.as_deref())?;
        if let Err(error) = auth.verify_signature(&key, parts.method.as_str(), parts.uri.path()) {
            self.look_for_conflict(name, address);
            return Err(error.into());
        }
        self.remember(&auth, name, address, repetition)?;
        let trusted = connection.channel.is_some() && self.channel_trust != ChannelTrust::VerifyAlways;
        let coverage = if trusted {
            Coverage::Channel
        } else {
            Coverage::MethodAndPath
        };

        Ok(Authenticated {
            sender: self.sender(name, peer.as_deref(), key, address, auth.timestamp(), coverage),
            proof: RequestProof::v1(&auth),
            body: match repetition {
                Repetition::OtherBody => BodyProof::Repeatable(auth),
                _ => BodyProof::None,
            },
        })
    }

    /// Records the announced port of an authenticated nara if its address is unknown or its port is a guess.
    fn note_listening(&self, headers: &HeaderMap, sender: &VerifiedSender) {
        let Some(discovery) = self
            .discovery
            .as_ref()
            .filter(|_| headers.contains_key(CAPABILITY_HEADER))
        else {
            return;
        };
        let source = sender.address().ip().to_canonical();
        let known = self
            .registry
            .by_name(sender.name().as_str())
            .map(|peer| peer.info());
        let is_wanted = known.is_some_and(|known| match known.address {
            Some(address) => known.either_port && address.ip() == source,
            None => self.registry.has_room_at(source),
        });
        if !is_wanted || !discovery.may_call(source) {
            return;
        }
        if let Ok(Some(statement)) = SignedCapability::from_headers(headers)
            && let Ok(said) = statement.verify(sender.name(), sender.key(), self.clock.now_millis())
            && let Some(port) = said.port
        {
            let listening = self.registry.register(PeerInfo {
                name: Some(sender.name().clone()),
                address: Some(SocketAddr::new(source, port.get())),
                ..PeerInfo::default()
            });
            if let Err(error) = listening {
                tracing::debug!(sender = %sender.name(), %error, "its announced port was not registered");
            }
        }
    }

    /// Refuses requests from before the start: an earlier server here may have accepted them, and its replay cache is
    /// lost.
    fn check_started(&self, signed_at: UnixMillis, look: Look) -> Result<(), Rejection> {
        let age = (signed_at < look.now).then(|| look.now.abs_diff(signed_at));
        if self.refuse_before_start && self.uptime.is_from_before(age.unwrap_or_default(), look) {
            return Err(Rejection::BeforeStart);
        }
        Ok(())
    }

    fn check_downgrade(&self, peer: Option<&Peer>) -> Result<(), Rejection> {
        match peer.filter(|peer| self.signatures == Signatures::V2AndV1 && peer.protocol().v2) {
            Some(peer) => {
                self.registry.report_downgrade(peer, "request", "v2 signature");
                Err(Rejection::Downgrade)
            }
            None => Ok(()),
        }
    }

    /// Returns the sender of a verified request.
    fn sender(
        &self,
        name: &NaraName,
        peer: Option<&Peer>,
        key: PublicKey,
        address: SocketAddr,
        signed_at: UnixMillis,
        coverage: Coverage,
    ) -> VerifiedSender {
        if let Some(peer) = peer {
            self.registry.sign_of_life(peer);
            self.registry.seen_at(peer, address.ip());
        }
        let id = if name == self.local.name() {
            Some(self.local.id().clone())
        } else {
            peer.and_then(|peer| peer.with_info(|info| info.id.clone()))
        };
        VerifiedSender::new(name.clone(), id, key, address, signed_at, coverage)
    }

    /// Returns the pinned key of the claimed sender, if it may use this connection, and its peer: a known one, or one
    /// that was met meanwhile.
    async fn key_of_sender(
        &self,
        name: &NaraName,
        peer: Option<Arc<Peer>>,
        connection: &ConnectionFacts,
        headers: &HeaderMap,
    ) -> Result<(PublicKey, Option<Arc<Peer>>), Rejection> {
        let address = connection.address;
        self.source_check.check(name, address).await?;
        self.check_trusted(name, peer.as_deref())?;
        self.check_security(name, peer.as_deref(), connection)?;
        let (key, peer) = match self.known_keys.key_of(name, peer.as_deref()) {
            Some(key) => (key, peer),
            // Boxed, as it is rare and large.
            None => Box::pin(self.discover(name, address, headers)).await?,
        };
        if let Some(channel) = connection
            .channel
            .as_ref()
            .filter(|channel| channel.peer_key != key)
        {
            // Changes nothing, but notifies subscribers of the registry.
            let _ = self.registry.report_key(&PinnedKey {
                name: name.clone(),
                id: None,
                key: channel.peer_key,
                source: KeySource::Tls(address),
                learned_at: self.clock.now_millis(),
            });
            return Err(Rejection::OtherKey {
                sender: name.clone(),
                known: KeyId::from(&key),
            });
        }
        Ok((key, peer))
    }

    /// Refuses a peer on a plain connection if the operator requires TLS for it.
    fn check_security(
        &self,
        name: &NaraName,
        peer: Option<&Peer>,
        connection: &ConnectionFacts,
    ) -> Result<(), Rejection> {
        let must_be_tls = || peer.is_some_and(|peer| peer.tls() == Some(TlsPolicy::Require));
        if connection.channel.is_none() && must_be_tls() {
            return Err(Rejection::TlsRequiredOf(name.clone()));
        }
        Ok(())
    }

    /// Refuses a nara that the operator distrusts, whatever the signature. The answer does not reveal whether its key
    /// is known.
    fn check_trusted(&self, name: &NaraName, peer: Option<&Peer>) -> Result<(), Rejection> {
        if peer.is_some_and(|peer| peer.is_untrusted()) {
            return Err(Rejection::Untrusted);
        }
        match self.registry.key_state(name.as_str()) {
            Some(KeyState::Retired) => Err(Rejection::Retired(name.clone())),
            Some(KeyState::Conflict) => Err(Rejection::TwoSuccessors(name.clone())),
            _ => Ok(()),
        }
    }

    /// Applies the statements that a sender with another key than the pinned one presents. A statement that both keys
    /// signed proves itself, whoever sends it; several may lead from the pinned key to this one.
    fn heed_succession(&self, name: &NaraName, peer: Option<&Peer>, key: KeyId, headers: &HeaderMap) {
        let known = peer.and_then(|peer| peer.key());
        if known.is_none_or(|known| KeyId::from(&known) == key) {
            return;
        }
        // Also a statement that contradicts a followed one: that is a conflict.
        let is_known = |old: &PublicKey| known == Some(*old) || self.registry.is_replaced(name.as_str(), old);
        if let Ok(shown) = Succession::from_headers(headers, is_known)
            && shown.iter().all(|statement| statement.name() == name)
        {
            for statement in &shown {
                self.registry.heed(statement);
            }
        }
    }

    async fn discover(
        &self,
        name: &NaraName,
        address: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<(PublicKey, Option<Arc<Peer>>), Rejection> {
        if let Some(discovery) = &self.discovery {
            let claim = SignedCapability::from_headers(headers).unwrap_or_default();
            let outcome = discovery.discover(name, address.ip(), claim).await;
            outcome.map_err(|_| Rejection::Busy("unknown senders"))?;
        }
        let peer = self.registry.by_name(name.as_str());
        match self.known_keys.key_of(name, peer.as_deref()) {
            Some(key) => Ok((key, peer)),
            None => Err(RequestAuthError::UnknownSender(name.clone()).into()),
        }
    }

    /// An invalid signature may mean that the nara has a new key. Asking the nara does not change the pinned key, but
    /// reports the conflict to subscribers of the registry.
    fn look_for_conflict(&self, name: &NaraName, address: SocketAddr) {
        if let Some(discovery) = self.discovery.clone()
            && name != self.local.name()
            && let Ok(permit) = self.conflicts.clone().try_acquire_owned()
        {
            let name = name.clone();
            self.background.spawn(async move {
                let _permit = permit;
                let _ = discovery.discover(&name, address.ip(), None).await;
            });
        }
    }

    /// Remembers the body of a request whose v1 signature other requests may share.
    pub(in crate::server) fn remember_body(
        &self,
        auth: &RequestAuth,
        address: SocketAddr,
        digest: &ContentDigest,
    ) -> Result<(), RepeatedBody> {
        let now = self.clock.now_millis();
        let mut cache = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = cache.insert_body(auth, digest, now);
        drop(cache);
        outcome.map_err(|error| {
            warn_seldom!(sender = %auth.name(), %address, "replayed request");
            match error {
                ReplayError::Full => RepeatedBody::Full,
                _ => RepeatedBody::Replayed,
            }
        })
    }

    fn remember(
        &self,
        request: impl Into<ReplayEntry>,
        name: &NaraName,
        address: SocketAddr,
        repetition: Repetition,
    ) -> Result<(), Rejection> {
        let now = self.clock.now_millis();
        // Every method leaves the cache valid.
        let mut cache = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match repetition {
            // Whether the body differs is known only at its end.
            Repetition::SameSource | Repetition::OtherBody => {
                cache.insert_or_repeat(request, address.ip(), now)
            }
            _ => cache.insert(request, address.ip(), now),
        };
        let remembered = cache.len();
        drop(cache);
        ::metrics::gauge!(metrics::REPLAY_ENTRIES).set(remembered as f64);
        outcome.map_err(|error| match error {
            ReplayError::Full => {
                error_seldom!("the replay cache is full: signed requests are refused");
                Rejection::ReplayCacheFull
            }
            ReplayError::Forgotten { until } => {
                warn_seldom!(
                    sender = %name, %address,
                    "the clock of this machine was set back: a request from an already forgotten time is refused"
                );
                Rejection::ClockSetBack(until)
            }
            _ => {
                warn_seldom!(sender = %name, %address, "replayed request");
                RequestAuthError::Replayed.into()
            }
        })
    }
}
