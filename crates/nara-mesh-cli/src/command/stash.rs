//! `stash`: stores data at a peer, and lists what peers store here.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nara_local_api::model::{Stash, StashList};
use nara_mesh::server::{SealedStash, SqliteStash, StashStore as _};
use nara_proto::identity::NaraId;
use nara_proto::time::UnixSeconds;
use serde::Serialize;
use utoipa::ToSchema;

use super::read_input;
use crate::cli::{StashCommand, StashDropArgs, StashGetArgs, StashListArgs, StashPutArgs};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::explain;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless, render, stdout_bytes, table};
use crate::running;
use crate::settings::Settings;

/// The output of `stash put`.
#[derive(Serialize, ToSchema)]
pub(super) struct Left {
    peer: String,
    bytes: usize,
}

/// The output of `stash get`.
#[derive(Serialize, ToSchema)]
pub(super) struct Fetched {
    peer: String,
    found: bool,
    data_base64: Option<String>,
}

/// The output of `stash drop`.
#[derive(Serialize, ToSchema)]
pub(super) struct Forgotten {
    owner_id: String,
    dropped: bool,
}

pub(super) fn run(
    command: &StashCommand,
    settings: &Settings,
    printer: impl Fn(&'static str) -> Printer,
) -> Outcome {
    match command {
        StashCommand::Put(args) => put(args, settings, printer("stash-put")),
        StashCommand::Get(args) => get(args, settings, printer("stash-get")),
        StashCommand::List(args) => list(args, settings, printer("stash-list")),
        StashCommand::Drop(args) => forget(args, settings, printer("stash-drop")),
    }
}

fn put(args: &StashPutArgs, settings: &Settings, printer: Printer) -> Outcome {
    let data = read_input(&args.file, "stash")?;
    let nara = running::required(&args.running, settings)?;
    let peer = args.peer.to_string();
    let bytes = block_on(async { Ok(nara.put_stash(&peer, data).await?) })?.bytes;
    printer.line(format_args!("{peer} keeps {bytes} bytes"))?;
    printer.json(Left { peer, bytes })?;
    Ok(Exit::Ok)
}

fn get(args: &StashGetArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = running::required(&args.running, settings)?;
    let peer = args.peer.to_string();
    let data = block_on(async { Ok(nara.get_stash(&peer).await?) })?;
    printer.json(Fetched {
        peer: peer.clone(),
        found: data.is_some(),
        data_base64: data.as_ref().map(|data| STANDARD.encode(data)),
    })?;
    let Some(data) = data else {
        return Err(Failure::failed(format!("{peer} has no stash of this nara"))
            .hint("it never had one, it has expired, or it was lost"));
    };
    if !printer.is_json() {
        stdout_bytes(&data)?;
    }
    Ok(Exit::Ok)
}

fn list(args: &StashListArgs, settings: &Settings, printer: Printer) -> Outcome {
    let StashList { stashes } = match running::preferred(&args.running, settings)? {
        Some(nara) => block_on(async { Ok(nara.stashes().await?) })?,
        None => stored(settings)?,
    };
    let mut rows = table(["OWNER", "NAME", "BYTES", "STORED"]);
    for stash in &stashes {
        rows.add_row([
            harmless(&stash.owner_id),
            stash.name.as_deref().map_or_else(|| "-".to_owned(), harmless),
            stash.bytes.to_string(),
            explain::date(UnixSeconds::new(stash.stored_at_s).to_millis()),
        ]);
    }
    printer.line(render(&rows))?;
    printer.json(StashList { stashes })?;
    Ok(Exit::Ok)
}

/// Reads the stashes from the file, with names from the peers file.
fn stored(settings: &Settings) -> Outcome<StashList> {
    let stored = match open(settings)? {
        Some(store) => store.load().map_err(failed)?,
        None => Vec::new(),
    };
    let peers = settings.peers()?;
    let describe = |stash: SealedStash| {
        let mut peers = peers.iter();
        let owner = peers.find(|peer| peer.id.as_ref().is_some_and(|id| id.as_str() == stash.owner_id));
        Stash {
            name: owner.map(|peer| peer.name.to_string()),
            owner_id: stash.owner_id,
            bytes: stash.ciphertext.len(),
            stored_at_s: stash.stored_at.get(),
        }
    };
    Ok(StashList {
        stashes: stored.into_iter().map(describe).collect(),
    })
}

fn forget(args: &StashDropArgs, settings: &Settings, printer: Printer) -> Outcome {
    let (owner_id, dropped) = match running::preferred(&args.running, settings)? {
        Some(nara) => block_on(async {
            let owner = owner_id(&args.owner, &nara.stashes().await?)?;
            let dropped = nara.drop_stash(&owner).await?;
            Ok((owner, dropped))
        })?,
        None => {
            let kept = stored(settings)?;
            let owner = owner_id(&args.owner, &kept)?;
            if let Some(store) = open(settings)? {
                store.remove(&owner).map_err(failed)?;
            }
            let dropped = kept.stashes.iter().any(|stash| stash.owner_id == owner);
            (owner, dropped)
        }
    };
    printer.json(Forgotten { owner_id, dropped })?;
    if !dropped {
        return Err(nothing_of(&args.owner));
    }
    printer.line(format_args!("deleted the stash of {}", harmless(&args.owner)))?;
    Ok(Exit::Ok)
}

/// Resolves an owner given by id or by name. A name that looks like the id of another nara is ignored.
fn owner_id(owner: &str, kept: &StashList) -> Outcome<String> {
    if let Ok(id) = owner.parse::<NaraId>() {
        return Ok(id.to_string());
    }
    let of_name = |stash: &&Stash| stash.name.as_deref() == Some(owner);
    let mut named = kept.stashes.iter().filter(of_name);
    let first = named.next().ok_or_else(|| nothing_of(owner))?;
    if let Some(other) = named.next() {
        let (first, other) = (harmless(&first.owner_id), harmless(&other.owner_id));
        let owner = harmless(owner);
        return Err(
            Failure::usage(format!("two naras are named {owner}: {first} and {other}"))
                .hint("pass the id of one of them"),
        );
    }
    Ok(first.owner_id.clone())
}

fn nothing_of(owner: &str) -> Failure {
    Failure::failed(format!("no stash of {} is stored here", harmless(owner)))
        .hint("`nara-mesh stash list` shows the stashes and ids")
}

/// Opens the stashes beside the ledger, if any.
fn open(settings: &Settings) -> Outcome<Option<SqliteStash>> {
    let path: PathBuf = settings.running_folder()?.join("stash.db");
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(None);
    }
    SqliteStash::open(path).map(Some).map_err(failed)
}

fn failed(error: std::io::Error) -> Failure {
    Failure::failed("stash.db in the data folder cannot be used").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_named_by_its_id_first_and_by_a_name_only_if_it_is_the_only_one() {
        let ids = ["2", "3", "4"].map(|last| "1".repeat(31) + last);
        let stash = |id: &str, name: &str| Stash {
            owner_id: id.to_owned(),
            name: Some(name.to_owned()),
            bytes: 1,
            stored_at_s: 1,
        };
        // The second nara has the id of the first one as its name.
        let stashes = vec![
            stash(&ids[0], "alice"),
            stash(&ids[1], &ids[0]),
            stash(&ids[2], "carol"),
        ];
        let mut kept = StashList { stashes };
        assert_eq!(owner_id(&ids[0], &kept).unwrap(), ids[0]);
        assert_eq!(owner_id("alice", &kept).unwrap(), ids[0]);
        assert_eq!(owner_id("bob", &kept).unwrap_err().exit, Exit::Failed);
        kept.stashes.push(stash(&ids[1], "alice"));
        assert_eq!(owner_id("alice", &kept).unwrap_err().exit, Exit::Usage);
    }
}
