//! `stash`: what a nara leaves with a peer, and what peers left with it.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nara_mesh::server::{SealedStash, SqliteStash, StashStore as _, StashStoreError};
use nara_proto::identity::NaraId;
use serde_json::{Value, json};

use super::read_input;
use crate::cli::{StashCommand, StashDropArgs, StashGetArgs, StashPutArgs};
use crate::connect::block_on;
use crate::control::{self, Question};
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::printer::{Printer, harmless, render, table};
use crate::settings::Settings;

/// The most bytes that a peer may be asked to keep: what fits into a message.
const MOST: usize = 512 << 10;

pub(super) fn run(
    command: &StashCommand,
    settings: &Settings,
    printer: impl Fn(&'static str) -> Printer,
) -> Outcome {
    match command {
        StashCommand::Put(args) => put(args, settings, printer("stash-put")),
        StashCommand::Get(args) => get(args, settings, printer("stash-get")),
        StashCommand::List => list(settings, printer("stash-list")),
        StashCommand::Drop(args) => forget(args, settings, printer("stash-drop")),
    }
}

fn put(args: &StashPutArgs, settings: &Settings, printer: Printer) -> Outcome {
    let data = read_input(&args.file, "stash")?;
    if data.len() > MOST {
        return Err(Failure::usage(format!(
            "the stash has {} bytes, and a message takes {MOST}",
            data.len()
        )));
    }
    let question = Question::StashPut {
        peer: args.peer.to_string(),
        data: STANDARD.encode(&data),
    };
    block_on(control::ask_running(&settings.running_folder()?, question))?;
    printer.line(format_args!("{} keeps {} bytes", args.peer, data.len()))?;
    printer.json(json!({ "peer": args.peer.to_string(), "bytes": data.len() }))?;
    Ok(Exit::Ok)
}

fn get(args: &StashGetArgs, settings: &Settings, printer: Printer) -> Outcome {
    let question = Question::StashGet {
        peer: args.peer.to_string(),
    };
    let answer = block_on(control::ask_running(&settings.running_folder()?, question))?;
    let data = answer["data"]
        .as_str()
        .map(|data| STANDARD.decode(data))
        .transpose();
    let data =
        data.map_err(|error| Failure::failed("the nara that runs answers nonsense").caused_by(error))?;
    printer.json(json!({
        "peer": args.peer.to_string(),
        "found": data.is_some(),
        "data_base64": answer["data"],
    }))?;
    let Some(data) = data else {
        return Err(
            Failure::failed(format!("{} has no stash of this nara", args.peer))
                .hint("it never had one, forgot it after its time, or lost it"),
        );
    };
    if !printer.is_json() {
        output::stdout_bytes(&data)
            .map_err(|error| Failure::failed("stdout cannot be written").caused_by(error))?;
    }
    Ok(Exit::Ok)
}

fn list(settings: &Settings, printer: Printer) -> Outcome {
    let stashes = match open(settings)? {
        Some(store) => store.load().map_err(failed)?,
        None => Vec::new(),
    };
    let peers = settings.peers()?;
    let name_of = |stash: &SealedStash| {
        let peer = peers
            .iter()
            .find(|peer| peer.id.as_ref().is_some_and(|id| id.as_str() == stash.owner_id));
        peer.map(|peer| peer.name.as_str())
    };
    let mut rows = table(["OWNER", "NAME", "BYTES", "STORED"]);
    for stash in &stashes {
        rows.add_row([
            harmless(&stash.owner_id),
            name_of(stash).map_or_else(|| "-".to_owned(), harmless),
            stash.ciphertext.len().to_string(),
            explain::date(stash.stored_at.to_millis()),
        ]);
    }
    printer.line(render(&rows))?;
    let listed: Vec<Value> = stashes
        .iter()
        .map(|stash| {
            json!({
                "owner_id": stash.owner_id,
                "name": name_of(stash),
                "bytes": stash.ciphertext.len(),
                "stored_at_s": stash.stored_at.get(),
            })
        })
        .collect();
    printer.json(json!({ "stashes": listed }))?;
    Ok(Exit::Ok)
}

fn forget(args: &StashDropArgs, settings: &Settings, printer: Printer) -> Outcome {
    let owner = owner_id(&args.owner, settings)?;
    let folder = settings.running_folder()?;
    let question = Question::StashDrop {
        owner: owner.to_string(),
    };
    let dropped = match block_on(control::ask(&folder, question))? {
        Some(answer) => control::checked(answer)?["dropped"] == true,
        None => match open(settings)? {
            Some(store) => {
                let had = store.load().map_err(failed)?;
                store.remove(owner.as_str()).map_err(failed)?;
                had.iter().any(|stash| stash.owner_id == owner.as_str())
            }
            None => false,
        },
    };
    printer.json(json!({ "owner_id": owner.as_str(), "dropped": dropped }))?;
    if !dropped {
        return Err(
            Failure::failed(format!("{} left nothing here", harmless(&args.owner)))
                .hint("`nara-mesh stash list` shows what there is"),
        );
    }
    printer.line(format_args!("what {} left here is gone", harmless(&args.owner)))?;
    Ok(Exit::Ok)
}

/// The id of an owner: given, or that of a name of the peers file.
fn owner_id(owner: &str, settings: &Settings) -> Outcome<NaraId> {
    let peers = settings.peers()?;
    let named = peers.into_iter().find(|peer| peer.name.as_str() == owner);
    named
        .and_then(|peer| peer.id)
        .or_else(|| owner.parse().ok())
        .ok_or_else(|| {
            Failure::usage(format!(
                "{} is no id, and no name in the peers file with one",
                harmless(owner)
            ))
            .hint("`nara-mesh stash list` shows the ids")
        })
}

/// The stashes beside the ledger, if there are any.
fn open(settings: &Settings) -> Outcome<Option<SqliteStash>> {
    let path: PathBuf = settings.running_folder()?.join("stash.db");
    if !path.exists() {
        return Ok(None);
    }
    SqliteStash::open(path).map(Some).map_err(failed)
}

fn failed(error: StashStoreError) -> Failure {
    Failure::failed("stash.db in the data folder cannot be used").caused_by(error)
}
