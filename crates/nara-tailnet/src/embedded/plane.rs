//! The data plane: WireGuard and routing between the network stack of the node, its relays and direct paths.
//!
//! The core (`ts_dataplane`) has no I/O. What leaves it goes into bounded queues; what finds no room is dropped, as on
//! any network.

#![expect(
    clippy::mutable_key_type,
    reason = "the library keys what it routes by endpoint, and ours are plain keys"
)]

mod underlay;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use ts_bart::RoutingTable as _;
use ts_keys::{NodeKeyPair, NodePublicKey};
use ts_overlay_router::{inbound, outbound};
use ts_packet::PacketMut;
use ts_packetfilter::filter::CapIter;
use ts_packetfilter::{DropAllFilter, Filter, PacketInfo};
use ts_transport::{DynEndpoint, OverlayTransportId, PeerId, UnderlayTransportId};

use super::device::Device;
use super::direct::Port;
use super::direct::packet::{Kind, kind};
use super::relay::Outgoing;
use super::relay::region::RegionId;
use super::tap::Tap;

/// The one network stack above.
const STACK: u32 = 0;
/// The transport of packets that go to an address. Relays have the numbers of their regions, of which it is none.
const DIRECT: UnderlayTransportId = UnderlayTransportId(u32::MAX);

/// What control says about a peer, as far as packets are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerRoute {
    pub(super) key: NodePublicKey,
    pub(super) addresses: Vec<IpAddr>,
    /// Its home relay.
    pub(super) region: Option<RegionId>,
}

/// See the module.
pub(super) struct Plane {
    core: Mutex<Core>,
    device: Arc<Device>,
    tap: Arc<Tap>,
    /// Direct paths, if there are any.
    port: Option<Port>,
    /// The next timer is now earlier.
    sooner: Notify,
}

struct Core {
    dataplane: ts_dataplane::DataPlane,
    links: HashMap<UnderlayTransportId, mpsc::Sender<Outgoing>>,
    /// Peers are numbered by key: when control lists them anew, their sessions go on.
    ids: BTreeMap<NodePublicKey, u32>,
    keys: HashMap<PeerId, NodePublicKey>,
    next_id: u32,
    /// The relays of peers.
    regions: HashMap<PeerId, RegionId>,
    /// The direct paths to peers.
    paths: HashMap<NodePublicKey, SocketAddr>,
    /// Whose packets come from these addresses.
    known: HashMap<SocketAddr, NodePublicKey>,
    /// What is to be sent to addresses when the core is free again.
    direct: Vec<(SocketAddr, Vec<PacketMut>)>,
    /// When something of a peer arrived last.
    heard: HashMap<NodePublicKey, Instant>,
    /// When the timer task looks again.
    armed: Option<Instant>,
    /// Who may open connections to us.
    filter: Arc<dyn Filter + Send + Sync>,
}

/// The data plane asks about each packet, also about answers; the tap knows which are some and asks for us.
struct AskedLater;

impl Filter for AskedLater {
    fn match_for(&self, _info: &PacketInfo, _caps: CapIter<'_, '_>) -> Option<&str> {
        Some("asked later")
    }
}

fn dataplane(keys: &NodeKeyPair) -> ts_dataplane::DataPlane {
    let mut dataplane = ts_dataplane::DataPlane::new(keys.clone());
    dataplane.packet_filter = Arc::new(AskedLater);
    dataplane
}

