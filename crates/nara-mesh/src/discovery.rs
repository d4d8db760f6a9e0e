//! Finds naras among the nodes of a network (mesh client specification, section 5; docs/protocol/v1.md, section
//! 3.1).
//!
//! A [`PeerSource`] lists the nodes; a node is a nara if it answers `/ping`. Its name and key come from that
//! answer, not from the host name, which is neither unique nor stable. They are pinned on first use.
//!
//! [`Discovery::run`] follows a network forever: it asks a joining node at once, retries a silent node later, and
//! opens the circuit breaker of a nara whose node goes offline or leaves, so that no call waits for it.

mod host_name;
mod owners;
mod roster;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use ipnet::IpNet;
use nara_proto::identity::NaraName;
use tokio::time::sleep_until;

use self::host_name::host_name_fits;
use self::owners::{ConfirmedPeers, Owners};
use self::roster::{Asked, NodeKey, Roster};
use crate::client::{ClientError, DiscoveredKey, MeshClient};
use crate::defaults;
use crate::mesh_ranges::{self, LOOPBACK, TAILNET};
use crate::registry::{KeySource, PeerInfo, PinnedKey, RegisterError};
use crate::transport::{Candidate, PeerSource};

/// Prefixes of host names that belong to tools, not to naras (docs/protocol/v1.md, section 3.1).
const TOOL_PREFIXES: [&str; 1] = ["nara-backup-"];

/// Finds the naras among the nodes of a network and registers them.
#[derive(Debug)]
pub struct Discovery {
    client: MeshClient,
    source: Arc<dyn PeerSource>,
    ports: Vec<u16>,
    ranges: Vec<IpNet>,
    tool_prefixes: Vec<String>,
    owners: Owners,
}

/// The outcome for one node.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// A nara, registered.
    Nara {
        /// What is now known about the peer.
        peer: PeerInfo,
        /// Whether the host name is the name of the nara, with or without the `-xxxx` that v1 peers add.
        host_name_fits: bool,
    },
    /// The node does not answer `/ping` on any mesh port. It is asked again.
    NoAnswer {
        /// The node.
        candidate: Candidate,
        /// The last error.
        error: ClientError,
    },
    /// The node answers, but contradicts the registry.
    Refused {
        /// The node.
        candidate: Candidate,
        /// Why it is not registered.
        error: RegisterError,
    },
    /// The node claims the name of another node, which answers and is not offline. The other node keeps the name
    /// while it stays online.
    Contested {
        /// The node.
        candidate: Candidate,
        /// The claimed name.
        name: NaraName,
        /// The address of the nara with this name.
        holder: SocketAddr,
    },
    /// The node claims to be this nara itself.
    Namesake {
        /// The node.
        candidate: Candidate,
        /// Whether it also shows our key: either a second instance of this nara, or a forgery.
        same_key: bool,
    },
    /// The network reports the node offline. The circuit breaker of its nara is open.
    Offline(Candidate),
    /// The node left the network. The circuit breaker of its nara is open.
    Left(Candidate),
    /// Not asked: a tool, or a node without mesh address or host name.
    Skipped(Candidate),
}

type Answer = Result<(SocketAddr, DiscoveredKey), Option<ClientError>>;

impl Discovery {
    /// Discovers peers for the registry of `client`.
    pub fn new(client: MeshClient, source: Arc<dyn PeerSource>) -> Self {
        Self {
            client,
            source,
            ranges: TAILNET.to_vec(),
            ports: vec![defaults::MESH_PORT, defaults::LEGACY_MESH_PORT],
            tool_prefixes: TOOL_PREFIXES.map(str::to_owned).to_vec(),
            owners: Owners::default(),
        }
    }

    /// Sets the ports to try, in order; by default 9632 and 7433.
    #[must_use]
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Sets the mesh ranges: no other addresses are asked. The default is `100.64.0.0/10` and
    /// `fd7a:115c:a1e0::/48`, the address ranges of tailnets.
    #[must_use]
    pub fn mesh_ranges(mut self, ranges: impl IntoIterator<Item = IpNet>) -> Self {
        self.ranges = ranges.into_iter().collect();
        self
    }

    /// Adds the loopback addresses to the mesh ranges: for tests and demonstrations on one machine.
    #[must_use]
    pub fn loopback_for_tests(mut self) -> Self {
        self.ranges.extend(LOOPBACK);
        self
    }

