//! `id new`, `id show`: create and show the identity of a nara.

use nara_mesh::identity::LocalNara;
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::soul_file::SoulFile;
use nara_proto::identity::{KeyId, NaraName};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{IdNewArgs, IdShowArgs, Listen};
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;

pub(super) fn new(args: &IdNewArgs, settings: &Settings, printer: Printer) -> Outcome {
    let name = settings
        .name()
        .cloned()
        .ok_or_else(|| Failure::usage("a nara needs a name").hint("pass --name NAME"))?;
    let name = NaraName::new_own(name.as_str()).map_err(|error| {
        Failure::usage(format!("{name} cannot be the name of a new nara: {error}"))
            .hint("other naras ignore a nara with such a name")
    })?;
    let path = args
        .out
        .clone()
        .or_else(|| settings.new_soul_file())
        .ok_or_else(|| Failure::usage("no file for the soul is given").hint("pass --out FILE"))?;
    let soul = connect::new_soul(&name)?;
    // Create the folder of the default path only; a given path is left to the user.
    if args.out.is_none()
        && let Some(folder) = path.parent()
    {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::failed(format!("the folder {} cannot be created", folder.display())).caused_by(error)
        })?;
    }
    SoulFile::write_new(&path, &name, &soul)?;
    let nara = LocalNara::new(&soul, name).map_err(|error| Failure::failed(error.to_string()))?;
    print_nara(&nara, printer)?;
    printer.json(NewNara {
        nara: describe(&nara),
        soul_file: path.display().to_string(),
    })?;
    printer.note(format_args!(
        "The soul is in {} (mode 0600). Keep a copy: a lost soul cannot be recovered.",
        path.display()
    ));
    Ok(Exit::Ok)
}

pub(super) fn show(args: &IdShowArgs, settings: &Settings, printer: Printer) -> Outcome {
    let (soul, nara) = settings.soul_and_nara()?;
    if let Some(address) = &args.stanza {
        let mut entry = PeerEntry::of(&nara, None);
        match address {
            Listen::Address(address) => entry.address = Some(*address),
            Listen::Host(host) => entry.host = Some(host.clone()),
        }
        let stanza = entry.to_toml();
        printer.line(&stanza)?;
        printer.json(ShownNara::Stanza(Stanza { stanza }))?;
        return Ok(Exit::Ok);
    }
    print_nara(&nara, printer)?;
    let mut revealed = None;
    if args.reveal_soul {
        let text = soul.expose();
        printer.line(format_args!("soul        {}", *text))?;
        revealed = Some(text.as_str().to_owned());
    }
    printer.json(ShownNara::Nara(Shown {
        nara: describe(&nara),
        soul: revealed,
    }))?;
    Ok(Exit::Ok)
}

fn print_nara(nara: &LocalNara, printer: Printer) -> Outcome<()> {
    printer.line(format_args!("name        {}", nara.name()))?;
    printer.line(format_args!("id          {}", nara.id()))?;
    printer.line(format_args!("public key  {}", nara.public_key()))?;
    printer.line(format_args!("key id      {}", KeyId::from(&nara.public_key())))
}

fn describe(nara: &LocalNara) -> Described {
    Described {
        name: nara.name().to_string(),
        id: nara.id().to_string(),
        public_key: nara.public_key().to_base64(),
        key_id: KeyId::from(&nara.public_key()).to_string(),
    }
}

/// A nara, without its soul.
#[derive(Serialize, ToSchema)]
pub(super) struct Described {
    name: String,
    id: String,
    public_key: String,
    key_id: String,
}

/// The output of `id new`.
#[derive(Serialize, ToSchema)]
pub(super) struct NewNara {
    #[serde(flatten)]
    nara: Described,
    soul_file: String,
}

/// The output of `id show`; with --stanza, a stanza for the peers files of others.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ShownNara {
    Nara(Shown),
    Stanza(Stanza),
}

/// A nara, with its soul only if requested.
#[derive(Serialize, ToSchema)]
pub(super) struct Shown {
    #[serde(flatten)]
    nara: Described,
    #[serde(skip_serializing_if = "Option::is_none")]
    soul: Option<String>,
}

/// A stanza for a peers file.
#[derive(Serialize, ToSchema)]
pub(super) struct Stanza {
    stanza: String,
}
