use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use rusqlite::{Row, Transaction};

use super::sql;
use crate::ledger::LedgerError;
use crate::registry::{KeySource, PinnedKey};

pub(super) fn store(transaction: &Transaction<'_>, pinned: &PinnedKey) -> rusqlite::Result<()> {
    transaction.prepare_cached(sql::STORE_KEY)?.execute((
        pinned.name.as_str(),
        pinned.id.as_ref().map(AsRef::<str>::as_ref),
        pinned.key.to_base64(),
        pinned.source.to_string(),
        pinned.learned_at.get(),
    ))?;
    Ok(())
}

pub(super) fn load(snapshot: &Transaction<'_>) -> Result<Vec<PinnedKey>, LedgerError> {
    let mut statement = snapshot.prepare_cached(sql::KEYS)?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(pinned_key(row)?);
    }
    Ok(keys)
}

fn pinned_key(row: &Row<'_>) -> Result<PinnedKey, LedgerError> {
    let name: String = row.get(0)?;
    let id: Option<String> = row.get(1)?;
    let source: String = row.get(3)?;
    let damaged = |reason: &dyn ToString| LedgerError::DamagedKey {
        name: name.clone(),
        reason: reason.to_string(),
    };
    Ok(PinnedKey {
        name: name.parse().map_err(|error| damaged(&error))?,
        id: match id {
            Some(id) => Some(id.parse().map_err(|error| damaged(&error))?),
            None => None,
        },
        key: PublicKey::from_base64(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)
            .map_err(|error| damaged(&error))?,
        source: key_source(&source).ok_or_else(|| damaged(&"unknown source"))?,
        learned_at: UnixMillis::new(row.get(4)?),
    })
}

/// Reads what [`KeySource`] displays.
fn key_source(text: &str) -> Option<KeySource> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "configured" => KeySource::Configured,
        "hey-there" => KeySource::HeyThere,
        "own" => KeySource::Own,
        "peer-query" => KeySource::PeerQuery(NaraName::new(rest).ok()?),
        "ping" => KeySource::Ping(rest.parse().ok()?),
        _ => return None,
    })
}
