//! `conformance`: the specification as executable checks. Each statement of docs/protocol is a
//! [`Check`](check::Check).

mod channel;
mod check;
mod checks;
mod introduction;
mod peer;
mod report;
mod signing;
mod verdict;
mod wire;

use std::net::SocketAddr;
use std::path::Path;

use nara_mesh::client::PeerRef;
use nara_mesh::defaults;
use nara_mesh::identity::LocalNara;
use nara_mesh::peers_file::PeerEntry;
use nara_mesh::soul_file::{Access, SoulFile};
use nara_proto::encoding::base64_encode;
use nara_proto::identity::NaraName;

use self::check::{Check, Fault};
use self::introduction::Introduction;
use self::peer::{Peer, Unfit};
use self::report::{Finding, Report, Result as CheckResult};
use crate::cli::ConformanceArgs;
use crate::connect;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::printer::{Printer, harmless};
use crate::settings::Settings;

pub(super) fn run(args: &ConformanceArgs, settings: &Settings, printer: Printer) -> Outcome {
    if args.list {
        return report::list(printer);
    }
    let Some(peer) = &args.peer else {
        return Err(Failure::usage("no peer is given").hint("pass a name or an address, or --list"));
    };
    let checks = checks::GROUPS.iter().flat_map(|group| group.checks);
    if let Some(unknown) = args
        .only
        .iter()
        .find(|only| !checks.clone().any(|check| is_selected(check, only)))
    {
        return Err(Failure::usage(format!("--only: no check matches {unknown:?}"))
            .hint("`nara-mesh conformance --list` lists the checks"));
    }
    let addresses = addresses_of(peer, settings)?;
    let v1 = soul(args.souls.as_deref(), "v1")?;
    let v2 = soul(args.souls.as_deref(), "v2")?;
    let report = connect::block_on_all_cores(async {
        let mut peer = meet(&addresses, settings, &v1, &v2).await?;
        let introduction = Introduction::begin(peer.address).await;
        introduction.introduce(&peer).await;
        let refusal = peer.explore(args.write).await.err();
        Ok(check_all(&peer, &args.only, refusal).await)
    })?;
    report::print(&report, args.all, printer)?;
    if let Some(refusal) = &report.refusal {
        printer.note(format_args!(
            "{} does not accept the key of {}: {}",
            harmless(report.name.as_str()),
            v1.name(),
            harmless(refusal)
        ));
        printer.note(
            "Most checks require that: add these stanzas to its peers file and pass the same --souls DIR again, or call it from \
             an address of its mesh, at which it can ask for the key.\n",
        );
        for nara in [&v1, &v2] {
            printer.note(PeerEntry::of(nara, None).to_toml());
        }
    }
    Ok(report.exit())
}

/// Returns the candidate addresses of the peer.
fn addresses_of(peer: &PeerRef, settings: &Settings) -> Outcome<Vec<SocketAddr>> {
    let both = |ip| {
        vec![
            SocketAddr::new(ip, defaults::MESH_PORT),
            SocketAddr::new(ip, defaults::LEGACY_MESH_PORT),
        ]
    };
    let peers = settings.peers()?;
    let entry = match peer {
        PeerRef::Address(address) => return Ok(vec![*address]),
        PeerRef::Ip(ip) => return Ok(both(*ip)),
        PeerRef::Name(name) => peers.iter().find(|entry| entry.name == *name),
        PeerRef::Id(id) => peers.iter().find(|entry| entry.id.as_ref() == Some(id)),
        _ => None,
    };
    match entry.and_then(|entry| Some((entry.address?, entry.either_port))) {
        Some((address, true)) => Ok(both(address.ip())),
        Some((address, false)) => Ok(vec![address]),
        None => Err(Failure::usage(format!("the address of {peer} is not known"))
            .hint("add it to the peers file (--peers), or give its address")),
    }
}

/// Returns a checking nara: from the folder, or a new one that is discarded afterwards.
fn soul(folder: Option<&Path>, profile: &str) -> Outcome<LocalNara> {
    let failed = |error: String| Failure::failed(error);
    let Some(folder) = folder else {
        return new_nara(profile);
    };
    let file = folder.join(format!("{profile}.soul"));
    if !file.exists() {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failure::failed(format!("the folder {} cannot be created", folder.display())).caused_by(error)
        })?;
        let name = new_name(profile)?;
        SoulFile::write_new(&file, &name, &connect::new_soul(&name)?)?;
    }
    let read = SoulFile::read(&file, Access::Owner)?;
    let name = read
        .name
        .ok_or_else(|| failed(format!("{} has no name", file.display())))?;
    LocalNara::new(&read.soul, name).map_err(|error| failed(format!("{}: {error}", file.display())))
}

fn new_nara(profile: &str) -> Outcome<LocalNara> {
    let name = new_name(profile)?;
    let soul = connect::new_soul(&name)?;
    LocalNara::new(&soul, name).map_err(|error| Failure::failed(error.to_string()))
}

/// Returns an unused name: a peer that pins keys would refuse a new key under a known name.
fn new_name(profile: &str) -> Outcome<NaraName> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(|error| {
        Failure::failed("the operating system provides no random bytes").caused_by(error.to_string())
    })?;
    let random = base64_encode(&random).replace(['+', '/'], "0").to_lowercase();
    let name = format!("conformance-{profile}-{random}");
    NaraName::new(&name).map_err(|error| Failure::failed(error.to_string()))
}

async fn meet(
    addresses: &[SocketAddr],
    settings: &Settings,
    v1: &LocalNara,
    v2: &LocalNara,
) -> Outcome<Peer> {
    let mut last = None;
    for address in addresses {
        match Peer::meet(*address, settings.timeout, v1.clone(), v2.clone()).await {
            Ok(peer) => return Ok(peer),
            Err(unfit) => last = Some(unfit),
        }
    }
    let exit = match last {
        Some(Unfit::Nameless { .. }) => Exit::Failed,
        _ => Exit::Unreachable,
    };
    let message = last.map(|unfit| unfit.to_string()).unwrap_or_default();
    Err(Failure::new(exit, harmless(&message)))
}

/// Returns whether `--only` with this id, or the beginning of one, selects the check.
fn is_selected(check: &Check, only: &str) -> bool {
    check.id.starts_with(only)
}

/// Runs all checks in sequence: some observe the same nara.
async fn check_all(peer: &Peer, only: &[String], refusal: Option<String>) -> Report {
    let wanted = |check: &Check| only.is_empty() || only.iter().any(|only| is_selected(check, only));
    let mut results = Vec::new();
    for group in checks::GROUPS {
        for check in group.checks.iter().filter(|check| wanted(check)) {
            let mut needs = group.needs.iter().chain(check.needs);
            let finding = match needs.find(|need| !peer.has(**need)) {
                Some(missing) => Finding::Skipped(missing.to_string()),
                None => match (check.run)(peer).await {
                    Ok(()) => Finding::Pass,
                    Err(Fault::Differs(text)) => Finding::Fail(text),
                    Err(Fault::Skip(reason)) => Finding::Skipped(reason.to_owned()),
                },
            };
            let exchanges = peer.take_exchanges();
            results.push(CheckResult {
                check,
                finding,
                exchanges,
            });
        }
    }
    Report {
        name: peer.name.clone(),
        address: peer.address,
        key: peer.key,
        capability: peer.capability.clone(),
        refusal,
        results,
    }
}
