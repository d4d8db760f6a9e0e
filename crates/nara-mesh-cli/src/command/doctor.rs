//! `doctor`: looks for what keeps a nara from talking to others.

mod here;
mod peers;
mod report;
mod tailnet;

use std::sync::Arc;

use nara_mesh::client::MeshClient;
use nara_tailnet::MeshNode;

use self::report::Report;
use super::up;
use crate::cli::{DoctorArgs, NetworkKind};
use crate::connect::{self, block_on};
use crate::failure::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn run(args: &DoctorArgs, settings: &Settings, printer: Printer) -> Outcome {
    let mut report = Report::new(printer);
    here::version(&mut report)?;
    here::clock(&mut report)?;
    let nara = here::soul(settings, &mut report)?;
    here::soul_file(settings, &mut report)?;
    let peers_file = here::peers_file(settings, &mut report)?;
    here::permissions(settings, &mut report)?;
    let kind = tailnet::choice(args, &mut report)?;
    block_on(async {
        here::clock_steps(settings, &mut report).await?;
        here::ledger(settings, nara.as_ref(), &mut report).await?;
        let node = tailnet::node(kind, args, settings, nara.as_ref(), &mut report).await?;
        // Without a readable peers file, discovery still works.
        let client = peers_file.then(|| client(settings, node.clone())).transpose()?;
        tailnet::port(args.port, kind, node.as_ref(), nara.as_ref(), &mut report).await?;
        peers::all(client.as_ref(), node.as_ref(), args, settings, &mut report).await
    })?;
    report.finish()
}

/// A client over the node, if there is one.
fn client(settings: &Settings, node: Option<Arc<dyn MeshNode>>) -> Outcome<MeshClient> {
    match node {
        Some(node) => connect::anonymous_client_on(settings, node),
        None => connect::anonymous_client(settings),
    }
}
