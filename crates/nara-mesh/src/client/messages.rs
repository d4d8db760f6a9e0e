use nara_proto::endpoint::{DirectMessage, MeshMessage, WorldRelay};
use nara_proto::event::SyncEvent;
use nara_proto::peer::Receipt;
use nara_proto::runtime_message::{REPLY_TIMEOUT, RuntimeMessage};
use nara_proto::world::WorldMessage;

use super::error::ErrorKind;
use super::{CallOptions, ClientError, MeshClient, PeerRef, Verified};

impl MeshClient {
    /// Sends one signed event directly to a peer.
    ///
    /// # Errors
    /// [`ClientError`]. That the peer did not want the event is no error: see [`Receipt::success`].
    pub async fn send_dm(
        &self,
        peer: impl Into<PeerRef>,
        event: SyncEvent,
    ) -> Result<Verified<Receipt>, ClientError> {
        self.call::<DirectMessage>(peer, &event, CallOptions::default())
            .await
    }

    /// Hands a world message to the next nara of its journey. That nara answers once the message has
    /// travelled on as far as it could.
    ///
    /// # Errors
    /// [`ClientError`]; see [`ClientError::is_stuck_journey`].
    pub async fn relay_world_message(
        &self,
        peer: impl Into<PeerRef>,
        message: &WorldMessage,
    ) -> Result<Verified<Receipt>, ClientError> {
        self.call::<WorldRelay>(peer, message, CallOptions::default())
            .await
    }

    /// Sends a runtime message. The peer answers with the same empty answer whatever it does with it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_runtime_message(
        &self,
        peer: impl Into<PeerRef>,
        message: &RuntimeMessage,
    ) -> Result<Verified<()>, ClientError> {
        self.call::<MeshMessage>(peer, message, CallOptions::default())
            .await
    }

    /// Sends a runtime message and waits up to [`REPLY_TIMEOUT`] for the reply, which comes as a request of
    /// the peer: a server of this nara must hand it to [`MeshClient::pending_replies`]. The reply may be
    /// there before the peer has answered the request.
    ///
    /// # Errors
    /// [`ClientError`] if the message cannot be sent, or no reply comes in time.
    pub async fn call_runtime(
        &self,
        peer: impl Into<PeerRef>,
        message: &RuntimeMessage,
    ) -> Result<RuntimeMessage, ClientError> {
        let peer = peer.into();
        let known_id = self.peer(&peer).and_then(|peer| peer.info().id);
        let from_id = known_id.as_ref().map_or(message.to_id.as_str(), |id| id.as_str());
        let mut pending = self
            .shared
            .replies
            .wait_for(message, from_id)
            .map_err(|kind| ClientError::new(&peer, kind))?;
        let waiting = async {
            self.send_runtime_message(&peer, message).await?;
            // The sender lives in the table as long as `pending` does.
            (&mut pending.reply)
                .await
                .map_err(|_| ClientError::new(&peer, ErrorKind::NoReply(REPLY_TIMEOUT)))
        };
        tokio::time::timeout(REPLY_TIMEOUT, waiting)
            .await
            .unwrap_or_else(|_| Err(ClientError::new(&peer, ErrorKind::NoReply(REPLY_TIMEOUT))))
    }
}
