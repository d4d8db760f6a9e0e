//! The commands of `docs/tailnet.md`, up to two naras that reach each other.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::program::{Program, Running};
use crate::table::{Outcome, Table};

const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(
    programs: &Path,
    control: ControlKind,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<(), String> {
    for kind in kinds.iter().copied().filter(|kind| *kind != Kind::Tsnet) {
        let network = Network::start_on(programs, control).await?;
        let program = Program::new(programs, network.folder_of("home"))?;
        let column = kind.to_string();
        let mut naras = None;
        let up = async {
            let begin = Instant::now();
            naras = Some(two_naras(&network, &program, kind).await?);
            Ok(format!("after {:.1} s", begin.elapsed().as_secs_f64()))
        };
        table
            .check("`up` twice: they find each other", &column, LIMIT, up)
            .await;
        let Some((alice, bob)) = naras else { continue };
        if kind == Kind::Managed {
            let beside = async { ping(&program).await };
            table
                .check("… `ping bob` beside it", &column, LIMIT, beside)
                .await;
            table
                .check("… `peers`, `peers --watch`", &column, LIMIT, peers(&program))
                .await;
            table.check("… `doctor`", &column, LIMIT, doctor(&program)).await;
        }
        let end = async {
            let begin = Instant::now();
            alice.end().await?;
            bob.end().await?;
            Ok(format!("both within {:.1} s", begin.elapsed().as_secs_f64()))
        };
        table.check("… ctrl-C", &column, LIMIT, end).await;
    }
    Ok(())
}

/// Creates two souls, starts a nara with each, and waits until they have found each other.
async fn two_naras(network: &Network, program: &Program, kind: Kind) -> Result<(Running, Running), String> {
    let mut alice = start(network, program, kind, "alice").await?;
    let mut bob = start(network, program, kind, "bob").await?;
    for (nara, other) in [(&mut alice, "bob"), (&mut bob, "alice")] {
        for step in ["identity", "network", "joined", "serving", "discovery"] {
            nara.until(&[("event", "step"), ("step", step)]).await?;
        }
        nara.until(&[("event", "found"), ("name", other)]).await?;
    }
    Ok((alice, bob))
}

/// Creates a soul and starts a nara with it.
pub(super) async fn start(
    network: &Network,
    program: &Program,
    kind: Kind,
    name: &str,
) -> Result<Running, String> {
    let key = program.home().join("key");
    std::fs::write(&key, format!("{}\n", network.auth_key())).map_err(|error| error.to_string())?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| error.to_string())?;
    let (kind, control_url, soul) = (kind.to_string(), network.control_url(), format!("{name}.soul"));
    program
        .run(&["id", "new", "--name", name, "--out", &soul])
        .await?;
    let mut args = vec!["up", "--soul-file", &soul, "--network", &kind];
    args.extend(["--auth-key-file", "key", "--control-url", &control_url]);
    if kind == "embedded" {
        // The control server of the lab does not use TLS.
        args.push("--danger-plain-control");
    }
    program.start(&args)
}

/// Runs a command as the running alice.
async fn as_alice(program: &Program, command: &[&str]) -> Result<Value, String> {
    let beside = ["--network", "managed", "--soul-file", "alice.soul"];
    program.run(&[command, &beside].concat()).await
}

async fn ping(program: &Program) -> Outcome {
    let answer = as_alice(program, &["ping", "bob"]).await?;
    let bob = &answer["peers"][0];
    match (bob["host_name"].as_str(), bob["path"].as_str()) {
        (Some(host_name), Some(path)) if host_name.starts_with("bob-") && !path.is_empty() => {
            Ok(path.split(' ').next().unwrap_or_default().to_owned())
        }
        _ => Err(format!("it says {bob}")),
    }
}

async fn peers(program: &Program) -> Outcome {
    let answer = as_alice(program, &["peers"]).await?;
    let bob = &answer["peers"][0];
    if bob["name"] != "bob" || bob["key_source"].as_str().is_none_or(str::is_empty) {
        return Err(format!("peers says {answer}"));
    }
    let watching = [
        "peers",
        "--watch",
        "--network",
        "managed",
        "--soul-file",
        "alice.soul",
    ];
    let mut watching = program.start(&watching)?;
    watching.until(&[("event", "nara"), ("name", "bob")]).await?;
    Ok("bob".to_owned())
}

async fn doctor(program: &Program) -> Outcome {
    let answer = as_alice(program, &["doctor"]).await?;
    let checks = answer["checks"].as_array().map(Vec::len).unwrap_or_default();
    let warnings: Vec<_> = answer["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|check| check["result"] == "warning")
        .collect();
    if checks < 12 || answer["failed"] != 0 {
        return Err(format!("it says {answer}"));
    }
    for warning in &warnings {
        println!("      doctor warns: {}: {}", warning["what"], warning["found"]);
    }
    Ok(format!("{checks} checks, {} warnings", warnings.len()))
}
