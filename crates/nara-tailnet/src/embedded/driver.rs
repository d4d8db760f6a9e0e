//! Runs the data plane: passes it the time, and carries its outputs to the stack, relays and UDP sockets.
//!
//! All queues of packets are bounded. A packet for a full queue is dropped; except a retransmitted one, it is counted.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::MissedTickBehavior;
use ts_keys::{NodeKeyPair, NodePublicKey};

use super::device::Device;
use super::direct::Port;
use super::plane::{Dropped, Input, MAX_BATCH, PeerRoute, Plane};
use super::sleep::{self, Pulse, Sleeps};
use super::tap::Tap;
use super::underlay::{DirectHost, RegionId, RelayBatch, RelayHost};

/// Runs the data plane; see the module.
pub(super) struct Driver {
    state: Mutex<State>,
    device: Arc<Device>,
    tap: Arc<Tap>,
    /// Direct paths, if enabled.
    port: Option<Port>,
    /// Notified when the next timeout becomes earlier.
    sooner: Notify,
    pulse: Mutex<Pulse>,
    sleeps: watch::Sender<u32>,
}

struct State {
    plane: Plane,
    links: HashMap<RegionId, mpsc::Sender<RelayBatch>>,
    /// The time at which the timer task wakes up.
    armed: Option<Instant>,
    /// The counters of dropped packets as last logged.
    logged: Dropped,
}

impl Driver {
    pub(super) fn new(keys: &NodeKeyPair, device: Arc<Device>, tap: Arc<Tap>, port: Option<Port>) -> Self {
        Self {
            state: Mutex::new(State {
                plane: Plane::new(keys),
                links: HashMap::new(),
                armed: None,
                logged: Dropped::default(),
            }),
            device,
            tap,
            port,
            sooner: Notify::new(),
            pulse: Mutex::new(Pulse::new(sleep::now())),
            sleeps: watch::Sender::default(),
        }
    }

    pub(super) fn sleeps(&self) -> Sleeps {
        self.sleeps.subscribe()
    }

    /// Checks periodically whether the node has slept, and if so, resets all connections before the next packet. Never
    /// returns.
    pub(super) async fn run_pulse(&self) {
        let mut ticks = tokio::time::interval(sleep::EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beat(sleep::now());
        }
    }

