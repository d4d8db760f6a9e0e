//! `doctor`: finds what prevents a nara from talking to others.

mod here;
mod peers;
mod report;
mod tailnet;

pub(super) use self::report::Printed;

use std::sync::Arc;
use std::time::Duration;

use nara_local_api::model;
use nara_mesh::client::MeshClient;
use nara_mesh::identity::LocalNara;
use nara_mesh::{Nara, defaults};
use nara_tailnet::MeshNode;

use self::peers::Known;
use self::report::{Check, Report};
use crate::cli::DoctorArgs;
use crate::connect::{self, block_on};
use crate::failure::Outcome;
use crate::keeping::{Keeping, Without};
use crate::ledger_file::InUse;
use crate::network::OnNetwork;
use crate::printer::Printer;
use crate::running;
use crate::settings::Settings;

/// Time limit for the checks of a running nara, which calls its peers for them.
const CHECKS: Duration = Duration::from_secs(120);

pub(super) fn run(args: &DoctorArgs, settings: &Settings, printer: Printer) -> Outcome {
    let mut report = Report::new(Some(printer));
    let (mut hangs, mut folder) = (false, None);
    match checks_of_running(args, settings) {
        Ok(Some(checks)) => {
            for check in checks {
                report.add(check.into())?;
            }
            return report.finish();
        }
        Ok(None) => {}
        // Run the checks that do not need the running nara.
        Err(failure) if running::hanging(&failure).is_some() => {
            hangs = true;
            if let Some(socket) = running::hanging(&failure) {
                folder = block_on(async { Ok(running::folder_behind(socket).await) })?;
            }
            let why = "commands work through the running nara, and peers cannot reach a nara that hangs";
            report.add(Check::not_usable("running nara", failure, why, ""))?;
        }
        Err(failure) => return Err(failure),
    }
    let own_folder = folder.filter(|_| settings.given_data_dir().is_none());
    let in_own_folder = own_folder.map(|folder| settings.in_folder(folder));
    let settings = in_own_folder.as_ref().unwrap_or(settings);
    here::version(&mut report)?;
    here::clock(&mut report)?;
    let nara = here::soul(settings, hangs, &mut report)?;
    let unknown = if hangs { here::HANGS } else { here::NOT_RUNNING };
    here::own_key(Err(unknown), &mut report)?;
    here::soul_file(settings, &mut report)?;
    let peers_file = here::peers_file(settings, nara.as_ref(), &mut report)?;
    here::permissions(settings, &mut report)?;
    let kind = tailnet::choice(args, &mut report)?;
    block_on(async {
        let running = match settings.running_folder() {
            Ok(folder) if !hangs => running::on(&folder, settings).await.unwrap_or_default(),
            _ => None,
        };
        let clock = match running {
            Some(nara) => running::within(settings.timeout, &nara, nara.clock()).await.ok(),
            None => None,
        };
        here::clock_steps(clock.map(|clock| clock.step).ok_or(unknown), &mut report)?;
        here::ledger(settings, nara.as_ref(), &mut report).await?;
        let node = tailnet::node(kind, args, settings, nara.as_ref(), &mut report).await?;
        // Without a readable peers file, discovery still works.
        let client = peers_file.then(|| client(nara.as_ref(), settings, node.clone()));
        let client = client.transpose()?;
        if hangs {
            here::port_of_hanging(&mut report)?;
        } else {
            tailnet::port(args.port, kind, node.as_ref(), nara.as_ref(), &mut report).await?;
        }
        let keeping = match &client {
            // Includes the trust decisions of the operator.
            Some(client) => {
                let ledger = settings.ledger_path().unwrap_or_default();
                let ledger = ledger.filter(|path| path.exists());
                Keeping::start(client.registry(), ledger, Without::GoOn).await?
            }
            None => Keeping::Nowhere,
        };
        let outcome = peers::all(client.as_ref(), node.as_ref(), args, nara.is_some(), &mut report).await;
        keeping.finish().await;
        outcome
    })?;
    report.finish()
}

/// Returns the checks of the running nara; `None` if none runs.
fn checks_of_running(args: &DoctorArgs, settings: &Settings) -> Outcome<Option<Vec<model::Check>>> {
    let Some(nara) = running::find(&args.running, settings)? else {
        return Ok(None);
    };
    block_on(running::within(CHECKS, &nara, nara.doctor())).map(Some)
}

/// Returns the checks of a running nara, run by itself. `open`: its findings since its start that are
/// undecided.
pub(super) async fn running(
    nara: &Nara,
    network: Option<&OnNetwork>,
    ledger: &InUse,
    settings: &Settings,
    open: &model::ConflictList,
) -> Outcome<Vec<model::Check>> {
    let mut report = Report::new(None);
    here::version(&mut report)?;
    here::clock(&mut report)?;
    let step = nara.registry().clock_step();
    here::clock_steps(Ok(step.map(Into::into)), &mut report)?;
    here::identity(nara.local(), &mut report)?;
    here::soul_file(settings, &mut report)?;
    here::peers_file(settings, Some(nara.local()), &mut report)?;
    here::permissions(settings, &mut report)?;
    here::running_ledger(&**nara.ledger(), ledger, &mut report).await?;
    here::serving(nara.address(), network.is_none(), &mut report)?;
    let node = network.and_then(|network| network.node.as_ref());
    if let Some(network) = network {
        tailnet::running(network.kind, node, &mut report).await?;
    }
    peers::seen(node, &mut report).await?;
    let port = nara
        .address()
        .map_or(defaults::MESH_PORT, |address| address.port());
    let known = Known {
        found: &[],
        open: Some(open),
    };
    peers::known(nara.client(), port, known, true, &mut report).await?;
    // The pings above have updated what peers say about our key.
    here::own_key(Ok(&nara.registry().against_own_key()), &mut report)?;
    Ok(report.into_checks())
}

/// Creates a client over the node, if any. Without a readable soul, which the check `soul` reports, it acts
/// as a guest.
fn client(
    nara: Option<&LocalNara>,
    settings: &Settings,
    node: Option<Arc<dyn MeshNode>>,
) -> Outcome<MeshClient> {
    let nara = nara.cloned().map_or_else(connect::guest, Ok)?;
    match node {
        Some(node) => connect::client_on(nara, settings, node),
        None => connect::client(nara, settings),
    }
}
