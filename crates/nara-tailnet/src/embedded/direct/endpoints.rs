//! Where peers may reach us: the addresses of this machine, and what a STUN server sees of it from outside, and
//! what the router maps to it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nara_mesh::proto::backoff::{Backoff, spread};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use ts_control::{Endpoint, EndpointType};
use ts_packet::PacketMut;

use super::address::Policy;
use super::sockets::Sockets;
use super::stun::{self, Question};
use crate::embedded::interfaces::{self, Addresses};
use crate::embedded::sleep::{Sleeps, slept};
use crate::random::random;
use crate::status::{EndpointKind, NodeEndpoint, PortMapping};

/// STUN servers are asked this often at most: a NAT forgets a UDP port after 30 s of silence, or later.
const ASK: Duration = Duration::from_secs(28);
/// Before the first answer. The pauses double up to the other one: there are networks without UDP.
const ASK_SOON: Duration = Duration::from_secs(2);
/// What a server saw is true for this long.
const SEEN: Duration = Duration::from_secs(95);
/// Looking up the name of a STUN server.
const LOOK_UP: Duration = Duration::from_secs(3);
/// STUN servers that are asked, and addresses of this machine that are told.
const MAX_SERVERS: usize = 3;
const MAX_LOCAL: usize = 16;
/// Questions that wait for an answer.
const MAX_QUESTIONS: usize = 4 * MAX_SERVERS;

/// A server that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::embedded) struct StunServer {
    pub(in crate::embedded) host_name: String,
    pub(in crate::embedded) port: u16,
    /// Where it is, if its host name is not to be looked up.
    pub(in crate::embedded) addresses: Vec<IpAddr>,
}

/// The task that keeps the list.
pub(super) struct Endpoints {
    pub(super) sockets: Arc<Sockets>,
    pub(super) policy: Policy,
    pub(super) servers: watch::Receiver<Vec<StunServer>>,
    pub(super) addresses: Addresses,
    pub(super) sleeps: Sleeps,
    /// Packets that look like answers of STUN servers.
    pub(super) answers: mpsc::Receiver<(SocketAddr, PacketMut)>,
    pub(super) mapping: watch::Receiver<PortMapping>,
    pub(super) own: watch::Sender<Vec<Endpoint>>,
}

/// What has been found out.
#[derive(Default)]
struct Found {
    local: BTreeSet<SocketAddr>,
    questions: Vec<(Question, SocketAddr)>,
    /// One for each family, and since when it has not been confirmed.
    seen: Vec<(SocketAddr, Instant)>,
    mapped: Option<SocketAddr>,
}

impl Endpoints {
    /// Never ends.
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

    /// The addresses of this machine, with our ports.
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
                let Some(question) = Question::new() else { continue };
                if let Some(packet) = question.packet() {
                    found.expect(question, *to);
                    self.sockets.send(*to, &[packet]);
                }
            }
        }
    }
}

/// As many as are told: those from which other networks are reached first, and then as many of one family as of the other.
/// A machine with containers has many that nobody reaches.
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
    fn expect(&mut self, question: Question, from: SocketAddr) {
        if self.questions.len() >= MAX_QUESTIONS {
            self.questions.remove(0);
        }
        self.questions.push((question, from));
    }

    /// Takes an answer to a question of ours; anything else says nothing.
    fn answer(&mut self, from: SocketAddr, packet: &[u8], policy: Policy) {
        let Ok(Some((question, seen))) = std::panic::catch_unwind(|| stun::answer(packet)) else {
            return;
        };
        let Some(at) = self.questions.iter().position(|asked| *asked == (question, from)) else {
            return;
        };
        self.questions.swap_remove(at);
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

/// As the status of the node tells them.
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
        let question = Question::new().unwrap();
        found.expect(question, from);
        question.packet().unwrap()
    }

    #[tokio::test]
    async fn only_the_server_that_was_asked_can_answer_and_once() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let seen: SocketAddr = "203.0.113.5:41641".parse().unwrap();
        let mut found = Found::default();
        let reply = stun::tests::reply(&asked(&mut found, server), seen);
        let unasked = stun::tests::reply(&Question::new().unwrap().packet().unwrap(), seen);
        found.answer("198.51.100.2:3478".parse().unwrap(), &reply, Policy::default());
        found.answer(server, &unasked, Policy::default());
        found.answer(server, b"nonsense", Policy::default());
        assert!(found.endpoints().is_empty());
        found.answer(server, &reply, Policy::default());
        assert_eq!(found.endpoints().len(), 1);
        found.seen.clear();
        found.answer(server, &reply, Policy::default());
        assert!(found.endpoints().is_empty(), "the question has been answered");
    }

    #[tokio::test]
    async fn there_is_one_endpoint_of_each_family_and_none_twice() {
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
        assert_eq!(found.endpoints().len(), 3, "two ways to know one address");
    }

    #[test]
    fn among_many_addresses_of_containers_those_that_lead_outward_are_told() {
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
    async fn questions_that_wait_are_bounded() {
        let server: SocketAddr = "198.51.100.1:3478".parse().unwrap();
        let mut found = Found::default();
        for _ in 0..100 {
            asked(&mut found, server);
        }
        assert_eq!(found.questions.len(), MAX_QUESTIONS);
    }
}
