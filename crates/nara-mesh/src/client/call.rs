use nara_proto::endpoint::Endpoint;

use super::error::ErrorKind;
use super::{CallOptions, ClientError, MeshClient, PeerRef, Verification};

pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) verification: Verification,
}

impl MeshClient {
    pub(super) async fn exchange<E: Endpoint>(
        &self,
        peer: &PeerRef,
        _request: &E::Request,
        _options: CallOptions,
    ) -> Result<Answer<E::Response>, ClientError>
    where
        E::Response: 'static,
    {
        std::future::ready(()).await;
        Err(ClientError::new(peer, ErrorKind::UnknownPeer))
    }
}
