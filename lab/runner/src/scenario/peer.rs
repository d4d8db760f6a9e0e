//! Kills and restarts a peer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use nara_proto::identity::NaraName;

use super::naras::{Naras, until_answered};
use crate::kind::Kind;
use crate::nara::Nara;
use crate::network::{ControlKind, Network};
use crate::process::Process;
use crate::table::{Outcome, TO, Table, within};

const LIMIT: Duration = Duration::from_secs(90);
/// The maximum duration of a call: its timeout plus tolerance.
const CALL: Duration = Duration::from_millis(5_500);
/// The number of failed calls that opens the client's circuit breaker; see `nara_mesh::defaults`.
const CALLS: usize = 4;

/// The kinds that are killed. A managed daemon would be restarted at once; see `daemon`.
const VICTIMS: [Kind; 2] = [Kind::Embedded, Kind::Tsnet];

pub(super) async fn run(network: &Network, control: ControlKind, naras: &Naras, table: &mut Table) {
    for victim in VICTIMS {
        if !naras.first.iter().any(|nara| nara.kind == victim) {
            continue;
        }
        let name = format!("mortal-{victim}");
        let dying = async {
            let mortal = Mortal::start(network, victim, &name).await?;
            for nara in &naras.first {
                nara.discover(&[&mortal.name], Duration::from_secs(20)).await?;
                until_answered(nara, &mortal.name, Duration::from_secs(20)).await?;
            }
            let name = mortal.name.clone();
            mortal.kill().await?;
            Ok::<_, String>(name)
        };
        let name = match dying.await {
            Ok(name) => name,
            Err(error) => {
                table.note("peer killed", &victim.to_string(), Err(error));
                continue;
            }
        };
        note(
            table,
            "peer killed: calls end, then fail at once",
            naras,
            victim,
            |nara| is_given_up(nara, &name),
        )
        .await;
        if control == ControlKind::Headscale {
            note(table, "… seen offline", naras, victim, |nara| {
                is_seen(nara, &name, false)
            })
            .await;
        }
        let mortal = match Mortal::start(network, victim, name.as_str()).await {
            Ok(mortal) => mortal,
            Err(error) => {
                table.note("… restarted with the same key", &victim.to_string(), Err(error));
                continue;
            }
        };
        note(
            table,
            "… restarted with the same key",
            naras,
            victim,
            async |nara: &Nara| {
                let begin = Instant::now();
                nara.discover(&[&name], Duration::from_secs(20)).await?;
                until_answered(nara, &name, Duration::from_secs(60)).await?;
                Ok(format!("answers after {:.1} s", begin.elapsed().as_secs_f64()))
            },
        )
        .await;
        if control == ControlKind::Headscale {
            note(table, "… seen online again", naras, victim, |nara| {
                is_seen(nara, &name, true)
            })
            .await;
        }
        drop(mortal);
    }
}

/// Waits until the node of a nara reports another node as online or offline. The test control server never reports
/// this,
/// and our tsnet program does not forward it.
async fn is_seen(nara: &Nara, name: &NaraName, online: bool) -> Outcome {
    if nara.kind == Kind::Tsnet {
        return Ok(String::new());
    }
    let begin = Instant::now();
    loop {
        let nodes = nara.node.candidates().await.map_err(|error| error.to_string())?;
        let seen = nodes.iter().find(|node| node.host_name == name.as_str());
        if seen.is_some_and(|node| node.online == Some(online)) {
            return Ok(format!("after {:.1} s", begin.elapsed().as_secs_f64()));
        }
        if begin.elapsed() > Duration::from_secs(40) {
            return Err(format!("it is {seen:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs a check with every first nara concurrently, and records the outcomes.
async fn note<'a>(
    table: &mut Table,
    row: &str,
    naras: &'a Naras,
    victim: Kind,
    check: impl AsyncFn(&'a Nara) -> Outcome,
) {
    let outcomes = join_all(naras.first.iter().map(|nara| within(LIMIT, check(nara)))).await;
    for (nara, outcome) in naras.first.iter().zip(outcomes) {
        table.note(row, &format!("{}{TO}{victim}", nara.kind), outcome);
    }
}

/// A nara that can be killed.
enum Body {
    /// The whole nara, a process.
    Process(Box<Process>),
    /// Only its node, a Go program.
    Node(Box<Nara>),
}

struct Mortal {
    name: NaraName,
    body: Body,
}

impl Mortal {
    async fn start(network: &Network, kind: Kind, name: &str) -> Result<Self, String> {
        let body = if kind == Kind::Embedded {
            Body::Process(Box::new(embedded(network, name).await?))
        } else {
            Body::Node(Box::new(Nara::start(network, kind, name).await?))
        };
        Ok(Self {
            name: name.parse().map_err(|error| format!("{name}: {error}"))?,
            body,
        })
    }

    async fn kill(self) -> Result<(), String> {
        match self.body {
            Body::Process(process) => process.kill().await,
            Body::Node(nara) => nara.node.leave().await.map_err(|error| error.to_string()),
        }
    }
}

async fn embedded(network: &Network, name: &str) -> Result<Process, String> {
    let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
    let programs = network.programs.to_string_lossy();
    let key_file = network.folder_of(name).join("node.json");
    let key_file = key_file.to_string_lossy();
    let control = network.control_url();
    let mut process = Process::start(
        &ourselves,
        &[&programs, "nara", name, &control, network.auth_key(), &key_file],
    )?;
    process.ready().await?;
    Ok(process)
}

/// Checks that calls to a dead peer time out, and then fail at once.
async fn is_given_up(nara: &Nara, dead: &NaraName) -> Outcome {
    let mut slowest = Duration::ZERO;
    for _ in 0..CALLS {
        let begin = Instant::now();
        if nara.client.ping(dead).await.is_ok() {
            return Err("a dead peer answers".to_owned());
        }
        slowest = slowest.max(begin.elapsed());
    }
    if slowest > CALL {
        return Err(format!("a call took {slowest:.1?}"));
    }
    let begin = Instant::now();
    let Err(error) = nara.client.ping(dead).await else {
        return Err("a dead peer answers".to_owned());
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
