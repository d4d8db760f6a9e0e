//! `id new`, `id show`: the identity of a nara.

use nara_mesh::identity::LocalNara;
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::soul_file::SoulFile;
use nara_proto::identity::KeyId;
use serde_json::{Value, json};

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
    let path = args
        .out
        .clone()
        .or_else(|| settings.new_soul_file())
        .ok_or_else(|| Failure::usage("no file for the soul is given").hint("pass --out FILE"))?;
    let soul = connect::new_soul(&name)?;
    // A default place may not exist yet; one that was named is the user's business.
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
    let mut object = describe(&nara);
    object["soul_file"] = json!(path.display().to_string());
    printer.json(object)?;
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
        printer.json(json!({ "stanza": stanza }))?;
        return Ok(Exit::Ok);
    }
    print_nara(&nara, printer)?;
    let mut object = describe(&nara);
    if args.reveal_soul {
        let text = soul.expose();
        printer.line(format_args!("soul        {}", *text))?;
        object["soul"] = json!(text.as_str());
    }
    printer.json(object)?;
    Ok(Exit::Ok)
}

fn print_nara(nara: &LocalNara, printer: Printer) -> Outcome<()> {
    printer.line(format_args!("name        {}", nara.name()))?;
    printer.line(format_args!("id          {}", nara.id()))?;
    printer.line(format_args!("public key  {}", nara.public_key()))?;
    printer.line(format_args!("key id      {}", KeyId::from(&nara.public_key())))
}

fn describe(nara: &LocalNara) -> Value {
    json!({
        "name": nara.name().as_str(),
        "id": nara.id().as_str(),
        "public_key": nara.public_key().to_base64(),
        "key_id": KeyId::from(&nara.public_key()).to_string(),
    })
}
