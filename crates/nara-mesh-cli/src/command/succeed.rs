//! `id succeed`, `id retire`: replace or end a key.

use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nara_mesh::client::{ClientError, MeshClient};
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::identity::LocalNara;
use nara_mesh::ledger::{CheckedEvent, Ledger};
use nara_mesh::soul_file::SoulFile;
use nara_proto::identity::{KeyId, NaraName};
use nara_proto::succession::Succession;
use serde::Serialize;
use utoipa::ToSchema;

use super::reload;
use crate::cli::{IdRetireArgs, IdSucceedArgs, SuccessionReason};
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file;
use crate::printer::{Printer, count, harmless};
use crate::remedy;
use crate::running;
use crate::settings::{Settings, SoulSource};

pub(super) fn retire(args: &IdRetireArgs, settings: &Settings, printer: Printer) -> Outcome {
    let nara = settings.local_nara()?;
    let statement = Succession::retire(nara.name(), nara.keypair(), SystemClock.now_millis());
    finish(&statement, args.paper, None, settings, printer)
}

pub(super) fn succeed(args: &IdSucceedArgs, settings: &Settings, printer: Printer) -> Outcome {
    let statement = match (&args.from_words, &args.to, args.reason) {
        (Some(words), ..) => from_words(words)?,
        (None, Some(to), SuccessionReason::Rotation) => rotation(to, settings)?,
        (None, None, SuccessionReason::Retirement) => {
            let nara = settings.local_nara()?;
            Succession::retire(nara.name(), nara.keypair(), SystemClock.now_millis())
        }
        (None, None, SuccessionReason::Rotation) => {
            return Err(Failure::usage("no successor is given").hint(
                "pass --to FILE; `nara-mesh id new --name NAME --out FILE` creates a soul for the same name",
            ));
        }
        (None, Some(_), SuccessionReason::Retirement) => {
            return Err(Failure::usage("a retirement has no successor").hint("omit --to"));
        }
    };
    finish(&statement, args.paper, args.to.as_deref(), settings, printer)
}

/// Creates the statement that the soul in a file succeeds the one of the settings.
fn rotation(to: &Path, settings: &Settings) -> Outcome<Succession> {
    let old = settings.local_nara()?;
    let file = SoulFile::read(to, settings.soul_access())?;
    let name = file.name.clone().unwrap_or_else(|| old.name().clone());
    if name != *old.name() {
        return Err(Failure::usage(format!(
            "{} is the soul of {name}, but only another soul of {} can take over",
            to.display(),
            old.name()
        ))
        .hint(format!(
            "create one with `nara-mesh id new --name {} --out FILE`",
            old.name()
        )));
    }
    let new = LocalNara::new(&file.soul, name)
        .map_err(|error| Failure::usage(format!("{}: {error}", to.display())))?;
    let now = SystemClock.now_millis();
    Succession::rotate(old.name(), old.keypair(), new.keypair(), now).map_err(|error| {
        Failure::usage(format!("{}: {error}", to.display())).hint("pass another soul with --to FILE")
    })
}

fn from_words(path: &Path) -> Outcome<Succession> {
    let unreadable =
        |error| Failure::usage(format!("the words in {} cannot be read", path.display())).caused_by(error);
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(unreadable)?;
    } else {
        text = std::fs::read_to_string(path).map_err(unreadable)?;
    }
    Succession::from_words(&text).map_err(|error| {
        Failure::usage(format!("{}: {error}", path.display()))
            .hint("compare the words with the paper, line by line")
    })
}