impl Plane {
    pub(super) fn new(keys: &NodeKeyPair, device: Arc<Device>, tap: Arc<Tap>, port: Option<Port>) -> Self {
        Self {
            core: Mutex::new(Core {
                dataplane: dataplane(keys),
                links: HashMap::new(),
                ids: BTreeMap::new(),
                keys: HashMap::new(),
                next_id: 0,
                regions: HashMap::new(),
                paths: HashMap::new(),
                known: HashMap::new(),
                direct: Vec::new(),
                heard: HashMap::new(),
                armed: None,
                filter: Arc::new(DropAllFilter),
            }),
            device,
            tap,
            port,
            sooner: Notify::new(),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue to a region's relay.
    pub(super) fn set_link(&self, region: RegionId, queue: mpsc::Sender<Outgoing>) {
        self.core().links.insert(region.into(), queue);
    }

    /// Another key: no session of the old one goes on. Routes have to be set again.
    pub(super) fn set_keys(&self, keys: &NodeKeyPair) {
        let mut core = self.core();
        core.dataplane = dataplane(keys);
        core.ids.clear();
        core.keys.clear();
        core.heard.clear();
    }

    /// Makes peers, routes and the packet filter those that control says. Does nothing to what stays as it is.
    pub(super) fn set_routes(
        &self,
        ours: &[IpAddr],
        peers: &[PeerRoute],
        home: Option<RegionId>,
        filter: Arc<dyn Filter + Send + Sync>,
    ) {
        let core = &mut *self.core();
        let mut out = ts_bart::Table::default();
        let mut source = ts_bart::Table::default();
        core.regions.clear();
        core.keys.clear();
        let mut present = HashSet::new();
        for peer in peers {
            let id = core.ids.get(&peer.key).copied().unwrap_or_else(|| {
                core.next_id = core.next_id.wrapping_add(1);
                core.ids.insert(peer.key, core.next_id);
                core.dataplane.wireguard.upsert_peer(ts_tunnel::PeerConfig::new(
                    ts_tunnel::PeerId(core.next_id),
                    peer.key,
                    [0; 32],
                ));
                core.next_id
            });
            present.insert(peer.key);
            for address in &peer.addresses {
                out.insert((*address).into(), outbound::RouteAction::Wireguard(PeerId(id)));
                source.insert((*address).into(), PeerId(id));
            }
            core.keys.insert(PeerId(id), peer.key);
            if let Some(region) = peer.region.or(home) {
                core.regions.insert(PeerId(id), region);
            }
        }
        let wireguard = &mut core.dataplane.wireguard;
        core.ids.retain(|key, id| {
            let stays = present.contains(key);
            if !stays {
                wireguard.remove_peer(ts_tunnel::PeerId(*id));
            }
            stays
        });
        core.heard.retain(|key, _| present.contains(key));
        core.paths.retain(|key, _| present.contains(key));
        core.known.retain(|_, key| present.contains(key));
        let mut inbound = ts_bart::Table::default();
        for address in ours {
            inbound.insert(
                (*address).into(),
                inbound::RouteAction::ToOverlay(OverlayTransportId(STACK)),
            );
        }
        core.dataplane.or_out.swap(out);
        core.dataplane.or_in.swap(inbound);
        core.dataplane.ur_out.table = core
            .keys
            .iter()
            .filter_map(|(id, key)| Some((*id, core.way_to(*id, key)?)))
            .collect();
        core.dataplane.src_filter_in = Arc::new(source);
        core.filter = filter;
    }

    /// Packets of the network stack.
    pub(super) fn outbound(&self, packets: Vec<PacketMut>) {
        for packet in &packets {
            self.tap.outgoing(packet.as_ref());
        }
        self.with(|core| {
            let sent = core.dataplane.process_outbound(packets);
            core.send(sent.to_peers);
        });
    }

    /// Packets of a relay, each with the node that the relay says it is from. Whom it really is from, WireGuard knows.
    pub(super) fn inbound(&self, packets: Vec<(NodePublicKey, PacketMut)>) {
        let mut wireguard = Vec::with_capacity(packets.len());
        for (from, packet) in packets {
            match (kind(packet.as_ref()), &self.port) {
                (Kind::Disco, Some(port)) => port.relayed(from, packet),
                (Kind::Disco, None) => {}
                _ => wireguard.push((Some(from), packet)),
            }
        }
        self.receive(wireguard);
    }

    fn receive(&self, packets: Vec<(Option<NodePublicKey>, PacketMut)>) {
        if packets.is_empty() {
            return;
        }
        let now = Instant::now();
        let received = self.with(|core| {
            for from in packets.iter().filter_map(|(from, _)| *from) {
                // Only of peers that control lists: the relay can name anybody.
                if core.ids.contains_key(&from) {
                    core.heard.insert(from, now);
                }
            }
            let received = core
                .dataplane
                .process_inbound(packets.into_iter().map(|(_, packet)| packet));
            core.send(received.to_peers);
            (received.to_local, Arc::clone(&core.filter))
        });
        let Some((received, filter)) = received else {
            return;
        };
        for packet in received.into_values().flatten() {
            if self.tap.incoming(packet.as_ref(), &*filter) {
                self.device.put(packet.as_ref());
            }
        }
    }

    /// The direct path to a peer, if it takes one now.
    pub(super) fn path(&self, peer: &NodePublicKey) -> Option<SocketAddr> {
        self.core().paths.get(peer).copied()
    }

    /// Whether anything of a peer arrived since then.
    pub(super) fn heard_since(&self, peer: &NodePublicKey, since: Instant) -> bool {
        self.core().heard.get(peer).is_some_and(|heard| *heard >= since)
    }

    /// Begins a new WireGuard session with a peer at its next packet.
    ///
    /// The first greeting is lost if the peer has not heard of us yet; WireGuard itself would try again after 5 s.
    pub(super) fn greet_again(&self, peer: &NodePublicKey) {
        let core = &mut *self.core();
        if let Some(id) = core.ids.get(peer).copied() {
            let id = ts_tunnel::PeerId(id);
            core.dataplane.wireguard.remove_peer(id);
            core.dataplane
                .wireguard
                .upsert_peer(ts_tunnel::PeerConfig::new(id, *peer, [0; 32]));
        }
    }

    /// Runs the timers of WireGuard: greetings that are repeated, keys that are renewed, keep-alives. Never ends.
    pub(super) async fn run_timers(&self) {
        /// Timers are not more exact than this, so that they cannot keep a core busy.
        const FINEST: Duration = Duration::from_millis(5);
        loop {
            let next = {
                let mut core = self.core();
                core.armed = core.dataplane.next_event();
                core.armed
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
            self.with(|core| {
                let to_peers = core.dataplane.process_events();
                core.send(to_peers);
            });
        }
    }

    /// Works on the core, and wakes the timer task if that made a timer earlier. `None`: the core panicked.
    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> Option<T> {
        let mut core = self.core();
        let active = core.dataplane.active_peers.len();
        // Packets come from outside. Should the library panic on one, that packet is lost and no more.
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| work(&mut core)));
        let is_sooner = match (core.dataplane.next_event(), core.armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, None) => next.is_some(),
            (None, Some(_)) => false,
        };
        if is_sooner {
            core.armed = core.dataplane.next_event();
            self.sooner.notify_one();
        }
        let is_more_active = core.dataplane.active_peers.len() > active;
        let direct = std::mem::take(&mut core.direct);
        drop(core);
        if let Some(port) = &self.port {
            for (to, packets) in &direct {
                port.send(*to, packets);
            }
            if is_more_active {
                port.more_active();
            }
        }
        done.inspect_err(|_| tracing::error!("the data plane panicked on a packet, which was dropped"))
            .ok()
    }
}

impl Core {
    /// Where packets to a peer go now; `None`: nowhere.
    fn way_to(&self, id: PeerId, key: &NodePublicKey) -> Option<(UnderlayTransportId, DynEndpoint)> {
        if let Some(path) = self.paths.get(key) {
            return Some((DIRECT, DynEndpoint::udp(*path)));
        }
        let region = self.regions.get(&id)?;
        Some(((*region).into(), DynEndpoint::derp(*key)))
    }

    fn send(&mut self, packets: HashMap<(UnderlayTransportId, DynEndpoint), Vec<PacketMut>>) {
        for ((transport, endpoint), packets) in packets {
            if let Some(address) = endpoint.as_udp() {
                self.direct.push((address, packets));
                continue;
            }
            let (Some(link), Some(key)) = (self.links.get(&transport), endpoint.as_derp()) else {
                continue;
            };
            if link.try_send((key, packets)).is_err() {
                tracing::trace!(region = transport.0, "the queue to a relay is full");
            }
        }
    }
}
