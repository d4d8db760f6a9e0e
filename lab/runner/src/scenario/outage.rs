//! Outages of the control server and of the relay.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nara_tailnet::status::NodeState;

use super::naras::{Naras, until_answered};
use crate::kind::Kind;
use crate::nara::Nara;
use crate::network::{ControlKind, Network};
use crate::table::{TO, Table, within};
use crate::tsnet::MESH_PORT;

const LIMIT: Duration = Duration::from_secs(60);
/// The duration of the control server's outage.
const AWAY: Duration = Duration::from_secs(60);

pub(super) async fn run(network: &Network, naras: &Naras, table: &mut Table) {
    control_away(network, naras, table).await;
    relay_restarts(network, naras, table).await;
}

/// Checks that traffic continues during an outage of the control server, and that a node that joins afterwards is found
/// by all.
async fn control_away(network: &Network, naras: &Naras, table: &mut Table) {
    let mut failed: Vec<String> = Vec::new();
    if let Err(error) = network.control("down").await {
        failed.push(error);
    }
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed() < AWAY {
        for (pair, a, b) in naras.pairs() {
            if let Err(error) = a.client.ping(&b.name).await {
                failed.push(format!("{pair} after {:.0?}: {error}", begin.elapsed()));
            }
        }
        rounds += 1;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    if let Err(error) = network.control("up").await {
        failed.push(error);
    }
    for (pair, _, _) in naras.pairs() {
        let why = failed
            .iter()
            .find(|why| why.starts_with(&pair) || !why.contains(TO));
        let outcome = why.map_or_else(|| Ok(format!("{rounds} of {rounds}")), |why| Err(why.clone()));
        table.note("pings while control is away for 60 s", &pair, outcome);
    }
    // All naras must discover a new one.
    let new = match Nara::start(network, Kind::Embedded, "late").await {
        Ok(new) => new,
        Err(error) => {
            table
                .check(
                    "control is back after 60 s, and somebody joins",
                    "embedded",
                    LIMIT,
                    async { Err(error) },
                )
                .await;
            return;
        }
    };
    let outcomes = join_all(naras.first.iter().map(|nara| {
        let heard = async {
            // Go nodes and embedded nodes wait up to 30 s before they retry the control server.
            let took = nara.discover(&[&new.name], Duration::from_secs(50)).await?;
            Ok(format!("heard after {:.1} s", took.as_secs_f64()))
        };
        within(LIMIT, heard)
    }));
    for (nara, outcome) in naras.first.iter().zip(outcomes.await) {
        table.note(
            "control is back after 60 s, and somebody joins",
            &nara.kind.to_string(),
            outcome,
        );
    }
}

/// Restarts the relay, and checks that all pairs reach each other again.
async fn relay_restarts(network: &Network, naras: &Naras, table: &mut Table) {
    let restart = async {
        network.stop_relay().await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        network.start_relay().await
    };
    let restarted = restart.await;
    // Concurrently: with sequential checks the last pair would seem fast.
    let outcomes = join_all(naras.pairs().map(|(pair, a, b)| {
        let restarted = restarted.clone();
        async move {
            let answered = async {
                restarted?;
                let took = until_answered(a, &b.name, Duration::from_secs(40)).await?;
                Ok(format!("after {:.1} s", took.as_secs_f64()))
            };
            (pair, within(LIMIT, answered).await)
        }
    }));
    for (pair, outcome) in outcomes.await {
        table.note("relay killed, back after 4 s", &pair, outcome);
    }
}

/// Starts nodes while the control server does not answer.
pub(super) async fn at_start(
    programs: &Path,
    control: ControlKind,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<(), String> {
    for kind in kinds.iter().filter(|kind| **kind != Kind::Tsnet) {
        let network = Network::start_on(programs, control).await?;
        let check = async {
            network.control("down").await?;
            let node = kind.start(&network, "early").await?;
            let Err(not_ready) = node.ready(Duration::from_secs(3)).await else {
                return Err("it is ready without a control server".to_owned());
            };
            network.control("up").await?;
            let begin = Instant::now();
            node.ready(Duration::from_secs(50))
                .await
                .map_err(|error| error.to_string())?;
            let said = not_ready.reason.to_string();
            let said = said.split(';').next().unwrap_or_default().to_owned();
            println!("      {kind} said: {said}");
            Ok(format!("joined {:.1} s later", begin.elapsed().as_secs_f64()))
        };
        table
            .check(
                "control down at start",
                &kind.to_string(),
                Duration::from_secs(70),
                check,
            )
            .await;
    }
    Ok(())
}

/// Replaces the control server with one that has no state.
pub(super) async fn amnesia(programs: &Path, table: &mut Table) -> Result<(), String> {
    let network = Network::start(programs).await?;
    let check = async {
        // The decoy takes the first address and leaves, so that the other nodes get new addresses.
        let decoy = Nara::start(&network, Kind::Embedded, "amnesia-decoy").await?;
        let (a, b) = futures_util::future::try_join(
            Nara::start(&network, Kind::Embedded, "amnesia-a"),
            Nara::start(&network, Kind::Embedded, "amnesia-b"),
        )
        .await?;
        a.discover(&[&b.name], Duration::from_secs(15)).await?;
        let before = [a.address()?, b.address()?];
        decoy.node.leave().await.map_err(|error| error.to_string())?;
        network.replace_control().await?;
        let begin = Instant::now();
        let mut status = a.node.watch_status();
        status
            .wait_for(|status| status.state != NodeState::Running)
            .await
            .map_err(|error| error.to_string())?;
        for nara in [&a, &b] {
            nara.node
                .ready(Duration::from_secs(30))
                .await
                .map_err(|error| format!("{}: {error}", nara.name))?;
        }
        // Addresses may have changed: discovery finds the new ones.
        loop {
            let _ = a.discover(&[&b.name], Duration::from_secs(1)).await;
            match a.client.ping(&b.name).await {
                Ok(_) => break,
                Err(error) if begin.elapsed() > Duration::from_secs(40) => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
        let now = [a.address()?, b.address()?];
        if now == before {
            return Err(format!("both are at {now:?} again"));
        }
        // Dials directly, without the registry: the old listener must answer at the new address.
        let there = SocketAddr::new(now[1], MESH_PORT);
        a.node
            .dial(there)
            .await
            .map_err(|error| format!("{there}: {error}"))?;
        Ok(format!(
            "back after {:.1} s, {} → {}",
            begin.elapsed().as_secs_f64(),
            before[1],
            now[1]
        ))
    };
    table
        .check(
            "control replaced by one that knows nobody",
            "embedded",
            LIMIT,
            check,
        )
        .await;
    Ok(())
}
