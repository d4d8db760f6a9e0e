//! `query`: asks peers for the key of a nara. The answers are not signed, and nothing is pinned.

use nara_mesh::client::PeerRef;
use nara_proto::endpoint::{PeerQuery, PeerQueryRequest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::QueryArgs;
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::settings::Settings;

/// The output of `query`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    name: String,
    public_key: String,
    mesh_ip: String,
    told_by: String,
}

pub(super) fn run(args: &QueryArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::anonymous_client(settings)?;
    connect::block_on_looking(&client, settings, async {
        let mut peers = args.peers.clone();
        if peers.is_empty() {
            let known = client.registry().peers();
            peers.extend(
                known
                    .iter()
                    .filter(|peer| peer.info().address.is_some())
                    .map(PeerRef::from),
            );
        }
        if peers.is_empty() {
            return Err(Failure::usage("there is no peer to ask").hint("name a peer, or pass --peers FILE"));
        }
        let request = PeerQueryRequest {
            target: args.nara.to_string(),
            asked: Vec::new(),
        };
        let mut failed = Vec::new();
        for peer in &peers {
            match client.peer(peer).call::<PeerQuery>(&request).await {
                Ok(answer) => {
                    let address = if answer.mesh_ip.is_empty() {
                        "-"
                    } else {
                        &answer.mesh_ip
                    };
                    printer.line(format_args!(
                        "{}  key {}  address {}  (from {peer}, unsigned)",
                        harmless(&answer.target),
                        harmless(&answer.public_key),
                        harmless(address)
                    ))?;
                    printer.json(Printed {
                        name: answer.target.clone(),
                        public_key: answer.public_key.clone(),
                        mesh_ip: answer.mesh_ip.clone(),
                        told_by: peer.to_string(),
                    })?;
                    return Ok(Exit::Ok);
                }
                Err(error) => {
                    printer.note(format_args!("{peer}: {}", harmless(&error.to_string())));
                    failed.push(connect::exit_of(&error));
                }
            }
        }
        let message = format!("none of the peers knows {}", args.nara);
        Err(Failure::new(Exit::of_many(0, &failed), message))
    })
}
