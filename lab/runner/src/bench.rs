//! Figures of each pair, beside those of two tsnet nodes in the same run.

mod figures;
mod http;
pub(crate) mod line;
mod signed;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::figures::Figures;
use crate::kind::Kind;
use crate::network::{AUTH_KEY, Network};
use crate::process::{Process, memory_mb};
use crate::settings::Settings;
use crate::space::Space;
use crate::tsnet::MESH_PORT;

/// How long each figure is measured, in seconds.
const SECONDS: &str = "4";
/// Starts of fresh nodes per pair: each gives one first request.
const ROUNDS: usize = 5;
/// How long one round may take.
const ROUND: Duration = Duration::from_secs(120);

/// Measures all pairs and prints the table. `--rounds N`, `--file PATH`.
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let mut rounds = ROUNDS;
    let mut file = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--rounds" => rounds = value.parse().map_err(|_| "--rounds takes a number".to_owned())?,
            "--file" => file = Some(value),
            _ => return Err(format!("there is no option {arg}")),
        }
    }
    let pairs = [
        (Kind::Tsnet, Kind::Tsnet),
        (Kind::Embedded, Kind::Embedded),
        (Kind::Embedded, Kind::Tsnet),
        (Kind::Tsnet, Kind::Embedded),
        (Kind::Managed, Kind::Managed),
        (Kind::Managed, Kind::Tsnet),
        (Kind::Tsnet, Kind::Managed),
    ];
    let mut all: Vec<Vec<Figures>> = vec![Vec::new(); pairs.len()];
    for round in 1..=rounds {
        // Pairs alternate, so that a change of the machine's pace hits all of them.
        for ((client, server), found) in pairs.iter().zip(&mut all) {
            let network = Network::start(programs).await?;
            let figures = tokio::time::timeout(ROUND, measure(&network, *client, *server))
                .await
                .map_err(|_| format!("{client} → {server} did not end within {ROUND:?}"))?
                .map_err(|error| format!("{client} → {server}: {error}"))?;
            println!("round {round}  {client} → {server}  {figures:?}");
            found.push(figures);
        }
    }
    let mut text = "| pair | requests/s | p50 µs | p99 µs | down MB/s | up MB/s | first request ms (p50, worst) | idle memory MB |\n|---|---|---|---|---|---|---|---|\n".to_owned();
    for ((client, server), found) in pairs.iter().zip(&all) {
        let median = |field: fn(&Figures) -> f64| median(found.iter().map(field));
        let worst = found.iter().map(|figures| figures.first_ms).fold(0.0, f64::max);
        text.push_str(&format!(
            "| {client} → {server} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0}, {worst:.0} | {:.1} |\n",
            median(|figures| figures.requests_per_second),
            median(|figures| figures.p50_us),
            median(|figures| figures.p99_us),
            median(|figures| figures.down_mb_s),
            median(|figures| figures.up_mb_s),
            median(|figures| figures.first_ms),
            median(|figures| figures.memory_mb),
        ));
    }
    println!("\n{text}");
    if let Some(file) = file {
        std::fs::write(file, &text).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

/// 0 if there are no values.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[derive(Deserialize)]
struct Ready {
    addresses: Vec<std::net::IpAddr>,
}

/// A fresh server and a fresh client, each in a process of its own.
async fn measure(network: &Network, client: Kind, server: Kind) -> Result<Figures, String> {
    let (_serving, address) = serving(network, server, None).await?;
    let mut loading = start(network, client, None, "bench-client", &[&address])?;
    loading.ready_json().await
}

/// A server that runs, and its address in the tailnet.
pub(crate) async fn serving(
    network: &Network,
    kind: Kind,
    space: Option<&Space>,
) -> Result<(Process, String), String> {
    let mut serving = start(network, kind, space, "bench-server", &[])?;
    let ready: Ready = serving.ready_json().await?;
    let address = *ready.addresses.first().ok_or("the server has no address")?;
    Ok((serving, SocketAddr::new(address, MESH_PORT).to_string()))
}

/// Starts a server or, with the address of one, a client; with the size of a blob too, one that measures a line.
pub(crate) fn start(
    network: &Network,
    kind: Kind,
    space: Option<&Space>,
    name: &str,
    load: &[&str],
) -> Result<Process, String> {
    let control = network.control_url();
    let folder = network.folder_of(name);
    let folder = folder.to_string_lossy();
    if kind == Kind::Tsnet {
        let mut args = vec![
            "-name",
            name,
            "-control",
            &control,
            "-auth-key",
            AUTH_KEY,
            "-folder",
            &folder,
            "-bench",
            "-seconds",
            SECONDS,
        ];
        args.extend(
            ["-load", "-line"]
                .iter()
                .zip(load)
                .flat_map(|(name, value)| [*name, *value]),
        );
        return Process::start_in(space, &network.programs.join("peer"), &args);
    }
    let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = network.programs.to_string_lossy();
    let kind = kind.to_string();
    let mut args = vec![
        &*programs,
        "bench-nara",
        &*programs,
        &kind,
        &folder,
        name,
        &control,
    ];
    args.extend(load);
    Process::start_in(space, &ourselves, &args)
}

/// A server or, with the address of one, a client on a node of ours: see [`start`].
pub(crate) async fn child(args: &[String]) -> Result<(), String> {
    let [programs, kind, folder, name, control_url, load @ ..] = args else {
        return Err("bench-nara FOLDER-OF-PROGRAMS KIND FOLDER NAME CONTROL-URL [ADDRESS [BLOB]]".to_owned());
    };
    let begin = Instant::now();
    let settings = Settings::ephemeral(name, control_url);
    let kind = Kind::named(kind)?;
    let node = kind
        .start_in(Path::new(programs), folder.into(), settings)
        .await?;
    let status = node.ready(ROUND).await.map_err(|error| error.to_string())?;
    let ready = begin.elapsed();
    let Some(server) = load.first() else {
        let address = *status.addresses.first().ok_or("the node has no address")?;
        let listener = nara_mesh::transport::Transport::listen(&*node, (address, MESH_PORT).into())
            .await
            .map_err(|error| error.to_string())?;
        println!("{}", serde_json::json!({ "addresses": status.addresses }));
        let (mut input, mut nowhere) = (tokio::io::stdin(), tokio::io::sink());
        tokio::select! {
            () = http::serve(listener) => {}
            // Nothing is ever sent: this waits for the end.
            _ = tokio::io::copy(&mut input, &mut nowhere) => {}
        }
        return Ok(());
    };
    let address = server.parse().map_err(|error| format!("{server}: {error}"))?;
    if let Some(blob) = load.get(1) {
        let blob = blob.parse().map_err(|error| format!("{blob}: {error}"))?;
        return print(&line::measure(&*node, address, blob).await?);
    }
    // Idle memory is taken before there is any traffic.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let memory = memory_mb(std::process::id());
    let duration = Duration::from_secs(SECONDS.parse().unwrap_or(4));
    let mut figures = http::load(&*node, address, duration).await?;
    figures.ready_ms = ready.as_secs_f64() * 1e3;
    figures.memory_mb = memory;
    print(&figures)
}

fn print<T: Serialize>(figures: &T) -> Result<(), String> {
    println!(
        "{}",
        serde_json::to_string(figures).map_err(|error| error.to_string())?
    );
    Ok(())
}
