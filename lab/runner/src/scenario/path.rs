//! Path selection: packets move from the relay to a direct path, and back when the path fails.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nara_tailnet::status::PathKind;
use tokio::process::Command;

use super::naras::{Naras, until_answered};
use crate::echo::{Echo, exchange};
use crate::kind::{Kind, embedded};
use crate::nara::Nara;
use crate::network::{ControlKind, Network};
use crate::settings::Settings;
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(60);
/// The maximum latency of a ping while the relay takes over from a failed path.
const TAKES_OVER: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;
const AT_ONCE: usize = 8;
/// The port of the echo servers.
const ECHO_PORT: u16 = 9700;
/// The address of the lab's second network device; the first has `127.0.0.1`. See `xtask/src/lab.rs`.
const ADDRESS: &str = "10.77.0.1";
/// The address of the device while [`ADDRESS`] is unreachable.
const OTHER: &str = "10.77.0.2";
const DEVICE: &str = "lab0";

pub(super) async fn run(naras: &Naras, table: &mut Table) {
    for (pair, a, b) in naras.pairs() {
        if a.kind != Kind::Tsnet {
            table
                .check("leave the relay", &pair, LIMIT, leaves_the_relay(a, b))
                .await;
        }
    }
    let of_kind = |naras: &'_ [Nara]| naras.iter().position(|nara| nara.kind == Kind::Embedded);
    if let (Some(a), Some(b)) = (of_kind(&naras.first), of_kind(&naras.second)) {
        let (a, b) = (&naras.first[a], &naras.second[b]);
        let column = Kind::Embedded.to_string();
        let broken = path_dies(a, b).await;
        let mended = mend().await;
        table.note("a path dies: until the relay answers", &column, broken);
        table.note("… mended", &column, mended.map(|()| String::new()));
        table
            .check(
                "… until it is direct again",
                &column,
                LIMIT,
                leaves_the_relay(a, b),
            )
            .await;
    }
}

/// Runs checks between two embedded naras without direct paths, as behind two hard NATs.
pub(super) async fn relay_only(
    programs: &Path,
    control: ControlKind,
    table: &mut Table,
) -> Result<(), String> {
    let column = "embedded, relay only";
    let network = Network::start_on(programs, control).await?;
    let start = |name: &'static str| {
        let mut settings = Settings::new(&network, name);
        settings.direct = false;
        async {
            let begin = Instant::now();
            let node = Arc::new(embedded(settings)?);
            Nara::on(node, Kind::Embedded, name, begin).await
        }
    };
    let (a, b) = futures_util::future::try_join(start("relayed-a"), start("relayed-b")).await?;
    a.discover(&[&b.name], LIMIT / 4).await?;
    let ping = async {
        let report = a.client.ping(&b.name).await.map_err(|error| error.to_string())?;
        match a.node.path_to(b.address()?).await {
            PathKind::Relay { .. } => Ok(format!("{:.1} ms", report.rtt.as_secs_f64() * 1e3)),
            path => Err(format!("the path is {path}")),
        }
    };
    table.check("ping", column, LIMIT, ping).await;
    let bytes = async {
        let echo = Echo::start(b.node.clone(), SocketAddr::new(b.address()?, ECHO_PORT)).await?;
        let begin = Instant::now();
        exchange(&*a.node, echo.address, MIB).await?;
        Ok(format!("{:.1} ms", begin.elapsed().as_secs_f64() * 1e3))
    };
    table.check("1 MiB there and back", column, LIMIT, bytes).await;
    // The transfers share the queue of the relay, which drops packets when it is full.
    let at_once = async {
        let echo = Echo::start(b.node.clone(), SocketAddr::new(b.address()?, ECHO_PORT + 1)).await?;
        let begin = Instant::now();
        let exchanges = (0..AT_ONCE).map(|_| exchange(&*a.node, echo.address, MIB));
        futures_util::future::try_join_all(exchanges).await?;
        Ok(format!("{:.2} s", begin.elapsed().as_secs_f64()))
    };
    table
        .check("8 × 1 MiB there and back at once", column, LIMIT, at_once)
        .await;
    let back = async {
        network.stop_relay().await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
        network.start_relay().await?;
        let took = until_answered(&a, &b.name, LIMIT / 2).await?;
        Ok(format!("after {:.1} s", took.as_secs_f64()))
    };
    table
        .check("relay killed, back after 4 s", column, LIMIT, back)
        .await;
    Ok(())
}

/// Pings until the path is direct.
async fn leaves_the_relay(a: &Nara, b: &Nara) -> Result<String, String> {
    let begin = Instant::now();
    loop {
        a.client.ping(&b.name).await.map_err(|error| error.to_string())?;
        let path = a.node.path_to(b.address()?).await;
        match path {
            PathKind::Direct { .. } => return Ok(format!("{:.2} s", begin.elapsed().as_secs_f64())),
            _ if begin.elapsed() > LIMIT / 2 => return Err(format!("the path is still: {path}")),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Makes a black hole of the direct path, and returns the slowest ping until well after the failover.
async fn path_dies(a: &Nara, b: &Nara) -> Result<String, String> {
    for args in [
        format!("addr add {OTHER}/25 dev {DEVICE}"),
        format!("neigh replace {ADDRESS} lladdr 02:00:00:00:00:99 dev {DEVICE} nud permanent"),
        format!("addr del {ADDRESS}/24 dev {DEVICE}"),
    ] {
        ip(&args).await?;
    }
    let begin = Instant::now();
    let mut slowest = Duration::ZERO;
    while begin.elapsed() < 2 * TAKES_OVER {
        let asked = Instant::now();
        a.client
            .ping(&b.name)
            .await
            .map_err(|error| format!("after {:.1?}: {error}", begin.elapsed()))?;
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if slowest > TAKES_OVER {
        return Err(format!("a ping took {slowest:.1?}"));
    }
    Ok(format!("{:.2} s", slowest.as_secs_f64()))
}

async fn mend() -> Result<(), String> {
    for args in [
        format!("addr add {ADDRESS}/24 dev {DEVICE}"),
        format!("neigh del {ADDRESS} dev {DEVICE}"),
        format!("addr del {OTHER}/25 dev {DEVICE}"),
    ] {
        ip(&args).await?;
    }
    Ok(())
}

async fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip")
        .args(args.split(' '))
        .output()
        .await
        .map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {args}: {}", said.trim()))
}
