//! A nara on the `tailscaled` of a machine, which carries the tailnet as a network device.
//!
//! There is one: the lab has one network namespace, and so one machine.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nara_tailnet::tailscaled::TailscaledNode;

use super::naras::{Naras, until_answered};
use super::pair;
use crate::daemon::Daemon;
use crate::echo::Echo;
use crate::kind::Kind;
use crate::nara::{Nara, story};
use crate::network::{ControlKind, Network};
use crate::program::Program;
use crate::space::tun_usable;
use crate::table::{Outcome, TO, Table, within};

const LIMIT: Duration = Duration::from_secs(90);
const SOON: Duration = Duration::from_secs(30);

/// Every kind with it, and it with every kind; then its daemon is killed, and started again.
pub(super) async fn run(
    programs: &Path,
    control: ControlKind,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<(), String> {
    if let Err(why) = tun_usable() {
        table.left_out("the tailscaled of a machine", &why);
        return Ok(());
    }
    let network = Network::start_on(programs, control).await?;
    let others = Naras::start_some(&network, kinds, "with").await?;
    let begin = Instant::now();
    let mut daemon = Daemon::start(&network, "machine").await?;
    daemon.log_in(&network, "machine").await?;
    let joined = format!("{:.2} s", begin.elapsed().as_secs_f64());
    table.note("daemon started and joined", "tailscaled", Ok(joined));
    let up = async {
        let (begin, socket) = (Instant::now(), daemon.socket());
        let program = Program::new(programs, network.folder_of("home"))?;
        program
            .run(&["id", "new", "--name", "carol", "--out", "carol.soul"])
            .await?;
        // Only the place of the socket is not the usual one.
        let socket = socket.to_string_lossy();
        let mut carol = program.start(&["up", "--soul-file", "carol.soul", "--socket", &socket])?;
        carol
            .until(&[("step", "network"), ("network", "tailscaled")])
            .await?;
        if let Some(other) = others.first() {
            carol
                .until(&[("event", "found"), ("name", other.name.as_str())])
                .await?;
        }
        let took = begin.elapsed();
        carol.end().await?;
        Ok(format!("finds a nara after {:.1} s", took.as_secs_f64()))
    };
    table.check("`up` without options", "tailscaled", LIMIT, up).await;
    let begin = Instant::now();
    let node = Arc::new(TailscaledNode::new(daemon.socket()));
    let machine = Nara::on(node, Kind::Tailscaled, "machine", begin).await?;

    let names: Vec<_> = others.iter().map(|nara| &nara.name).collect();
    let discover = async { machine.discover(&names, SOON).await.map(pair::seconds) };
    table
        .check("discover the others", "tailscaled", LIMIT, discover)
        .await;
    for nara in others.iter().chain([&machine]) {
        nara.remember(nara.events(pair::EVENTS, story)).await?;
    }
    for other in &others {
        let found = other.discover(&[&machine.name], SOON).await;
        if let Err(error) = found {
            table.note("ping", &format!("{}{TO}{}", other.kind, machine.kind), Err(error));
            continue;
        }
        for (a, b) in [(&machine, other), (other, &machine)] {
            pair::talk(a, b, table).await;
        }
    }
    bytes(&machine, &others, table).await;
    restart(&mut daemon, &network, control, &machine, &others, table).await;
    Ok(())
}

/// 1 MiB there and back, over both families.
async fn bytes(machine: &Nara, others: &[Nara], table: &mut Table) {
    for address in machine.node.status().addresses {
        let to = SocketAddr::new(address, pair::ECHO_PORT);
        let echo = match Echo::start(machine.node.clone(), to).await {
            Ok(echo) => echo,
            Err(error) => {
                table.note(pair::row_of_bytes(address), &machine.kind.to_string(), Err(error));
                continue;
            }
        };
        for other in others {
            pair::exchange_with(other, machine.kind, echo.address, table).await;
        }
    }
    for other in others {
        for address in other.node.status().addresses {
            let to = SocketAddr::new(address, pair::ECHO_PORT);
            // A tsnet node has an echo of its own.
            let echo = match other.kind {
                Kind::Tsnet => None,
                _ => match Echo::start(other.node.clone(), to).await {
                    Ok(echo) => Some(echo),
                    Err(error) => {
                        table.note(pair::row_of_bytes(address), &other.kind.to_string(), Err(error));
                        continue;
                    }
                },
            };
            pair::exchange_with(machine, other.kind, to, table).await;
            drop(echo);
        }
    }
}

/// The daemon dies, its device goes with it, and it is started again: the nara on it is reached as before, and reaches
/// all others.
async fn restart(
    daemon: &mut Daemon,
    network: &Network,
    control: ControlKind,
    machine: &Nara,
    others: &[Nara],
    table: &mut Table,
) {
    let restarted = async {
        daemon.kill().await?;
        let mut status = machine.node.watch_status();
        // What is seen is let go at once: as long as somebody holds it, the node cannot change it.
        let lost = tokio::time::timeout(SOON, status.wait_for(|status| !status.is_running()))
            .await
            .is_ok();
        if !lost {
            return Err("the node does not notice".to_owned());
        }
        *daemon = Daemon::start(network, "machine").await?;
        if control == ControlKind::Test {
            // The test control server wants its key each time, others know the node.
            daemon.log_in(network, "machine").await?;
        }
        Ok(Instant::now())
    }
    .await;
    for other in others {
        for (a, b) in [(machine, other), (other, machine)] {
            let restarted = restarted.clone();
            let back = async {
                let begin = restarted?;
                until_answered(a, &b.name, Duration::from_secs(60)).await?;
                Ok(format!("answers after {:.1} s", begin.elapsed().as_secs_f64())) as Outcome
            };
            table.note(
                "daemon killed and started again",
                &format!("{}{TO}{}", a.kind, b.kind),
                within(LIMIT, back).await,
            );
        }
    }
}
