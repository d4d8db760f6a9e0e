//! `query`: asks peers for the key of a nara. The answers are not signed, and nothing is pinned.

use nara_local_api::client::{CallError, LocalClient};
use nara_mesh::client::PeerRef;
use nara_proto::endpoint::{PeerQuery, PeerQueryRequest};
use nara_proto::identity::NaraName;
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::QueryArgs;
use crate::connect::{self, block_on};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::running;
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
    match running::find(&args.running, settings)? {
        Some(nara) => block_on(through(&nara, args, settings, printer)),
        None => directly(args, settings, printer),
    }
}

/// Asks through the running nara.
async fn through(nara: &LocalClient, args: &QueryArgs, settings: &Settings, printer: Printer) -> Outcome {
    let mut peers: Vec<String> = args.peers.iter().map(ToString::to_string).collect();
    if peers.is_empty() {
        let own = running::status_of(nara, settings).await?.name;
        let is_other = |name: Option<&str>| name != Some(args.nara.as_str()) && name != Some(own.as_str());
        let mut known = nara.peers().await?;
        known.retain(|peer| peer.address.is_some() && is_other(peer.name.as_deref()));
        peers.extend(known.iter().map(|peer| peer.reference().to_owned()));
    }
    let ask = async |peer: String| match nara.ask_for_key(&peer, args.nara.as_str()).await {
        Ok(answer) => Ok(Ok(Printed {
            name: answer.name,
            public_key: answer.public_key,
            mesh_ip: answer.mesh_ip.unwrap_or_default(),
            told_by: peer,
        })),
        Err(CallError::Problem(problem)) if problem.peer_status.is_some_and(is_not_known) => {
            Ok(Err(not_known(&peer, &args.nara)))
        }
        Err(CallError::Problem(problem)) => Ok(Err(Failure::from(*problem))),
        Err(error) => Err(error.into()),
    };
    let hint = "the running nara knows no other peer with an address";
    first_answer(peers, hint, &args.nara, printer, ask).await
}

fn directly(args: &QueryArgs, settings: &Settings, printer: Printer) -> Outcome {
    let client = connect::anonymous_client(settings)?;
    connect::block_on_looking(&client, settings, async {
        let named = args.peers.iter().map(|peer| (peer.clone(), peer.to_string()));
        let mut peers: Vec<(PeerRef, String)> = named.collect();
        if peers.is_empty() {
            for peer in connect::others(&client) {
                let info = peer.info();
                if info.address.is_some() && info.name.as_ref() != Some(&args.nara) {
                    peers.push((PeerRef::from(&peer), info.label()));
                }
            }
        }
        let request = PeerQueryRequest {
            target: args.nara.to_string(),
            asked: Vec::new(),
        };
        let ask = async |(peer, label): (PeerRef, String)| match client
            .peer(peer)
            .call::<PeerQuery>(&request)
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                Ok(Ok(Printed {
                    name: answer.target,
                    public_key: answer.public_key,
                    mesh_ip: answer.mesh_ip,
                    told_by: label,
                }))
            }
            Err(error) if error.status().is_some_and(|status| is_not_known(status.as_u16())) => {
                Ok(Err(not_known(&label, &args.nara)))
            }
            Err(error) => Ok(Err(Failure::new(connect::exit_of(&error), error.to_string()))),
        };
        let hint = "name a peer, or pass --peers FILE";
        first_answer(peers, hint, &args.nara, printer, ask).await
    })
}

/// Returns whether a peer does not know the key: it names another one to ask, or none (docs/protocol/v1.md, section 7.8).
fn is_not_known(status: u16) -> bool {
    matches!(status, 307 | 404)
}

fn not_known(peer: &str, sought: &NaraName) -> Failure {
    Failure::failed(format!("{peer} does not know {sought}"))
}

/// Asks peers in turn, and prints the first answer. An error of `ask` ends the loop. `hint` is shown if there is no
/// peer.
async fn first_answer<P>(
    peers: Vec<P>,
    hint: &str,
    sought: &NaraName,
    printer: Printer,
    ask: impl AsyncFn(P) -> Outcome<Result<Printed, Failure>>,
) -> Outcome {
    if peers.is_empty() {
        return Err(Failure::usage("there is no peer to ask").hint(hint));
    }
    let mut failed = Vec::new();
    for peer in peers {
        match ask(peer).await? {
            Ok(told) => return print(told, printer),
            Err(failure) => {
                printer.note(harmless(&failure.message));
                failed.push(failure.exit);
            }
        }
    }
    Err(Failure::new(
        Exit::of_many(0, &failed),
        format!("none of the peers knows {sought}"),
    ))
}

fn print(told: Printed, printer: Printer) -> Outcome {
    let address = if told.mesh_ip.is_empty() {
        "-"
    } else {
        &told.mesh_ip
    };
    printer.line(format_args!(
        "{}  key {}  address {}  (from {}, unsigned)",
        harmless(&told.name),
        harmless(&told.public_key),
        harmless(address),
        harmless(&told.told_by)
    ))?;
    printer.json(told)?;
    Ok(Exit::Ok)
}
