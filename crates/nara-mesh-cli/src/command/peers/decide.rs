//! `peers trust`, `untrust`, `reset`: decisions, in the ledger of the data folder.

use std::path::Path;
use std::sync::Arc;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::Ledger;
use nara_mesh::registry::{KeyConflict, KeySource, PeerChange, PeerChangeError, PeerRecord, PeerRegistry};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use serde_json::{Value, json};

use crate::cli::{PeersResetArgs, PeersTrustArgs, PeersUntrustArgs};
use crate::command::reload;
use crate::connect::block_on;
use crate::control::{self, Question};
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file;
use crate::printer::{Printer, harmless};
use crate::remedy;
use crate::settings::Settings;

/// What a decision means when no nara runs on the data folder.
const NOT_RUNNING: &str = "in force for commands now, and for `serve` and `up` at their next start: none runs on this \
                           data folder";

pub(super) fn trust(args: &PeersTrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    let name = args.peer.clone();
    let given = args.key;
    let entry = settings.peers()?.into_iter().find(|entry| entry.name == name);
    let configured = entry.and_then(|entry| entry.key);
    let key = match (configured, given) {
        (Some(configured), Some(given)) if configured != given => {
            return Err(in_peers_file(&name, configured, given, settings));
        }
        // The peers file counts more than what was learned.
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
    let key = record.key.as_ref().map(|key| KeyId::from(&key.key).to_string());
    printer.line(format_args!(
        "{} is trusted with key {}",
        harmless(record.name.as_str()),
        key.unwrap_or_default()
    ))?;
    finish(&[record], settings, printer)
}

pub(super) fn untrust(args: &PeersUntrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    let name = args.peer.clone();
    let at = SystemClock.now_millis();
    let record = block_on(async {
        let ledger = open(settings).await?;
        changed(&*ledger, name, PeerChange::Untrust { at }).await
    })?;
    printer.line(format_args!(
        "{} is banned: its requests are refused, and it is not called",
        harmless(record.name.as_str())
    ))?;
    finish(&[record], settings, printer)
}

pub(super) fn reset(args: &PeersResetArgs, settings: &Settings, printer: Printer) -> Outcome {
    let only = args.peer.clone();
    let at = SystemClock.now_millis();
    let records = block_on(async {
        let ledger = open(settings).await?;
        let known = ledger.peers().await.map_err(ledger_file::failed)?;
        let names = known.into_iter().map(|record| record.name);
        let names: Vec<_> = names
            .filter(|name| only.as_ref().is_none_or(|only| only == name))
            .collect();
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
    for record in &records {
        printer.line(format_args!(
            "{} is forgotten: its key, its proven protocols, and your decision",
            harmless(record.name.as_str())
        ))?;
    }
    finish(&records, settings, printer)
}

/// Lets the nara that runs take a decision over, and says what is in force.
fn finish(records: &[PeerRecord], settings: &Settings, printer: Printer) -> Outcome {
    let records: Vec<Value> = records.iter().map(to_json).collect();
    let folder = settings.running_folder()?;
    let answer = block_on(control::ask(&folder, Question::Reload))?;
    let effect = if answer.is_some() {
        "in force in the nara that runs"
    } else {
        NOT_RUNNING
    };
    printer.json(json!({ "peers": records, "effect": effect, "running": answer }))?;
    printer.note(effect);
    for line in answer.iter().flat_map(reload::in_words) {
        printer.note(format_args!("  {line}"));
    }
    Ok(Exit::Ok)
}

/// The key of a nara that followed another one by a statement of succession. What is stored is the one before it.
async fn succeeded(ledger: &Arc<dyn Ledger>, name: &NaraName) -> Outcome<Option<PublicKey>> {
    let registry = PeerRegistry::default();
    ledger_file::load_peers(ledger, &registry).await?;
    let key = registry.by_name(name.as_str()).and_then(|peer| peer.info().key);
    Ok(key
        .filter(|key| key.source == KeySource::Succession)
        .map(|key| key.key))
}

async fn open(settings: &Settings) -> Outcome<Arc<dyn Ledger>> {
    let path = settings.ledger_path()?.ok_or_else(|| {
        Failure::usage("no nara is given to decide for")
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

/// The failure for a peer whose key is in the peers file: that is the place where it is decided.
fn in_peers_file(name: &NaraName, configured: PublicKey, given: PublicKey, settings: &Settings) -> Failure {
    let path = settings
        .peers_path()
        .unwrap_or_else(|| Path::new("the peers file"));
    let configured = KeyId::from(&configured);
    Failure::new(
        Exit::Unauthenticated,
        format!("{} has key {configured} for {name}, and the peers file decides", path.display()),
    )
    .hint(format!(
        "write key = \"{given}\" there, and remove the id of {name}, which changes with its key; then run `nara-mesh \
         reload`"
    ))
}

/// The failure for a key that contradicts a known one.
fn refused(conflict: &KeyConflict) -> Failure {
    let (name, pinned) = (&conflict.name, KeyId::from(&conflict.pinned.key));
    let source = &conflict.pinned.source;
    Failure::new(
        Exit::Unauthenticated,
        format!("{name} is pinned to key {pinned} ({source})"),
    )
    .hint(remedy::of_conflict(conflict))
}

fn to_json(record: &PeerRecord) -> Value {
    let key = record.key.as_ref();
    json!({
        "name": record.name.as_str(),
        "id": record.id.as_ref().map(|id| id.as_str()),
        "public_key": key.map(|key| key.key.to_base64()),
        "key_id": key.map(|key| KeyId::from(&key.key).to_string()),
        "key_source": key.map(|key| key.source.to_string()),
        "learned_at_ms": key.map(|key| key.learned_at.get()),
        "v2": record.protocol.v2,
        "tls": record.protocol.tls,
        "raw_public_key": record.protocol.raw_public_key,
        "verdict": record.decision.map(|decision| decision.verdict.as_str()),
        "decided_at_ms": record.decision.map(|decision| decision.at.get()),
    })
}
