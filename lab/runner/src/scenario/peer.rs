//! A peer dies, and comes back.

use std::time::{Duration, Instant};

use nara_proto::identity::NaraName;

use super::{Naras, until_answered};
use crate::nara::Nara;
use crate::network::{AUTH_KEY, Network};
use crate::process::Process;
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(90);
/// The time limit of a call, and some.
const CALL: Duration = Duration::from_millis(5_500);
/// Calls until the circuit breaker of the client opens: see `nara_mesh::defaults`.
const CALLS: usize = 4;

pub(super) async fn run(network: &Network, naras: &Naras, table: &mut Table) {
    for nara in &naras.first {
        let kind = nara.kind.to_string();
        let mortal = match Mortal::start(network, &format!("mortal-{kind}")).await {
            Ok(mortal) => mortal,
            Err(error) => {
                table
                    .check("peer killed", &kind, LIMIT, async { Err(error) })
                    .await;
                continue;
            }
        };
        let name = mortal.name.clone();
        let killed = table.check("peer killed", &kind, LIMIT, killed(nara, mortal));
        killed.await;
        let again = async {
            let mortal = Mortal::start(network, name.as_str()).await?;
            let begin = Instant::now();
            nara.discover(&[&name], Duration::from_secs(20)).await?;
            until_answered(nara, &name, Duration::from_secs(60)).await?;
            let took = begin.elapsed();
            drop(mortal);
            Ok(format!("answers {:.1} s after its start", took.as_secs_f64()))
        };
        table
            .check("… restarted with the same key", &kind, LIMIT, again)
            .await;
    }
}

/// A nara in a process of its own.
struct Mortal {
    name: NaraName,
    process: Process,
}

impl Mortal {
    async fn start(network: &Network, name: &str) -> Result<Self, String> {
        let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
        let programs = network.programs.to_string_lossy().into_owned();
        let key_file = network.folder_of(name).join("node.json");
        let key_file = key_file.to_string_lossy();
        let control = network.control_url();
        let mut process = Process::start(
            &ourselves,
            &[&programs, "nara", name, &control, AUTH_KEY, &key_file],
        )?;
        process.ready().await?;
        Ok(Self {
            name: name.parse().map_err(|error| format!("{name}: {error}"))?,
            process,
        })
    }
}

/// Calls end in time, and then fail at once.
async fn killed(nara: &Nara, mortal: Mortal) -> Result<String, String> {
    nara.discover(&[&mortal.name], Duration::from_secs(20)).await?;
    until_answered(nara, &mortal.name, Duration::from_secs(20)).await?;
    mortal.process.kill().await?;
    let mut slowest = Duration::ZERO;
    for _ in 0..CALLS {
        let begin = Instant::now();
        if nara.client.ping(&mortal.name).await.is_ok() {
            return Err("a dead peer answers".to_owned());
        }
        slowest = slowest.max(begin.elapsed());
    }
    if slowest > CALL {
        return Err(format!("a call took {slowest:.1?}"));
    }
    let begin = Instant::now();
    let error = match nara.client.ping(&mortal.name).await {
        Ok(_) => return Err("a dead peer answers".to_owned()),
        Err(error) => error,
    };
    let took = begin.elapsed();
    if !error.is_circuit_open() || took > Duration::from_millis(5) {
        return Err(format!("the circuit is not open: {error} after {took:.1?}"));
    }
    Ok(format!(
        "{:.1} s, then {:.2} ms",
        slowest.as_secs_f64(),
        took.as_secs_f64() * 1e3
    ))
}
