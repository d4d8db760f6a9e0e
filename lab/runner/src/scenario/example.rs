//! The example `embedded` of `nara-tailnet`: two naras discover each other.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::network::{ControlKind, Network};
use crate::process::Process;
use crate::table::Table;

const LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(programs: &Path, control: ControlKind, table: &mut Table) -> Result<(), String> {
    let network = Network::start_on(programs, control).await?;
    let found = find_each_other(&network);
    table
        .check("the example `embedded`, twice", "embedded", LIMIT, found)
        .await;
    Ok(())
}

async fn find_each_other(network: &Network) -> Result<String, String> {
    let ourselves = std::env::current_exe().map_err(|error| error.to_string())?;
    let example = ourselves.with_file_name("examples").join("embedded");
    let begin = Instant::now();
    let start = |name| Process::start(&example, &[name, &network.control_url(), network.auth_key()]);
    let (mut alice, mut bob) = (start("alice")?, start("bob")?);
    tokio::try_join!(until(&mut alice, "found bob"), until(&mut bob, "found alice"))?;
    Ok(format!("after {:.1} s", begin.elapsed().as_secs_f64()))
}

/// Reads lines up to this one.
async fn until(process: &mut Process, wanted: &str) -> Result<(), String> {
    while process.ready().await? != wanted {}
    Ok(())
}
