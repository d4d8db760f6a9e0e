//! Data that this nara stores with a confidant, sealed for itself alone (docs/protocol/v1.md, sections 1.3 and
//! 12.2).

use nara_proto::go_json::Timestamp;
use nara_proto::identity::SealKey;
use nara_proto::runtime_message::{MessagePayload, RuntimeMessage, StashRequest, StashStore};

use super::error::{ClientError, Problem};
use super::handle::PeerHandle;
use crate::random::random;

impl PeerHandle {
    /// Seals data with the key of this nara and stores it with the peer, replacing what it stored there before.
    /// Only this nara can read it. The acknowledgement arrives as a request of the peer: see
    /// [`call_runtime`](Self::call_runtime).
    ///
    /// # Errors
    /// [`ClientError`], also if the peer refuses to keep it: too large, or the peer's capacity for others is used
    /// up.
    pub async fn put_stash(&self, data: &[u8]) -> Result<(), ClientError> {
        let local = &self.exchange.local;
        let nonce: [u8; SealKey::NONCE_LEN] = random();
        let store = MessagePayload::StashStore(StashStore {
            owner_id: local.id().as_str().to_owned(),
            owner: local.name().as_str().to_owned(),
            ciphertext: local.seal_key().seal(&nonce, data).into(),
            nonce: nonce.to_vec().into(),
            ts: self.exchange.clocks.clock().now_seconds(),
        });
        match self.call_runtime(&self.stash_message(store)).await?.payload {
            MessagePayload::StashAck(ack) if ack.success => Ok(()),
            MessagePayload::StashAck(ack) => Err(self.fail(Problem::StashRefused(ack.reason))),
            other => Err(self.fail(Problem::OtherReply(other.kind()))),
        }
    }

    /// Fetches and opens what this nara stored with the peer; `None` if the peer has nothing. The reply arrives
    /// as a request of the peer: see [`call_runtime`](Self::call_runtime).
    ///
    /// # Errors
    /// [`ClientError`], also if the returned data cannot be opened: it was modified, or is not ours.
    pub async fn get_stash(&self) -> Result<Option<Vec<u8>>, ClientError> {
        let local = &self.exchange.local;
        let request = MessagePayload::StashRequest(StashRequest {
            owner_id: local.id().as_str().to_owned(),
            request_id: String::new(),
        });
        let response = match self.call_runtime(&self.stash_message(request)).await?.payload {
            MessagePayload::StashResponse(response) => response,
            other => return Err(self.fail(Problem::OtherReply(other.kind()))),
        };
        if !response.found {
            return Ok(None);
        }
        let opened = local
            .seal_key()
            .open(response.nonce.as_slice(), response.ciphertext.as_slice());
        opened.map(Some).map_err(|error| self.fail(Problem::Stash(error)))
    }

    fn stash_message(&self, payload: MessagePayload) -> RuntimeMessage {
        let local = &self.exchange.local;
        let peer = self.known().map(|peer| peer.info()).unwrap_or_default();
        let name = peer.name.as_ref().map_or("", |name| name.as_str());
        let id = peer.id.as_ref().map_or("", |id| id.as_str());
        let now = Timestamp::utc(self.exchange.clocks.clock().now_nanos());
        RuntimeMessage::new(local.name().as_str(), local.id().as_str(), now, payload)
            .to(name, id)
            .sign(local.keypair())
    }
}