/// `successor`: the file with the new soul, if given.
fn finish(
    statement: &Succession,
    paper: bool,
    successor: Option<&Path>,
    settings: &Settings,
    printer: Printer,
) -> Outcome {
    let name = harmless(statement.name().as_str());
    let old = KeyId::from(statement.old_key());
    let new = statement.new_key().map(KeyId::from);
    let said = match new {
        Some(new) => format!("key {new} replaces key {old} of {name}"),
        None => format!("{name} retires, and its key {old} ends"),
    };
    let mut printed = Printed {
        name: statement.name().to_string(),
        old_key_id: old.to_string(),
        new_key_id: new.map(|new| new.to_string()),
        at_ms: statement.at().get(),
        words: None,
        told: None,
        missed: None,
        running: None,
    };
    if paper {
        let words = statement.to_words();
        for line in &words {
            printer.line(line)?;
        }
        printer.note(format_args!("These words contain the statement that {said}."));
        printer.note(
            "Keep them on paper. To publish the statement, from any machine and with any soul that your peers know, such as the \
             new one: `nara-mesh id succeed --from-words FILE --soul-file SOUL`",
        );
        printer.note(
            "Before you publish it, fetch the data that is left with peers (`stash get`): only the old soul can.",
        );
        printed.words = Some(words);
        printer.json(printed)?;
        return Ok(Exit::Ok);
    }
    if !settings.has_soul() {
        return Err(Failure::usage("publishing a statement needs a soul: peers accept it only from naras that they know").hint(
            "pass --soul-file FILE with the new soul, or with the soul of any nara that your peers know; the old soul is not \
             needed",
        ));
    }
    let nara = settings.local_nara()?;
    // Before anything is written to the folder of the new soul.
    let shared = share_folder(statement, &nara, settings)?;
    let published = publish(statement, &said, &nara, settings, printer)?;
    printed.told = Some(published.told);
    printed.missed = Some(published.missed);
    printed.running = Some(published.running);
    if let Some(new) = statement.new_key().filter(|_| nara.name() == statement.name()) {
        say_how_to_go_on(successor, &shared, settings, printer);
        printer.note(format_args!(
            "Peers files need its key, and not the old id:\nkey = \"{new}\""
        ));
    }
    printer.json(printed)?;
    Ok(published.exit)
}

/// The data folder of the new soul.
enum Shared {
    /// It is given: the same command line works with the new soul.
    Given(PathBuf),
    /// The default folder of the new soul leads to the folder of the old one.
    Linked,
    /// The new soul has its own folder; this is the folder of the old soul.
    Apart(PathBuf),
    /// The old soul has no data on this machine.
    Nowhere,
}

/// Gives the new soul access to the data of the old one: default data folders are named after the key, so the
/// name of the new key becomes a link to the same folder.
fn share_folder(statement: &Succession, nara: &LocalNara, settings: &Settings) -> Outcome<Shared> {
    let Some(new) = statement.new_key().filter(|_| nara.name() == statement.name()) else {
        return Ok(Shared::Nowhere);
    };
    let folder = settings.data_dir(nara)?;
    let own = KeyId::from(&nara.public_key()).to_string();
    let Some(above) = folder.parent().filter(|_| folder.ends_with(&own)) else {
        return Ok(Shared::Given(folder));
    };
    let (old_name, new_name) = (
        KeyId::from(statement.old_key()).to_string(),
        KeyId::from(new).to_string(),
    );
    let (old, new) = (above.join(&old_name), above.join(new_name));
    if own != old_name && !old.exists() {
        return Ok(Shared::Nowhere);
    }
    std::fs::create_dir_all(&old).map_err(|error| {
        Failure::failed(format!("the data folder {} cannot be created", old.display())).caused_by(error)
    })?;
    match std::os::unix::fs::symlink(&old_name, &new) {
        Ok(()) => Ok(Shared::Linked),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let same = old.canonicalize().ok().zip(new.canonicalize().ok());
            Ok(match same {
                Some((old, new)) if old == new => Shared::Linked,
                _ => Shared::Apart(old),
            })
        }
        Err(error) => Err(Failure::failed(format!(
            "the data folder of the new soul, {}, cannot be linked to the folder of the old soul",
            new.display()
        ))
        .caused_by(error)),
    }
}

/// Prints the command with which the nara continues, and what is not carried over.
fn say_how_to_go_on(soul: Option<&Path>, shared: &Shared, settings: &Settings, printer: Printer) {
    let given = match settings.soul_source() {
        Some(SoulSource::File(path)) => Some(path.as_path()),
        _ => None,
    };
    let folder = match shared {
        Shared::Given(folder) | Shared::Apart(folder) => Some(folder.as_path()),
        Shared::Linked | Shared::Nowhere => None,
    };
    match soul.or(given) {
        Some(soul) => printer.note(format_args!(
            "Serve with the new soul from now on: {}",
            remedy::serve(soul, folder)
        )),
        None => printer.note("Serve with the new soul from now on."),
    }
    match shared {
        Shared::Given(_) | Shared::Linked => printer.note(
            "It uses the data folder of the old soul: events, decisions, outbox and inbox are kept.",
        ),
        Shared::Apart(_) => printer.note(
            "The new soul already has its own data folder: without --data-dir, the events, the decisions and the outbox \
             of the old soul are not used.",
        ),
        Shared::Nowhere => {}
    }
    printer.note(
        "Data that the old soul stored at peers (`stash put`) is sealed with it, and only it can fetch the data: store it there \
         again.",
    );
}

