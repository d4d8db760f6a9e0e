//! Messages that may wait for their recipients.

use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CallError, LocalClient};
use crate::model::{
    DirectMessage, DirectMessageReceipt, Later, MessageReceipt, OutboxEntry, OutboxList, OutgoingMessage,
    Postcard, PostcardReceipt,
};

/// The outcome of a message that may wait.
#[derive(Clone, Debug)]
pub enum Sent<T = DirectMessageReceipt> {
    /// The peer received it.
    Delivered(T),
    /// It waits in the outbox.
    Waits(Box<OutboxEntry>),
}

impl LocalClient {
    /// Sends a direct message. If it cannot be delivered now, it is kept and delivered once the peer is seen.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn dm_later(
        &self,
        peer: &str,
        message: DirectMessage,
        later: Later,
    ) -> Result<Sent, CallError> {
        let message = DirectMessage {
            later: Some(later),
            ..message
        };
        self.send_later(&self.peer_path(peer, "dm", &[]), &message).await
    }

    /// Sends a runtime message, now or once the peer is seen.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn message_later(
        &self,
        peer: &str,
        message: OutgoingMessage,
        later: Later,
    ) -> Result<Sent<MessageReceipt>, CallError> {
        let message = OutgoingMessage {
            later: Some(later),
            ..message
        };
        let path = self.peer_path(peer, "messages", &[]);
        self.send_later(&path, &message).await
    }

    /// Sends a postcard to its first peer, which it must name, now or once that peer is seen.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn postcard_later(
        &self,
        postcard: Postcard,
        later: Later,
    ) -> Result<Sent<PostcardReceipt>, CallError> {
        let postcard = Postcard {
            later: Some(later),
            ..postcard
        };
        let path = format!("/v1/postcards{}", self.query(&[]));
        self.send_later(&path, &postcard).await
    }

    /// Returns the messages that wait for their recipients, and the outcome of recent ones.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn outbox(&self) -> Result<OutboxList, CallError> {
        self.get("/v1/outbox").await
    }

    /// Returns one message of the outbox.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn outbox_message(&self, id: u64) -> Result<OutboxEntry, CallError> {
        self.get(&format!("/v1/outbox/{id}")).await
    }

    /// Withdraws a message from the outbox. Returns its last state.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn drop_message(&self, id: u64) -> Result<OutboxEntry, CallError> {
        self.send(Method::DELETE, &format!("/v1/outbox/{id}"), &()).await
    }

    async fn send_later<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
    ) -> Result<Sent<T>, CallError> {
        let json = serde_json::to_vec(message).map_err(|error| self.malformed(&error))?;
        let answer = self.call(self.request(Method::POST, path, json)?).await?;
        let waits = answer.status() == StatusCode::ACCEPTED;
        let body = self.collect(answer.into_body()).await?;
        let decoded = if waits {
            serde_json::from_slice(&body).map(|entry| Sent::Waits(Box::new(entry)))
        } else {
            serde_json::from_slice(&body).map(Sent::Delivered)
        };
        decoded.map_err(|error| self.malformed(&error))
    }
}
