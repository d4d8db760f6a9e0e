//! Catch-up: fetches what happened while this nara was offline, from a few peers and in the background.
//!
//! Each round asks a few peers, one after the other. It starts with a sample, which contains the most important
//! events and shows how much is missing. The first peer is then asked for everything; the others only if much of
//! their sample was new, so that they do not all send the same. A transfer that exceeds its limits is cut, and
//! its peer does not count as the first. The less is new, the longer is the pause before the next round.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nara_proto::backoff::Backoff;
use nara_proto::breaker::BreakerState;
use nara_proto::presence::PresenceState;
use nara_proto::reconcile::Scope;
use nara_proto::sync::{EventFilter, SyncRequest};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::{MeshClient, Pace, SyncError, SyncOptions};
use crate::defaults;
use crate::gossip::{Directory, Label};
use crate::ledger::{Insertion, Ledger};
use crate::random::random;
use crate::registry::{Peer, PeerEvent};

/// Size of a sample, in events.
const SAMPLE: usize = 1000;

/// Size of a page, in events.
const PAGE: usize = 1000;

/// If more than one in this many events is new, much is missing.
const MUCH: usize = 50;

/// Number of rounds, out of 256, that ignore distances.
const RANDOM_ROUNDS: u8 = 64;

/// Pause after a round in which no peer answered. Doubles each time.
const RETRY: Duration = Duration::from_secs(10);

/// Upper bound of this pause.
const RETRY_MAX: Duration = RETRY.saturating_mul(256);

/// Delay after a change of the registry, until it settles.
const SETTLE: Duration = Duration::from_secs(1);

/// Catches up until dropped.
pub(super) struct CatchUp {
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    /// When each peer was last asked.
    asked: BTreeMap<Label, Instant>,
    pause: Duration,
    /// Backoff after rounds in which no peer answered.
    retry: Backoff,
}

/// The result of one round, or of one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Catch {
    peers: usize,
    received: usize,
    stored: usize,
    /// Whether a peer was asked for everything, and the transfer completed.
    is_whole: bool,
}

impl Catch {
    fn count(&mut self, received: usize, stored: usize) {
        self.received += received;
        self.stored += stored;
    }

    /// Returns whether enough was new to suggest that more is missing.
    fn is_much(self) -> bool {
        self.stored * MUCH > self.received
    }
}