/// The output of `id succeed` and `id retire`.
#[derive(Serialize, ToSchema)]
pub(super) struct Printed {
    name: String,
    old_key_id: String,
    /// Absent if the nara retires.
    new_key_id: Option<String>,
    at_ms: i64,
    /// The statement in words, for paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<Vec<String>>,
    /// Peers that received it, if it was published.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<Vec<String>>,
    /// Peers that could not be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<Vec<String>>,
    /// Whether the nara runs and accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<bool>,
}

/// The recipients of a statement.
struct Published {
    told: Vec<String>,
    missed: Vec<String>,
    running: bool,
    exit: Exit,
}

/// Stores a statement, and sends it to the known peers. Unreachable peers receive it from others.
fn publish(
    statement: &Succession,
    said: &str,
    nara: &LocalNara,
    settings: &Settings,
    printer: Printer,
) -> Outcome<Published> {
    let client = connect::client_with(nara.clone(), settings, |client| {
        if statement.name() == nara.name() && statement.new_key() == Some(&nara.public_key()) {
            client.succession([statement.clone()])
        } else {
            client
        }
    })?;
    let path = settings
        .ledger_path()?
        .ok_or_else(|| Failure::usage("no data folder is given").hint("pass --data-dir DIR"))?;
    let folder = settings.running_folder()?;
    connect::block_on(async {
        make_folder_of(&path)?;
        let ledger: Arc<dyn Ledger> = ledger_file::open(&path).await?;
        ledger_file::load_peers(&ledger, client.registry()).await?;
        // Recorded as received from the nara that it concerns.
        let event = CheckedEvent::verified(statement.to_event());
        let stored = ledger.insert(vec![event], Some(statement.name().clone())).await;
        stored.map_err(ledger_file::failed)?;
        let running = match running::reload_on(&folder, settings).await {
            Ok(running) => running,
            Err(failure) => {
                printer.warn(format_args!(
                    "the statement is stored, but not yet in force in the running nara: {}; it takes effect when the nara restarts",
                    failure.message
                ));
                None
            }
        };
        for line in running.iter().flat_map(reload::in_words) {
            printer.note(format_args!("  {line}"));
        }
        let (told, missed) = tell_all(statement, &client).await;
        let reached = told.len() + usize::from(running.is_some());
        printer.line(match reached {
            0 => format!("stored here, but no peer has it yet: {said}"),
            _ => format!("published: {said}"),
        })?;
        for (_, error) in &missed {
            printer.warn(format_args!("not notified: {error}"));
        }
        printer.note(format_args!("notified {}", count(told.len(), "peer")));
        match reached {
            0 if missed.is_empty() => printer.warn(
                "no peer with an address is known: pass the peers file (--peers), or start the nara with `nara-mesh serve`, \
                 which sends the statement with its requests",
            ),
            0 => printer.warn(
                "no peer accepted it: run this command again later, or start the nara with `nara-mesh serve`, which sends \
                 the statement with its requests",
            ),
            _ => {}
        }
        let codes: Vec<Exit> = missed.iter().map(|(_, error)| connect::exit_of(error)).collect();
        Ok(Published {
            told: told.iter().map(ToString::to_string).collect(),
            missed: missed.iter().map(|(name, _)| name.to_string()).collect(),
            running: running.is_some(),
            exit: match (reached, &codes[..]) {
                (0, []) => Exit::Unreachable,
                _ => Exit::of_many(reached, &codes),
            },
        })
    })
}

/// Sends a statement to all known peers with an address.
async fn tell_all(
    statement: &Succession,
    client: &MeshClient,
) -> (Vec<NaraName>, Vec<(NaraName, ClientError)>) {
    let peers = client.registry().peers();
    let known = peers.iter().map(|peer| peer.info());
    let names = known.filter_map(|info| info.name.filter(|_| info.address.is_some()));
    let names = names.filter(|name| name != statement.name());
    let telling = names.map(async |name| {
        let peer = client.peer(&name);
        let zine = peer.exchange_zine(vec![statement.to_event()]).await;
        (zine.map(drop), name)
    });
    let (mut told, mut missed) = (Vec::new(), Vec::new());
    for (outcome, name) in futures_util::future::join_all(telling).await {
        match outcome {
            Ok(()) => told.push(name),
            Err(error) => missed.push((name, error)),
        }
    }
    (told, missed)
}
