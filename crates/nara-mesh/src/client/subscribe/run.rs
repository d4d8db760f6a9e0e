use tokio::sync::{mpsc, watch};

use super::{StreamError, StreamState, SubscribeOptions, VerifiedEvent};
use crate::client::{MeshClient, PeerRef};

#[derive(Debug)]
pub(super) struct Runner {
    client: MeshClient,
    peer: PeerRef,
    options: SubscribeOptions,
    items: mpsc::Sender<Result<VerifiedEvent, StreamError>>,
    state: watch::Sender<StreamState>,
}

impl Runner {
    pub(super) fn new(
        client: MeshClient,
        peer: PeerRef,
        options: SubscribeOptions,
        items: mpsc::Sender<Result<VerifiedEvent, StreamError>>,
        state: watch::Sender<StreamState>,
    ) -> Self {
        Self {
            client,
            peer,
            options,
            items,
            state,
        }
    }

    pub(super) async fn run(self) {
        self.state.send_replace(StreamState::Ended);
    }
}
