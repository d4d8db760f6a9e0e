//! Resolves host names of peers and listeners, within a deadline, and again while a peer fails.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::future::join_all;
use nara_mesh::peers_file::{HostAddress, PeerEntry};
use nara_mesh::registry::PeerRegistry;
use nara_proto::backoff::Backoff;
use nara_proto::breaker::BreakerState;
use nara_proto::identity::NaraName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::Listen;

/// The time limit of one lookup.
const DEADLINE: Duration = Duration::from_secs(5);

/// How often due lookups are checked.
const PERIOD: Duration = Duration::from_secs(1);

/// The pause after the first failure; it doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause after failures, and the interval between lookups of a name that resolves.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Resolves a host to its first address.
pub(crate) async fn look_up(host: HostAddress) -> io::Result<IpAddr> {
    look_up_all(&host).await?.first().copied().ok_or_else(nothing)
}

async fn look_up_all(host: &HostAddress) -> io::Result<Vec<IpAddr>> {
    let looking = tokio::net::lookup_host((host.name.as_str(), 0));
    let found = timeout(DEADLINE, looking).await.map_err(|_| too_slow())??;
    Ok(found.map(|address| address.ip()).collect())
}

/// Resolves `--listen`: an address, a network interface of this machine, or a host name.
pub(crate) async fn addresses_of(listen: &Listen) -> io::Result<Vec<SocketAddr>> {
    let found = match listen {
        Listen::Address(address) => return Ok(vec![*address]),
        Listen::Host(host) => match interface(&host.name)? {
            found if !found.is_empty() => found,
            _ if is_interface(&host.name) => {
                let waits = format!("the network interface {} has no address yet", host.name);
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, waits));
            }
            _ => look_up_all(host).await.map_err(|error| {
                let unknown = format!("no network interface or host has that name: {error}");
                io::Error::new(error.kind(), unknown)
            })?,
        },
    };
    let port = listen.port();
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// Returns the first address of `--listen`.
pub(crate) async fn address_of(listen: &Listen) -> io::Result<SocketAddr> {
    addresses_of(listen).await?.first().copied().ok_or_else(nothing)
}

/// Returns whether no interface of this machine has this address. Other errors are left to `bind`.
pub(crate) fn is_missing(ip: IpAddr) -> bool {
    matches!(TcpListener::bind((ip, 0)), Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Returns whether the network interface exists, with or without an address, on systems that tell.
fn is_interface(name: &str) -> bool {
    // A valid host name is a single path component.
    Path::new("/sys/class/net").join(name).exists()
}

/// Returns the addresses of a network interface, IPv4 first; empty if it does not exist.
fn interface(name: &str) -> io::Result<Vec<IpAddr>> {
    let is_usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        // A link-local address needs a scope id.
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    let interfaces = if_addrs::get_if_addrs()?.into_iter();
    let named = interfaces.filter(|interface| interface.name == name);
    let mut found: Vec<IpAddr> = named.map(|interface| interface.ip()).filter(is_usable).collect();
    found.sort_by_key(IpAddr::is_ipv6);
    Ok(found)
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the name server does not answer")
}

fn nothing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the host has no address")
}

/// Resolves the host names of peers concurrently, for a command that calls one of them. If a name does not
/// resolve, its peer has no address.
pub(crate) fn locate(entries: &mut [PeerEntry], deadline: Duration) {
    let (found, addresses) = mpsc::channel();
    let mut missing = 0;
    for (index, host) in entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| Some((index, entry.host.clone()?)))
    {
        let found = found.clone();
        missing += 1;
        // In a separate thread, because a lookup cannot be cancelled.
        std::thread::spawn(move || {
            let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host.name.as_str(), 0));
            let address = addresses.and_then(|mut all| all.next().ok_or_else(nothing));
            let _ = found.send((index, address));
        });
    }
    let end = std::time::Instant::now() + deadline.min(DEADLINE);
    while missing > 0 {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let Ok((index, address)) = addresses.recv_timeout(left) else {
            break;
        };
        missing -= 1;
        match (entries.get_mut(index), address) {
            (Some(entry), Ok(address)) => entry.locate(address.ip()),
            (Some(entry), Err(error)) => not_found(entry, &error),
            (None, _) => {}
        }
    }
    let unanswered = |entry: &&PeerEntry| entry.host.is_some() && entry.address.is_none();
    for entry in entries.iter().filter(unanswered).filter(|_| missing > 0) {
        not_found(entry, &too_slow());
    }
}

fn not_found(entry: &PeerEntry, error: &io::Error) {
    if let Some(host) = &entry.host {
        tracing::error!("cannot resolve the host name {host} of {}: {error}", entry.name);
    }
}

/// The lookup state of a host name.
struct Known {
    host: HostAddress,
    address: Option<IpAddr>,
    /// The earliest time of the next lookup.
    due: Instant,
    backoff: Backoff,
    /// Whether the failure was already reported.
    told: bool,
}

