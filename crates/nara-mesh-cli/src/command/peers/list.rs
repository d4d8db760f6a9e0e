//! `peers list`: the peers of the peers file and of the ledger, and what a ping of each says.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use nara_mesh::client::{MeshClient, PeerRef};
use nara_mesh::defaults;
use nara_mesh::registry::{PeerInfo, PeerProtocol};
use nara_proto::coordinates::estimate;
use nara_proto::identity::KeyId;
use nara_proto::peer::Coordinates;
use nara_proto::presence::PresenceState;
use serde_json::{Value, json};

use super::watch::{watch, watch_presence};
use crate::cli::PeersListArgs;
use crate::command::ping::{PeerResult, ToldClock, ping_peer, short, told_clock, warn_of_clock};
use crate::connect;
use crate::control::{self, Question};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::ledger_file::recall_presence;
use crate::network::{Network, Way};
use crate::printer::{Printer, harmless, human, micros, render, table};
use crate::settings::Settings;

pub(super) fn run(args: &PeersListArgs, settings: &Settings, printer: Printer) -> Outcome {
    let network = Network::resolve(&args.on);
    let client = connect::anonymous_client_on(settings, Arc::new(network.clone()))?;
    if args.watch {
        return watch_network(&network, &client, args, settings, printer);
    }
    let rows = connect::block_on_looking(&client, settings, async {
        network.attach(&args.on, settings).await?;
        network.find_peers(&client, &args.on).await;
        let peers = client.registry().peers();
        if peers.is_empty() {
            return Err(Failure::usage("there are no peers").hint(
                "pass --peers FILE; `nara-mesh peers --help` shows the form of the file, and `nara-mesh serve` \
                 prints the stanza of a nara",
            ));
        }
        recall_presence(settings, client.registry()).await;
        let own = own_coordinates(settings).await;
        let calls = peers.iter().map(|peer| {
            let (client, network, own) = (&client, &network, &own);
            async move {
                let info = peer.info();
                let ping = !args.offline && info.address.is_some() && !info.is_untrusted();
                let result = if ping {
                    Some(ping_peer(client, &PeerRef::from(peer), 1, Duration::ZERO).await)
                } else {
                    None
                };
                let estimated = match own {
                    Some(own) if ping => estimated_rtt(client, &PeerRef::from(peer), own).await,
                    _ => None,
                };
                let way = network.way_to(client, &PeerRef::from(peer)).await;
                Row {
                    presence: peer.presence(),
                    info,
                    result,
                    estimated,
                    way,
                }
            }
        });
        Ok(stream::iter(calls)
            .buffered(defaults::FAN_OUT)
            .collect::<Vec<_>>()
            .await)
    })?;
    let mut table = table([
        "NAME", "ADDRESS", "PRESENCE", "PATH", "RTT", "EST", "CLOCK", "KEY ID", "KEY", "TRUST", "CAN", "ID",
    ]);
    for row in &rows {
        let Row {
            info, result, way, ..
        } = row;
        let text = |value: Option<String>| value.map_or_else(|| "-".to_owned(), |value| harmless(&value));
        table.add_row([
            text(info.name.as_ref().map(ToString::to_string)),
            text(info.address.as_ref().map(ToString::to_string)),
            presence(row.presence, result.as_ref()),
            text(way.as_ref().map(|way| way.path.to_string())),
            text(rtt(result.as_ref()).map(human)),
            text(row.estimated.map(human)),
            text(clock(result.as_ref()).map(told_clock)),
            text(key_id(info, result.as_ref()).map(|key| abbreviate(&key))),
            key_source(info, result.as_ref()),
            text(verdict(info).map(str::to_owned)),
            text(proven(info.protocol)),
            text(info.id.as_ref().map(|id| abbreviate(id.as_str()))),
        ]);
    }
    printer.line(render(&table))?;
    for row in &rows {
        warn_of_clock(&row.info.label(), clock(row.result.as_ref()), printer);
    }
    let rows_json: Vec<Value> = rows.iter().map(to_json).collect();
    printer.json(json!({ "peers": rows_json }))?;
    Ok(Exit::Ok)
}

/// What is known of a peer.
struct Row {
    presence: PresenceState,
    info: PeerInfo,
    result: Option<PeerResult>,
    /// The round trip from the running nara, by network coordinates.
    estimated: Option<Duration>,
    way: Option<Way>,
}

