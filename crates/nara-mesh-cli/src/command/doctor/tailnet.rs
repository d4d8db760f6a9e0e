//! Checks of the node and its network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nara_local_api::server::check_length;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::transport::TcpTransport;
use nara_tailnet::MeshNode;
use nara_tailnet::status::{NodeHealth, NodeState, NodeStatus, NotReadyReason, PortMapping};
use nara_tailnet::tailscaled::TailscaledNode;

use super::here::PORT;
use super::report::{Check, Report};
use crate::cli::{DoctorArgs, NetworkKind};
use crate::connect;
use crate::failure::{Failure, Outcome};
use crate::network::node_hint;
use crate::network_choice::choose;
use crate::settings::Settings;

/// How long to wait for a node that should already be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the network to check; `None` if there is none.
pub(super) fn choice(args: &DoctorArgs, report: &mut Report) -> Outcome<Option<NetworkKind>> {
    let why = "naras reach each other over a tailnet";
    match choose(&args.on, Path::new("tailscaled")) {
        Ok((kind, reason)) => {
            let found = format!("{} ({reason})", format!("{kind:?}").to_lowercase());
            report.add(Check::ok("network", found, why))?;
            Ok(Some(kind))
        }
        Err(failure) => {
            let next = failure.hint.unwrap_or_default();
            report.add(Check::ok("network", failure.message, why).failed(next))?;
            Ok(None)
        }
    }
}

/// Returns the node, if it runs; checks its daemon, state, control server, relay and address.
pub(super) async fn node(
    kind: Option<NetworkKind>,
    args: &DoctorArgs,
    settings: &Settings,
    nara: Option<&LocalNara>,
    report: &mut Report,
) -> Outcome<Option<Arc<dyn MeshNode>>> {
    let socket = match (kind, nara) {
        (Some(NetworkKind::Tailscaled), _) => Some(args.on.socket.clone()),
        (Some(NetworkKind::Managed), Some(nara)) => settings.managed_socket(nara).ok(),
        _ => None,
    };
    let Some(socket) = socket else {
        let reason = match kind {
            Some(NetworkKind::Loopback) => "not needed for loopback",
            Some(NetworkKind::Embedded) => "only the process of an embedded node can inspect it",
            Some(NetworkKind::Managed) => "without a soul, the daemon is unknown",
            _ => "no network is configured",
        };
        skip(
            &["daemon", "node", "control", "relay", "endpoints", "address"],
            reason,
            report,
        )?;
        return Ok(None);
    };
    if let Err(failure) = check_length(&socket).map_err(Failure::from) {
        let why = "the operating system limits the length of socket paths";
        let next = failure.hint.unwrap_or_default();
        report.add(Check::ok("daemon", failure.message, why).failed(next))?;
        skip(
            &["node", "control", "relay", "endpoints", "address"],
            "the socket path of the daemon is too long",
            report,
        )?;
        return Ok(None);
    }
    let node = TailscaledNode::new(&socket);
    let ready = node.ready(READY_TIMEOUT).await;
    let status = node.status();
    daemon(
        &socket.display().to_string(),
        &status,
        ready.as_ref().err().map(|error| &error.reason),
        report,
    )?;
    if status.version.is_none() {
        skip(
            &["node", "control", "relay", "endpoints", "address"],
            "the daemon does not answer",
            report,
        )?;
        return Ok(None);
    }
    state(ready.as_ref().err().map(|error| &error.reason), report)?;
    network(&node, &status, report).await?;
    Ok(ready.is_ok().then(|| Arc::new(node) as Arc<dyn MeshNode>))
}

/// Checks the node of a running nara.
pub(super) async fn running(
    kind: &str,
    node: Option<&Arc<dyn MeshNode>>,
    report: &mut Report,
) -> Outcome<()> {
    let why = "naras reach each other over a tailnet";
    report.add(Check::ok(
        "network",
        format!("{kind}, joined by the running nara"),
        why,
    ))?;
    let Some(node) = node else {
        return skip(
            &["node", "control", "relay", "endpoints", "address"],
            "not needed for loopback",
            report,
        );
    };
    let status = node.status();
    let reason = match &status.state {
        NodeState::Waiting(reason) => Some(reason),
        _ => None,
    };
    state(reason, report)?;
    network(&**node, &status, report).await
}

/// Checks the connections of the node to its network.
async fn network(node: &dyn MeshNode, status: &NodeStatus, report: &mut Report) -> Outcome<()> {
    let health = node.health().await;
    control(status, health.control_connected, &health.problems, report)?;
    relay(health.home_relay.as_deref(), &health.problems, report)?;
    endpoints(&health, report)?;
    let why = "peers call this nara at its address";
    let addresses: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
    let name = status.granted_name.as_deref().unwrap_or("without a name");
    report.add(match addresses.is_empty() {
        true => Check::ok("address", "none", why).failed("see the check `node`"),
        false => Check::ok("address", format!("{}, as {name}", addresses.join(", ")), why),
    })
}

