//! The events with which a nara comes and goes, and the zines with which it tells peers at once. Peers that listen to its
//! stream hear both there; v1 peers have no streams.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::breaker::BreakerState;
use nara_proto::event::{ChauPayload, HeyTherePayload, Payload, SyncEvent};
use nara_proto::presence::PresenceState;
use nara_proto::time::UnixNanos;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};

use crate::client::{MeshClient, fan_out};
use crate::defaults;
use crate::gossip::{Directory, Label, exchange_events};
use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::registry::{Peer, PeerEvent};

/// How long a change of the registry is waited for to settle.
const SETTLE: Duration = Duration::from_secs(1);

/// A signed `hey-there`; `mesh_ip` is empty if the nara cannot be called.
pub(super) fn introduction(local: &LocalNara, mesh_ip: &str, now: UnixNanos) -> SyncEvent {
    let payload = HeyTherePayload {
        from: local.name().as_str().to_owned(),
        public_key: local.public_key().to_base64(),
        mesh_ip: mesh_ip.to_owned(),
        id: local.id().to_string(),
        ..HeyTherePayload::default()
    };
    signed(local, Payload::HeyThere(payload), now)
}

/// A signed `chau`.
pub(super) fn goodbye(local: &LocalNara, now: UnixNanos) -> SyncEvent {
    let payload = ChauPayload {
        from: local.name().as_str().to_owned(),
        public_key: local.public_key().to_base64(),
        id: local.id().to_string(),
        ..ChauPayload::default()
    };
    signed(local, Payload::Chau(payload), now)
}

/// An event of this nara.
pub(super) fn signed(local: &LocalNara, payload: Payload, now: UnixNanos) -> SyncEvent {
    SyncEvent::signed(now, payload, local.name().as_str(), local.keypair())
}

/// Tells peers that this nara has come: those that are known now, and those that are found while that is news.
pub(super) async fn tell_coming(client: MeshClient, ledger: Arc<dyn Ledger>, introduction: SyncEvent) {
    let mut changes = client.registry().subscribe();
    let mut told = BTreeSet::new();
    let telling = async {
        loop {
            let mut peers = hearers(&client);
            peers.retain(|(label, _)| !told.contains(label));
            peers.truncate(defaults::PRESENCE_PEERS.saturating_sub(told.len()));
            told.extend(peers.iter().map(|(label, _)| label.clone()));
            tell(&client, &*ledger, &introduction, peers).await;
            if told.len() >= defaults::PRESENCE_PEERS {
                return;
            }
            loop {
                match changes.recv().await {
                    Ok(
                        PeerEvent::Registered(_)
                        | PeerEvent::AddressChanged(_)
                        | PeerEvent::BreakerClosed(_)
                        | PeerEvent::Seen(_),
                    )
                    | Err(RecvError::Lagged(_)) => break,
                    Ok(_) => {}
                    Err(RecvError::Closed) => return,
                }
            }
            sleep(SETTLE).await;
        }
    };
    // Later it is no news any more.
    let _ = timeout(defaults::ZINE_WINDOW, telling).await;
}

/// Tells peers that are there that this nara goes, for so long at most.
pub(super) async fn tell_going(
    client: &MeshClient,
    ledger: &dyn Ledger,
    goodbye: &SyncEvent,
    grace: Duration,
) {
    let mut peers = hearers(client);
    peers.retain(|(_, peer)| peer.presence() == PresenceState::Online);
    peers.truncate(defaults::PRESENCE_PEERS);
    if timeout(grace, tell(client, ledger, goodbye, peers))
        .await
        .is_err()
    {
        tracing::info!("not all peers heard the goodbye in time");
    }
}

/// Who may be told, in this order: peers without streams before those that may hear it on one.
fn hearers(client: &MeshClient) -> Vec<(Label, Arc<Peer>)> {
    let mut peers = Directory::new(client).peers();
    peers.retain(|(_, peer)| peer.breaker_state() == BreakerState::Closed);
    peers.sort_by_cached_key(|(_, peer)| (peer.protocol().v2, peer.last_alive().unwrap_or(Duration::MAX)));
    peers
}

async fn tell(client: &MeshClient, ledger: &dyn Ledger, news: &SyncEvent, peers: Vec<(Label, Arc<Peer>)>) {
    let peers = peers.into_iter().map(|(_, peer)| peer);
    let told = fan_out(peers, defaults::PRESENCE_PEERS, |peer| async move {
        exchange_events(client, ledger, &peer, vec![news.clone()]).await
    });
    for (peer, outcome) in told.await {
        if let Err(error) = outcome {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "presence not told");
        }
    }
}
