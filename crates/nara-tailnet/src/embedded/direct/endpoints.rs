//! Our own endpoints: the local addresses of this machine, its addresses as STUN servers see them, and the address that
//! the router maps to it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nara_mesh::proto::backoff::{Backoff, spread};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use ts_control::{Endpoint, EndpointType};

use super::address::Policy;
use super::sockets::Sockets;
use super::stun::{self, BindingRequest};
use crate::embedded::interfaces::{self, Addresses};
use crate::embedded::sleep::{Sleeps, slept};
use crate::random::random;
use crate::status::{EndpointKind, NodeEndpoint, PortMapping};

/// The interval of STUN requests: a NAT keeps a silent UDP mapping for at least 30 s.
const ASK: Duration = Duration::from_secs(28);
/// The first pause without an answer. Pauses double up to [`ASK`], because some networks block UDP.
const ASK_SOON: Duration = Duration::from_secs(2);
/// The validity of an address reported by a STUN server.
const SEEN: Duration = Duration::from_secs(95);
/// The timeout for resolving the name of a STUN server.
const LOOK_UP: Duration = Duration::from_secs(3);
/// The maximum number of STUN servers in use, and of advertised local addresses.
const MAX_SERVERS: usize = 3;
const MAX_LOCAL: usize = 16;
/// The maximum number of pending requests.
const MAX_PENDING: usize = 4 * MAX_SERVERS;

/// A STUN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct StunServer {
    pub(in crate::embedded) host_name: String,
    pub(in crate::embedded) port: u16,
    /// The addresses of the server; if empty, its host name is resolved.
    pub(in crate::embedded) addresses: Vec<IpAddr>,
}

/// The task that maintains our endpoints.
pub(super) struct Endpoints {
    pub(super) sockets: Arc<Sockets>,
    pub(super) policy: Policy,
    pub(super) servers: watch::Receiver<Vec<StunServer>>,
    pub(super) addresses: Addresses,
    pub(super) sleeps: Sleeps,
    /// Packets classified as STUN.
    pub(super) answers: mpsc::Receiver<(SocketAddr, BytesMut)>,
    pub(super) mapping: watch::Receiver<PortMapping>,
    pub(super) own: watch::Sender<Vec<Endpoint>>,
}

/// The addresses found so far.
#[derive(Default)]
struct Found {
    local: BTreeSet<SocketAddr>,
    pending: Vec<(BindingRequest, SocketAddr)>,
    /// At most one address per family, with the time of its last confirmation.
    seen: Vec<(SocketAddr, Instant)>,
    mapped: Option<SocketAddr>,
}

impl Endpoints {
    /// Runs until the control session is dropped.
    pub(super) async fn run(mut self) {
        let mut found = Found::default();
        let mut ask = Instant::now();
        self.addresses.mark_changed();
        self.mapping.mark_changed();
        let mut unanswered = Backoff::new(ASK_SOON, ASK);
        loop {
            tokio::select! {
                Ok(()) = self.addresses.changed() => {
                    let local = self.local();
                    if local != found.local {
                        found.local = local;
                        found.seen.clear();
                        unanswered.reset();
                        ask = Instant::now();
                    }
                }
                () = slept(&mut self.sleeps) => {
                    found.seen.clear();
                    unanswered.reset();
                    ask = Instant::now();
                }
                () = sleep_until(ask) => {
                    found.seen.retain(|(_, since)| since.elapsed() < SEEN);
                    self.ask(&mut found).await;
                    let is_seen = !found.seen.is_empty();
                    let pause = if is_seen { spread(ASK, random()) } else { unanswered.after_failure(random()) };
                    ask = Instant::now() + pause;
                }
                changed = self.servers.changed() => match changed {
                    Ok(()) => ask = Instant::now(),
                    Err(_) => return,
                },
                Ok(()) = self.mapping.changed() => {
                    found.mapped = match *self.mapping.borrow_and_update() {
                        PortMapping::Mapped { external, .. } => Some(external),
                        _ => None,
                    };
                }
                Some((from, packet)) = self.answers.recv() => {
                    let was_seen = !found.seen.is_empty();
                    found.answer(from, packet.as_ref(), self.policy);
                    if !was_seen && !found.seen.is_empty() {
                        unanswered.reset();
                        ask = Instant::now() + spread(ASK, random());
                    }
                }
            }
            let own = found.endpoints();
            self.own.send_if_modified(|old| {
                let differs = *old != own;
                *old = own;
                differs
            });
        }
    }

