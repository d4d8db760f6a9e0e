//! Runs many nodes in one process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use nara_mesh::transport::Transport;
use nara_tailnet::MeshNode as _;

use crate::echo::{Echo, exchange};
use crate::kind::embedded;
use crate::network::{ControlKind, Network};
use crate::settings::Settings;
use crate::table::Table;

const NODES: usize = 24;
const LIMIT: Duration = Duration::from_secs(90);
const PORT: u16 = 9632;

pub(super) async fn run(programs: &Path, control: ControlKind, table: &mut Table) -> Result<(), String> {
    let network = Network::start_on(programs, control).await?;
    table
        .check(
            "24 nodes in one process, a ring",
            "embedded",
            LIMIT,
            ring(&network),
        )
        .await;
    Ok(())
}

/// Joins all nodes concurrently, then exchanges bytes between neighbours in a ring.
async fn ring(network: &Network) -> Result<String, String> {
    let begin = Instant::now();
    let nodes = try_join_all((0..NODES).map(|n| async move {
        let node = Arc::new(embedded(Settings::new(network, &format!("crowd-{n}")))?);
        let status = node
            .ready(Duration::from_secs(40))
            .await
            .map_err(|error| format!("crowd-{n}: {error}"))?;
        let address = *status.addresses.first().ok_or("no address")?;
        let echo = Echo::start(node.clone(), SocketAddr::new(address, PORT)).await?;
        Ok::<_, String>((node, echo))
    }))
    .await?;
    let joined = begin.elapsed();
    let begin = Instant::now();
    try_join_all((0..NODES).map(|n| {
        let (node, _) = &nodes[n];
        let (_, next) = &nodes[(n + 1) % NODES];
        async move {
            exchange(&**node as &dyn Transport, next.address, 64 * 1024)
                .await
                .map_err(|error| format!("crowd-{n}: {error}"))
        }
    }))
    .await?;
    Ok(format!(
        "all joined in {:.1} s, ring in {:.1} s",
        joined.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    ))
}
