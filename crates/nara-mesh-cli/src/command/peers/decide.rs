//! `peers trust`, `untrust`, `reset`: store trust decisions in the ledger of the data folder.

use std::path::Path;
use std::sync::Arc;

use nara_local_api::client::LocalClient;
use nara_local_api::decide;
use nara_local_api::model::{self, Record, Reloaded};
use nara_mesh::client::PeerRef;
use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::Ledger;
use nara_mesh::registry::{KeyConflict, KeySource, PeerChange, PeerChangeError, PeerRecord, PeerRegistry};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use serde::Serialize;
use utoipa::ToSchema;

use crate::cli::{PeersResetArgs, PeersTrustArgs, PeersUntrustArgs, RunningArgs};
use crate::command::reload;
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file;
use crate::printer::{Printer, harmless};
use crate::remedy;
use crate::running;
use crate::settings::Settings;

/// The effect of a decision while a nara runs on the data folder.
const RUNNING: &str = "in force in the running nara";

/// The effect if the running nara does not answer.
const NOT_ANSWERING: &str = "in force for commands, but not in the running nara: once it answers, run `nara-mesh \
                             reload`, or restart it";

/// The effect if no nara runs.
const NOT_RUNNING: &str = "in force for commands, and for `serve` and `up` from their next start: no nara runs on this \
                           data folder";

pub(super) fn trust(args: &PeersTrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    if let Some(nara) = elsewhere(&args.running, settings)? {
        let trust = model::Trust {
            key: args.key.map(|key| key.to_base64()),
            replace: args.replace,
        };
        let decision = block_on(async { Ok(nara.trust(args.peer.as_str(), &trust).await?) })?;
        return tell(
            &decision.peers,
            Some(&decision.running),
            RUNNING,
            said_trusted,
            printer,
        );
    }
    let name = block_on(about(&args.peer, settings))?;
    let given = args.key;
    let entry = settings.peers()?.into_iter().find(|entry| entry.name == name);
    let configured = entry.and_then(|entry| entry.key);
    let key = match (configured, given) {
        (Some(configured), Some(given)) if configured != given => {
            return Err(in_peers_file(&name, configured, given, settings));
        }
        // The peers file takes precedence over learned keys.
        (Some(configured), None) => Some(configured),
        (_, given) => given,
    };
    let at = SystemClock.now_millis();
    let from_file = configured.is_some() && given.is_none();
    let record = block_on(async {
        let ledger = open(settings).await?;
        let succeeded = succeeded(&ledger, &name).await?.filter(|_| key.is_none());
        let trust = |replace| PeerChange::Trust {
            key: key.or(succeeded),
            replace: replace || succeeded.is_some(),
            at,
        };
        let changing = ledger.change_peer(name.clone(), trust(args.replace)).await;
        match changing.map_err(ledger_file::failed)? {
            Ok(record) => Ok(record),
            Err(PeerChangeError::KeyConflict(_)) if from_file => changed(&*ledger, name, trust(true)).await,
            Err(PeerChangeError::KeyConflict(conflict)) => Err(refused(&conflict)),
            Err(error) => {
                Err(Failure::usage(error.to_string()).hint("pass --key with its public key or key id"))
            }
        }
    })?;
    finish(&[record], settings, said_trusted, printer)
}

pub(super) fn untrust(args: &PeersUntrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    if let Some(nara) = elsewhere(&args.running, settings)? {
        let (known, decision) =
            block_on(async { Ok((nara.peers().await?, nara.ban(args.peer.as_str()).await?)) })?;
        let done = tell(
            &decision.peers,
            Some(&decision.running),
            RUNNING,
            said_banned,
            printer,
        );
        let is_listed = |banned: &Record| known.iter().any(|peer| peer.name.as_ref() == Some(&banned.name));
        say_if_unknown(&args.peer, decision.peers.iter().all(is_listed), printer);
        return done;
    }
    let name = block_on(about(&args.peer, settings))?;
    // An unreadable soul must not delay a ban.
    if settings.has_soul() && settings.local_nara().is_ok_and(|nara| nara.name() == &name) {
        return Err(
            Failure::usage(format!("{name} is this nara itself and cannot be banned"))
                .hint("name the peer to ban"),
        );
    }
    let at = SystemClock.now_millis();
    let configured = settings.peers().unwrap_or_default();
    let (is_known, record) = block_on(async {
        let ledger = open(settings).await?;
        let known = ledger.peers().await.map_err(ledger_file::failed)?;
        let mut names = known.iter().map(|record| &record.name);
        let is_known = names.any(|known| *known == name) || configured.iter().any(|peer| peer.name == name);
        let record = changed(&*ledger, name.clone(), PeerChange::Untrust { at }).await?;
        Ok((is_known, record))
    })?;
    let done = finish(&[record], settings, said_banned, printer);
    say_if_unknown(&name, is_known, printer);
    done
}

