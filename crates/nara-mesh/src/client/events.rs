use futures_util::stream::{self, BoxStream};
use nara_proto::event::SyncEvent;
use nara_proto::sync::{Cursor, EventFilter, SyncRequest};

use super::error::ErrorKind;
use super::{Checkpoints, ClientError, MeshClient, PeerRef, SyncEvents, SyncPage, Verified, ZineEvents};

impl MeshClient {
    /// Fetches events of a peer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch_sync_events(
        &self,
        peer: impl Into<PeerRef>,
        _request: SyncRequest,
    ) -> Result<Verified<SyncEvents>, ClientError> {
        std::future::ready(()).await;
        Err(ClientError::new(peer.into(), ErrorKind::UnknownPeer))
    }

    /// Pages through all events of a peer.
    pub fn sync_pages(
        &self,
        peer: impl Into<PeerRef>,
        _filter: EventFilter,
        _page_size: usize,
        _resume: Option<Cursor>,
    ) -> BoxStream<'static, Result<SyncPage, ClientError>> {
        let error = ClientError::new(peer.into(), ErrorKind::UnknownPeer);
        Box::pin(stream::iter([Err(error)]))
    }

    /// Fetches all checkpoints of a peer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch_checkpoints(
        &self,
        peer: impl Into<PeerRef>,
    ) -> Result<Verified<Checkpoints>, ClientError> {
        std::future::ready(()).await;
        Err(ClientError::new(peer.into(), ErrorKind::UnknownPeer))
    }

    /// Hands over a zine of these events, and takes the one of the peer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exchange_zine(
        &self,
        peer: impl Into<PeerRef>,
        _events: Vec<SyncEvent>,
    ) -> Result<Verified<ZineEvents>, ClientError> {
        std::future::ready(()).await;
        Err(ClientError::new(peer.into(), ErrorKind::UnknownPeer))
    }
}