/// Keeps the addresses of peers with host names up to date until the sender of `entries` is dropped. Each
/// name is resolved at the start, after each failure, and while its peer does not answer.
pub(crate) async fn follow<F: Future<Output = io::Result<IpAddr>>>(
    registry: PeerRegistry,
    mut entries: watch::Receiver<Vec<PeerEntry>>,
    look_up: impl Fn(HostAddress) -> F,
) {
    let mut known: HashMap<NaraName, Known> = HashMap::new();
    loop {
        let hosts: Vec<(PeerEntry, HostAddress)> = entries
            .borrow_and_update()
            .iter()
            .filter_map(|entry| Some((entry.clone(), entry.host.clone()?)))
            .collect();
        known.retain(|name, known| {
            hosts
                .iter()
                .any(|(entry, host)| entry.name == *name && *host == known.host)
        });
        let now = Instant::now();
        let due = hosts.into_iter().filter(|(entry, host)| {
            let known = known.entry(entry.name.clone()).or_insert_with(|| Known {
                host: host.clone(),
                address: None,
                due: now,
                backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
                told: false,
            });
            known.due <= now && (known.address.is_none() || fails(&registry, entry))
        });
        let due: Vec<_> = due.collect();
        let looks = due.into_iter().map(|(entry, host)| {
            let looking = look_up(host);
            async move { (entry, looking.await) }
        });
        for (entry, found) in join_all(looks).await {
            if let Some(known) = known.get_mut(&entry.name) {
                known.take(entry, found, &registry);
            }
        }
        tokio::select! {
            changed = entries.changed() => if changed.is_err() {
                return;
            },
            () = sleep(PERIOD) => {}
        }
    }
}

/// Returns whether a peer does not answer.
fn fails(registry: &PeerRegistry, entry: &PeerEntry) -> bool {
    let peer = registry.by_name(entry.name.as_str());
    peer.is_some_and(|peer| peer.breaker_state() != BreakerState::Closed)
}

impl Known {
    fn take(&mut self, mut entry: PeerEntry, found: io::Result<IpAddr>, registry: &PeerRegistry) {
        match found {
            Ok(address) => {
                self.backoff.reset();
                self.due = Instant::now() + LONGEST_PAUSE;
                self.told = false;
                if self.address.replace(address) != Some(address) {
                    entry.locate(address);
                    tracing::info!(peer = %entry.name, host = %self.host, %address, "resolved the host name");
                    if let Err(error) = registry.register(entry.to_info()) {
                        tracing::warn!(peer = %entry.name, %error, "the address of the host name is not acceptable");
                    }
                }
            }
            Err(error) => {
                // No jitter: the lookup calls no peer.
                self.due = Instant::now() + self.backoff.after_failure(u32::MAX);
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(
                        peer = %entry.name,
                        "cannot resolve the host name {} of {}, retrying: {error}",
                        self.host, entry.name
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn entry(host: &str) -> PeerEntry {
        let mut entry = PeerEntry::new("bob".parse().unwrap());
        entry.host = Some(host.parse().unwrap());
        entry
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_until_it_is_found_and_again_while_its_peer_fails() {
        let registry = PeerRegistry::default();
        registry.register(entry("bob.example:7").to_info()).unwrap();
        let (sender, entries) = watch::channel(vec![entry("bob.example:7")]);
        let answers = RefCell::new(vec![Some([127, 0, 0, 9]), Some([127, 0, 0, 8]), None, None]);
        let asked = RefCell::new(Vec::new());
        let look_up = |host: HostAddress| {
            asked.borrow_mut().push(host.to_string());
            let answer = answers.borrow_mut().pop().flatten();
            async move { answer.map(IpAddr::from).ok_or_else(nothing) }
        };
        let address = || {
            registry
                .by_name("bob")
                .unwrap()
                .info()
                .address
                .map(|address| address.to_string())
        };
        let testing = async {
            sleep(Duration::from_millis(500)).await;
            assert_eq!(address(), None);
            sleep(Duration::from_secs(10)).await;
            assert_eq!(address().as_deref(), Some("127.0.0.8:7"));
            // While the peer answers, nothing is resolved.
            sleep(Duration::from_secs(600)).await;
            assert_eq!(asked.borrow().len(), 3);
            let client =
                nara_mesh::client::MeshClient::builder(nara_mesh::LocalNara::generate("alice").unwrap())
                    .registry(registry.clone())
                    .transport(std::sync::Arc::new(
                        nara_mesh::transport::MemoryNetwork::new().host([127, 0, 0, 1].into()),
                    ))
                    .build();
            while !fails(&registry, &entry("bob.example:7")) {
                client
                    .ping(&"bob".parse::<NaraName>().unwrap())
                    .await
                    .unwrap_err();
            }
            sleep(Duration::from_secs(5)).await;
            assert_eq!(address().as_deref(), Some("127.0.0.9:7"));
            sender.send_replace(Vec::new());
            sleep(Duration::from_secs(600)).await;
            assert_eq!(*asked.borrow(), ["bob.example:7"; 4]);
            drop(sender);
        };
        tokio::join!(follow(registry.clone(), entries, look_up), testing);
    }
}