    /// Adds a host name prefix of tools, which are not asked.
    #[must_use]
    pub fn skip_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tool_prefixes.push(prefix.into());
        self
    }

    /// Returns the nodes with confirmed owners: a nara owns the addresses of a node if it answered there and the
    /// host name is its name. [`PeerSource::owner_of`] is valid while this discovery runs.
    pub fn confirmed_peers(&self) -> Arc<dyn PeerSource> {
        Arc::new(ConfirmedPeers::new(self.source.clone(), self.owners.clone()))
    }

    /// Asks every node once and registers the naras among them.
    ///
    /// # Errors
    /// [`io::Error`] if the node source fails; a node that fails is part of the result.
    pub async fn run_once(&self) -> io::Result<Vec<Found>> {
        let mut roster = Roster::default();
        let mut found = Vec::new();
        let candidates = self.source.candidates().await?;
        let to_ask = self.update(&mut roster, candidates, &mut |outcome| found.push(outcome));
        let answers: Vec<_> = stream::iter(to_ask)
            .map(|asked| self.ask(asked))
            .buffered(defaults::DISCOVERY_FAN_OUT)
            .collect()
            .await;
        for (asked, answer) in answers {
            found.extend(self.conclude(&mut roster, &asked, answer));
        }
        Ok(found)
    }

    /// Asks all nodes now, and nodes that join or come back as soon as the network reports them, until the node
    /// source ends.
    pub async fn run(&self, mut on_found: impl FnMut(Found)) {
        let mut changes = self.source.watch();
        let mut roster = Roster::default();
        let mut waiting: VecDeque<Asked> = VecDeque::new();
        let mut asking = FuturesUnordered::new();
        match self.source.candidates().await {
            Ok(candidates) => waiting.extend(self.update(&mut roster, candidates, &mut on_found)),
            Err(error) => {
                tracing::warn!(%error, "the network does not report its nodes; waiting for a change");
            }
        }
        loop {
            while asking.len() < defaults::DISCOVERY_FAN_OUT
                && let Some(asked) = waiting.pop_front()
            {
                asking.push(self.ask(asked));
            }
            let due = roster.next_due();
            tokio::select! {
                next = changes.next() => {
                    let Some(mut candidates) = next else { return };
                    // Only the latest list counts.
                    while let Some(Some(later)) = changes.next().now_or_never() {
                        candidates = later;
                    }
                    // New nodes go before retries.
                    for asked in self.update(&mut roster, candidates, &mut on_found).into_iter().rev() {
                        waiting.push_front(asked);
                    }
                }
                Some((asked, answer)) = asking.next() => {
                    if let Some(found) = self.conclude(&mut roster, &asked, answer) {
                        on_found(found);
                    }
                    waiting.extend(roster.ask_again(&asked.key));
                }
                () = async { sleep_until(due.expect("guarded by the condition below")).await }, if due.is_some() => {
                    waiting.extend(roster.take_due());
                }
            }
        }
    }

    /// Applies a list of nodes. Returns the nodes to ask.
    fn update(
        &self,
        roster: &mut Roster,
        candidates: Vec<Candidate>,
        on_found: &mut impl FnMut(Found),
    ) -> Vec<Asked> {
        let changes = roster.update(candidates, |candidate| self.is_excluded(candidate));
        for before in &changes.moved {
            self.owners.forget(before);
        }
        for candidate in changes.left {
            self.mark_offline(&candidate);
            self.owners.forget(&candidate);
            on_found(Found::Left(candidate));
        }
        for candidate in changes.offline {
            self.mark_offline(&candidate);
            on_found(Found::Offline(candidate));
        }
        for candidate in changes.online {
            self.mark_online(&candidate);
        }
        changes.skipped.into_iter().map(Found::Skipped).for_each(on_found);
        changes.ask
    }

    /// Returns whether a node cannot be a nara.
    fn is_excluded(&self, candidate: &Candidate) -> bool {
        let host_name = &candidate.host_name;
        let is_tool = self
            .tool_prefixes
            .iter()
            .any(|prefix| host_name.starts_with(prefix.as_str()));
        let is_outside = |ip: &IpAddr| !mesh_ranges::contain(&self.ranges, *ip);
        is_tool || host_name.is_empty() || candidate.addresses.iter().all(is_outside)
    }

    async fn ask(&self, asked: Asked) -> (Asked, Answer) {
        let mut outcome = Err(None);
        let mut silent = None;
        let inside = |ip: &IpAddr| mesh_ranges::contain(&self.ranges, *ip);
        for ip in in_order(&asked.candidate.addresses).into_iter().filter(inside) {
            for &port in &self.ports {
                let address = SocketAddr::new(ip, port);
                match self.client.discover_key(address, None).await {
                    Ok(found) => return (asked, Ok(self.prefer(silent, address, found).await)),
                    Err(error) => {
                        // A node that is silent on one port is silent on all.
                        let is_silent = error.is_timeout();
                        outcome = Err(Some(error));
                        if is_silent {
                            silent = silent.or(Some(ip));
                            break;
                        }
                    }
                }
            }
        }
        (asked, outcome)
    }

    /// Prefers an address that was silent before if it answers now: the first packets to a node open the tunnel,
    /// and may be lost.
    async fn prefer(
        &self,
        silent: Option<IpAddr>,
        address: SocketAddr,
        found: DiscoveredKey,
    ) -> (SocketAddr, DiscoveredKey) {
        if let Some(ip) = silent {
            let better = SocketAddr::new(ip, address.port());
            let again = self.client.discover_key(better, Some(&found.name)).await;
            if again.is_ok_and(|again| again == found) {
                return (better, found);
            }
        }
        (address, found)
    }

    /// Registers the answer of a node; `None` if the node is gone, or has changed and is asked again.
    fn conclude(&self, roster: &mut Roster, asked: &Asked, answer: Answer) -> Option<Found> {
        let candidate = asked.candidate.clone();
        let answered = answer.as_ref().ok().map(|(_, found)| found.name.clone());
        if !roster.concluded(&asked.key, answered) {
            return None;
        }
        Some(match answer {
            Ok((address, found)) => self.register(roster, &asked.key, candidate, address, found),
            Err(Some(error)) => Found::NoAnswer { candidate, error },
            Err(None) => Found::Skipped(candidate),
        })
    }

    fn register(
        &self,
        roster: &mut Roster,
        key: &NodeKey,
        candidate: Candidate,
        address: SocketAddr,
        found: DiscoveredKey,
    ) -> Found {
        let local = self.client.local();
        let name = found.name;
        if name == *local.name() {
            roster.distrust(key);
            let same_key = found.key == local.public_key();
            return Found::Namesake { candidate, same_key };
        }
        let fits = host_name_fits(&candidate.host_name, &name);
        let registry = self.client.registry();
        let holder = registry
            .by_name(name.as_str())
            .and_then(|peer| peer.info().address)
            .filter(|holder| !candidate.addresses.contains(&holder.ip()));
        if let Some(holder) = holder
            && let Some(host_name) = roster.host_of(holder.ip(), &name)
            // A node whose host name matches is more credible.
            && (host_name_fits(host_name, &name) || !fits)
        {
            roster.distrust(key);
            return Found::Contested {
                candidate,
                name,
                holder,
            };
        }
        let info = PeerInfo {
            name: Some(name.clone()),
            address: Some(address),
            key: Some(PinnedKey {
                name: name.clone(),
                id: None,
                key: found.key,
                source: KeySource::Ping(address),
                learned_at: self.client.clock().now_millis(),
            }),
            ..PeerInfo::default()
        };
        match registry.register(info) {
            Ok(peer) => {
                if let Some(capability) = &found.capability {
                    registry.learn_protocol(&peer, capability.into());
                }
                self.owners.confirm(&candidate, fits.then_some(&name));
                // Any other peer registered here has gone, or has another name now.
                for other in registry.by_ip(address.ip()) {
                    let info = other.info();
                    if info.address == Some(address) && info.name.is_some_and(|known| known != name) {
                        registry.sign_of_death(&other);
                    }
                }
                Found::Nara {
                    peer: peer.info(),
                    host_name_fits: fits,
                }
            }
            Err(error) => {
                roster.distrust(key);
                Found::Refused { candidate, error }
            }
        }
    }

    /// Opens the breakers of the naras of a node that the network reports offline.
    fn mark_offline(&self, candidate: &Candidate) {
        for ip in &candidate.addresses {
            for peer in self.client.registry().by_ip(*ip) {
                self.client.registry().sign_of_death(&peer);
            }
        }
    }

    /// Closes the breakers of the naras of a node that the network reports online again.
    fn mark_online(&self, candidate: &Candidate) {
        for ip in &candidate.addresses {
            for peer in self.client.registry().by_ip(*ip) {
                self.client.registry().came_online(&peer);
            }
        }
    }
}

/// Returns the addresses in the order to ask: IPv4 before IPv6.
fn in_order(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|ip| ip.is_ipv4());
    v4.into_iter().chain(v6).collect()
}
