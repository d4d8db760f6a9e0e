use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use nara_proto::gossip::{Gossip, Input, Output};
use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_stream::StreamMap;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;

use super::directory::{Directory, Label, TURN, position};
use super::zines::{self, ZineError};
use super::{EventCounts, GossipConfig, GossipLink, GossipPeer, GossipStatus};
use crate::client::{MeshClient, StreamError, StreamState, SubscribeOptions, VerifiedEvent};
use crate::ledger::{Insertion, Ledger};
use crate::random::random;
use crate::registry::PeerEvent;
use crate::{defaults, metrics};

/// Delay before a change of the registry is processed, so that a burst of changes costs one scan of all peers.
const SETTLE: Duration = Duration::from_secs(1);

/// Maximum number of overlapping zine rounds; further ones are skipped.
const ZINE_ROUNDS: usize = 2;

/// Maximum number of failures in the status.
const MAX_FAILURES: usize = 64;

/// Performs the actions that [`Gossip`] decides on, and feeds it with events.
pub(super) struct Driver {
    client: MeshClient,
    ledger: Arc<dyn Ledger>,
    catch_up: Duration,
    max_zines: usize,
    gossip: Gossip<Label>,
    directory: Directory,
    random: Xoshiro256PlusPlus,
    started: Instant,
    subscriptions: StreamMap<Label, Items>,
    states: StreamMap<Label, WatchStream<StreamState>>,
    links: BTreeMap<Label, Link>,
    /// Why the last attempts failed, for peers without a subscription.
    failures: BTreeMap<Label, String>,
    zines: JoinSet<(Label, Result<EventCounts, ZineError>)>,
    status: watch::Sender<GossipStatus>,
    total: EventCounts,
    exchanged: u64,
    failed: u64,
    /// When to publish the status, if it has changed.
    publish_at: Option<Instant>,
    /// When to scan the registry, if it has changed.
    look_at: Option<Instant>,
}

/// The items of a subscription, and `None` at its end.
type Items = BoxStream<'static, Option<Result<VerifiedEvent, StreamError>>>;

/// A subscription, as shown in the status.
#[derive(Debug)]
struct Link {
    state: StreamState,
    events: EventCounts,
}

