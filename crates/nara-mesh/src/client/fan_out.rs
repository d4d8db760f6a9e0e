use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;

use crate::registry::{Peer, PeerInfo};

/// Calls many peers, at most `limit` at once, and returns one outcome for each, in the order of `peers`. A slow
/// peer occupies one of the `limit` slots and delays no other peer.
pub(crate) async fn fan_out<T, Call, Calling>(
    peers: impl IntoIterator<Item = Arc<Peer>>,
    limit: usize,
    call: Call,
) -> Vec<(PeerInfo, T)>
where
    Call: Fn(Arc<Peer>) -> Calling,
    Calling: Future<Output = T>,
{
    let calls = peers.into_iter().enumerate().map(|(index, peer)| {
        let info = peer.info();
        let calling = call(peer);
        async move { (index, (info, calling.await)) }
    });
    let mut outcomes: Vec<_> = stream::iter(calls).buffer_unordered(limit.max(1)).collect().await;
    outcomes.sort_unstable_by_key(|&(index, _)| index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}
