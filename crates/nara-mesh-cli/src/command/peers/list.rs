//! `peers list`: lists the peers of the peers file and of the ledger, with the result of a ping.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nara_local_api::client::LocalClient;
use nara_local_api::model::Peer;
use nara_mesh::client::{MeshClient, PeerRef};
use nara_proto::coordinates::estimate;
use nara_proto::peer::Coordinates;
use serde::Serialize;
use utoipa::ToSchema;

use super::watch::{watch, watch_presence, watch_running};
use crate::cli::PeersListArgs;
use crate::command::ping::{PeerResult, Pinger, ToldClock, ping_label, ping_peer, told_clock, warn_of_clock};
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::ledger_file::recall_presence;
use crate::network::Network;
use crate::printer::{Printer, harmless, human, micros, render, table};
use crate::running;
use crate::settings::Settings;

/// The known data of a peer.
struct Row {
    info: Peer,
    result: Option<PeerResult>,
    /// The round trip from the running nara, estimated from network coordinates.
    estimated: Option<Duration>,
}

pub(super) fn run(args: &PeersListArgs, settings: &Settings, printer: Printer) -> Outcome {
    let printer = if args.watch {
        printer.named("peers-watch")
    } else {
        printer
    };
    let (rows, missing, hint) = match running::find(&args.running, settings)? {
        Some(nara) if args.watch => return block_on(watch_running(&nara, printer)),
        Some(nara) => (
            block_on(through(&nara, args))?,
            "the running nara knows no peers yet",
            "add peers to its peers file and run `nara-mesh reload`, or run another nara on its network",
        ),
        None => {
            let network = Network::resolve(&args.on);
            let client = connect::anonymous_client_on(settings, Arc::new(network.clone()))?;
            if args.watch {
                return watch_network(&network, &client, args, settings, printer);
            }
            (
                directly(&network, &client, args, settings)?,
                "there are no peers",
                "pass --peers FILE; `nara-mesh peers --help` shows the form of the file, and `nara-mesh serve` \
                 prints the stanza of a nara",
            )
        }
    };
    if rows.is_empty() {
        printer.note(missing);
        printer.hint(hint);
    }
    let mut table = table([
        "NAME", "ADDRESS", "PRESENCE", "PATH", "RTT", "EST", "CLOCK", "KEY ID", "KEY", "TRUST", "CAN", "ID",
    ]);
    for row in &rows {
        let Row { info, result, .. } = row;
        let text = |value: Option<String>| value.map_or_else(|| "-".to_owned(), |value| harmless(&value));
        table.add_row([
            text(info.name.clone()),
            text(info.address.clone()),
            presence(info, result.as_ref()),
            text(info.path.clone()),
            text(rtt(result.as_ref()).map(human)),
            text(row.estimated.map(human)),
            text(clock(result.as_ref()).map(told_clock)),
            text(key_id(info, result.as_ref())),
            key_source(info, result.as_ref()),
            text(info.verdict.clone().or_else(|| stated(info))),
            text(proven(info)),
            text(info.id.as_deref().map(abbreviate)),
        ]);
    }
    printer.line(render(&table))?;
    for row in &rows {
        warn_of_clock(&row.info.label, clock(row.result.as_ref()), printer);
    }
    printer.json(Printed {
        peers: rows.iter().map(shown).collect(),
    })?;
    Ok(Exit::Ok)
}

/// Lists peers with the knowledge and connections of a running nara.
async fn through(nara: &LocalClient, args: &PeersListArgs) -> Outcome<Vec<Row>> {
    let peers = nara.peers().await?;
    let calls = peers.into_iter().map(|peer| async move {
        let result = if !args.offline && peer.address.is_some() && !peer.is_untrusted() {
            Some(ping_label(Pinger::Running(nara), peer.reference(), 1, Duration::ZERO).await?)
        } else {
            None
        };
        Ok::<_, Failure>(Row {
            estimated: estimated(result.as_ref()),
            info: peer,
            result,
        })
    });
    stream::iter(calls)
        .buffered(MeshClient::FAN_OUT)
        .try_collect()
        .await
}

fn directly(
    network: &Network,
    client: &MeshClient,
    args: &PeersListArgs,
    settings: &Settings,
) -> Outcome<Vec<Row>> {
    connect::block_on_looking(client, settings, async {
        network.attach(&args.on, settings).await?;
        network.find_peers(client, &args.on).await;
        let peers = connect::others(client);
        recall_presence(settings, client.registry()).await;
        let own = own_coordinates(settings).await;
        let own = own.as_ref();
        let calls = peers.iter().map(|peer| async move {
            let info = peer.info();
            let ping = !args.offline && info.address.is_some() && !info.is_untrusted();
            let reference = PeerRef::from(peer);
            let result = if ping {
                let pinger = Pinger::Direct {
                    client,
                    prove_clocks: false,
                };
                Some(ping_peer(pinger, &reference, 1, Duration::ZERO).await?)
            } else {
                None
            };
            let estimated = match own {
                Some(own) if ping => estimated_rtt(client, &reference, own).await,
                _ => None,
            };
            let way = network.way_to(client, &reference).await;
            Ok::<_, Failure>(Row {
                info: Peer::of(&info, peer.presence())
                    .stated(client.registry())
                    .on(way.map(Into::into)),
                result,
                estimated,
            })
        });
        stream::iter(calls)
            .buffered(MeshClient::FAN_OUT)
            .try_collect()
            .await
    })
}

/// Returns the network coordinates of the running nara; `None` if none runs.
async fn own_coordinates(settings: &Settings) -> Option<Coordinates> {
    let nara = running::on(&settings.running_folder().ok()?, settings)
        .await
        .ok()??;
    Some(nara.coordinates().await.ok()?.into())
}

