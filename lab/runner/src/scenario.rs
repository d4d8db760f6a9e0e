//! The scenarios of the lab.

mod crowd;
mod daemon;
mod example;
mod line;
mod machine;
mod naras;
mod outage;
mod pair;
mod path;
mod peer;
mod refused;
mod service;
mod soak;
mod up;

pub(crate) use soak::run as soak;

use std::path::Path;

use self::naras::Naras;
use crate::kind::Kind;
use crate::network::{ControlKind, Network};
use crate::table::Table;

/// The parts that `--only` can select.
const PARTS: [&str; 11] = [
    "pairs", "up", "start", "machine", "refused", "relay", "crowd", "line", "example", "service", "amnesia",
];

/// Runs all scenarios and prints the table. `--kinds a,b` limits the kinds, `--only a,b` limits the parts,
/// `--control headscale` selects another control server, and `--file PATH` also writes the table to a file.
pub(crate) async fn run(programs: &Path, args: &[String]) -> Result<(), String> {
    let mut kinds = Kind::ALL.to_vec();
    let mut parts = PARTS.to_vec();
    let mut file = None;
    let mut control = ControlKind::Test;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} takes a value"))?;
        match arg.as_str() {
            "--kinds" => kinds.retain(|kind| value.split(',').any(|wanted| wanted == kind.to_string())),
            "--only" => parts.retain(|part| value.split(',').any(|wanted| wanted == *part)),
            "--control" if value == "headscale" => control = ControlKind::Headscale,
            "--file" => file = Some(value),
            _ => return Err(format!("there is no option {arg}")),
        }
    }
    let mut table = Table::default();
    // Parts that change the whole network, or need an empty one, create their own.
    for part in parts {
        match part {
            "pairs" => pairs(programs, control, &kinds, &mut table).await?,
            "up" => up::run(programs, control, &kinds, &mut table).await?,
            "start" => outage::at_start(programs, control, &kinds, &mut table).await?,
            "machine" => machine::run(programs, control, &kinds, &mut table).await?,
            "refused" => refused::run(programs, control, &kinds, &mut table).await?,
            _ if !kinds.contains(&Kind::Embedded) => {}
            "relay" => path::relay_only(programs, control, &mut table).await?,
            "crowd" => crowd::run(programs, control, &mut table).await?,
            "line" if control == ControlKind::Test => line::run(programs, &mut table).await,
            // The control server does not affect the line.
            "line" => {}
            "example" => example::run(programs, control, &mut table).await?,
            "service" => service::run(programs, control, &mut table).await?,
            _ if control == ControlKind::Headscale => table.left_out(
                "control replaced by one that knows nobody",
                "a new Headscale does not know the auth key either, so nobody can join it",
            ),
            _ => outage::amnesia(programs, &mut table).await?,
        }
    }
    let markdown = table.markdown();
    println!("\n{markdown}");
    if let Some(file) = file {
        std::fs::write(file, &markdown).map_err(|error| format!("{file}: {error}"))?;
    }
    table.into_outcome()
}

/// Runs all scenarios between two naras of each kind on one tailnet.
async fn pairs(
    programs: &Path,
    control: ControlKind,
    kinds: &[Kind],
    table: &mut Table,
) -> Result<(), String> {
    let network = Network::start_on(programs, control).await?;
    let naras = Naras::start(&network, kinds, table).await?;
    pair::run(&naras, table).await;
    path::run(&naras, table).await;
    outage::run(&network, &naras, table).await;
    peer::run(&network, control, &naras, table).await;
    if kinds.contains(&Kind::Managed) {
        daemon::run(&network, &naras, table).await;
    }
    Ok(())
}