    /// Returns the local addresses of this machine, with our ports.
    fn local(&mut self) -> BTreeSet<SocketAddr> {
        let usable = self
            .addresses
            .borrow_and_update()
            .iter()
            .filter_map(|ip| {
                let port = self.sockets.port_for(SocketAddr::new(*ip, 0))?;
                self.policy.usable(SocketAddr::new(*ip, port))
            })
            .collect();
        most_useful(usable, &interfaces::outward())
    }

    async fn ask(&mut self, found: &mut Found) {
        let servers: Vec<_> = self
            .servers
            .borrow_and_update()
            .iter()
            .take(MAX_SERVERS)
            .cloned()
            .collect();
        for server in servers {
            let addresses = resolve(&server).await;
            for is_ipv4 in [true, false] {
                let Some(to) = addresses.iter().find(|address| address.is_ipv4() == is_ipv4) else {
                    continue;
                };
                let Some(request) = BindingRequest::new() else {
                    continue;
                };
                if let Some(packet) = request.packet() {
                    found.expect(request, *to);
                    self.sockets.send(*to, &[packet]);
                }
            }
        }
    }
}

/// Selects the addresses to advertise: the families alternate, and within a family, source addresses of default routes
/// come first. A machine with containers has many addresses that peers cannot reach.
fn most_useful(mut usable: Vec<SocketAddr>, outward: &[IpAddr]) -> BTreeSet<SocketAddr> {
    usable.sort_by_key(|address| !outward.contains(&address.ip()));
    let (four, six): (Vec<_>, Vec<_>) = usable.into_iter().partition(SocketAddr::is_ipv4);
    let ranked = four.into_iter().enumerate().chain(six.into_iter().enumerate());
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let best = ranked.into_iter().take(MAX_LOCAL);
    best.map(|(_, address)| address).collect()
}

async fn resolve(server: &StunServer) -> Vec<SocketAddr> {
    if !server.addresses.is_empty() {
        let at = |ip: &IpAddr| SocketAddr::new(*ip, server.port);
        return server.addresses.iter().map(at).collect();
    }
    let name = (server.host_name.as_str(), server.port);
    match timeout(LOOK_UP, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => Vec::new(),
    }
}

impl Found {
    fn expect(&mut self, request: BindingRequest, from: SocketAddr) {
        if self.pending.len() >= MAX_PENDING {
            self.pending.remove(0);
        }
        self.pending.push((request, from));
    }

    /// Handles an answer to a pending request; ignores all other packets.
    fn answer(&mut self, from: SocketAddr, packet: &[u8], policy: Policy) {
        let Ok(Some((request, seen))) = std::panic::catch_unwind(|| stun::answer(packet)) else {
            return;
        };
        let Some(at) = self.pending.iter().position(|asked| *asked == (request, from)) else {
            return;
        };
        self.pending.swap_remove(at);
        if let Some(seen) = policy.usable(seen) {
            self.seen.retain(|(old, _)| old.is_ipv4() != seen.is_ipv4());
            self.seen.push((seen, Instant::now()));
        }
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        let local = self.local.iter().map(|address| (*address, EndpointType::Local));
        let mapped = self.mapped.map(|address| (address, EndpointType::PortMapped));
        let seen = self
            .seen
            .iter()
            .map(|(address, _)| (*address, EndpointType::Stun));
        let mut all: Vec<Endpoint> = Vec::new();
        for (endpoint, ty) in local.chain(mapped).chain(seen) {
            if all.iter().all(|known| known.endpoint != endpoint) {
                all.push(Endpoint { endpoint, ty });
            }
        }
        all
    }
}

