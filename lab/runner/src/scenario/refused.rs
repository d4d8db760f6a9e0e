//! The control server does not want the node, or no longer.

use std::path::Path;
use std::time::{Duration, Instant};

use nara_tailnet::MeshNode as _;
use nara_tailnet::status::{NodeState, NotReadyReason};

use crate::kind::{Settings, embedded};
use crate::network::Network;
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(60);
const COLUMN: &str = "embedded";

pub(super) async fn run(programs: &Path, table: &mut Table) -> Result<(), String> {
    let network = Network::start(programs).await?;
    table
        .check("wrong auth key", COLUMN, LIMIT, wrong_key(&network))
        .await;
    table
        .check("ephemeral leave", COLUMN, LIMIT, leave(&network))
        .await;
    table.check("expired key", COLUMN, LIMIT, expired(&network)).await;
    Ok(())
}

async fn wrong_key(network: &Network) -> Result<String, String> {
    let mut settings = Settings::new(network, "wrong");
    settings.auth_key = "tskey-auth-other".to_owned();
    let node = embedded(settings)?;
    let begin = Instant::now();
    let Err(not_ready) = node.ready(Duration::from_secs(20)).await else {
        return Err("it joined".to_owned());
    };
    let took = begin.elapsed();
    let NotReadyReason::KeyRefused { detail } = &not_ready.reason else {
        return Err(format!("it says {not_ready}"));
    };
    if took > Duration::from_secs(2) {
        return Err(format!("it says so only after {took:.1?}"));
    }
    Ok(format!("\"{detail}\" after {:.2} s", took.as_secs_f64()))
}

async fn leave(network: &Network) -> Result<String, String> {
    let mut settings = Settings::new(network, "guest");
    settings.ephemeral = true;
    settings.key_file = None;
    let node = embedded(settings)?;
    node.ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    node.leave().await.map_err(|error| error.to_string())?;
    let took = begin.elapsed();
    if node.status().state != NodeState::Left {
        return Err(format!("its state is {:?}", node.status().state));
    }
    Ok(format!("{:.0} ms", took.as_secs_f64() * 1e3))
}

async fn expired(network: &Network) -> Result<String, String> {
    let node = embedded(Settings::new(network, "old"))?;
    node.ready(Duration::from_secs(20))
        .await
        .map_err(|error| error.to_string())?;
    network.control("expire").await?;
    let mut status = node.watch_status();
    let is_expired = |state: &NodeState| matches!(state, NodeState::Waiting(NotReadyReason::KeyExpired));
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
    Ok(format!(
        "back {:.1} s later with a new key",
        begin.elapsed().as_secs_f64()
    ))
}
