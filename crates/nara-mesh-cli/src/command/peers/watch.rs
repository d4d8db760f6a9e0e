//! `peers --watch`: prints changes among the naras of a network.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::Method;
use nara_local_api::client::LocalClient;
use nara_local_api::model::PeerChanged;
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::discovery::{Discovery, Found};
use nara_mesh::registry::{PeerInfo, PeerProtocol};
use nara_proto::presence::PresenceState;
use nara_tailnet::MeshNode;
use serde::Serialize;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use crate::command::ping::{Pinger, ping_peer};
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::found::describe;
use crate::ledger_file::recall_presence;
use crate::lines::FoundLine;
use crate::network::Way;
use crate::printer::{Printer, harmless, human, micros};
use crate::running;
use crate::settings::Settings;

/// Changes that may be queued for printing.
const BACKLOG: usize = 4096;

/// A line of `peers --watch`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::command) enum WatchedLine {
    Found(FoundLine),
    Peer(WatchedPeer),
}

/// A change of a peer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(in crate::command) enum WatchedPeer {
    /// What a running nara learned.
    Change(Box<PeerChanged>),
    /// A nara on a network, or a change of it.
    Nara {
        name: Option<String>,
        id: Option<String>,
        address: String,
        online: bool,
        presence: String,
        /// The path of its packets.
        path: String,
        host_name: Option<String>,
        rtt_us: Option<u64>,
        v2: bool,
        tls: bool,
        /// How its key was learned.
        key_source: Option<String>,
    },
    /// The presence of a known peer.
    Presence {
        name: Option<String>,
        address: Option<String>,
        presence: String,
    },
}

