//! Checks of peers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use nara_local_api::model::ConflictList;
use nara_mesh::client::{ClientError, MeshClient, PeerRef};
use nara_mesh::defaults;
use nara_mesh::discovery::{Discovery, Found};
use nara_mesh::registry::{Peer, PeerInfo};
use nara_proto::identity::NaraName;
use nara_proto::sync::SyncRequest;
use nara_tailnet::MeshNode;

use super::report::{Check, Report};
use crate::cli::DoctorArgs;
use crate::command::ping::{PeerResult, Pinger, banned_at, ping_peer, told_clock};
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::found::describe;
use crate::printer::{count, first_of, harmless};
use crate::remedy;

/// The most peers to list in a check.
const SHOWN: usize = 10;

/// The largest acceptable clock offset: the freshness window less the duration of a request.
const OFFSET_FAILURE: Duration = Duration::from_secs(25);

/// The most conflicts to list.
const CONFLICTS_SHOWN: usize = 5;

pub(super) async fn all(
    client: Option<&MeshClient>,
    node: Option<&Arc<dyn MeshNode>>,
    args: &DoctorArgs,
    has_soul: bool,
    report: &mut Report,
) -> Outcome<()> {
    seen(node, report).await?;
    let Some(client) = client else {
        for what in [
            "bans",
            "naras",
            "acceptance",
            "ports",
            "key conflicts",
            "peers' clocks",
        ] {
            report.add(Check::ok(what, "not checked: the peers file is invalid", "").skipped())?;
        }
        return Ok(());
    };
    let found = match node {
        Some(node) => {
            let discovery = Discovery::new(client.clone(), node.clone());
            let discovery = args.on.skip.iter().fold(discovery, Discovery::skip_prefix);
            discovery.run_once().await.unwrap_or_default()
        }
        None => Vec::new(),
    };
    let known_before = Known {
        found: &found,
        open: None,
    };
    known(client, args.port, known_before, has_soul, report).await
}

/// What is known about the keys of peers before pinging them.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    /// The results of discovery.
    pub(super) found: &'a [Found],
    /// Findings of a running nara since its start.
    pub(super) open: Option<&'a ConflictList>,
}

/// Checks that the known naras answer, their keys, and their clock offsets.
pub(super) async fn known(
    client: &MeshClient,
    own_port: u16,
    known: Known<'_>,
    prove_clocks: bool,
    report: &mut Report,
) -> Outcome<()> {
    let own = client.local().id();
    let (banned, peers): (Vec<_>, Vec<_>) = client
        .registry()
        .peers()
        .into_iter()
        // A peers file shared by several naras also lists this one.
        .filter(|peer| peer.info().id.as_ref() != Some(own))
        .partition(|peer| peer.is_untrusted());
    bans(&banned, report)?;
    let pings = peers
        .iter()
        .filter(|peer| peer.info().address.is_some())
        .map(|peer| async move {
            let (pinger, peer) = (Pinger::Direct { client, prove_clocks }, PeerRef::from(peer));
            let result = ping_peer(pinger, &peer, 1, Duration::ZERO).await?;
            Ok::<_, Failure>((peer, result))
        });
    let pings: Vec<(PeerRef, PeerResult)> = stream::iter(pings)
        .buffered(MeshClient::FAN_OUT)
        .try_collect()
        .await?;
    answering(&pings, banned.len(), report)?;
    if prove_clocks {
        acceptance(client, &pings, known.open.is_some(), report).await?;
    }
    ports(client, &peers, own_port, report).await?;
    conflicts(known, &pings, report)?;
    clocks(&pings, report)
}

pub(super) async fn seen(node: Option<&Arc<dyn MeshNode>>, report: &mut Report) -> Outcome<()> {
    let why = "only nodes of the same tailnet can be reached";
    let Some(node) = node else {
        return report.add(Check::ok("nodes", "not reported without a node", why).skipped());
    };
    report.add(match node.candidates().await {
        Ok(nodes) => {
            let online = nodes.iter().filter(|node| node.online == Some(true)).count();
            let unknown = nodes.iter().filter(|node| node.online.is_none()).count();
            let offline = nodes.len() - online - unknown;
            let check = Check::ok(
                "nodes",
                format!(
                    "{} besides this one: {online} online, {offline} offline, {unknown} unknown",
                    count(nodes.len(), "node")
                ),
                why,
            );
            match nodes.is_empty() {
                true => check
                    .warning("join another nara through the same control server, as the same user or under the same policy"),
                false => check,
            }
        }
        Err(error) => Check::ok("nodes", error.to_string(), why).failed("see the check `node`"),
    })
}