/// Warns if the banned name is unknown: banning in advance is valid, but a misspelt name is more likely.
fn say_if_unknown(name: &NaraName, is_known: bool, printer: Printer) {
    if !is_known {
        printer.warn(format_args!(
            "no peer with the name {} is known; the name is banned anyway; if it is misspelt, undo the ban with `{}`",
            harmless(name.as_str()),
            remedy::forget(name)
        ));
    }
}

pub(super) fn reset(args: &PeersResetArgs, settings: &Settings, printer: Printer) -> Outcome {
    if let Some(nara) = elsewhere(&args.running, settings)? {
        let (records, running) = block_on(reset_through(&nara, args.peer.as_ref()))?;
        let effect = if running.is_some() { RUNNING } else { NOT_RUNNING };
        return tell(&records, running.as_ref(), effect, said_forgotten, printer);
    }
    let only = args.peer.clone();
    let at = SystemClock.now_millis();
    let records = block_on(async {
        let ledger = open(settings).await?;
        let known = ledger.peers().await.map_err(ledger_file::failed)?;
        let mut names: Vec<_> = known.into_iter().map(|record| record.name).collect();
        let only = match only {
            // A name that looks like an id can also be forgotten.
            Some(only) if !names.contains(&only) => Some(about_in(&ledger, &only, settings).await?),
            only => only,
        };
        names.retain(|name| only.as_ref().is_none_or(|only| only == name));
        if let (Some(only), true) = (&only, names.is_empty()) {
            return Err(Failure::usage(format!("nothing is stored about {only}"))
                .hint("`nara-mesh peers` lists the known peers"));
        }
        let mut records = Vec::with_capacity(names.len());
        for name in names {
            records.push(changed(&*ledger, name, PeerChange::Forget { at }).await?);
        }
        Ok(records)
    })?;
    finish(&records, settings, said_forgotten, printer)
}

async fn reset_through(
    nara: &LocalClient,
    only: Option<&NaraName>,
) -> Outcome<(Vec<Record>, Option<Reloaded>)> {
    let names = match only {
        Some(only) => vec![only.to_string()],
        None => nara
            .peers()
            .await?
            .into_iter()
            .filter_map(|peer| peer.name)
            .collect(),
    };
    let (mut records, mut running) = (Vec::new(), None);
    for name in names {
        let decision = nara.forget(&name).await?;
        records.extend(decision.peers);
        running = Some(decision.running);
    }
    Ok((records, running))
}

/// Returns the running nara that stores decisions itself; `None` if the decision goes into the ledger of the
/// data folder.
fn elsewhere(args: &RunningArgs, settings: &Settings) -> Outcome<Option<LocalClient>> {
    let runs_here = || {
        settings
            .running_folder()
            .is_ok_and(|folder| running::runs_on(&folder))
    };
    if settings.given_data_dir().is_some() || (settings.has_soul() && runs_here()) {
        return Ok(None);
    }
    running::find(args, settings)
}

fn said_trusted(record: &Record) -> String {
    let name = harmless(&record.name);
    match record.key_id.as_deref() {
        Some(key) => format!("{name} is trusted with key {key}"),
        None => {
            format!("the ban of {name} is lifted: the key of the peers file is used, or the next one learned")
        }
    }
}

fn said_banned(record: &Record) -> String {
    format!(
        "{} is banned: its requests are refused, and it is not called",
        harmless(&record.name)
    )
}

fn said_forgotten(record: &Record) -> String {
    format!(
        "{} is forgotten: its key, its proven protocols, and your decision",
        harmless(&record.name)
    )
}

/// The output of `peers trust`, `untrust` and `reset`.
#[derive(Serialize, ToSchema)]
pub(in crate::command) struct Printed {
    peers: Vec<Record>,
    /// The effect, in words.
    effect: String,
    /// The effective state of the running nara, if one runs.
    running: Option<Reloaded>,
}

