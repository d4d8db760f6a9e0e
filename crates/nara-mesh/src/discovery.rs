//! Finding naras among the nodes of a network (mesh client specification, section 5; wire facts, section 3.1).
//!
//! A [`PeerSource`] says which nodes there are; a node is a nara when its `/ping` answers. Its name and key come
//! from that answer, not from the host name: host names are neither unique nor stable. They are pinned on first
//! use.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use nara_proto::identity::NaraName;

use crate::client::{ClientError, DiscoveredKey, MeshClient};
use crate::defaults;
use crate::registry::{KeySource, PeerInfo, PinnedKey, RegisterError};
use crate::transport::{Candidate, PeerSource};

/// Host names that begin like this belong to tools, not to naras (wire facts, section 3.1).
const TOOL_PREFIXES: [&str; 1] = ["nara-backup-"];

/// Finds the naras among the nodes of a network and registers them.
#[derive(Debug)]
pub struct Discovery {
    client: MeshClient,
    source: Arc<dyn PeerSource>,
    ports: Vec<u16>,
    tool_prefixes: Vec<String>,
}

/// What became of a node.
#[derive(Debug)]
#[non_exhaustive]
pub enum Found {
    /// It is a nara and registered.
    Nara {
        /// What is known about it now.
        peer: PeerInfo,
        /// Whether its host name is its name, with or without the `-xxxx` that older naras add.
        host_name_fits: bool,
    },
    /// It does not answer `/ping` on any port of the mesh.
    NoAnswer {
        /// The node.
        candidate: Candidate,
        /// The last error.
        error: ClientError,
    },
    /// It answers, but contradicts what is known.
    Refused {
        /// The node.
        candidate: Candidate,
        /// What it contradicts.
        error: RegisterError,
    },
    /// It was not asked: it is a tool, has no address, or is offline.
    Skipped(Candidate),
}

impl Discovery {
    /// Discovers the peers of `client`, into its registry.
    pub fn new(client: MeshClient, source: Arc<dyn PeerSource>) -> Self {
        Self {
            client,
            source,
            ports: vec![defaults::MESH_PORT, defaults::LEGACY_MESH_PORT],
            tool_prefixes: TOOL_PREFIXES.map(str::to_owned).to_vec(),
        }
    }

    /// The ports that are tried, in order; by default 9632 and 7433.
    #[must_use]
    pub fn ports(mut self, ports: impl IntoIterator<Item = u16>) -> Self {
        self.ports = ports.into_iter().collect();
        self
    }

    /// Adds a beginning of host names that belong to tools.
    #[must_use]
    pub fn skip_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.tool_prefixes.push(prefix.into());
        self
    }

    /// Asks every node once and registers the naras among them.
    ///
    /// # Errors
    /// If the source of nodes cannot be asked; a node that fails is part of the result.
    pub async fn run_once(&self) -> io::Result<Vec<Found>> {
        Ok(self.examine(self.source.candidates().await?).await)
    }

    /// Examines the nodes now and after every change of the network, for as long as it is polled.
    pub async fn run(&self, mut on_found: impl FnMut(Found)) {
        let mut changes = self.source.watch();
        let mut candidates = self.source.candidates().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the network does not tell its nodes; waiting for it to change");
            Vec::new()
        });
        loop {
            self.examine(candidates).await.into_iter().for_each(&mut on_found);
            let Some(next) = changes.next().await else { return };
            candidates = next;
        }
    }

    async fn examine(&self, candidates: Vec<Candidate>) -> Vec<Found> {
        stream::iter(candidates)
            .map(|candidate| self.examine_one(candidate))
            .buffered(defaults::FAN_OUT)
            .collect()
            .await
    }

    async fn examine_one(&self, candidate: Candidate) -> Found {
        let is_tool = self
            .tool_prefixes
            .iter()
            .any(|prefix| candidate.host_name.starts_with(prefix.as_str()));
        if candidate.online == Some(false) {
            self.mark_offline(&candidate);
        }
        if is_tool || candidate.online == Some(false) || candidate.host_name.is_empty() {
            return Found::Skipped(candidate);
        }
        let mut outcome = None;
        for address in self.addresses(&candidate) {
            match self.client.discover_key(address, None).await {
                Ok(found) => return self.register(candidate, address, found),
                Err(error) => outcome = Some(error),
            }
        }
        match outcome {
            Some(error) => Found::NoAnswer { candidate, error },
            None => Found::Skipped(candidate),
        }
    }

    /// Where to ask: IPv4 before IPv6, every port of an address before the next one.
    fn addresses(&self, candidate: &Candidate) -> Vec<SocketAddr> {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = candidate.addresses.iter().partition(|ip| ip.is_ipv4());
        let every_port = |ip| self.ports.iter().map(move |&port| SocketAddr::new(ip, port));
        v4.into_iter().chain(v6).flat_map(every_port).collect()
    }

    fn register(&self, candidate: Candidate, address: SocketAddr, found: DiscoveredKey) -> Found {
        let host_name_fits = host_name_fits(&candidate.host_name, &found.name);
        let key = PinnedKey {
            name: found.name.clone(),
            id: None,
            key: found.key,
            source: KeySource::Ping(address),
            learned_at: self.client.clock().now_millis(),
        };
        let info = PeerInfo {
            name: Some(found.name),
            address: Some(address),
            key: Some(key),
            ..PeerInfo::default()
        };
        match self.client.registry().register(info) {
            Ok(peer) => Found::Nara {
                peer: peer.info(),
                host_name_fits,
            },
            Err(error) => Found::Refused { candidate, error },
        }
    }

    /// A node that the network calls offline need not be called to find out.
    fn mark_offline(&self, candidate: &Candidate) {
        for ip in &candidate.addresses {
            for peer in self.client.registry().by_ip(*ip) {
                self.client.registry().sign_of_death(&peer);
            }
        }
    }
}

/// The name of the nara for which a host name stands: without the `-xxxx` that the naras already out there add
/// (wire facts, section 3.1). Host names are neither unique nor proven, and that of a machine may say nothing about
/// its nara: it is a hint.
pub fn name_of_host(host_name: &str) -> Option<NaraName> {
    let (name, _) = host_name
        .rsplit_once('-')
        .filter(|(_, suffix)| is_random_suffix(suffix))
        .unwrap_or((host_name, ""));
    name.parse().ok()
}

/// Whether it is what the naras already out there add to their name.
fn is_random_suffix(suffix: &str) -> bool {
    let is_random = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    suffix.len() == 4 && suffix.bytes().all(is_random)
}

/// Whether a host name is the name of a nara, as it is or with the `-xxxx` that the naras already out there add.
fn host_name_fits(host_name: &str, name: &NaraName) -> bool {
    let suffix = host_name.strip_prefix(name.as_str());
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.strip_prefix('-').is_some_and(is_random_suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_fits_with_and_without_the_random_suffix() {
        let alice = "alice".parse().unwrap();
        for fits in ["alice", "alice-x7q2"] {
            assert!(host_name_fits(fits, &alice), "{fits}");
        }
        for other in ["alic", "alice-", "alice-X7Q2", "alice-x7q", "alice-x7q2z", "bob"] {
            assert!(!host_name_fits(other, &alice), "{other}");
        }
    }
}