/// Lists the banned naras.
fn bans(banned: &[Arc<Peer>], report: &mut Report) -> Outcome<()> {
    let why = "a banned nara is not called, and its requests are refused";
    let infos: Vec<PeerInfo> = banned.iter().map(|peer| peer.info()).collect();
    let named = |info: &PeerInfo| {
        let since = banned_at(info).map_or_else(String::new, |at| format!(" since {}", explain::date(at)));
        format!("{}{since}", harmless(&info.label()))
    };
    let lift = |info: &PeerInfo| Some(format!("`{}`", remedy::trust_again(info.name.as_ref()?, false)));
    let found: Vec<String> = infos.iter().map(named).collect();
    let commands: Vec<String> = infos.iter().filter_map(lift).collect();
    report.add(if infos.is_empty() {
        Check::ok("bans", "no nara is banned", why)
    } else {
        let found = format!("banned here: {}", first_of(&found, SHOWN, ", "));
        let next = format!("to lift a ban, run {}", first_of(&commands, SHOWN, ", "));
        Check::ok("bans", found, why).warning(next)
    })
}

/// Checks that peers accept the signatures of this nara. `runs`: the nara can be called back, so peers can
/// learn its key.
async fn acceptance(
    client: &MeshClient,
    pings: &[(PeerRef, PeerResult)],
    runs: bool,
    report: &mut Report,
) -> Outcome<()> {
    let why = "peers that refuse the requests of this nara exchange no events with it";
    let answering = pings.iter().filter(|(_, ping)| ping.last.is_some());
    let asking = answering.map(|(peer, ping)| async move {
        let answer = client.peer(peer).fetch_sync_events(SyncRequest::recent(1)).await;
        (&ping.label, answer.err().filter(|error| is_refusal(error, runs)))
    });
    let asked: Vec<_> = stream::iter(asking).buffered(MeshClient::FAN_OUT).collect().await;
    let all = asked.len();
    let refused = asked
        .into_iter()
        .filter_map(|(label, error)| Some((label, error?)));
    let refused: Vec<(&String, ClientError)> = refused.collect();
    let said: Vec<String> = refused.iter().map(|(_, error)| error.to_string()).collect();
    let check = |found: String| Check::ok("acceptance", found, why);
    report.add(match refused.first() {
        _ if all == 0 => check("no peer answers".to_owned()).skipped(),
        None => check(format!(
            "{} accepted the requests of this nara",
            count(all, "peer")
        )),
        Some((label, error)) => {
            let found = format!(
                "{} of {} refused: {}",
                refused.len(),
                count(all, "peer"),
                first_of(&said, SHOWN, "; ")
            );
            let label = harmless(label);
            let next = match error.status() {
                _ if error.is_clock_skew() => {
                    "set the clock that is wrong: see the check `peers' clocks`".to_owned()
                }
                Some(StatusCode::FORBIDDEN) => format!(
                    "to lift a ban of this nara, ask the operator of {label} to run `{}`",
                    remedy::trust_again(client.local().name(), false)
                ),
                _ => format!("see the checks `own key` and `peers' clocks`, and ask the operator of {label}"),
            };
            match refused.len() == all {
                true => check(found).failed(next),
                false => check(found).warning(next),
            }
        }
    })
}

fn is_refusal(error: &ClientError, runs: bool) -> bool {
    match error.status() {
        Some(StatusCode::FORBIDDEN) => true,
        Some(StatusCode::UNAUTHORIZED) => runs,
        _ => false,
    }
}

fn answering(pings: &[(PeerRef, PeerResult)], banned: usize, report: &mut Report) -> Outcome<()> {
    let why = "a nara without reachable peers learns nothing";
    let answering = pings.iter().filter(|(_, ping)| ping.last.is_some()).count();
    let silent: Vec<String> = pings
        .iter()
        .filter(|(_, ping)| ping.last.is_none())
        .map(|(_, ping)| harmless(&ping.label))
        .collect();
    let silent = match silent.is_empty() {
        true => String::new(),
        false => format!("; silent: {}", first_of(&silent, SHOWN, ", ")),
    };
    let found = format!(
        "{answering} of {} answered{silent}",
        count(pings.len(), "known nara")
    );
    let check = Check::ok("naras", found, why);
    report.add(if pings.is_empty() && banned > 0 {
        let found = format!("no nara is known except {}", count(banned, "banned one"));
        Check { found, ..check }.warning("see the check `bans`, or run another nara")
    } else if pings.is_empty() {
        check.warning("run another nara: `nara-mesh up` on a machine of the same tailnet")
    } else if answering == 0 {
        check.failed(
            "check that they run, and that the policy of the tailnet allows TCP 9632 and 7433 between them",
        )
    } else if answering < pings.len() {
        check.warning("ping each of them: `nara-mesh ping NAME -v`")
    } else {
        check
    })
}