async fn estimated_rtt(client: &MeshClient, peer: &PeerRef, own: &Coordinates) -> Option<Duration> {
    let told = client
        .peer(peer)
        .coordinates()
        .await
        .ok()?
        .into_inner()
        .coordinates?;
    estimate(own, &told)
}

/// Prints changes until interrupted.
fn watch_network(
    network: &Network,
    client: &MeshClient,
    args: &PeersListArgs,
    settings: &Settings,
    printer: Printer,
) -> Outcome {
    connect::block_on_looking(client, settings, async {
        network.attach(&args.on, settings).await?;
        let Some(node) = network.node() else {
            return watch_presence(client, settings, printer).await;
        };
        watch(client, node, &args.on.skip, printer).await
    })
}

/// Describes the presence of a peer, and the reason if it is absent.
fn presence(info: &Peer, result: Option<&PeerResult>) -> String {
    let state = harmless(&info.presence);
    match result.and_then(|result| result.error.as_ref()) {
        Some(problem) => format!("{state} ({})", problem.title),
        None => state,
    }
}

fn clock(result: Option<&PeerResult>) -> Option<ToldClock> {
    result?.clock
}

fn rtt(result: Option<&PeerResult>) -> Option<Duration> {
    Some(Duration::from_micros(result?.last.as_ref()?.rtt_us))
}

/// Returns the round trip estimated by a running nara from network coordinates.
fn estimated(result: Option<&PeerResult>) -> Option<Duration> {
    Some(Duration::from_micros(result?.last.as_ref()?.estimated_rtt_us?))
}

fn key_id(info: &Peer, result: Option<&PeerResult>) -> Option<String> {
    let told = || result?.told_key().map(str::to_owned);
    info.key_id.clone().or_else(told)
}

/// Describes how the key was learned, and whether the peer reports the same one.
fn key_source(info: &Peer, result: Option<&PeerResult>) -> String {
    match (&info.key_source, result.map(PeerResult::key_state)) {
        (Some(source), Some(state @ ("matches" | "DIFFERS"))) => format!("{source}, {state}"),
        (Some(source), _) => source.clone(),
        (None, _) if result.and_then(PeerResult::told_key).is_some() => "from ping, unsigned".to_owned(),
        (None, _) => "unknown".to_owned(),
    }
}

/// Describes the protocols that the peer has proven to support.
fn proven(info: &Peer) -> Option<String> {
    let words = [
        (info.v2, "v2"),
        (info.tls, "tls"),
        (info.raw_public_key, "raw-key"),
    ];
    let words: Vec<&str> = words
        .into_iter()
        .filter_map(|(can, word)| can.then_some(word))
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Describes what the peer has stated about its own keys.
fn stated(info: &Peer) -> Option<String> {
    Some(info.keyless.as_ref()?.replace('-', " "))
}

fn abbreviate(id: &str) -> String {
    let short: String = id.chars().take(12).collect();
    if short.len() < id.len() {
        format!("{short}…")
    } else {
        short
    }
}

/// The output of `peers`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct Printed {
    peers: Vec<ListedPeer>,
}

/// A known peer.
#[derive(Serialize, ToSchema)]
struct ListedPeer {
    name: Option<String>,
    id: Option<String>,
    address: Option<String>,
    presence: String,
    /// Whether it answered; `null` if it was not asked.
    online: Option<bool>,
    error: Option<String>,
    rtt_us: Option<u64>,
    estimated_rtt_us: Option<u64>,
    path: Option<String>,
    host_name: Option<String>,
    clock_offset_us: Option<i64>,
    clock_uncertainty_us: Option<u64>,
    clock_proven: Option<bool>,
    key_id: Option<String>,
    key_source: Option<String>,
    learned_at_ms: Option<i64>,
    verdict: Option<String>,
    decided_at_ms: Option<i64>,
    v2: bool,
    tls: bool,
    raw_public_key: bool,
    key_matches: Option<bool>,
    /// Whether it refuses the key of the running nara.
    refuses_own_key: bool,
    /// The key that it has for the running nara instead, if it reported one.
    known_own_key_id: Option<String>,
    /// Why none of its keys is valid, if so: `retired` or `two-successors`.
    keyless: Option<String>,
}

fn shown(row: &Row) -> ListedPeer {
    let (info, result) = (&row.info, row.result.as_ref());
    ListedPeer {
        name: info.name.clone(),
        id: info.id.clone(),
        address: info.address.clone(),
        presence: info.presence.clone(),
        online: result.map(|result| result.error.is_none()),
        error: result
            .and_then(|result| result.error.as_ref())
            .map(ToString::to_string),
        rtt_us: rtt(result).map(micros),
        estimated_rtt_us: row.estimated.map(micros),
        path: info.path.clone(),
        host_name: info.host_name.clone(),
        clock_offset_us: clock(result).map(|clock| clock.offset / 1_000),
        clock_uncertainty_us: clock(result).map(|clock| micros(clock.uncertainty)),
        clock_proven: clock(result).map(|clock| clock.proven),
        key_id: key_id(info, result),
        key_source: info.key_source.clone(),
        learned_at_ms: info.learned_at_ms,
        verdict: info.verdict.clone(),
        decided_at_ms: info.decided_at_ms,
        v2: info.v2,
        tls: info.tls,
        raw_public_key: info.raw_public_key,
        key_matches: result
            .and_then(|result| result.last.as_ref())
            .and_then(|pong| pong.key_matches),
        refuses_own_key: info.refuses_own_key,
        known_own_key_id: info.known_own_key_id.clone(),
        keyless: info.keyless.clone(),
    }
}