    /// Records that the node runs at this time of [`sleep::now`].
    pub(super) fn beat(&self, now: Duration) {
        // Held until everything is reset, so that no caller uses stale state.
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slept) = pulse.beat(now) else { return };
        tracing::info!(?slept, "this node has slept and reconnects");
        self.sleeps.send_modify(|sleeps| *sleeps = sleeps.wrapping_add(1));
        self.tap.slept(slept);
        self.handle(Input::Slept);
        let state = self.state();
        self.tap.set_direct(state.plane.direct_addresses());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Plane::set_keys`].
    pub(super) fn set_keys(&self, keys: &NodeKeyPair) {
        self.state().plane.set_keys(keys);
    }

    /// See [`Plane::set_routes`].
    pub(super) fn set_routes(&self, own: &[IpAddr], routes: &[PeerRoute], home: Option<RegionId>) {
        let mut state = self.state();
        state.plane.set_routes(own, routes, home);
        self.tap
            .set_nodes(routes.iter().map(|route| &route.addresses[..]));
        self.tap.set_direct(state.plane.direct_addresses());
        self.tap.set_far(state.plane.far_addresses());
    }

    /// See [`Plane::path`].
    pub(super) fn path(&self, peer: &NodePublicKey) -> Option<SocketAddr> {
        self.state().plane.path(peer)
    }

    /// See [`Plane::heard_since`].
    pub(super) fn heard_since(&self, peer: &NodePublicKey, since: Instant) -> bool {
        self.state().plane.heard_since(peer, since)
    }

    /// See [`Plane::round_trip`].
    pub(super) fn round_trip(&self, peer: &NodePublicKey) -> Option<Duration> {
        self.state().plane.round_trip(peer)
    }

    /// Starts another handshake with a peer that does not answer.
    pub(super) fn unanswered(&self, peer: NodePublicKey) {
        self.handle(Input::Unanswered(peer));
    }

    /// Carries packets from the stack. Never returns.
    pub(super) async fn run_stack(&self) {
        loop {
            let (mut packets, of_stack) = self.device.take().await;
            self.beat(sleep::now());
            packets.extend(
                of_stack
                    .into_iter()
                    .filter_map(|(distance, packet)| self.tap.outgoing(distance, packet)),
            );
            while !packets.is_empty() {
                let rest = packets.split_off(packets.len().min(MAX_BATCH));
                self.handle(Input::Stack(packets));
                packets = rest;
            }
        }
    }

    /// Runs the timers of WireGuard: handshake retries, rekeying and keep-alives. Never returns.
    pub(super) async fn run_timers(&self) {
        /// The timer resolution, which bounds the CPU load.
        const FINEST: Duration = Duration::from_millis(5);
        loop {
            let next = {
                let mut state = self.state();
                state.armed = state.plane.next_timeout();
                state.log_dropped();
                state.armed
            };
            tokio::select! {
                () = self.sooner.notified() => continue,
                () = async {
                    match next {
                        Some(when) => tokio::time::sleep_until(when.max(Instant::now() + FINEST).into()).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            self.handle(Input::Timeout);
        }
    }

    fn handle(&self, input: Input) {
        let mut state = self.state();
        let outputs = state.plane.handle(input, Instant::now());
        let next = state.plane.next_timeout();
        if next.is_some_and(|next| state.armed.is_none_or(|armed| next < armed)) {
            state.armed = next;
            self.sooner.notify_one();
        }
        // A SYN may follow in the same outputs.
        if outputs.far_changed {
            self.tap.set_far(state.plane.far_addresses());
        }
        // Sent under the lock, so that packets to a peer stay in order.
        for (region, batch) in outputs.relay {
            state.relay(region, batch);
        }
        drop(state);
        let mut no_room = 0;
        if let Some(port) = &self.port {
            for (to, packets) in &outputs.udp {
                port.send(*to, packets);
            }
            for (from, packet) in outputs.disco {
                no_room += usize::from(!port.relayed(from, packet));
            }
            if outputs.newly_active {
                port.more_active();
            }
        }
        for mut packet in outputs.stack {
            if let Some(distance) = self.tap.incoming(packet.as_mut()) {
                no_room += usize::from(!self.device.put(distance, packet));
            }
        }
        if no_room > 0 {
            self.state().plane.count_no_room(no_room);
        }
    }
}

impl State {
    fn relay(&mut self, region: RegionId, batch: RelayBatch) {
        let len = batch.packets.len();
        let sent = self.links.get(&region).map(|link| link.try_send(batch).is_ok());
        if sent != Some(true) {
            self.plane.count_no_room(len);
        }
    }

    fn log_dropped(&mut self) {
        let dropped = self.plane.dropped();
        if dropped != self.logged {
            tracing::debug!(?dropped, "packets were dropped");
            self.logged = dropped;
        }
    }
}

impl RelayHost for Driver {
    fn add_link(&self, region: RegionId, queue: mpsc::Sender<RelayBatch>) {
        self.state().links.insert(region, queue);
    }

    fn remove_link(&self, region: RegionId) {
        self.state().links.remove(&region);
    }

    fn connected(&self) {
        self.tap.relays_changed();
    }

    fn relayed(&self, packets: Vec<(NodePublicKey, BytesMut)>) {
        self.beat(sleep::now());
        self.handle(Input::Relay(packets));
    }
}

impl DirectHost for Driver {
    fn active(&self) -> HashSet<NodePublicKey> {
        self.state().plane.active()
    }

    fn relay(&self, to: NodePublicKey, packet: Vec<u8>) {
        self.handle(Input::Disco(to, BytesMut::from(&packet[..])));
    }

    fn set_path(&self, peer: NodePublicKey, path: Option<SocketAddr>) {
        tracing::debug!(%peer, ?path, "packets use a new path");
        let mut state = self.state();
        state.plane.set_path(&peer, path);
        self.tap.set_direct(state.plane.direct_addresses());
        let addresses = state.plane.addresses_of(&peer);
        drop(state);
        self.tap.rerouted(&addresses, Instant::now());
    }

    fn inbound(&self, packets: Vec<(SocketAddr, BytesMut)>) {
        self.beat(sleep::now());
        self.handle(Input::Udp(packets));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn key(n: u8) -> NodePublicKey {
        NodePublicKey::from_bytes([n; 32])
    }

    fn driver() -> Driver {
        let device = Arc::new(Device::default());
        let tap = Arc::new(Tap::new(Arc::clone(&device), Duration::from_secs(1)));
        let driver = Driver::new(&NodeKeyPair::random(), device, tap, None);
        let route = PeerRoute {
            key: key(1),
            addresses: vec![],
            region: Some(7),
        };
        driver.set_routes(&[], &[route], None);
        driver
    }

    #[tokio::test]
    async fn no_packet_of_the_stack_is_dropped_behind_many_retransmitted_ones() {
        let driver = driver();
        for _ in 0..=MAX_BATCH {
            driver.device.put_again(BytesMut::new());
        }
        assert!(driver.run_stack().now_or_never().is_none());
        let dropped = driver.state().plane.dropped();
        assert_eq!((dropped.too_many, dropped.no_peer), (0, MAX_BATCH as u64 + 1));
    }

    #[tokio::test]
    async fn a_batch_that_finds_no_room_on_its_way_to_a_relay_is_dropped_and_counted() {
        let driver = driver();
        driver.relay(key(1), vec![0; 40]);
        assert_eq!(driver.state().plane.dropped().no_room, 1, "there is no link");
        let (queue, mut waiting) = mpsc::channel(1);
        driver.add_link(7, queue);
        for _ in 0..3 {
            driver.relay(key(1), vec![0; 40]);
        }
        assert_eq!(driver.state().plane.dropped().no_room, 3);
        assert_eq!(waiting.try_recv().unwrap().to, key(1));
    }
}