/// Converts endpoints for the status of the node.
pub(in crate::embedded) fn reported(endpoints: &[Endpoint]) -> Vec<NodeEndpoint> {
    let kind = |ty| match ty {
        EndpointType::PortMapped => EndpointKind::Mapped,
        EndpointType::Stun => EndpointKind::Seen,
        _ => EndpointKind::Local,
    };
    let reported = endpoints.iter();
    reported
        .map(|endpoint| NodeEndpoint::new(endpoint.endpoint, kind(endpoint.ty)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(found: &mut Found, from: SocketAddr) -> Vec<u8> {
        let request = BindingRequest::new().unwrap();
        found.expect(request, from);
        request.packet().unwrap()
    }

    #[tokio::test]
    async fn a_request_is_answered_once_and_only_by_its_server() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let seen: SocketAddr = "203.0.113.5:41641".parse().unwrap();
        let mut found = Found::default();
        let reply = stun::tests::reply(&asked(&mut found, server), seen);
        let unasked = stun::tests::reply(&BindingRequest::new().unwrap().packet().unwrap(), seen);
        found.answer("198.51.100.2:3478".parse().unwrap(), &reply, Policy::default());
        found.answer(server, &unasked, Policy::default());
        found.answer(server, b"nonsense", Policy::default());
        assert!(found.endpoints().is_empty());
        found.answer(server, &reply, Policy::default());
        assert_eq!(found.endpoints().len(), 1);
        found.seen.clear();
        found.answer(server, &reply, Policy::default());
        assert!(found.endpoints().is_empty(), "the request has been answered");
    }

    #[tokio::test]
    async fn stun_finds_one_endpoint_per_family_without_duplicates() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let mut found = Found::default();
        for seen in ["203.0.113.5:1", "203.0.113.5:2", "[2001:db8::1]:7", "127.0.0.1:5"] {
            let request = asked(&mut found, server);
            found.answer(
                server,
                &stun::tests::reply(&request, seen.parse().unwrap()),
                Policy::default(),
            );
        }
        found.local.insert("[2001:db8::1]:7".parse().unwrap());
        found.local.insert("192.168.1.2:7".parse().unwrap());
        found.mapped = Some("203.0.113.5:7".parse().unwrap());
        let told: Vec<_> = found
            .endpoints()
            .iter()
            .map(|endpoint| (endpoint.endpoint.to_string(), endpoint.ty))
            .collect();
        assert_eq!(
            told,
            [
                ("192.168.1.2:7".to_owned(), EndpointType::Local),
                ("[2001:db8::1]:7".to_owned(), EndpointType::Local),
                ("203.0.113.5:7".to_owned(), EndpointType::PortMapped),
                ("203.0.113.5:2".to_owned(), EndpointType::Stun)
            ]
        );
        found.mapped = Some("203.0.113.5:2".parse().unwrap());
        assert_eq!(found.endpoints().len(), 3, "one address from two sources");
    }

    #[test]
    fn source_addresses_of_default_routes_precede_addresses_of_containers() {
        let lan: SocketAddr = "192.168.1.2:7".parse().unwrap();
        let six: Vec<SocketAddr> = (1..=3)
            .map(|n| format!("[2001:db8::{n}]:7").parse().unwrap())
            .collect();
        let containers = (0..40).map(|n| SocketAddr::from(([172, 17, n, 1], 7)));
        let usable: Vec<_> = containers.chain([lan]).chain(six.clone()).collect();
        let told = most_useful(usable.clone(), &[lan.ip(), six[2].ip()]);
        assert_eq!(told.len(), MAX_LOCAL);
        assert!(told.contains(&lan) && six.iter().all(|address| told.contains(address)));
        let few = most_useful(usable[38..].to_vec(), &[]);
        assert_eq!(few, usable[38..].iter().copied().collect());
    }

    #[tokio::test]
    async fn pending_requests_are_bounded() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let mut found = Found::default();
        for _ in 0..100 {
            asked(&mut found, server);
        }
        assert_eq!(found.pending.len(), MAX_PENDING);
    }
}
