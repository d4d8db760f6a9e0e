//! The control server does not want the node, or no longer.

use std::path::Path;
use std::time::{Duration, Instant};

use nara_tailnet::status::{NodeState, NotReadyReason};

use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::settings::Settings;
use crate::table::{Outcome, Table};

const LIMIT: Duration = Duration::from_secs(60);
/// Until a Headscale forgets an ephemeral node that said no goodbye (70 s of silence, of which it learns 10 s late).
const FORGOTTEN: Duration = Duration::from_secs(150);

pub(super) async fn run(
    programs: &Path,
    control: ControlKind,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<(), String> {
    let network = Network::start_on(programs, control).await?;
    let kinds: Vec<_> = kinds
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Tsnet)
        .collect();
    let begin = Instant::now();
    let lost = match (control, kinds.first()) {
        (ControlKind::Headscale, Some(kind)) => Some(lose_guest(&network, *kind).await?),
        _ => None,
    };
    for kind in &kinds {
        let column = kind.to_string();
        table
            .check("wrong auth key", &column, LIMIT, wrong_key(&network, *kind))
            .await;
        if control == ControlKind::Headscale {
            table
                .check("auth key used twice", &column, LIMIT, used_key(&network, *kind))
                .await;
        }
        table
            .check("ephemeral leave", &column, LIMIT, leave(&network, control, *kind))
            .await;
    }
    for kind in &kinds {
        table
            .check("expired key", &kind.to_string(), LIMIT, expired(&network, *kind))
            .await;
    }
    if let (Some(host_name), Some(kind)) = (lost, kinds.first()) {
        let forgotten = async {
            until_forgotten(&network, &host_name).await?;
            Ok(format!("forgotten within {:.0} s", begin.elapsed().as_secs_f64()))
        };
        table
            .check("ephemeral, killed", &kind.to_string(), FORGOTTEN, forgotten)
            .await;
    }
    Ok(())
}

/// A node that does not get in says why.
async fn is_refused(network: &Network, kind: Kind, settings: Settings, soon: Duration) -> Outcome {
    let node = kind.start_with(network, settings).await?;
    let begin = Instant::now();
    let Err(not_ready) = node.ready(Duration::from_secs(20)).await else {
        return Err("it joined".to_owned());
    };
    let took = begin.elapsed();
    let NotReadyReason::KeyRefused { detail } = &not_ready.reason else {
        return Err(format!("it says {not_ready}"));
    };
    if took > soon {
        return Err(format!("it says so only after {took:.1?}"));
    }
    Ok(format!("\"{detail}\" after {:.2} s", took.as_secs_f64()))
}

/// How long a node may take to say that its key is refused: a daemon has to start first, and is asked again.
fn soon(kind: Kind) -> Duration {
    Duration::from_secs(if kind == Kind::Embedded { 2 } else { 10 })
}

async fn wrong_key(network: &Network, kind: Kind) -> Outcome {
    let mut settings = Settings::new(network, &format!("wrong-{kind}"));
    settings.auth_key = "tskey-auth-other".to_owned();
    is_refused(network, kind, settings, soon(kind)).await
}

async fn used_key(network: &Network, kind: Kind) -> Outcome {
    let key = network.make_key(false, false).await?;
    let mut settings = Settings::new(network, &format!("once-{kind}"));
    settings.auth_key.clone_from(&key);
    let node = kind.start_with(network, settings).await?;
    node.ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    let mut settings = Settings::new(network, &format!("twice-{kind}"));
    settings.auth_key = key;
    is_refused(network, kind, settings, soon(kind)).await
}

/// Whether a node is ephemeral, a Headscale decides by its key.
async fn guest(network: &Network, control: ControlKind, name: &str) -> Result<Settings, String> {
    let mut settings = Settings::new(network, name);
    settings.ephemeral = true;
    settings.key_file = None;
    if control == ControlKind::Headscale {
        settings.auth_key = network.make_key(true, true).await?;
    }
    Ok(settings)
}

async fn leave(network: &Network, control: ControlKind, kind: Kind) -> Outcome {
    let settings = guest(network, control, &format!("guest-{kind}")).await?;
    let node = kind.start_with(network, settings).await?;
    let status = node
        .ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    node.leave().await.map_err(|error| error.to_string())?;
    let took = begin.elapsed();
    if node.status().state != NodeState::Left {
        return Err(format!("its state is {:?}", node.status().state));
    }
    let told = format!("{:.0} ms", took.as_secs_f64() * 1e3);
    if control == ControlKind::Test {
        return Ok(told);
    }
    let host_name = status.granted_name.ok_or("it has no name")?;
    until_forgotten(network, &host_name).await?;
    Ok(format!(
        "{told}, forgotten within {:.1} s",
        begin.elapsed().as_secs_f64()
    ))
}

/// An ephemeral node ends without a goodbye. Returns its host name.
async fn lose_guest(network: &Network, kind: Kind) -> Result<String, String> {
    let settings = guest(network, ControlKind::Headscale, "lost").await?;
    let node = kind.start_with(network, settings).await?;
    let status = node
        .ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    status.granted_name.ok_or_else(|| "it has no name".to_owned())
}

async fn until_forgotten(network: &Network, host_name: &str) -> Result<(), String> {
    while network.nodes().await?.iter().any(|known| known == host_name) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}

async fn expired(network: &Network, kind: Kind) -> Outcome {
    let node = kind.start(network, &format!("old-{kind}")).await?;
    node.ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    let mut status = node.watch_status();
    status.mark_unchanged();
    network.control("expire").await?;
    // A daemon may say only that somebody has to log in.
    let is_expired = |state: &NodeState| match state {
        NodeState::Waiting(NotReadyReason::NeedsLogin { .. }) => kind == Kind::Managed,
        NodeState::Waiting(reason) => matches!(reason, NotReadyReason::KeyExpired),
        _ => false,
    };
    let expired = tokio::time::timeout(
        Duration::from_secs(10),
        status.wait_for(|status| is_expired(&status.state)),
    );
    if expired.await.is_err() {
        return Err(format!("its state is {:?}", node.status().state));
    }
    network.control("unexpire").await?;
    let begin = Instant::now();
    let joined = tokio::time::timeout(
        Duration::from_secs(40),
        status.wait_for(|status| status.is_running()),
    );
    if joined.await.is_err() {
        return Err(format!("it does not come back: {:?}", node.status().state));
    }
    Ok(format!("back {:.1} s later", begin.elapsed().as_secs_f64()))
}