/// Where the nara that runs is in the network; `None`: none runs.
async fn own_coordinates(settings: &Settings) -> Option<Coordinates> {
    let folder = settings.running_folder().ok()?;
    let answer = control::ask(&folder, Question::Coordinates).await.ok()??;
    Some(Coordinates {
        x: answer["x"].as_f64()?,
        y: answer["y"].as_f64()?,
        height: answer["height"].as_f64()?,
        error: answer["error"].as_f64()?,
    })
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

/// Says what changes, until it is told to end.
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

/// Whether it is there, and why not.
fn presence(state: PresenceState, result: Option<&PeerResult>) -> String {
    match result.and_then(|result| result.error.as_ref()) {
        Some(error) => format!("{state} ({})", short(error)),
        None => state.to_string(),
    }
}

fn clock(result: Option<&PeerResult>) -> Option<ToldClock> {
    result?.clock
}

fn rtt(result: Option<&PeerResult>) -> Option<Duration> {
    Some(result?.last.as_ref()?.rtt)
}

fn key_id(info: &PeerInfo, result: Option<&PeerResult>) -> Option<String> {
    let pinned = info.key.as_ref().map(|pinned| KeyId::from(&pinned.key));
    pinned.or_else(|| result?.told_key()).map(|key| key.to_string())
}

/// How the key was learned, and whether the peer tells the same one.
fn key_source(info: &PeerInfo, result: Option<&PeerResult>) -> String {
    match (&info.key, result.map(PeerResult::key_state)) {
        (Some(pinned), Some(state @ ("matches" | "DIFFERS"))) => format!("{}, {state}", pinned.source),
        (Some(pinned), _) => pinned.source.to_string(),
        (None, _) if result.and_then(PeerResult::told_key).is_some() => "from ping, unsigned".to_owned(),
        (None, _) => "unknown".to_owned(),
    }
}

fn verdict(info: &PeerInfo) -> Option<&'static str> {
    info.decision.map(|decision| decision.verdict.as_str())
}

/// What the peer has proven that it can do.
fn proven(protocol: PeerProtocol) -> Option<String> {
    let words = [
        (protocol.v2, "v2"),
        (protocol.tls, "tls"),
        (protocol.raw_public_key, "raw-key"),
    ];
    let words: Vec<&str> = words
        .into_iter()
        .filter_map(|(can, word)| can.then_some(word))
        .collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn abbreviate(id: &str) -> String {
    let short: String = id.chars().take(12).collect();
    if short.len() < id.len() {
        format!("{short}…")
    } else {
        short
    }
}

fn to_json(row: &Row) -> Value {
    let Row { info, estimated, .. } = row;
    let (result, way) = (row.result.as_ref(), row.way.as_ref());
    json!({
        "name": info.name.as_ref().map(|name| name.as_str()),
        "id": info.id.as_ref().map(|id| id.as_str()),
        "address": info.address,
        "presence": row.presence.as_str(),
        "online": result.map(|result| result.error.is_none()),
        "error": result.and_then(|result| result.error.as_ref()).map(ToString::to_string),
        "rtt_us": rtt(result).map(micros),
        "estimated_rtt_us": estimated.map(micros),
        "path": way.map(|way| way.path.to_string()),
        "host_name": way.and_then(|way| way.granted_name.as_deref()),
        "clock_offset_us": clock(result).map(|clock| clock.offset.nanos() / 1_000),
        "clock_uncertainty_us": clock(result).map(|clock| micros(clock.offset.uncertainty())),
        "clock_proven": clock(result).map(|clock| clock.proven),
        "key_id": key_id(info, result),
        "key_source": info.key.as_ref().map(|pinned| pinned.source.to_string()),
        "learned_at_ms": info.key.as_ref().map(|pinned| pinned.learned_at.get()),
        "verdict": verdict(info),
        "decided_at_ms": info.decision.map(|decision| decision.at.get()),
        "v2": info.protocol.v2,
        "tls": info.protocol.tls,
        "raw_public_key": info.protocol.raw_public_key,
        "key_matches": result.and_then(|result| result.last.as_ref()).and_then(|report| report.key_matches),
    })
}