impl CatchUp {
    pub(super) fn new(client: MeshClient, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            client,
            ledger,
            asked: BTreeMap::new(),
            pause: defaults::CATCH_UP_MIN,
            retry: Backoff::new(RETRY, RETRY_MAX),
        }
    }

    pub(super) async fn run(mut self) {
        let mut changes = self.client.registry().subscribe();
        loop {
            let round = self.round().await;
            let pause = self.pause_after(round);
            tracing::debug!(?round, ?pause, "caught up");
            self.wait(pause, &mut changes).await;
        }
    }

    async fn round(&mut self) -> Catch {
        let mut round = Catch::default();
        for (label, peer) in self.candidates() {
            if round.peers == defaults::CATCH_UP_PEERS {
                break;
            }
            self.asked.insert(label.clone(), Instant::now());
            match self.fetch_from(&peer, !round.is_whole).await {
                Ok(caught) => {
                    let whole = caught.is_whole;
                    tracing::info!(peer = %label, received = caught.received, new = caught.stored, whole, "caught up");
                    round.peers += 1;
                    round.is_whole |= whole;
                    round.count(caught.received, caught.stored);
                }
                Err(error) => {
                    tracing::info!(peer = %label, error = &error as &dyn std::error::Error, "catch-up failed");
                }
            }
        }
        round
    }

    /// Selects the peers to ask: online ones first, then those asked longest ago. Returns twice as many as
    /// needed, since some may not answer. In most rounds the nearest of them come first; not in all, so that a
    /// peer cannot avoid or attract requests by what it says about distances.
    fn candidates(&mut self) -> Vec<(Label, Arc<Peer>)> {
        let directory = Directory::new(&self.client);
        self.asked.retain(|label, _| directory.peer(label).is_some());
        let mut peers = directory.peers();
        peers.retain(|(_, peer)| peer.breaker_state() == BreakerState::Closed);
        peers.sort_by_cached_key(|(label, peer)| {
            let chance: [u8; 4] = random();
            (is_away(peer), self.asked.get(label).copied(), chance)
        });
        peers.truncate(2 * defaults::CATCH_UP_PEERS);
        let [chance]: [u8; 1] = random();
        if chance >= RANDOM_ROUNDS {
            let registry = self.client.registry();
            nearest_first(&mut peers, |(_, peer)| (is_away(peer), registry.distance(peer)));
        }
        peers
    }

    async fn fetch_from(&self, peer: &Arc<Peer>, wants_all: bool) -> Result<Catch, SyncError> {
        let mut caught = self.sample(peer).await?;
        if !wants_all && !caught.is_much() {
            return Ok(caught);
        }
        let (handle, ledger) = (self.client.peer(peer), &*self.ledger);
        let options = SyncOptions {
            page_size: PAGE,
            pace: Pace {
                pause: defaults::CATCH_UP_PAGE_PAUSE,
                time: defaults::CATCH_UP_TIME,
                bytes: defaults::CATCH_UP_BYTES,
                idle_pages: defaults::CATCH_UP_IDLE_PAGES,
            },
            ..SyncOptions::default()
        };
        let report = if peer.protocol().v2 {
            handle.reconcile(ledger, Scope::default(), options).await?
        } else {
            let paged = handle.sync_into(ledger, EventFilter::default(), options).await;
            paged.map_err(|interrupted| interrupted.error)?
        };
        caught.count(report.progress.received, report.progress.stored);
        caught.is_whole = report.complete;
        Ok(caught)
    }

    async fn sample(&self, peer: &Arc<Peer>) -> Result<Catch, SyncError> {
        let handle = self.client.peer(peer);
        let sample = match handle.fetch_sync_events(SyncRequest::sample(SAMPLE)).await {
            // Pages adapt to a slow line, a sample does not.
            Err(error) if error.is_too_slow() => return Ok(Catch::default()),
            sample => sample?,
        };
        let (sample, verification) = sample.into_parts();
        let mut caught = Catch::default();
        let received = sample.events.received();
        let told_by = verification.responder.or_else(|| peer.info().name);
        let insertions = self.ledger.insert(sample.events.accepted, told_by).await?;
        let stored = insertions.iter().filter(|outcome| **outcome == Insertion::Stored);
        caught.count(received, stored.count());
        Ok(caught)
    }

    /// Returns the pause after a round: longer each time that little was new.
    fn pause_after(&mut self, round: Catch) -> Duration {
        if round.peers == 0 {
            return spread(self.retry.after_failure(u32::MAX));
        }
        self.retry.reset();
        self.pause = if round.is_much() {
            defaults::CATCH_UP_MIN
        } else {
            (2 * self.pause).min(defaults::CATCH_UP_MAX)
        };
        spread(self.pause)
    }

    /// Waits for the next round. While fewer peers have been asked than allowed, a new one is asked at once.
    async fn wait(&self, pause: Duration, changes: &mut broadcast::Receiver<PeerEvent>) {
        let end = Instant::now() + pause;
        while self.asked.len() < defaults::CATCH_UP_PEERS {
            let Ok(change) = timeout_at(end, changes.recv()).await else {
                return;
            };
            match change {
                Ok(
                    PeerEvent::Registered(_)
                    | PeerEvent::AddressChanged(_)
                    | PeerEvent::BreakerClosed(_)
                    | PeerEvent::KeyPinned(_)
                    | PeerEvent::Seen(_),
                )
                | Err(broadcast::error::RecvError::Lagged(_)) => {
                    sleep(SETTLE).await;
                    *changes = changes.resubscribe();
                    if self.has_stranger() {
                        return;
                    }
                }
                Ok(_) => {}
                // Unreachable while the client holds the registry.
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        tokio::time::sleep_until(end).await;
    }

    /// Returns whether a peer is known that was never asked.
    fn has_stranger(&self) -> bool {
        let peers = Directory::new(&self.client).peers();
        peers.iter().any(|(label, _)| !self.asked.contains_key(label))
    }
}

fn is_away(peer: &Peer) -> bool {
    matches!(peer.presence(), PresenceState::Offline | PresenceState::Missing)
}

/// Sorts online peers before others, and near ones before far ones. Peers with unknown distance come last, in
/// their previous order.
fn nearest_first<T>(peers: &mut [T], of: impl Fn(&T) -> (bool, Option<Duration>)) {
    peers.sort_by_key(|peer| {
        let (is_away, distance) = of(peer);
        (is_away, distance.unwrap_or(Duration::MAX))
    });
}

/// Adds jitter of 10 %, so that naras that start together do not ask together.
fn spread(pause: Duration) -> Duration {
    let [chance]: [u8; 1] = random();
    pause.mul_f64(0.9 + 0.2 * f64::from(chance) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_peers_are_asked_first_and_those_that_are_away_last() {
        let ms = Duration::from_millis;
        let mut peers = [
            ("unknown", false, None),
            ("far", false, Some(ms(90))),
            ("near but away", true, Some(ms(1))),
            ("near", false, Some(ms(3))),
            ("unknown, too", false, None),
        ];
        nearest_first(&mut peers, |(_, is_away, distance)| (*is_away, *distance));
        let names = peers.map(|(name, _, _)| name);
        assert_eq!(names, ["near", "far", "unknown", "unknown, too", "near but away"]);
    }
}
