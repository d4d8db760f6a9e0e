//! A handle to one peer, with every call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::endpoint::{DirectMessage, Endpoint, GetCoordinates, MeshMessage, WorldRelay};
use nara_proto::event::SyncEvent;
use nara_proto::peer::{CoordinatesResponse, Receipt};
use nara_proto::runtime_message::{REPLY_TIMEOUT, RuntimeMessage};
use nara_proto::world::WorldMessage;
use tokio::time::Instant;

use super::deadline::deadline_after;
use super::error::{ClientError, Problem};
use super::exchange::{Callee, Exchange};
use super::open_request::BodyLimits;
use super::verified::Verified;
use crate::registry::Peer;

/// A peer of a [`MeshClient`](super::MeshClient), identified by id, name or address: every call is a method of
/// it. Cloning is cheap, and the handle may outlive the client.
///
/// ```no_run
/// # async fn example(client: nara_mesh::client::MeshClient) -> Result<(), nara_mesh::client::ClientError> {
/// let bob = client.peer("bob");
/// println!("{:?}", bob.ping().await?.rtt);
/// println!("{:?}", bob.coordinates().await?.coordinates);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PeerHandle {
    pub(super) exchange: Arc<Exchange>,
    pub(super) peer: Callee,
    pub(super) call_timeout: Duration,
    pub(super) body_limits: BodyLimits,
}

impl fmt::Debug for PeerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PeerHandle").field(&self.peer).finish()
    }
}

impl fmt::Display for PeerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peer.fmt(f)
    }
}

impl PeerHandle {
    /// Returns the same peer with another time limit for whole calls.
    ///
    /// An answer with many events (sync, reconciliation, zines, checkpoints) must begin within it, and no pause in it
    /// may be longer; while its bytes keep arriving, it may take 15 s more.
    #[must_use]
    pub fn with_timeout(mut self, call_timeout: Duration) -> Self {
        self.call_timeout = call_timeout;
        self
    }

    /// Returns the same peer with other limits, in bytes, for bodies of a [request](Self::request) and its answer
    /// that are buffered in memory.
    #[must_use]
    pub fn with_body_limits(mut self, request: usize, answer: usize) -> Self {
        self.body_limits = BodyLimits { request, answer };
        self
    }

    /// Returns the registered peer with this id, name or address.
    pub fn known(&self) -> Option<Arc<Peer>> {
        self.exchange.registry.peer(self.peer.0.as_ref().ok()?)
    }

    /// Calls an endpoint and, for a signed endpoint, verifies that the peer signed the answer. It does not verify
    /// the content of the answer; the methods named after endpoints do.
    ///
    /// A custom endpoint is a type:
    ///
    /// ```no_run
    /// use nara_mesh::client::MeshClient;
    /// use nara_mesh::http::Method;
    /// use nara_mesh::proto::endpoint::{Authentication, Endpoint};
    /// use nara_mesh::proto::go_json::{self, JsonError};
    ///
    /// struct Greeting;
    ///
    /// impl Endpoint for Greeting {
    ///     type Request = String;
    ///     type Response = String;
    ///     const METHOD: Method = Method::POST;
    ///     const PATH: &'static str = "/greeting";
    ///     const AUTHENTICATION: Authentication = Authentication::Signed;
    ///     const IDEMPOTENT: bool = true;
    ///
    ///     fn encode(name: &String) -> Option<Vec<u8>> {
    ///         Some(go_json::to_vec(name))
    ///     }
    ///
    ///     fn decode(body: &[u8]) -> Result<String, JsonError> {
    ///         go_json::from_slice(body)
    ///     }
    /// }
    ///
    /// # async fn example(client: MeshClient) -> Result<(), nara_mesh::client::ClientError> {
    /// let greeting = client.peer("bob").call::<Greeting>(&"alice".to_owned()).await?;
    /// println!("{} (signed by {:?})", *greeting, greeting.verification().responder);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<E: Endpoint>(&self, request: &E::Request) -> Result<Verified<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        let answer = self
            .exchange
            .call::<E>(&self.peer, request, self.deadline())
            .await?;
        Ok(Verified::new(answer.value, answer.verification))
    }

    /// Fetches the coordinates of the peer and measures the round trip to it, which updates the
    /// [coordinates](crate::registry::PeerRegistry::coordinates) of this nara. The answer is not signed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn coordinates(&self) -> Result<Verified<CoordinatesResponse>, ClientError> {
        let exchange = &self.exchange;
        let answer = exchange
            .call::<GetCoordinates>(&self.peer, &(), self.deadline())
            .await?;
        let told = answer.value.coordinates.as_deref();
        exchange
            .registry
            .learn_distance(&answer.route.peer, answer.arrival.rtt, told);
        Ok(Verified::new(answer.value, answer.verification))
    }

    /// Sends one signed event directly to the peer.
    ///
    /// # Errors
    /// [`ClientError`]. An event that the peer rejects is not an error: see [`Receipt::success`].
    pub async fn send_dm(&self, event: SyncEvent) -> Result<Verified<Receipt>, ClientError> {
        self.call::<DirectMessage>(&event).await
    }

    /// Forwards a world message to the peer as the next nara of its journey. The peer answers once the message
    /// has travelled as far as it can.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_stuck_journey`].
    pub async fn relay_world_message(
        &self,
        message: &WorldMessage,
    ) -> Result<Verified<Receipt>, ClientError> {
        if message.originator == self.exchange.local.name().as_str() {
            self.exchange.journeys.begin(message);
        }
        self.call::<WorldRelay>(message).await
    }

    /// Sends a runtime message. The answer is always empty and does not prove that the message was processed.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_runtime_message(&self, message: &RuntimeMessage) -> Result<Verified<()>, ClientError> {
        self.call::<MeshMessage>(message).await
    }

    /// Sends a runtime message and waits up to [`REPLY_TIMEOUT`] for the reply, which arrives as a request of the
    /// peer: a server of this nara must pass it to [`MeshClient::pending_replies`]. The reply may arrive before
    /// the answer to the request.
    ///
    /// # Errors
    /// [`ClientError`] if the message cannot be sent, or no reply arrives in time.
    ///
    /// [`MeshClient::pending_replies`]: super::MeshClient::pending_replies
    pub async fn call_runtime(&self, message: &RuntimeMessage) -> Result<RuntimeMessage, ClientError> {
        let known_id = self.known().and_then(|peer| peer.info().id);
        let from_id = known_id.as_ref().map_or(message.to_id.as_str(), |id| id.as_str());
        let mut pending = self
            .exchange
            .replies
            .wait_for(message, from_id)
            .map_err(|problem| self.fail(problem))?;
        let waiting = async {
            self.send_runtime_message(message).await?;
            // The sender is in the table as long as `pending` lives.
            (&mut pending.reply)
                .await
                .map_err(|_| self.fail(Problem::NoReply(REPLY_TIMEOUT)))
        };
        tokio::time::timeout(REPLY_TIMEOUT, waiting)
            .await
            .unwrap_or_else(|_| Err(self.fail(Problem::NoReply(REPLY_TIMEOUT))))
    }

    pub(super) fn deadline(&self) -> Instant {
        deadline_after(self.call_timeout)
    }

    pub(super) fn fail(&self, problem: impl Into<Problem>) -> ClientError {
        ClientError::new(&self.peer, problem)
    }
}