fn skip(checks: &[&'static str], reason: &str, report: &mut Report) -> Outcome<()> {
    checks
        .iter()
        .try_for_each(|what| report.add(Check::ok(what, reason, "").skipped()))
}

fn daemon(
    socket: &str,
    status: &NodeStatus,
    reason: Option<&NotReadyReason>,
    report: &mut Report,
) -> Outcome<()> {
    let why = "tailscaled carries the packets; its socket reports the state of the node";
    let is_about_the_daemon = |reason: &&NotReadyReason| {
        matches!(
            reason,
            NotReadyReason::DaemonNotRunning { .. }
                | NotReadyReason::DaemonMisbehaves { .. }
                | NotReadyReason::SocketNotPermitted { .. }
        )
    };
    report.add(match reason.filter(is_about_the_daemon) {
        Some(reason) => failed("daemon", reason, why),
        None => {
            let version = status.version.as_deref().unwrap_or("of unknown version");
            Check::ok("daemon", format!("tailscaled {version} at {socket}"), why)
        }
    })
}

fn state(reason: Option<&NotReadyReason>, report: &mut Report) -> Outcome<()> {
    let why = "only a running node can reach peers";
    report.add(match reason {
        None => Check::ok("node", "running", why),
        Some(reason) => failed("node", reason, why),
    })
}

fn control(
    status: &NodeStatus,
    connected: Option<bool>,
    problems: &[String],
    report: &mut Report,
) -> Outcome<()> {
    let why = "the control server reports the nodes of the tailnet; without it, no new peers are found";
    let url = status
        .control_url
        .as_deref()
        .unwrap_or("the control server of Tailscale");
    let said: String = problems.iter().map(|problem| format!("; {problem}")).collect();
    report.add(match connected {
        Some(true) => Check::ok("control", format!("connected to {url}"), why),
        Some(false) => Check::ok("control", format!("not connected to {url}{said}"), why)
            .failed("check the network of this machine and the control server"),
        None => Check::ok("control", "not known", why).skipped(),
    })
}

fn relay(home: Option<&str>, problems: &[String], report: &mut Report) -> Outcome<()> {
    let why = "a relay carries packets if no direct path exists, and helps to find one";
    let complaint = problems
        .iter()
        .find(|problem| problem.to_ascii_lowercase().contains("relay"));
    report.add(match (home, complaint) {
        (Some(home), None) => Check::ok("relay", format!("home region {home}"), why),
        (Some(home), Some(complaint)) => Check::ok("relay", format!("home region {home}; {complaint}"), why)
            .warning(
                "check that the firewall of this machine allows connections to the relay (TCP 443, UDP 3478)",
            ),
        (None, _) => Check::ok("relay", "no relay is reachable", why).warning(
            "check that the firewall of this machine allows connections to relays (TCP 443, UDP 3478)",
        ),
    })
}

/// Lists the addresses at which peers may reach the node directly.
fn endpoints(health: &NodeHealth, report: &mut Report) -> Outcome<()> {
    let why = "peers try these addresses for a direct path";
    if health.endpoints.is_empty() && health.port_mapping == PortMapping::Off {
        return report.add(Check::ok("endpoints", "not reported by this kind of node", why).skipped());
    }
    let endpoints = health.endpoints.iter();
    let endpoints: Vec<_> = endpoints
        .map(|endpoint| format!("{} ({})", endpoint.address, endpoint.kind))
        .collect();
    let found = match endpoints.is_empty() {
        true => "none".to_owned(),
        false => endpoints.join(", "),
    };
    report.add(Check::ok(
        "endpoints",
        format!("{found}; {}", health.port_mapping),
        why,
    ))
}

/// Creates a failed check from a reason.
fn failed(what: &'static str, reason: &NotReadyReason, why: &'static str) -> Check {
    let next = node_hint(reason).unwrap_or_else(|| "see the log of the daemon".into());
    Check::ok(what, reason.to_string(), why).failed(next)
}

/// Checks what answers on the port of this nara at its own address.
pub(super) async fn port(
    port: u16,
    kind: Option<NetworkKind>,
    node: Option<&Arc<dyn MeshNode>>,
    nara: Option<&LocalNara>,
    report: &mut Report,
) -> Outcome<()> {
    let why = PORT;
    let own = node.and_then(|node| node.status().addresses.first().copied());
    let ip = match (own, kind) {
        (Some(ip), _) => ip,
        (None, Some(NetworkKind::Loopback)) => Ipv4Addr::LOCALHOST.into(),
        (None, _) => {
            return report.add(Check::ok("port", "not checked: the node has no address", why).skipped());
        }
    };
    let address = SocketAddr::new(ip, port);
    let client = match node {
        Some(node) => MeshClient::builder(guest_or(nara)?)
            .transport(node.clone())
            .build(),
        None => MeshClient::builder(guest_or(nara)?)
            .transport(Arc::new(TcpTransport))
            .build(),
    };
    let check = |found: String| Check::ok("port", found, why);
    let in_use = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).err();
    if let Some(node) = node
        && node.health().await.userspace
        && in_use.is_some()
    {
        return report.add(check(format!(
            "{port} is in use here, which is expected while this nara runs (a userspace node cannot reach itself; peers \
             can check)"
        )));
    }
    let answer = client.discover_key(address, None).await;
    report.add(match (answer, nara) {
        (Ok(found), Some(nara)) if found.key == nara.public_key() => {
            check(format!("{} answers on {address}", found.name))
        }
        (Ok(found), _) => check(format!("another nara, {}, answers on {address}", found.name))
            .failed("stop it, or run this one on another --port or on its own node (--network managed)"),
        (Err(_), _) => match in_use {
            None => check(format!("{address} is free: no nara runs there"))
                .warning("run `nara-mesh up`, or `nara-mesh serve --listen ADDRESS`"),
            Some(error) => check(format!(
                "no nara answers on {address}, and port {port} cannot be used: {error}"
            ))
            .failed(format!(
                "find the process that uses it (`ss -ltnp sport = :{port}`) and stop it"
            )),
        },
    })
}

fn guest_or(nara: Option<&LocalNara>) -> Outcome<LocalNara> {
    nara.cloned().map_or_else(connect::guest, Ok)
}
