//! The data plane: WireGuard and routing between the network stack of the node and its relays.
//!
//! The core (`ts_dataplane`) has no I/O. What leaves it goes into bounded queues; what finds no room is dropped, as on
//! any network.

#![expect(
    clippy::mutable_key_type,
    reason = "the library keys what it routes by endpoint, and ours are plain keys"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
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
use super::relay::Outgoing;
use super::relay::region::RegionId;
use super::tap::Tap;

/// The one network stack above.
const STACK: u32 = 0;

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
    /// The next timer is now earlier.
    sooner: Notify,
}

struct Core {
    dataplane: ts_dataplane::DataPlane,
    links: HashMap<UnderlayTransportId, mpsc::Sender<Outgoing>>,
    /// Peers are numbered by key: when control lists them anew, their sessions go on.
    ids: BTreeMap<NodePublicKey, u32>,
    next_id: u32,
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
    pub(super) fn new(keys: &NodeKeyPair, device: Arc<Device>, tap: Arc<Tap>) -> Self {
        Self {
            core: Mutex::new(Core {
                dataplane: dataplane(keys),
                links: HashMap::new(),
                ids: BTreeMap::new(),
                next_id: 0,
                heard: HashMap::new(),
                armed: None,
                filter: Arc::new(DropAllFilter),
            }),
            device,
            tap,
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
        let mut under = HashMap::new();
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
            if let Some(region) = peer.region.or(home) {
                under.insert(PeerId(id), (region.into(), DynEndpoint::derp(peer.key)));
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
        let mut inbound = ts_bart::Table::default();
        for address in ours {
            inbound.insert(
                (*address).into(),
                inbound::RouteAction::ToOverlay(OverlayTransportId(STACK)),
            );
        }
        core.dataplane.or_out.swap(out);
        core.dataplane.or_in.swap(inbound);
        core.dataplane.ur_out.table = under;
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
        if packets.is_empty() {
            return;
        }
        let now = Instant::now();
        let received = self.with(|core| {
            for (from, _) in &packets {
                // Only of peers that control lists: the relay can name anybody.
                if core.ids.contains_key(from) {
                    core.heard.insert(*from, now);
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
        drop(core);
        done.inspect_err(|_| tracing::error!("the data plane panicked on a packet, which was dropped"))
            .ok()
    }
}

impl Core {
    fn send(&self, packets: HashMap<(UnderlayTransportId, DynEndpoint), Vec<PacketMut>>) {
        for ((region, endpoint), packets) in packets {
            let (Some(link), Some(key)) = (self.links.get(&region), endpoint.as_derp()) else {
                continue;
            };
            if link.try_send((key, packets)).is_err() {
                tracing::trace!(region = region.0, "the queue to a relay is full");
            }
        }
    }
}
