//! `peers trust`, `untrust`, `reset`: decisions, in the ledger of the data folder.

use std::sync::Arc;

use nara_mesh::clock::{Clock as _, SystemClock};
use nara_mesh::ledger::Ledger;
use nara_mesh::registry::{KeyConflict, KeySource, PeerChange, PeerChangeError, PeerRecord, PinnedKey};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use serde_json::{Value, json};

use crate::cli::{PeersResetArgs, PeersTrustArgs, PeersUntrustArgs};
use crate::connect::block_on;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::keeping::make_folder_of;
use crate::ledger_file;
use crate::printer::{Printer, harmless};
use crate::settings::Settings;

/// When a decision takes effect.
const EFFECT: &str = "a running `serve` of this nara applies it on SIGHUP (kill -HUP PID)";

pub(super) fn trust(args: &PeersTrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    let name = parse_name(&args.name)?;
    let given = args.key.as_deref().map(parse_key).transpose()?;
    let entry = settings.peers()?.into_iter().find(|entry| entry.name == name);
    let configured = entry.and_then(|entry| entry.key);
    let key = match (configured, given) {
        (Some(configured), Some(given)) if configured != given => {
            return Err(refused(&KeyConflict {
                pinned: Box::new(PinnedKey {
                    name: name.clone(),
                    id: None,
                    key: configured,
                    source: KeySource::Configured,
                    learned_at: SystemClock.now_millis(),
                }),
                name,
                offered: given,
                offered_by: KeySource::Operator,
            }));
        }
        // The peers file counts more than what was learned.
        (Some(configured), None) => Some(configured),
        (_, given) => given,
    };
    let at = SystemClock.now_millis();
    let trust = |replace| PeerChange::Trust { key, replace, at };
    let from_file = configured.is_some() && given.is_none();
    let record = block_on(async {
        let ledger = open(settings).await?;
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
    finish(&[record], printer)
}

pub(super) fn untrust(args: &PeersUntrustArgs, settings: &Settings, printer: Printer) -> Outcome {
    let name = parse_name(&args.name)?;
    let at = SystemClock.now_millis();
    let record = block_on(async {
        let ledger = open(settings).await?;
        changed(&*ledger, name, PeerChange::Untrust { at }).await
    })?;
    printer.line(format_args!(
        "{} is banned: its requests are refused, and it is not called",
        harmless(record.name.as_str())
    ))?;
    finish(&[record], printer)
}

pub(super) fn reset(args: &PeersResetArgs, settings: &Settings, printer: Printer) -> Outcome {
    let only = args.name.as_deref().map(parse_name).transpose()?;
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
    finish(&records, printer)
}

fn finish(records: &[PeerRecord], printer: Printer) -> Outcome {
    let records: Vec<Value> = records.iter().map(to_json).collect();
    printer.json(json!({ "peers": records, "effect": EFFECT }))?;
    printer.note(format_args!("In force for new commands; {EFFECT}."));
    Ok(Exit::Ok)
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

/// The failure for a key that contradicts a known one.
fn refused(conflict: &KeyConflict) -> Failure {
    let text = conflict.to_string();
    let (message, hint) = text.rsplit_once("; ").unwrap_or((&text, ""));
    Failure::new(Exit::Unauthenticated, message).hint(hint)
}

fn parse_name(text: &str) -> Outcome<NaraName> {
    text.parse()
        .map_err(|error| Failure::usage(format!("{text:?} is not a name: {error}")))
}

/// Reads a public key or a key id: both are the whole key, spelled in two ways.
fn parse_key(text: &str) -> Outcome<PublicKey> {
    let from_id = || text.parse::<KeyId>().ok()?.public_key().ok();
    PublicKey::from_base64(text).ok().or_else(from_id).ok_or_else(|| {
        Failure::usage(format!("--key: {text:?} is neither a public key nor a key id"))
            .hint("`nara-mesh id show`, run by its owner, prints both")
    })
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