/// Checks on which ports each peer answers.
async fn ports(client: &MeshClient, peers: &[Arc<Peer>], own: u16, report: &mut Report) -> Outcome<()> {
    let why = "naras listen on 9632, v1 peers only on 7433";
    let asked = peers.iter().filter_map(|peer| {
        let info = peer.info();
        Some((info.name?, info.address?))
    });
    let asking = asked.map(|(name, address)| async move {
        let ports: BTreeSet<u16> = [
            address.port(),
            own,
            defaults::MESH_PORT,
            defaults::LEGACY_MESH_PORT,
        ]
        .into();
        let answers = ports.into_iter().map(|port| {
            let (name, address) = (&name, SocketAddr::new(address.ip(), port));
            async move {
                client
                    .discover_key(address, Some(name))
                    .await
                    .is_ok()
                    .then_some(port)
            }
        });
        let answers = join_all(answers).await.into_iter().flatten();
        (name.clone(), answers.collect::<Vec<u16>>())
    });
    let found: Vec<(NaraName, Vec<u16>)> = stream::iter(asking).buffered(MeshClient::FAN_OUT).collect().await;
    let answering = found.iter().filter(|(_, ports)| !ports.is_empty());
    let found: Vec<String> = answering
        .map(|(name, ports)| {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            format!("{name} on {}", ports.join(" and "))
        })
        .collect();
    report.add(match found.is_empty() {
        true => Check::ok("ports", "no peer answers a new connection to its address", why).skipped(),
        false => Check::ok("ports", first_of(&found, SHOWN, ", "), why),
    })
}

fn conflicts(known: Known<'_>, pings: &[(PeerRef, PeerResult)], report: &mut Report) -> Outcome<()> {
    let why = "a different key means an impersonator or a new soul";
    let open = known.open.map(|open| &*open.conflicts).unwrap_or_default();
    let warnings = known.open.map(|open| &*open.warnings).unwrap_or_default();
    let is_told = |label: &str| open.iter().any(|open| open.conflict.name == label);
    let mut conflicts: Vec<String> = open.iter().map(|open| harmless(&open.conflict.text)).collect();
    let discovered = known
        .found
        .iter()
        .filter(|found| {
            matches!(
                found,
                Found::Refused { .. } | Found::Contested { .. } | Found::Namesake { .. }
            )
        })
        .filter_map(|found| describe(found).map(|(text, _)| text));
    conflicts.extend(discovered);
    conflicts.extend(
        pings
            .iter()
            .filter(|(_, ping)| ping.key_state() == "DIFFERS" && !is_told(&ping.label))
            .map(|(_, ping)| {
                let label = harmless(&ping.label);
                format!("{label} answers with a key other than the pinned one")
            }),
    );
    let next = "ask its operator for the correct key before you change the pinned one";
    let remedy = open.first().and_then(|open| remedy::of_told(&open.conflict));
    let is_conflict = !conflicts.is_empty();
    conflicts.extend(warnings.iter().map(|warning| harmless(&warning.text)));
    let check = Check::ok("key conflicts", first_of(&conflicts, CONFLICTS_SHOWN, "; "), why);
    report.add(if is_conflict {
        check.failed(remedy.unwrap_or_else(|| next.to_owned()))
    } else if conflicts.is_empty() {
        Check::ok("key conflicts", "none", why)
    } else {
        check.warning(next)
    })
}

fn clocks(pings: &[(PeerRef, PeerResult)], report: &mut Report) -> Outcome<()> {
    let why = "naras refuse requests whose time is off by more than 30 s";
    let offsets = pings
        .iter()
        .filter_map(|(_, ping)| Some((harmless(&ping.label), ping.clock?)));
    let Some((label, furthest)) = offsets.max_by_key(|(_, clock)| clock.at_least()) else {
        return report.add(Check::ok("peers' clocks", "no peer reported its time", why).skipped());
    };
    let check = Check::ok(
        "peers' clocks",
        format!("{label} has the largest offset: {}", told_clock(furthest)),
        why,
    );
    report.add(match furthest.at_least() {
        apart if apart >= OFFSET_FAILURE => check.failed("set the clock that disagrees with most machines"),
        apart if apart >= defaults::CLOCK_WARNING => {
            check.warning("set the clock that disagrees with most machines")
        }
        _ => check,
    })
}