/// Prints changes until interrupted.
pub(super) async fn watch(
    client: &MeshClient,
    node: &Arc<dyn MeshNode>,
    tool_prefixes: &[String],
    printer: Printer,
) -> Outcome {
    let discovery = Discovery::new(client.clone(), node.clone());
    let discovery = tool_prefixes.iter().fold(discovery, Discovery::skip_prefix);
    let (sender, mut found) = mpsc::channel(BACKLOG);
    let discovering = discovery.run(move |found| {
        if sender.try_send(found).is_err() {
            tracing::warn!("too many changes: one is not shown");
        }
    });
    let printing = async {
        let mut known = BTreeMap::new();
        while let Some(found) = found.recv().await {
            match &found {
                Found::Nara { peer, .. } => tell_nara(client, node, peer, &mut known, printer).await?,
                other => {
                    if let Found::Offline(candidate) | Found::Left(candidate) = other {
                        // Its return is reported.
                        known.retain(|_, row: &mut Row| !candidate.addresses.contains(&row.address.ip()));
                    }
                    if let Some((text, json)) = describe(other) {
                        printer.line(text)?;
                        printer.json_line(WatchedLine::Found(json))?;
                    }
                }
            }
        }
        Ok(Exit::Ok)
    };
    tokio::select! {
        () = discovering => Err(Failure::failed("the network stopped reporting changes")),
        outcome = printing => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

/// Prints what a running nara learns about its peers until interrupted.
pub(super) async fn watch_running(nara: &LocalClient, printer: Printer) -> Outcome {
    let open = || nara.events(Method::GET, "/v1/peer-changes");
    let mut changes = open().await?;
    let printing = async {
        loop {
            let change = match changes.next().await {
                Some(Ok(change)) => change,
                Some(Err(error)) if !error.is_gone() => return Err(error.into()),
                Some(Err(_)) | None => {
                    printer.warn("the running nara stopped: changes are not shown until it runs again");
                    changes = running::until_back(nara, open).await?;
                    continue;
                }
            };
            let Ok(change) = change.decode::<PeerChanged>() else {
                continue;
            };
            let peer = change.peer.as_ref();
            let label = peer
                .map(|peer| &peer.label)
                .or_else(|| change.conflict.as_ref().map(|conflict| &conflict.name));
            printer.line(format_args!(
                "{:<16} {:<16} {}",
                change.change,
                harmless(label.map_or("-", |label| label)),
                harmless(peer.and_then(|peer| peer.address.as_deref()).unwrap_or("-")),
            ))?;
            if let Some(conflict) = &change.conflict {
                printer.warn(harmless(&conflict.text));
            }
            printer.json_line(WatchedLine::Peer(WatchedPeer::Change(Box::new(change))))?;
        }
    };
    tokio::select! {
        outcome = printing => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

/// How often the presence of known peers is checked if no network reports it.
const LOOK: Duration = Duration::from_secs(2);

/// Watches the known peers without a network: pings them, and reads from the ledger which of them came and
/// went.
pub(super) async fn watch_presence(client: &MeshClient, settings: &Settings, printer: Printer) -> Outcome {
    if connect::others(client).is_empty() {
        return Err(Failure::usage("--watch needs a network or peers to watch").hint(
            "pass --network tailscaled, or --network managed while `up` runs, or a peers file with --peers",
        ));
    }
    let mut shown = BTreeMap::new();
    let watching = async {
        loop {
            recall_presence(settings, client.registry()).await;
            let mut peers = connect::others(client);
            peers.retain(|peer| peer.info().address.is_some() && !peer.is_untrusted());
            client
                .call_each(peers.clone(), async |peer| peer.ping().await)
                .await;
            for peer in peers {
                let (info, presence) = (peer.info(), peer.presence());
                if shown.insert(info.label(), presence) != Some(presence) {
                    let address = info
                        .address
                        .map(|address| address.to_string())
                        .unwrap_or_default();
                    printer.line(format_args!(
                        "{presence:<8} {:<16} {address}",
                        harmless(&info.label())
                    ))?;
                    printer.json_line(WatchedLine::Peer(WatchedPeer::Presence {
                        name: info.name.as_ref().map(ToString::to_string),
                        address: info.address.map(|address| address.to_string()),
                        presence: presence.as_str().to_owned(),
                    }))?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        outcome = watching => outcome,
        _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
    }
}

/// What was last printed about a nara.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    address: SocketAddr,
    path: String,
    host_name: Option<String>,
    protocol: PeerProtocol,
    key_source: Option<String>,
    online: bool,
    presence: PresenceState,
}

/// Returns a reference to the peer at an address, whatever its name looks like.
fn reference(peer: &PeerInfo, address: SocketAddr) -> PeerRef {
    match (&peer.name, &peer.id) {
        (Some(name), _) => name.into(),
        (None, Some(id)) => id.into(),
        (None, None) => address.into(),
    }
}

async fn tell_nara(
    client: &MeshClient,
    node: &Arc<dyn MeshNode>,
    peer: &PeerInfo,
    known: &mut BTreeMap<String, Row>,
    printer: Printer,
) -> Outcome<()> {
    let Some(address) = peer.address else {
        return Ok(());
    };
    let label = peer.label();
    let reference = reference(peer, address);
    let pinger = Pinger::Direct {
        client,
        prove_clocks: false,
    };
    let ping = ping_peer(pinger, &reference, 1, Duration::ZERO).await?;
    let rtt = ping.last.as_ref().map(|pong| Duration::from_micros(pong.rtt_us));
    let way = Way::to(&**node, address.ip()).await;
    // The ping may have updated the registry.
    let known_peer = client.peer(reference).known();
    let presence = known_peer
        .as_ref()
        .map_or(PresenceState::Unknown, |peer| peer.presence());
    let peer = known_peer.map_or_else(|| peer.clone(), |peer| peer.info());
    let row = Row {
        address,
        path: way.path.to_string(),
        host_name: way.granted_name,
        protocol: peer.protocol,
        key_source: peer.key.as_ref().map(|key| key.source.to_string()),
        online: ping.error.is_none(),
        presence,
    };
    if known.get(&label) == Some(&row) {
        return Ok(());
    }
    let text = |text: Option<String>| text.map_or_else(|| "-".to_owned(), |text| harmless(&text));
    printer.line(format_args!(
        "{:<8} {:<16} {:<22} {:<28} {:>8}  {}  {}  {}",
        row.presence,
        harmless(&label),
        address,
        harmless(&row.path),
        text(rtt.map(human)),
        text(row.host_name.clone()),
        text(row.key_source.clone()),
        text(peer.id.as_ref().map(ToString::to_string)),
    ))?;
    printer.json_line(WatchedLine::Peer(WatchedPeer::Nara {
        name: peer.name.as_ref().map(ToString::to_string),
        id: peer.id.as_ref().map(ToString::to_string),
        address: address.to_string(),
        online: row.online,
        presence: row.presence.as_str().to_owned(),
        path: row.path.clone(),
        host_name: row.host_name.clone(),
        rtt_us: rtt.map(micros),
        v2: row.protocol.v2,
        tls: row.protocol.tls,
        key_source: row.key_source.clone(),
    }))?;
    known.insert(label, row);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nara_that_is_called_like_an_address_is_asked_by_its_name() {
        let address = ([100, 64, 0, 7], 9632).into();
        for name in ["bob", "100.64.0.9", "100.64.0.9:9632"] {
            let peer = PeerInfo {
                name: Some(name.parse().unwrap()),
                address: Some(address),
                ..PeerInfo::default()
            };
            let asked = reference(&peer, address);
            assert!(
                matches!(&asked, PeerRef::Name(asked) if asked.as_str() == name),
                "{asked:?}"
            );
        }
        let nameless = reference(&PeerInfo::default(), address);
        assert!(matches!(nameless, PeerRef::Address(asked) if asked == address));
    }
}