/// Makes the running nara apply a decision, and reports the effect.
fn finish(
    records: &[PeerRecord],
    settings: &Settings,
    said: fn(&Record) -> String,
    printer: Printer,
) -> Outcome {
    let records: Vec<Record> = records.iter().map(Record::of).collect();
    let folder = settings.running_folder()?;
    let (running, effect) = match block_on(running::reload_on(&folder, settings)) {
        Ok(Some(running)) => (Some(running), RUNNING),
        Ok(None) => (None, NOT_RUNNING),
        Err(failure) => {
            printer.warn(format_args!("the decision is stored, but {}", failure.message));
            (None, NOT_ANSWERING)
        }
    };
    tell(&records, running.as_ref(), effect, said, printer)
}

fn tell(
    records: &[Record],
    running: Option<&Reloaded>,
    effect: &str,
    said: fn(&Record) -> String,
    printer: Printer,
) -> Outcome {
    for record in records {
        printer.line(said(record))?;
    }
    printer.json(Printed {
        peers: records.to_vec(),
        effect: effect.to_owned(),
        running: running.cloned(),
    })?;
    printer.note(effect);
    for line in running.into_iter().flat_map(reload::in_words) {
        printer.note(format_args!("  {line}"));
    }
    Ok(Exit::Ok)
}

/// Returns the nara that the argument means: see [`decide::about`].
async fn about(given: &NaraName, settings: &Settings) -> Outcome<NaraName> {
    if matches!(given.as_str().parse(), Ok(PeerRef::Name(_))) {
        // Known or not: faults of the ledger or the peers file must not delay a ban.
        return Ok(given.clone());
    }
    about_in(&open(settings).await?, given, settings).await
}

async fn about_in(ledger: &Arc<dyn Ledger>, given: &NaraName, settings: &Settings) -> Outcome<NaraName> {
    let registry = PeerRegistry::default();
    for entry in settings.peers()? {
        // Contradictory entries are reported where they are used.
        let _ = registry.register(entry.to_info());
    }
    ledger_file::load_peers(ledger, &registry).await?;
    Ok(decide::about(&registry, given.as_str())?)
}

/// Returns the key of a nara that took over by a succession statement, if the stored key is the one before
/// it.
async fn succeeded(ledger: &Arc<dyn Ledger>, name: &NaraName) -> Outcome<Option<PublicKey>> {
    let registry = PeerRegistry::default();
    ledger_file::load_peers(ledger, &registry).await?;
    let key = registry.by_name(name.as_str()).and_then(|peer| peer.info().key);
    Ok(key
        .filter(|key| matches!(key.source, KeySource::Succession(_)))
        .map(|key| key.key))
}

async fn open(settings: &Settings) -> Outcome<Arc<dyn Ledger>> {
    let path = settings.ledger_path()?.ok_or_else(|| {
        Failure::usage("no nara is selected to decide for")
            .hint("pass --soul-file FILE or --data-dir DIR, as for its `serve`")
    })?;
    make_folder_of(&path)?;
    ledger_file::open(&path).await
}

async fn changed(ledger: &dyn Ledger, name: NaraName, change: PeerChange) -> Outcome<PeerRecord> {
    let changing = ledger.change_peer(name, change).await;
    let changed = changing.map_err(ledger_file::failed)?;
    changed.map_err(|error| Failure::failed(error.to_string()))
}

/// The failure for a peer whose key is configured: it can be changed only in the peers file.
fn in_peers_file(name: &NaraName, configured: PublicKey, given: PublicKey, settings: &Settings) -> Failure {
    let path = settings
        .peers_path()
        .unwrap_or_else(|| Path::new("the peers file"));
    let configured = KeyId::from(&configured);
    Failure::new(
        Exit::Unauthenticated,
        format!("{} has key {configured} for {name} and takes precedence", path.display()),
    )
    .hint(format!(
        "write key = \"{given}\" there, remove the id of {name}, which depends on its key, and run `nara-mesh \
         reload`"
    ))
}

/// The failure for a key that conflicts with the known one.
fn refused(conflict: &KeyConflict) -> Failure {
    let (name, pinned) = (&conflict.name, KeyId::from(&conflict.pinned.key));
    let source = &conflict.pinned.source;
    Failure::new(
        Exit::Unauthenticated,
        format!("{name} is pinned to key {pinned} ({source})"),
    )
    .hint(remedy::of_conflict(conflict))
}