impl Driver {
    pub(super) fn new(
        client: MeshClient,
        ledger: Arc<dyn Ledger>,
        config: GossipConfig,
        catch_up: Duration,
        status: watch::Sender<GossipStatus>,
    ) -> Self {
        let me = Label::from(client.local().name().as_str());
        Self {
            max_zines: max_zines(&config),
            gossip: Gossip::new(me.clone(), position(&me), config),
            directory: Directory::default(),
            random: Xoshiro256PlusPlus::from_seed(random()),
            started: Instant::now(),
            subscriptions: StreamMap::new(),
            states: StreamMap::new(),
            links: BTreeMap::new(),
            failures: BTreeMap::new(),
            zines: JoinSet::new(),
            status,
            total: EventCounts::default(),
            exchanged: 0,
            failed: 0,
            publish_at: None,
            look_at: None,
            client,
            ledger,
            catch_up,
        }
    }

    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut changes = self.client.registry().subscribe();
        self.look();
        loop {
            let tick = self.started + self.gossip.next_tick(self.started.elapsed());
            let (publish, look) = (self.publish_at, self.look_at);
            tokio::select! {
                () = stopping.cancelled() => break,
                Some((label, item)) = self.subscriptions.next() => match item {
                    Some(item) => self.received(label, item),
                    // The previous item gave the reason.
                    None => self.tell(Input::Refused(label)),
                },
                Some((label, state)) = self.states.next() => self.changed(label, state),
                Some(outcome) = self.zines.join_next() => self.exchanged(outcome),
                change = changes.recv() => self.noticed(change),
                () = sleep_until(look.unwrap_or(tick)), if look.is_some() => self.look(),
                () = sleep_until(publish.unwrap_or(tick)), if publish.is_some() => self.publish(),
                () = sleep_until(tick) => {
                    self.directory.measure(&self.client);
                    self.tell(Input::Tick);
                }
            }
        }
        // Subscriptions end when dropped.
        self.zines.shutdown().await;
    }

    /// Passes an input to the core, and performs its outputs.
    fn tell(&mut self, input: Input<Label>) {
        let now = self.started.elapsed();
        let outputs = self
            .gossip
            .handle(input, &self.directory.ring, now, &mut self.random);
        let changed = !outputs.is_empty();
        for output in outputs {
            match output {
                Output::Subscribe(label) => self.subscribe(label),
                Output::Unsubscribe(label) => {
                    tracing::debug!(peer = %label, "unsubscribed");
                    self.subscriptions.remove(&label);
                    self.states.remove(&label);
                    self.links.remove(&label);
                }
                Output::ExchangeZine(label) => self.exchange_zine(label),
            }
        }
        if changed {
            self.publish();
        }
    }

    fn subscribe(&mut self, label: Label) {
        // The core chooses from the ring, which has the same peers.
        let Some(peer) = self.directory.peer(&label) else {
            return;
        };
        tracing::debug!(peer = %label, "subscribing");
        let options = SubscribeOptions::default()
            .since(self.client.clock().now_nanos().saturating_sub(self.catch_up))
            .into_ledger(self.ledger.clone());
        let subscription = self.client.peer(peer).subscribe(options);
        self.states
            .insert(label.clone(), WatchStream::new(subscription.state()));
        let end = stream::once(std::future::ready(None));
        self.subscriptions
            .insert(label.clone(), subscription.map(Some).chain(end).boxed());
        let link = Link {
            state: StreamState::Connecting,
            events: EventCounts::default(),
        };
        self.links.insert(label, link);
    }

    fn exchange_zine(&mut self, label: Label) {
        if self.zines.len() >= self.max_zines {
            tracing::info!(peer = %label, "no zine sent: earlier ones are still unanswered");
            return;
        }
        let Some(peer) = self.directory.peer(&label) else {
            return;
        };
        let since = self
            .client
            .clock()
            .now_nanos()
            .saturating_sub(defaults::ZINE_WINDOW);
        let (client, ledger) = (self.client.clone(), self.ledger.clone());
        self.zines
            .spawn(async move { (label, zines::exchange(client, ledger, peer, since).await) });
    }

    /// Handles an item of a subscription.
    fn received(&mut self, label: Label, item: Result<VerifiedEvent, StreamError>) {
        let mut events = EventCounts::default();
        match item {
            // Without an insertion it could not be stored; the failure is a separate item.
            Ok(event) => events.count(event.insertion.unwrap_or(Insertion::NotRetained)),
            Err(error @ StreamError::Refused { .. }) => {
                tracing::info!(%error, "gossip");
                events.count_refused();
            }
            Err(error @ StreamError::Unsupported { .. }) => {
                tracing::info!(%error, "gossip by zines");
                self.failures.remove(&label);
                return self.tell(Input::NoStreams(label));
            }
            // Not the peer's fault: it was removed from the registry, and may have been added again.
            Err(StreamError::Call(error)) if error.is_unknown_peer() => {
                self.directory = Directory::new(&self.client);
                self.tell(Input::Ended(label));
                return self.publish();
            }
            Err(
                error @ (StreamError::Protocol { .. }
                | StreamError::Unauthenticated(_)
                | StreamError::Call(_)),
            ) => {
                tracing::warn!(peer = %label, error = &error as &dyn std::error::Error, "gossip");
                self.note_failure(label.clone(), &error);
                if let Some(peer) = self.directory.peer(&label) {
                    peer.proved_nothing();
                }
                self.tell(Input::Refused(label));
                // Even if the core had no output.
                return self.publish();
            }
            Err(error) => {
                tracing::warn!(peer = %label, error = &error as &dyn std::error::Error, "gossip");
                return;
            }
        }
        events.note();
        self.total.add(events);
        if let Some(link) = self.links.get_mut(&label) {
            link.events.add(events);
        }
        self.publish_soon();
    }

    /// Handles a new state of a subscription.
    fn changed(&mut self, label: Label, state: StreamState) {
        let input = match &state {
            StreamState::CatchingUp
            | StreamState::Lagged
            | StreamState::Live
            | StreamState::Polling { .. } => {
                self.failures.remove(&label);
                Input::Opened(label.clone())
            }
            StreamState::Connecting | StreamState::Waiting { .. } => Input::Lost(label.clone()),
            // The last item gives the reason; it may still be unread.
            StreamState::Ended => return,
        };
        if let Some(link) = self.links.get_mut(&label) {
            link.state = state;
        }
        self.tell(input);
        self.publish();
    }

    /// Records why no events arrive from a peer.
    fn note_failure(&mut self, label: Label, error: &StreamError) {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        if self.failures.len() >= MAX_FAILURES && !self.failures.contains_key(&label) {
            self.failures.pop_first();
        }
        self.failures.insert(label, reason);
    }

    fn exchanged(
        &mut self,
        outcome: Result<(Label, Result<EventCounts, ZineError>), tokio::task::JoinError>,
    ) {
        match outcome {
            Ok((label, Ok(events))) => {
                tracing::debug!(peer = %label, new = events.new, "zine");
                self.exchanged += 1;
                events.note();
                self.total.add(events);
                counter!(metrics::GOSSIP_ZINES, "outcome" => "ok").increment(1);
            }
            Ok((label, Err(error))) => {
                tracing::info!(peer = %label, error = &error as &dyn std::error::Error, "zine failed");
                self.fail_zine();
            }
            // A panic was reported when it happened.
            Err(_) => self.fail_zine(),
        }
        self.publish_soon();
    }

    fn fail_zine(&mut self) {
        self.failed += 1;
        counter!(metrics::GOSSIP_ZINES, "outcome" => "failed").increment(1);
    }

    /// Handles a change of the registry.
    fn noticed(&mut self, change: Result<PeerEvent, broadcast::error::RecvError>) {
        match change {
            Ok(
                PeerEvent::AddressMismatch { .. }
                | PeerEvent::BreakerClosed(_)
                | PeerEvent::BreakerOpened(_)
                | PeerEvent::ClockSkew { .. }
                | PeerEvent::Downgrade { .. }
                | PeerEvent::KeyConflict(_)
                | PeerEvent::LookAlike { .. }
                | PeerEvent::KeyRefused(_)
                | PeerEvent::ProtocolLearned(_),
            ) => {}
            // A peer was added, removed, moved or got a name; or we missed changes.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                self.look_within(SETTLE);
            }
            // Unreachable while the client holds the registry.
            Err(broadcast::error::RecvError::Closed) => {}
        }
    }

    /// Scans the registry within `wait`.
    fn look_within(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn look(&mut self) {
        self.look_at = None;
        self.directory = Directory::new(&self.client);
        if self.directory.has_waiting {
            self.look_within(TURN);
        }
        let directory = &self.directory;
        self.failures.retain(|label, _| directory.peer(label).is_some());
        self.tell(Input::Tick);
    }

    fn publish_soon(&mut self) {
        self.publish_at
            .get_or_insert_with(|| Instant::now() + defaults::GOSSIP_STATUS_INTERVAL);
    }

    fn publish(&mut self) {
        self.publish_at = None;
        let streams = self.links.iter().map(|(label, link)| GossipPeer {
            peer: label.to_string(),
            link: GossipLink::Stream(link.state.clone()),
            events: link.events,
        });
        // A peer that is retried for streams is shown with its stream.
        let others = self
            .gossip
            .without_streams()
            .filter(|label| !self.links.contains_key(*label));
        let zines = others.map(|label| GossipPeer {
            peer: label.to_string(),
            link: GossipLink::Zines,
            events: EventCounts::default(),
        });
        let failing = self
            .failures
            .iter()
            .filter(|(label, _)| !self.links.contains_key(*label));
        let failing = failing.map(|(label, reason)| GossipPeer {
            peer: label.to_string(),
            link: GossipLink::Failing {
                reason: reason.clone(),
            },
            events: EventCounts::default(),
        });
        let mut peers: Vec<GossipPeer> = streams.chain(zines).chain(failing).collect();
        let by_zines = peers.iter().filter(|peer| peer.link == GossipLink::Zines).count();
        gauge!(metrics::GOSSIP_PEERS, "link" => "zines").set(by_zines as f64);
        gauge!(metrics::GOSSIP_PEERS, "link" => "stream").set(self.links.len() as f64);
        peers.sort_by(|a, b| a.peer.cmp(&b.peer));
        let status = GossipStatus {
            peers,
            total: self.total,
            zines: self.exchanged,
            failed_zines: self.failed,
        };
        self.status.send_if_modified(|before| {
            let changed = *before != status;
            *before = status;
            changed
        });
    }
}

fn max_zines(config: &GossipConfig) -> usize {
    config.zine_peers.1.saturating_mul(ZINE_ROUNDS)
}
